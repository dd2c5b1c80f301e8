import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { CleaveError, type OverdueHold } from '#contracts';
import { SeededRandom, twoInstances, testSeed, type TwoInstances } from '#testing';
import { cancelOrder, newOrderId } from '../src/domain/order.js';
import { canonicalPlacement, commandOf, fingerprintOf, placedOrder } from '../src/domain/placement.js';
import type { OrderRecord } from '../src/use-cases/reserve-and-record.js';
import { SweepHolds } from '../src/use-cases/sweep-holds.js';
import {
  FakeInventory,
  newTenant,
  orderIn,
  ordersOf,
  proxied,
  requestOf,
  settled,
  startInstance,
  tombstonesOf,
  type Instance,
} from './order-under-test.js';

let instances: TwoInstances<Instance>;
/** Two instances of the module on one database, and one inventory that both use. */
let one: Instance;
let two: Instance;
let tenant: string;
let stock: FakeInventory;

beforeAll(async () => {
  instances = await twoInstances(startInstance);
  ({ one, two } = instances);
});

afterAll(() => instances?.stop());

beforeEach(() => {
  tenant = newTenant();
  stock = new FakeInventory();
  stock.onHand.set('mug', 10_000).set('rare', 1);
  for (const it of [one, two]) it.use(stock);
});

const outage = new CleaveError('unavailable', 'not now');
const lost = () => Promise.reject(outage);

const place = (key: string | null = null, at = one, units: Record<string, number> = { mug: 1 }) =>
  at.placeOrder.execute(tenant, 'acc', requestOf(units), key);

/** Holds stock for an order that is not recorded, as if the process had been killed in between. */
const abandon = async (key: string | null = null, units: Record<string, number> = { mug: 1 }): Promise<void> => {
  one.use(stock, proxied(one.orders, { record: lost }));
  expect(await settled(place(key, one, units))).toMatchObject({ code: 'unavailable' });
  one.use(stock);
};

/** Pauses a process between holding stock and recording the order, once, until it is told to continue. */
const paused = (at: Instance) => {
  const entered = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  let records = 0;
  at.use(
    stock,
    proxied(at.orders, {
      record: async (of, placements) => {
        records += 1;
        if (records === 1) {
          entered.resolve();
          await gate.promise;
        }
        return at.orders.record(of, placements);
      },
    }),
  );
  return { entered: entered.promise, goOn: () => gate.resolve() };
};

/** Every hold belongs to an existing order, unit for unit, and every order has its hold. */
const expectStockToAgree = async (): Promise<void> => {
  const orders = await one.orders.page(tenant, {}, undefined, 2_000);
  const held = stock.inState().filter((it) => it.state === 'held' || it.state === 'confirmed');
  expect(held.map((it) => String(it.orderId)).toSorted()).toEqual(orders.map((it) => it.order_id).toSorted());
  expect(stock.reserved).toBe(orders.flatMap((it) => it.lines).reduce((sum, it) => sum + it.quantity, 0));
};

describe('a hold', () => {
  it('without an order is released once it is overdue, after a tombstone was written for the order', async () => {
    await abandon('k');
    await abandon(null, { mug: 2 });
    expect(await one.sweepHolds.execute()).toEqual({ released: 0, confirmed: 0 });
    stock.expire();
    const orderIds = stock.inState('held').map((it) => it.orderId!);
    const declaredVoid: string[][] = [];
    stock.interrupt = async (call, when) => {
      if (call === 'settle' && when === 'before') declaredVoid.push(await tombstonesOf(two, tenant));
    };
    expect(await one.sweepHolds.execute()).toEqual({ released: 2, confirmed: 0 });
    // First the tombstones, then the release.
    expect(declaredVoid).toEqual([orderIds.toSorted()]);
    expect(stock.effects.map(({ version, kind }) => [version, kind])).toEqual([
      [1, 'release'],
      [1, 'release'],
    ]);
    expect(stock.reserved).toBe(0);
    expect(stock.inState().map((it) => it.state)).toEqual(['released', 'released']);
    for (const it of [one, two]) expect(await it.sweepHolds.execute()).toEqual({ released: 0, confirmed: 0 });
    expect(await ordersOf(one, tenant)).toBe(0);
  });

  it('with an order is confirmed once it is overdue, even if the order was cancelled', async () => {
    const kept = orderIn(await place('k'));
    const cancelled = orderIn(await place(null, two, { mug: 2 }));
    await one.changeOrder.execute({ tenant, orderId: cancelled.order_id, expectedVersions: undefined }, (it, at) =>
      cancelOrder(it, undefined, at),
    );
    stock.expire();
    expect(await two.sweepHolds.execute()).toEqual({ released: 0, confirmed: 2 });
    expect(stock.inState('confirmed').map((it) => it.orderId)).toEqual([kept.order_id, cancelled.order_id]);
    expect(stock.reserved).toBe(3);
    expect(await tombstonesOf(one, tenant)).toEqual([]);
    expect(await one.orders.find(tenant, kept.order_id)).toEqual(kept);
    // What the relay delivers later is still applied correctly.
    const told = stock
      .inState()
      .flatMap(({ reservationId, orderId }) => [
        { reservation_id: reservationId, version: 1, kind: 'confirm' as const },
        ...(orderId === kept.order_id ? [] : [{ reservation_id: reservationId, version: 2, kind: 'release' as const }]),
      ]);
    expect(await stock.settle(tenant, told)).toEqual([]);
    expect(stock.reserved).toBe(1);
    expect(await one.sweepHolds.execute()).toEqual({ released: 0, confirmed: 0 });
  });

  it('is left alone once it is confirmed, and before it is overdue', async () => {
    orderIn(await place());
    const [{ reservationId }] = stock.inState() as [FakeHold];
    await stock.settle(tenant, [{ reservation_id: reservationId, version: 1, kind: 'confirm' }]);
    stock.expire();
    await abandon('k');
    expect(await one.sweepHolds.execute()).toEqual({ released: 0, confirmed: 0 });
    expect(stock.inState().map((it) => it.state)).toEqual(['confirmed', 'held']);
  });

  it('is released or confirmed in one sweep together with many others of several tenants', async () => {
    const tenants = [tenant, newTenant(), newTenant()];
    const withOrder = new Set<string>();
    for (const it of tenants) {
      tenant = it;
      for (let count = 0; count < 3; count += 1) withOrder.add(orderIn(await place()).order_id);
      for (let count = 0; count < 450; count += 1) stock.hold(it, randomUUID(), { mug: 1 }, newOrderId(Date.now()));
    }
    stock.expire();
    expect(await one.sweepHolds.execute()).toEqual({ released: 1_350, confirmed: 9 });
    expect(new Set(stock.inState('confirmed').map((it) => it.orderId))).toEqual(withOrder);
    expect(stock.inState('held')).toEqual([]);
    expect(stock.reserved).toBe(9);
    for (const it of tenants) expect(await tombstonesOf(one, it)).toHaveLength(450);
  });
});

type FakeHold = ReturnType<FakeInventory['inState']>[number];

describe('an order whose hold is released before it is recorded', () => {
  it.each(['k', null])('is placed under another reservation and order id (key %s)', async (key) => {
    const process = paused(one);
    const placing = place(key);
    await process.entered;
    const [first] = stock.inState('held') as [FakeHold];
    stock.expire();
    expect(await two.sweepHolds.execute()).toEqual({ released: 1, confirmed: 0 });
    process.goOn();
    const placed = await placing;
    expect(placed.replayed).toBe(false);
    const { order_id } = orderIn(placed);
    expect(order_id).not.toBe(first.orderId);
    expect(await tombstonesOf(one, tenant)).toEqual([first.orderId]);
    const [second] = stock.inState('held') as [FakeHold];
    expect(second).toMatchObject({ orderId: order_id });
    expect(second.reservationId).not.toBe(first.reservationId);
    expect(await ordersOf(one, tenant)).toBe(1);
    await expectStockToAgree();
    if (key !== null)
      expect(await place(key, two)).toEqual({ order: await one.orders.find(tenant, order_id), replayed: true });
    await expectStockToAgree();
  });

  it('is refused if its stock is taken meanwhile, and its key stores the refusal', async () => {
    const process = paused(one);
    const placing = place('late', one, { rare: 1 });
    await process.entered;
    stock.expire();
    await two.sweepHolds.execute();
    orderIn(await place('quick', two, { rare: 1 }));
    process.goOn();
    const refused = await placing;
    expect(refused).toMatchObject({ replayed: false, refusal: { code: 'out-of-stock' } });
    stock.onHand.set('rare', 5);
    expect(await place('late', two, { rare: 1 })).toEqual({ ...refused, replayed: true });
    expect(await ordersOf(one, tenant)).toBe(1);
    await expectStockToAgree();
  });

  it('does not affect the other orders placed with it', async () => {
    await abandon('late');
    const [first] = stock.inState('held') as [FakeHold];
    stock.expire();
    const process = paused(one);
    const placing = Promise.all([place('late'), place('fine'), place()]);
    await process.entered;
    // The holds of the others are not overdue.
    expect(await two.sweepHolds.execute()).toEqual({ released: 1, confirmed: 0 });
    process.goOn();
    const placed = await placing;
    expect(placed.map((it) => it.replayed)).toEqual([false, false, false]);
    expect(new Set(placed.map((it) => orderIn(it).order_id)).size).toBe(3);
    expect(await tombstonesOf(one, tenant)).toEqual([first.orderId]);
    await expectStockToAgree();
  });

  it('is placed exactly once by concurrent retries on two instances', async () => {
    const keys = Array.from({ length: 5 }, () => randomUUID());
    for (const key of keys) await abandon(key);
    stock.expire();
    await one.sweepHolds.execute();
    expect(stock.reserved).toBe(0);
    for (const key of keys) {
      const repeats = await Promise.all(
        Array.from({ length: 12 }, (_, index) => place(key, index % 2 === 0 ? one : two)),
      );
      expect(new Set(repeats.map((it) => orderIn(it).order_id)).size).toBe(1);
      expect(repeats.filter((it) => !it.replayed)).toHaveLength(1);
      expect(await place(key, two)).toMatchObject({ replayed: true });
    }
    expect(await ordersOf(one, tenant)).toBe(5);
    await expectStockToAgree();
    expect(await tombstonesOf(one, tenant)).toHaveLength(5);
  });

  it('fails if another command has used its key meanwhile', async () => {
    const process = paused(one);
    const placing = settled(place('k'));
    await process.entered;
    stock.expire();
    await two.sweepHolds.execute();
    const winner = orderIn(await place('k', two, { mug: 7 }));
    process.goOn();
    expect(await placing).toMatchObject({ code: 'idempotency-key-reused' });
    expect(await one.orders.page(tenant, {}, undefined, 10)).toEqual([winner]);
    await expectStockToAgree();
  });
});

describe('a tombstone and an order that race for one id', () => {
  it('leave exactly one of the two, with matching stock', async () => {
    const random = new SeededRandom(testSeed());
    const won = { order: 0, tombstone: 0 };
    for (let round = 0; round < 60; round += 1) {
      tenant = newTenant();
      await abandon('k');
      const [{ orderId }] = stock.inState('held').filter((it) => it.tenant === tenant) as [FakeHold];
      stock.expire();
      const [early, late] = random.shuffled([0, random.integer(0, 6)]) as [number, number];
      const [placed, swept] = await Promise.all([
        setTimeout(early).then(() => place('k')),
        setTimeout(late).then(() => two.sweepHolds.execute()),
      ]);
      const { order_id } = orderIn(placed);
      expect(placed.replayed).toBe(false);
      const tombstones = await tombstonesOf(one, tenant);
      if (order_id === orderId) {
        won.order += 1;
        expect([swept.released, tombstones]).toEqual([0, []]);
      } else {
        won.tombstone += 1;
        expect([swept.released, tombstones]).toEqual([1, [orderId]]);
      }
      expect(await ordersOf(one, tenant)).toBe(1);
      const held = stock.inState().filter((it) => it.tenant === tenant && it.units.size > 0);
      expect(held.map((it) => it.orderId)).toEqual([order_id]);
      stock.expire();
      expect(await one.sweepHolds.execute()).toMatchObject({ released: 0 });
      expect(await ordersOf(one, tenant)).toBe(1);
    }
    expect(won.order + won.tombstone).toBe(60);
  });

  const recordOf = (key: string | null, orderId: string): OrderRecord => {
    const command = commandOf(requestOf({ mug: 1 }));
    const products = new Map([['mug', { product_id: 'mug', name: 'Mug', unit_price_minor: 100, currency: 'GBP' }]]);
    return {
      order: placedOrder(command, products, orderId, new Date()),
      ...{ account: 'acc', idempotencyKey: key, reservationId: randomUUID(), isRepeat: false },
      fingerprint: fingerprintOf(canonicalPlacement(command)),
    };
  };

  it('leave exactly one per id when whole batches race, without a deadlock', async () => {
    for (let round = 0; round < 12; round += 1) {
      tenant = newTenant();
      // The keys sort differently from the ids.
      const ids = Array.from({ length: 250 }, (_, index) => newOrderId(Date.now() + index));
      const records = ids.map((id, index) => recordOf(index % 5 === 0 ? null : `${1_000 - index}`, id));
      const holds = ids.map((order_id): OverdueHold => ({
        ...{ tenant_id: tenant, reservation_id: randomUUID(), order_id },
      }));
      const [recorded, declaredVoid] = await Promise.all([
        one.orders.record(tenant, records),
        two.orders.declareVoid(tenant, holds),
      ]);
      expect(recorded.size + declaredVoid.size).toBe(250);
      expect(new Set([...recorded, ...declaredVoid])).toEqual(new Set(ids));
      expect(await tombstonesOf(one, tenant)).toEqual([...declaredVoid].toSorted());
    }
  });

  it('do not overlap: the tombstone waits until the transaction of the order commits or rolls back', async () => {
    const [stays, goes] = [newOrderId(Date.now()), newOrderId(Date.now())];
    const hold = (order_id: string): OverdueHold => ({ tenant_id: tenant, reservation_id: randomUUID(), order_id });
    for (const [id, end] of [
      [stays, 'COMMIT'],
      [goes, 'ROLLBACK'],
    ] as const) {
      const declaring = await one.sql
        .transaction(async (sql) => {
          await sql.query(
            {
              name: 'test-record',
              text: `INSERT INTO orders.orders (tenant_id, order_id, account_id, customer_id, status, currency, total_minor,
                     lines, adjustments, metadata, version, reservation_id, fingerprint, created_at, updated_at)
                   VALUES ($1, $2, 'a', 'c', 'confirmed', 'GBP', 0, '[]', '[]', '{}', 1, $2, $2, now(), now())`,
            },
            [tenant, id],
          );
          const declared = two.orders.declareVoid(tenant, [hold(id)]);
          expect(await Promise.race([declared, setTimeout(50, 'waits')])).toBe('waits');
          if (end === 'ROLLBACK') throw Object.assign(new Error('rolled back'), { declared });
          return { declared };
        })
        .catch((error: unknown) => error as { declared: Promise<ReadonlySet<string>> });
      expect(await declaring.declared).toEqual(new Set(end === 'COMMIT' ? [] : [id]));
    }
    expect(await tombstonesOf(one, tenant)).toEqual([goes]);
  });
});

describe('a sweep', () => {
  it('that fails between tombstone and release is finished by the next one, on either instance', async () => {
    for (const next of [one, two]) {
      tenant = newTenant();
      await abandon('k');
      stock.expire();
      stock.interrupt = (call, when) => {
        if (call === 'settle' && when === 'before') throw outage;
      };
      await expect(one.sweepHolds.execute()).rejects.toBe(outage);
      expect(await tombstonesOf(one, tenant)).toHaveLength(1);
      expect(stock.reserved).toBe(1);
      stock.interrupt = () => {};
      // Much later: an unfinished hold is not forgotten.
      stock.nowMs += 600_000;
      expect(await next.sweepHolds.execute()).toEqual({ released: 1, confirmed: 0 });
      expect(stock.reserved).toBe(0);
      expect(await tombstonesOf(one, tenant)).toHaveLength(1);
      expect(await one.sweepHolds.execute()).toEqual({ released: 0, confirmed: 0 });
    }
  });

  it('that fails between tombstone and release lets a retry place the order, which leaves one hold', async () => {
    await abandon('k');
    const [first] = stock.inState('held') as [FakeHold];
    stock.expire();
    stock.interrupt = (call, when) => {
      if (call === 'settle' && when === 'before') throw outage;
    };
    await expect(one.sweepHolds.execute()).rejects.toBe(outage);
    stock.interrupt = () => {};
    const placed = await place('k', two);
    expect(placed.replayed).toBe(false);
    expect(orderIn(placed).order_id).not.toBe(first.orderId);
    expect(stock.reserved).toBe(1);
    expect(await one.sweepHolds.execute()).toEqual({ released: 0, confirmed: 0 });
    await expectStockToAgree();
  });

  it('whose release takes effect but whose answer is lost leaves nothing to the next one', async () => {
    await abandon('k');
    stock.expire();
    stock.interrupt = (call, when) => {
      if (call === 'settle' && when === 'after') throw outage;
    };
    await expect(one.sweepHolds.execute()).rejects.toBe(outage);
    stock.interrupt = () => {};
    expect(stock.reserved).toBe(0);
    for (const it of [one, two]) expect(await it.sweepHolds.execute()).toEqual({ released: 0, confirmed: 0 });
    expect(stock.effects).toHaveLength(1);
  });

  it('by two instances at once releases or confirms each hold once', async () => {
    const orders = await Promise.all(
      Array.from({ length: 40 }, (_, index) => place(index % 2 === 0 ? `k${index}` : null)),
    );
    for (let count = 0; count < 700; count += 1) stock.hold(tenant, randomUUID(), { mug: 1 }, newOrderId(Date.now()));
    stock.expire();
    stock.interrupt = () => setTimeout(1);
    const swept = await Promise.all([one, two, one].map((it) => it.sweepHolds.execute()));
    // Several sweeps may count the same hold.
    expect(swept.reduce((sum, it) => sum + it.released, 0)).toBeGreaterThanOrEqual(700);
    const kinds = stock.effects.map((it) => it.kind);
    expect(kinds.filter((it) => it === 'release')).toHaveLength(700);
    expect(kinds.filter((it) => it === 'confirm')).toHaveLength(40);
    expect(await tombstonesOf(one, tenant)).toHaveLength(700);
    expect(stock.inState('confirmed').map((it) => it.orderId)).toEqual(orders.map((it) => orderIn(it).order_id));
    await expectStockToAgree();
  });

  it('reads all overdue holds first and only newer ones later, and again those it could not finish', async () => {
    const looks: (Date | null)[] = [];
    const overdue = stock.overdue.bind(stock);
    stock.overdue = (after, part, limit) => {
      looks.push(after);
      return overdue(after, part, limit);
    };
    const [{ sweepHolds }, began] = [one, new Date(stock.nowMs)];
    await sweepHolds.execute();
    await abandon();
    stock.expire();
    stock.interrupt = (call) => {
      if (call === 'settle') throw outage;
    };
    await expect(sweepHolds.execute()).rejects.toBe(outage);
    stock.interrupt = () => {};
    const finished = new Date(stock.nowMs);
    expect(await sweepHolds.execute()).toEqual({ released: 1, confirmed: 0 });
    await sweepHolds.execute();
    expect(looks).toEqual([null, began, began, finished]);
  });

  it('reads all overdue holds part by part, each page by page, and later only newer ones of any part', async () => {
    const [began, looks] = [new Date(stock.nowMs), new Array<[after: Date | null, part: number | undefined]>()];
    for (let count = 0; count < 700; count += 1) stock.hold(tenant, randomUUID(), { mug: 1 }, newOrderId(Date.now()));
    stock.expire();
    const overdue = stock.overdue.bind(stock);
    stock.overdue = async (after, part, limit) => {
      looks.push([after, part]);
      const looked_at = new Date(began.getTime() + looks.length);
      // All of them are in the second part.
      return part === undefined || part === 1
        ? { ...(await overdue(after, part, limit)), looked_at, parts: 3 }
        : { holds: [], looked_at, parts: 3 };
    };
    const sweepHolds = new SweepHolds(stock, one.orders, stock, 60_000);
    expect(await sweepHolds.execute()).toEqual({ released: 700, confirmed: 0 });
    expect(looks).toEqual([0, 1, 1, 2].map((part) => [null, part]));
    looks.length = 0;
    stock.overdue = (...asked) => {
      looks.push([asked[0], asked[1]]);
      return overdue(...asked);
    };
    await sweepHolds.execute();
    expect(looks).toEqual([[new Date(began.getTime() + 1), undefined]]);
  });

  it('handles an inventory that no longer reports parts, and continues from the earliest time that was reported', async () => {
    const began = new Date(stock.nowMs);
    for (let count = 0; count < 700; count += 1) stock.hold(tenant, randomUUID(), { mug: 1 }, newOrderId(Date.now()));
    stock.expire();
    const [overdue, looks] = [stock.overdue.bind(stock), new Array<Date | null>()];
    stock.overdue = async (after, part, limit) => {
      looks.push(after);
      // The first reply has the later time, as if the clock were set back afterwards.
      if (looks.length === 1) return { holds: [], looked_at: began, parts: 2 };
      return { ...(await overdue(after, part, limit)), looked_at: new Date(began.getTime() - 1) };
    };
    const sweepHolds = new SweepHolds(stock, one.orders, stock, 60_000);
    expect(await sweepHolds.execute()).toEqual({ released: 700, confirmed: 0 });
    expect(looks).toEqual([null, null, null]);
    await sweepHolds.execute();
    expect(looks.at(-1)).toEqual(new Date(began.getTime() - 1));
  });

  it('is repeated until the module stops, even after one that failed', async () => {
    let calls = 0;
    stock.interrupt = (call, when) => {
      if (call === 'overdue' && when === 'before' && (calls += 1) === 1) throw outage;
    };
    const sweepHolds = new SweepHolds(stock, one.orders, stock, 5);
    sweepHolds.onApplicationBootstrap();
    for (const key of ['k', 'l']) {
      await abandon(key);
      stock.expire();
      while (stock.reserved > 0) await setTimeout(5);
    }
    await sweepHolds.beforeApplicationShutdown();
    const made = calls;
    expect(made).toBeGreaterThanOrEqual(3);
    await setTimeout(30);
    expect(calls).toBe(made);
  });

  it('in progress is finished before the module stops, which does not wait for the next one', async () => {
    const entered = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    await abandon('k');
    stock.expire();
    stock.interrupt = async (call, when) => {
      if (call !== 'settle' || when !== 'before') return;
      entered.resolve();
      await gate.promise;
    };
    const sweepHolds = new SweepHolds(stock, one.orders, stock, 3_600_000);
    sweepHolds.onApplicationBootstrap();
    await entered.promise;
    const stopped = sweepHolds.beforeApplicationShutdown();
    expect(await Promise.race([stopped, setTimeout(50, 'waits')])).toBe('waits');
    gate.resolve();
    await stopped;
    expect(stock.reserved).toBe(0);
  });
});

describe('a tombstone', () => {
  it('is invisible to reading and changing orders', async () => {
    const order = orderIn(await place());
    await abandon('k');
    const [{ orderId }] = stock.inState('held').filter((it) => it.orderId !== order.order_id) as [FakeHold];
    stock.expire();
    await one.sweepHolds.execute();
    const id = orderId!;
    expect(await tombstonesOf(one, tenant)).toEqual([id]);
    expect(await one.orders.find(tenant, id)).toBeUndefined();
    expect(await one.orders.history(tenant, id)).toEqual([]);
    for (const filter of [{}, { customerId: 'c-1' }, { status: 'confirmed' as const }])
      expect(await one.orders.page(tenant, filter, undefined, 10)).toEqual([order]);
    for (const filter of [{ customerId: '' }, { reference: '' }, { status: 'cancelled' as const }])
      expect(await one.orders.page(tenant, filter, undefined, 10)).toEqual([]);
    const request = { tenant, orderId: id, expectedVersions: undefined };
    await expect(one.changeOrder.execute(request, (it, at) => cancelOrder(it, 'r', at))).rejects.toMatchObject({
      code: 'order-not-found',
    });
    const told = await one.sql.query({ name: 'test-told-of', text: 'SELECT FROM orders.events WHERE order_id = $1' }, [
      id,
    ]);
    expect(told).toEqual([]);
    // Only placing an order sees that the id is void.
    expect(await one.orders.byId(tenant, [id, order.order_id, randomUUID()])).toEqual(
      new Map<string, unknown>([
        [id, 'void'],
        [order.order_id, order],
      ]),
    );
  });

  it('prevents an order with its id, but only for its own tenant', async () => {
    const [id, other] = [newOrderId(Date.now()), newTenant()];
    const hold: OverdueHold = { tenant_id: tenant, reservation_id: randomUUID(), order_id: id };
    for (const it of [one, two]) expect(await it.orders.declareVoid(tenant, [hold])).toEqual(new Set([id]));
    const command = commandOf(requestOf({ mug: 1 }));
    const products = new Map([['mug', { product_id: 'mug', name: 'Mug', unit_price_minor: 100, currency: 'GBP' }]]);
    const late: OrderRecord = {
      order: placedOrder(command, products, id, new Date()),
      ...{ account: 'acc', idempotencyKey: 'k', reservationId: hold.reservation_id, isRepeat: false },
      fingerprint: fingerprintOf(canonicalPlacement(command)),
    };
    expect(await one.orders.record(tenant, [late])).toEqual(new Set());
    expect(await one.orders.answersOf(tenant, [late as OrderRecord & { idempotencyKey: string }])).toEqual([undefined]);
    expect(await one.orders.record(other, [late])).toEqual(new Set([id]));
    expect(await two.orders.declareVoid(other, [hold])).toEqual(new Set());
    expect(await one.orders.find(other, id)).toEqual(late.order);
  });
});

it('a sweep fails with an error if inventory keeps reporting the same holds as overdue', async () => {
  const hold = (): OverdueHold => ({
    tenant_id: tenant,
    reservation_id: randomUUID(),
    order_id: newOrderId(Date.now()),
  });
  const holds = Array.from({ length: 500 }, hold);
  const deaf = { overdue: async () => ({ holds, looked_at: new Date() }) };
  const sweep = new SweepHolds(deaf, one.orders, { settle: async () => [] }, 60_000);
  await expect(sweep.execute()).rejects.toThrow(/still reports .* as overdue/);
});
