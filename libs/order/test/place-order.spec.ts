import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import pg from 'pg';
import { CleaveError, type PlaceOrderRequest } from '#contracts';
import { twoInstances, type TwoInstances } from '#testing';
import { cancelOrder, newOrderId } from '../src/domain/order.js';
import { canonicalPlacement, commandOf, fingerprintOf, placedOrder } from '../src/domain/placement.js';
import type { KeyedRefusal, OrderRecord, PlacementResult } from '../src/use-cases/reserve-and-record.js';
import {
  FakeInventory,
  newTenant,
  orderIn,
  ordersOf,
  proxied,
  requestOf,
  settled,
  startInstance,
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
  stock.onHand.set('mug', 1_000).set('lamp', 1_000).set('rare', 3);
  for (const it of [one, two]) it.use(stock);
});

const place = (
  request: PlaceOrderRequest,
  key: string | null = null,
  at: Instance = one,
  account = 'acc',
): Promise<PlacementResult> => at.placeOrder.execute(tenant, account, request, key);

const outage = new CleaveError('unavailable', 'not now');

/** Inserts an order as an equal request does, in a transaction that the test ends. */
const insertOrder = (client: pg.Client, of: string, record: OrderRecord): Promise<unknown> => {
  const { order, account, idempotencyKey, fingerprint, reservationId } = record;
  return client.query(
    `INSERT INTO orders.orders (tenant_id, order_id, account_id, customer_id, status, currency, total_minor, lines,
      adjustments, metadata, version, reservation_id, idempotency_key, fingerprint, created_at, updated_at)
    VALUES ($1, $2, $3, 'c-1', 'confirmed', 'GBP', 100, $4, '[]', '{}', 1, $5, $6, $7, $8, $8)`,
    [
      ...[of, order.order_id, account, JSON.stringify(order.lines), reservationId],
      ...[idempotencyKey, fingerprint, order.created_at],
    ],
  );
};

/** A refusal of another command under the same key. */
const refusalOfAnother = ({ account, idempotencyKey }: OrderRecord): KeyedRefusal => ({
  ...{ account, idempotencyKey: idempotencyKey!, fingerprint: fingerprintOf('another') },
  refusal: { code: 'out-of-stock', detail: 'none left', extensions: { products: [] } },
});

/** Orders of the first instance that take until `go`, once another command of the key was refused. */
const recordsSlowly = (twin: pg.Client) => {
  const [recording, go] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const slow = proxied(one.orders, {
    record: async (of, records) => {
      await twin.query('BEGIN');
      await insertOrder(twin, of, records[0]!);
      await two.orders.keepRefusals(of, [refusalOfAnother(records[0]!)]);
      recording.resolve();
      await go.promise;
      await twin.query('COMMIT');
      return one.orders.record(of, records);
    },
  });
  return { slow, recording, go };
};

it('a locked product refuses only the orders that need it, and not those that were placed before', async () => {
  const before = orderIn(await place(requestOf({ rare: 1 }), 'before'));
  stock.locked.add('rare');
  const refused = { code: 'unavailable', status: 503, extensions: { retry_after_ms: 1_000, product_ids: ['rare'] } };
  const orders = [requestOf({ mug: 1 }), requestOf({ mug: 1, rare: 1 }), requestOf({ lamp: 1 })];
  const all = await Promise.all([
    ...orders.map((it, index) => settled(place(it, `k${index}`))),
    settled(place(requestOf({ rare: 1 }))),
    place(requestOf({ rare: 1 }), 'before'),
  ]);
  expect(all).toMatchObject([
    ...[{ replayed: false }, refused, { replayed: false }, refused],
    { replayed: true, order: { order_id: before.order_id } },
  ]);
  expect(stock.reserved).toBe(3);
  stock.locked.clear();
  expect(await place(orders[1]!, 'k1')).toMatchObject({ replayed: false, order: { status: 'confirmed' } });
});

describe('an idempotency key', () => {
  it('keeps replaying the order as it was placed, even after it was cancelled', async () => {
    const placed = await place(requestOf({ mug: 2 }, { metadata: { a: 1 } }), 'k');
    expect(placed).toMatchObject({ replayed: false, order: { status: 'confirmed', total_minor: 200, version: 1 } });
    const order = orderIn(placed);
    await one.changeOrder.execute({ tenant, orderId: order.order_id, expectedVersions: undefined }, (it, at) =>
      cancelOrder(it, 'r', at),
    );
    // Before and after inventory has released the stock.
    for (const tellStock of [false, true]) {
      const { reservationId } = stock.inState()[0]!;
      if (tellStock) await stock.settle(tenant, [{ reservation_id: reservationId, version: 2, kind: 'release' }]);
      for (const at of [one, two])
        expect(await place(requestOf({ mug: 2 }, { metadata: { a: 1 } }), 'k', at)).toEqual({ order, replayed: true });
    }
    // Every retry asks inventory for the same reservation again, and holds nothing.
    expect(stock.batches.flat()).toHaveLength(5);
    expect(stock.inState().map((it) => it.state)).toEqual(['released']);
    expect(stock.reserved).toBe(0);
    expect(await ordersOf(one, tenant)).toBe(1);
  });

  it('is scoped to one account of one tenant, and rejects any other command', async () => {
    const { order_id } = orderIn(await place(requestOf({ mug: 1 }), 'k'));
    await expect(place(requestOf({ mug: 2 }), 'k', two)).rejects.toMatchObject({ code: 'idempotency-key-reused' });
    expect(orderIn(await place(requestOf({ mug: 2 }), 'k', one, 'another account')).order_id).not.toBe(order_id);
    tenant = newTenant();
    expect(orderIn(await place(requestOf({ mug: 2 }), 'k')).order_id).not.toBe(order_id);
  });

  it('stores an out-of-stock refusal, but not an unknown-product error', async () => {
    const wanted = requestOf({ rare: 4 });
    const refused = await place(wanted, 'k');
    expect(refused).toMatchObject({ replayed: false, refusal: { code: 'out-of-stock' } });
    stock.onHand.set('rare', 9);
    const again = await place(wanted, 'k', two);
    expect(again).toEqual({ ...refused, replayed: true });
    await expect(place(requestOf({ rare: 1 }), 'k')).rejects.toMatchObject({ code: 'idempotency-key-reused' });

    await expect(place(requestOf({ new: 1 }), 'k2')).rejects.toMatchObject({ code: 'unknown-product' });
    stock.onHand.set('new', 1);
    expect(orderIn(await place(requestOf({ new: 1 }), 'k2')).status).toBe('confirmed');
  });

  it('creates one order for concurrent equal requests, on one instance and on two', async () => {
    const results = await Promise.all(
      Array.from({ length: 20 }, (_, index) => place(requestOf({ mug: 1 }), 'k', index % 2 === 0 ? one : two)),
    );
    expect(new Set(results.map((it) => orderIn(it).order_id)).size).toBe(1);
    expect(results.filter((it) => !it.replayed)).toHaveLength(1);
    expect(await ordersOf(one, tenant)).toBe(1);
    expect(stock.reserved).toBe(1);
    expect(stock.released).toEqual([]);

    // In one process, the first request goes alone; those that wait for it find its order.
    const before = stock.batches.length;
    const waited = await Promise.all(Array.from({ length: 10 }, () => place(requestOf({ mug: 1 }), 'l')));
    expect(new Set(waited.map((it) => orderIn(it).order_id)).size).toBe(1);
    expect(waited.map((it) => it.replayed)).toEqual([false, ...Array<boolean>(9).fill(true)]);
    expect(stock.batches[before]).toHaveLength(1);
    expect(new Set(stock.batches.slice(before).map((it) => it[0]!.reservation_id)).size).toBe(1);
    expect(stock.reserved).toBe(2);
  });

  it('lets the next waiting request place the order when the first one fails', async () => {
    const place3 = (key: string) => [
      settled(place(requestOf({ mug: 1 }), key)),
      ...Array.from({ length: 3 }, () => settled(place(requestOf({ mug: 1 }), key))),
    ];
    let calls = 0;
    stock.interrupt = (_, when) => {
      if (when === 'before' && (calls += 1) === 1) throw outage;
    };
    const [first, ...rest] = await Promise.all(place3('k'));
    expect(first).toBe(outage);
    expect(new Set(rest.map((it) => orderIn(it).order_id)).size).toBe(1);
    expect(rest.map((it) => !(it instanceof Error) && it.replayed)).toEqual([false, true, true]);
    expect(await ordersOf(one, tenant)).toBe(1);
    expect(stock.reserved).toBe(1);
  });

  it('creates one order for concurrent different commands, and releases the stock of the losers', async () => {
    for (let round = 0; round < 5; round += 1) {
      const results = await Promise.all(
        Array.from({ length: 8 }, (_, index) =>
          settled(place(requestOf({ mug: (index % 4) + 1 }), `k${round}`, index % 2 === 0 ? one : two)),
        ),
      );
      const won = results.filter((it) => !(it instanceof Error));
      expect(new Set(won.map((it) => orderIn(it).order_id)).size).toBe(1);
      for (const it of results) if (it instanceof Error) expect(it).toMatchObject({ code: 'idempotency-key-reused' });
    }
    expect(await ordersOf(one, tenant)).toBe(5);
    const held = await one.orders.page(tenant, {}, undefined, 10);
    expect(stock.reserved).toBe(held.flatMap((it) => it.lines).reduce((sum, it) => sum + it.quantity, 0));
  });

  it('rejects another command every time, and holds and releases stock for it only once', async () => {
    await place(requestOf({ mug: 1 }), 'k');
    for (let time = 0; time < 25; time += 1)
      await expect(place(requestOf({ mug: 2 }), 'k')).rejects.toMatchObject({ code: 'idempotency-key-reused' });
    expect(stock.inState('released')).toHaveLength(1);
    expect(stock.reserved).toBe(1);
  });

  it('keeps the stock of an order that an equal request commits after a refusal of another command was stored', async () => {
    const twin = new pg.Client(instances.url);
    await twin.connect();
    let committing: Promise<unknown> | undefined;
    const overtaken = proxied(one.orders, {
      record: async (of, records) => {
        const [it] = records as [OrderRecord];
        // The twin, an equal request, inserts its order before the refusal is stored, but commits after that.
        await twin.query('BEGIN');
        await insertOrder(twin, of, it);
        await two.orders.keepRefusals(of, [refusalOfAnother(it)]);
        committing = setTimeout(200).then(() => twin.query('COMMIT'));
        return one.orders.record(of, records);
      },
    });
    try {
      one.use(stock, overtaken);
      const answer = await place(requestOf({ mug: 1 }), 'k');
      expect(answer).toMatchObject({ replayed: true });
      expect(stock.inState().map((it) => [it.orderId, it.state])).toEqual([[orderIn(answer).order_id, 'held']]);
    } finally {
      await committing;
      await twin.end();
    }
  });

  it('has one answer for each of two commands that use it at the same time, one of which is out of stock', async () => {
    const [fits, lacks] = [requestOf({ mug: 1 }), requestOf({ rare: 4 })];
    // The order is recorded after the other command has found the key unused, and before its refusal is stored.
    let placed: PlacementResult | undefined;
    const slow = proxied(two.orders, {
      keepRefusals: async (of, refusals) => {
        placed = await place(fits, 'k', one);
        return two.orders.keepRefusals(of, refusals);
      },
    });
    two.use(stock, slow);
    const refused = await place(lacks, 'k', two);
    expect(refused).toMatchObject({ replayed: false, refusal: { code: 'out-of-stock' } });
    for (const at of [one, two]) {
      expect(await place(lacks, 'k', at)).toEqual({ ...refused, replayed: true });
      expect(await place(fits, 'k', at)).toEqual({ ...placed, replayed: true });
      await expect(place(requestOf({ mug: 3 }), 'k', at)).rejects.toMatchObject({ code: 'idempotency-key-reused' });
    }
    expect(stock.reserved).toBe(1);
  });

  it('has one answer for a command that is out of stock, if two requests ask for it while another command is placed', async () => {
    const [fits, lacks] = [requestOf({ mug: 1 }), requestOf({ rare: 4 })];
    let other: PlacementResult | Error | undefined;
    const slow = proxied(two.orders, {
      keepRefusals: async (of, refusals) => {
        await place(fits, 'k', one);
        other = await settled(place(lacks, 'k', one));
        return two.orders.keepRefusals(of, refusals);
      },
    });
    two.use(stock, slow);
    const answer = await settled(place(lacks, 'k', two));
    expect(answer).toMatchObject({ code: 'idempotency-key-reused' });
    expect(other).toEqual(answer);
    for (const at of [one, two]) {
      expect(await settled(place(lacks, 'k', at))).toEqual(answer);
      expect(await place(fits, 'k', at)).toMatchObject({ replayed: true, order: { status: 'confirmed' } });
    }
  });

  it('is not answered with the refusal of another command while it is not known whether the order is recorded', async () => {
    const wanted = requestOf({ mug: 1 });
    const twin = new pg.Client(instances.url);
    await twin.connect();
    const unheard = proxied(one.orders, {
      record: async (of, records) => {
        // The order is inserted, the connection is lost, and the commit comes later.
        await twin.query('BEGIN');
        await insertOrder(twin, of, records[0]!);
        await two.orders.keepRefusals(of, [refusalOfAnother(records[0]!)]);
        throw outage;
      },
    });
    try {
      one.use(stock, unheard);
      await expect(place(wanted, 'k', one)).rejects.toMatchObject({ code: 'unavailable' });
      await twin.query('COMMIT');
      expect(orderIn(await place(wanted, 'k', two)).status).toBe('confirmed');
    } finally {
      await twin.end();
    }
  });

  it('is not answered with the refusal of another command while an earlier try at another price may record its order', async () => {
    const expected = requestOf({ mug: 1 }, { expected_total_minor: 100 });
    const twin = new pg.Client(instances.url);
    await twin.connect();
    const { slow, recording, go } = recordsSlowly(twin);
    try {
      one.use(stock, slow);
      const first = place(expected, 'k', one);
      await recording.promise;
      stock.priceMinor = 101;
      two.use(
        stock,
        proxied(two.orders, {
          declareVoid: (...given) => {
            go.resolve();
            return two.orders.declareVoid(...given);
          },
        }),
      );
      const repeat = await settled(place(expected, 'k', two));
      go.resolve();
      expect(repeat).toMatchObject({ order: orderIn(await first) });
    } finally {
      await twin.end();
    }
  });

  it.each([100, 101])(
    'is not answered with the refusal of another command if the order of an earlier try cannot be declared void (price %i)',
    async (priceMinor) => {
      const expected = requestOf({ mug: 1 }, { expected_total_minor: 100 });
      const twin = new pg.Client(instances.url);
      await twin.connect();
      const { slow, recording, go } = recordsSlowly(twin);
      // The earlier try holds the lock of the order for too long.
      const stuck = proxied(two.orders, { declareVoid: () => Promise.reject(outage) });
      try {
        one.use(stock, slow);
        const first = place(expected, 'k', one);
        await recording.promise;
        stock.priceMinor = priceMinor;
        two.use(stock, stuck);
        await expect(place(expected, 'k', two)).rejects.toMatchObject({ code: 'unavailable' });
        go.resolve();
        const { order_id } = orderIn(await first);
        expect(await place(expected, 'k', two)).toMatchObject({ order: { order_id } });
      } finally {
        go.resolve();
        await twin.end();
      }
    },
  );

  it('has the refusal of one of two commands that use it at the same time, both of which are out of stock', async () => {
    const [first, second] = [requestOf({ rare: 4 }), requestOf({ rare: 5 })];
    const slow = proxied(two.orders, {
      keepRefusals: async (of, refusals) => {
        await place(first, 'k', one);
        return two.orders.keepRefusals(of, refusals);
      },
    });
    two.use(stock, slow);
    for (const _ of ['once', 'and again'])
      await expect(place(second, 'k', two)).rejects.toMatchObject({ code: 'idempotency-key-reused' });
    expect(await place(first, 'k', two)).toMatchObject({ replayed: true, refusal: { code: 'out-of-stock' } });
  });

  it('is not answered with a refusal while an earlier try may still record its order', async () => {
    const expected = requestOf({ mug: 1 }, { expected_total_minor: 100 });
    const [recording, go] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const slow = proxied(one.orders, {
      record: async (...given) => {
        recording.resolve();
        await go.promise;
        return one.orders.record(...given);
      },
    });
    one.use(stock, slow);
    const first = settled(place(expected, 'k', one));
    await recording.promise;
    stock.priceMinor = 101;
    await expect(place(expected, 'k', two)).rejects.toMatchObject({ code: 'price-changed' });
    go.resolve();
    // Its hold was released behind a tombstone, so that no order contradicts the refusal.
    expect(await first).toMatchObject({ code: 'price-changed' });
    expect(await ordersOf(one, tenant)).toBe(0);
    expect(stock.reserved).toBe(0);
    stock.priceMinor = 100;
    expect(orderIn(await place(expected, 'k', two))).toMatchObject({ total_minor: 100 });
  });

  it('is answered with the order that an earlier try has recorded at another price', async () => {
    const expected = requestOf({ mug: 1 }, { expected_total_minor: 100 });
    const looked = Promise.withResolvers<void>();
    // The order is committed after the repeat has looked for it under its key.
    const early = proxied(two.orders, {
      answersOf: async (...given) => {
        const found = await two.orders.answersOf(...given);
        looked.resolve();
        await first;
        return found;
      },
    });
    const late = proxied(one.orders, {
      record: async (...given) => {
        recording.resolve();
        await looked.promise;
        return one.orders.record(...given);
      },
    });
    const recording = Promise.withResolvers<void>();
    one.use(stock, late);
    two.use(stock, early);
    const first = place(expected, 'k', one);
    await recording.promise;
    stock.priceMinor = 101;
    const repeat = await place(expected, 'k', two);
    expect(repeat).toEqual({ ...(await first), replayed: true });
    expect(stock.reserved).toBe(1);
  });

  it('is reported as in progress after 10 seconds, or at the deadline of the caller, while its first request runs', async () => {
    const gate = Promise.withResolvers<void>();
    const entered = Promise.withResolvers<void>();
    stock.interrupt = () => {
      entered.resolve();
      return gate.promise;
    };
    const first = place(requestOf({ mug: 1 }), 'k');
    await entered.promise;
    // Fakes only the clock that the second request waits by.
    jest.useFakeTimers({ doNotFake: ['Date', 'hrtime', 'nextTick', 'performance', 'queueMicrotask', 'setImmediate'] });
    const second = settled(place(requestOf({ mug: 1 }), 'k'));
    await jest.advanceTimersByTimeAsync(10_000);
    jest.useRealTimers();
    expect(await second).toMatchObject({ code: 'request-in-progress' });
    // No request waits for an answer beyond the deadline of its caller.
    const late = one.placeOrder.execute(tenant, 'acc', requestOf({ mug: 1 }), 'k', { deadlineMs: Date.now() + 20 });
    expect(await settled(late)).toMatchObject({ code: 'request-in-progress' });
    gate.resolve();
    expect((await first).replayed).toBe(false);
  });
});

describe('a failure', () => {
  it.each(['before', 'after'] as const)(
    'of inventory %s its decision leaves no order, and a retry places it without holding stock twice',
    async (when) => {
      let failing = true;
      stock.interrupt = (_, at) => {
        if (failing && at === when) throw outage;
      };
      const keyed = ['a', 'b', 'c'];
      const results = await Promise.all(keyed.map((key) => settled(place(requestOf({ mug: 1 }), key))));
      for (const it of results) expect(it).toMatchObject({ code: 'unavailable' });
      expect(await ordersOf(one, tenant)).toBe(0);
      failing = false;
      const again = await Promise.all(keyed.map((key) => place(requestOf({ mug: 1 }), key, two)));
      expect(new Set(again.map((it) => orderIn(it).order_id)).size).toBe(3);
      expect(again.every((it) => !it.replayed)).toBe(true);
      expect(stock.reserved).toBe(3);
    },
  );

  it('after recording, so that the result is lost, neither releases the stock nor records the orders again', async () => {
    for (const error of [outage, new Error('a bug')]) {
      let failures = 1;
      const forgetful = proxied(one.orders, {
        record: async (of, placements) => {
          const recorded = await one.orders.record(of, placements);
          if (failures-- > 0) throw error;
          return recorded;
        },
      });
      one.use(stock, forgetful);
      const before = await ordersOf(one, tenant);
      const keys = [randomUUID(), null, randomUUID(), null];
      const results = await Promise.all(keys.map((key) => settled(place(requestOf({ mug: 1 }), key))));
      // The order is found by its id, and is no replay, because no caller has had the answer before.
      for (const it of results) expect(it).toMatchObject({ order: { status: 'confirmed' }, replayed: false });
      expect(await ordersOf(one, tenant)).toBe(before + 4);
      for (const key of keys)
        if (key) expect(await place(requestOf({ mug: 1 }), key)).toMatchObject({ replayed: true });
      expect(await ordersOf(one, tenant)).toBe(before + 4);
    }
    expect(stock.released).toEqual([]);
    expect(stock.reserved).toBe(8);
  });

  it('after recording a retry, so that the result is lost, still marks the answer as replayed', async () => {
    await place(requestOf({ mug: 1 }), 'k', two);
    const forgetful = proxied(one.orders, {
      record: async (of, placements) => {
        await one.orders.record(of, placements);
        throw outage;
      },
    });
    one.use(stock, forgetful);
    expect(await place(requestOf({ mug: 1 }), 'k')).toMatchObject({ order: { status: 'confirmed' }, replayed: true });
  });

  it('to record keeps further requests from holding stock until recording works again', async () => {
    let isAway = true;
    const away = proxied(one.orders, {
      record: (of, records, ...more) => (isAway ? Promise.reject(outage) : one.orders.record(of, records, ...more)),
    });
    one.use(stock, away);
    // It is unknown whether the first order was recorded.
    const detail = expect.stringContaining('not known whether the order was placed');
    expect(await settled(place(requestOf({ mug: 1 })))).toMatchObject({ code: 'unavailable', detail });
    for (let times = 0; times < 5; times += 1) expect(await settled(place(requestOf({ mug: 1 })))).toBe(outage);
    expect(stock.reserved).toBe(1);
    // A request whose answer is stored needs neither recording nor stock.
    await place(requestOf({ mug: 1 }), 'k', two);
    expect(await place(requestOf({ mug: 1 }), 'k')).toMatchObject({ replayed: true });
    isAway = false;
    expect(orderIn(await place(requestOf({ mug: 1 }))).status).toBe('confirmed');
    expect(stock.reserved).toBe(3);
  });

  it.each(['orders', 'answers'] as const)(
    'to find the %s after recording does not fail the requests whose orders were recorded, and releases nothing',
    async (missing) => {
      await place(requestOf({ mug: 5 }), 'taken', two);
      const halfBlind = proxied(one.orders, {
        answersOf: async (_, requests) => requests.map(() => undefined),
        ...(missing === 'orders' && { byId: () => Promise.reject(outage) }),
      });
      one.use(stock, halfBlind);
      const [lost, fine, fineToo] = await Promise.all([
        settled(place(requestOf({ mug: 1 }), 'taken')),
        place(requestOf({ mug: 1 }), 'free'),
        place(requestOf({ mug: 1 })),
      ]);
      expect(lost).toMatchObject({ code: 'unavailable' });
      expect([fine.replayed, fineToo.replayed]).toEqual([false, false]);
      expect(await ordersOf(one, tenant)).toBe(3);
      expect(stock.released).toEqual([]);
    },
  );

  it('that one request causes fails only that request: the rest of its batch is placed', async () => {
    const poison = requestOf({ mug: 1 }, { customer_id: 'poison' });
    const allergic = proxied(one.orders, {
      record: (of, placements) => {
        if (placements.some((it) => it.order.customer_id === 'poison')) throw new Error('cannot be stored');
        return one.orders.record(of, placements);
      },
    });
    one.use(stock, allergic);
    const requests = Array.from({ length: 20 }, (_, index) => (index === 13 ? poison : requestOf({ mug: 1 })));
    const results = await Promise.all(
      requests.map((it, index) => settled(place(it, index % 2 === 0 ? `k${index}` : null))),
    );
    results.forEach((it, index) => {
      if (index === 13) expect(it).toEqual(new Error('cannot be stored'));
      else expect(orderIn(it).total_minor).toBe(100);
    });
    expect(await ordersOf(one, tenant)).toBe(19);
    expect(new Set(results.flatMap((it) => (it instanceof Error ? [] : orderIn(it).order_id))).size).toBe(19);
    // The failed request keeps its hold, because its order might still be recorded.
    expect(stock.reserved).toBe(20);
    expect(stock.released).toEqual([]);
    // The batch was split in halves until the failing request was alone.
    expect(stock.batches.length).toBeLessThanOrEqual(1 + 2 * 5);
  });
});

it('a request whose hold was already released gets a new reservation, and fails after a few attempts', async () => {
  // The reservations of the first two attempts are released in advance.
  const stones = new Set<string>();
  const reserve = stock.reserve.bind(stock);
  stock.reserve = async (of, reservations) => {
    for (const { reservation_id } of reservations) if (stones.size < 2) stones.add(reservation_id);
    for (const id of stones) await stock.release(of, id);
    return reserve(of, reservations);
  };
  const order = orderIn(await place(requestOf({ mug: 1 }), 'k'));
  expect(order.status).toBe('confirmed');
  expect(stones.size).toBe(2);

  stock.reserve = async (of, reservations) => {
    const reply = await reserve(of, reservations);
    const decisions = reply.decisions.map((it, index) =>
      reservations[index]!.lines[0]!.product_id === 'lamp'
        ? { outcome: 'released' as const, order_id: reservations[index]!.order_id }
        : it,
    );
    return { ...reply, decisions };
  };
  const [cursed, fine] = await Promise.all([
    settled(place(requestOf({ lamp: 1 }), 'l')),
    place(requestOf({ mug: 1 }), 'm'),
  ]);
  expect(cursed).toMatchObject({ code: 'unavailable' });
  expect(orderIn(fine).status).toBe('confirmed');
});

it('a failure to record for one tenant does not affect the concurrent orders of another, which it cannot see', async () => {
  const other = newTenant();
  const failing = proxied(one.orders, {
    record: (of, placements) => (of === other ? Promise.reject(outage) : one.orders.record(of, placements)),
  });
  one.use(stock, failing);
  const [mine, theirs] = await Promise.all([
    place(requestOf({ mug: 1 }), 'k'),
    settled(one.placeOrder.execute(other, 'acc', requestOf({ mug: 1 }), 'k')),
  ]);
  expect(orderIn(mine).status).toBe('confirmed');
  expect(theirs).toBe(outage);
  expect([await ordersOf(one, tenant), await ordersOf(one, other)]).toEqual([1, 0]);
  expect(await one.orders.find(other, orderIn(mine).order_id)).toBeUndefined();
});

it('a batch that fails for one tenant is not retried for another, whose orders are placed', async () => {
  const other = newTenant();
  const failing = proxied(one.orders, {
    record: (of, records) => (of === other ? Promise.reject(new Error('a bug')) : one.orders.record(of, records)),
  });
  one.use(stock, failing);
  const [mine, mineToo, theirs] = await Promise.all([
    place(requestOf({ mug: 1 })),
    place(requestOf({ mug: 1 }), 'k'),
    settled(one.placeOrder.execute(other, 'acc', requestOf({ mug: 1 }), null)),
  ]);
  for (const it of [mine, mineToo]) expect(it).toMatchObject({ order: { status: 'confirmed' }, replayed: false });
  // One call for each tenant.
  expect(stock.batches).toHaveLength(2);
  expect(theirs).toEqual(new Error('a bug'));
  expect(await ordersOf(one, tenant)).toBe(2);
  // One unit stays held for the other tenant, because its order might have been recorded.
  expect(stock.reserved).toBe(3);
});

describe('PostgresOrders', () => {
  const recordOf = (key: string | null, units = 1, orderId = newOrderId(Date.now())): OrderRecord => {
    const command = commandOf(requestOf({ mug: units }));
    const now = new Date();
    const products = new Map([['mug', { product_id: 'mug', name: 'Mug', unit_price_minor: 100, currency: 'GBP' }]]);
    return {
      order: placedOrder(command, products, orderId, now),
      account: 'acc',
      idempotencyKey: key,
      fingerprint: fingerprintOf(canonicalPlacement(command)),
      reservationId: randomUUID(),
      isRepeat: false,
    };
  };

  it.each([
    ['taken for new', false],
    ['known to be a repeat', true],
  ])(
    'records one of the orders of a batch, %s, that share a key or an id, with its history and event',
    async (_, isRepeat) => {
      const orderId = newOrderId(Date.now());
      const [first, sameKey, otherKey, sameId, unkeyed] = [
        recordOf('k'),
        recordOf('k', 2),
        recordOf('l', 1, orderId),
        recordOf(null, 1, orderId),
        recordOf(null),
      ];
      const recorded = await one.orders.record(tenant, [{ ...first, isRepeat }, sameKey, otherKey, sameId, unkeyed]);
      expect(recorded.size).toBe(3);
      expect(recorded.has(unkeyed.order.order_id)).toBe(true);
      const [again, idAgain] = [recordOf('k'), recordOf(null, 1, orderId)];
      expect(await one.orders.record(tenant, [{ ...again, isRepeat }, idAgain])).toEqual(new Set());
      for (const id of recorded) {
        expect((await one.orders.find(tenant, id))!.version).toBe(1);
        expect(await one.orders.history(tenant, id)).toMatchObject([
          { version: 1, type: 'placed', status: 'confirmed' },
        ]);
      }
      const [rows] = await one.sql.query<{ count: number }>(
        { name: 'test-events', text: 'SELECT count(*) AS count FROM orders.events WHERE tenant_id = $1' },
        [tenant],
      );
      expect(rows!.count).toBe(3);
    },
  );

  it('does not deadlock when two instances record the same keys in opposite order', async () => {
    for (let round = 0; round < 6; round += 1) {
      const keys = Array.from({ length: 250 }, (_, index) => `${round}-${'aBäZ9🦊\uffee'.at(index % 7)}-${index}`);
      const [mine, theirs] = await Promise.all([
        one.orders.record(
          tenant,
          keys.map((key) => recordOf(key)),
        ),
        two.orders.record(
          tenant,
          keys.toReversed().map((key) => recordOf(key)),
        ),
      ]);
      expect(mine.size + theirs.size).toBe(250);
    }
    expect(await ordersOf(one, tenant)).toBe(1_500);
  });

  it('does not deadlock when two instances store refusals of the same keys in opposite order', async () => {
    for (let round = 0; round < 6; round += 1) {
      const beginnings = ['a', 'B', 'ä', 'Z', '9', '🦊', '\uffee'];
      const refusals = Array.from({ length: 250 }, (_, index) =>
        refusalOfAnother(recordOf(`${round}-${beginnings[index % 7]}-${index}`)),
      );
      const [mine, theirs] = await Promise.all([
        one.orders.keepRefusals(tenant, refusals),
        two.orders.keepRefusals(tenant, refusals.toReversed()),
      ]);
      expect(mine.length + theirs.length).toBe(250);
    }
  });

  it('returns stored answers in the order of the requested keys, and prefers orders to refusals', async () => {
    const kept = recordOf('kept');
    await one.orders.record(tenant, [kept]);
    const refusal = { code: 'out-of-stock' as const, detail: 'none left', extensions: { products: [] } };
    const [f1, f2, tooLate] = ['f1', 'f2', 'too late'].map(fingerprintOf) as [string, string, string];
    const refuse = (idempotencyKey: string, fingerprint: string) => ({
      ...{ account: 'acc', idempotencyKey, fingerprint, refusal },
    });
    await one.orders.keepRefusals(tenant, [refuse('refused', f1), refuse('kept', f2)]);
    await two.orders.keepRefusals(tenant, [refuse('refused', tooLate)]);
    const ask = (account: string, ...keys: string[]) =>
      one.orders.answersOf(
        tenant,
        keys.map((idempotencyKey) => ({ account, idempotencyKey, fingerprint: kept.fingerprint })),
      );
    expect(await ask('acc', 'new', 'refused', 'kept', 'refused')).toEqual([
      undefined,
      { fingerprint: f1, refusal },
      { fingerprint: kept.fingerprint, order: kept.order },
      { fingerprint: f1, refusal },
    ]);
    expect(await ask('another', 'refused', 'kept')).toEqual([undefined, undefined]);
    // A key that was used for two commands at the same time has an answer for each of them.
    const other = { account: 'acc', idempotencyKey: 'kept', fingerprint: f2 };
    expect(await one.orders.answersOf(tenant, [other])).toEqual([{ fingerprint: f2, refusal }]);
    const third = { ...other, fingerprint: f1 };
    expect(await one.orders.answersOf(tenant, [third])).toEqual([{ fingerprint: kept.fingerprint, order: kept.order }]);
  });

  it('stores one refusal per key, and returns which it has stored', async () => {
    const refusal = { code: 'out-of-stock' as const, detail: 'none left', extensions: { products: [] } };
    const of = (idempotencyKey: string, command: string): KeyedRefusal => ({
      ...{ account: 'acc', idempotencyKey, fingerprint: fingerprintOf(command), refusal },
    });
    const [first, second, other] = [of('k', 'one'), of('k', 'another'), of('l', 'another')];
    expect(await one.orders.keepRefusals(tenant, [first])).toEqual([first]);
    expect(await two.orders.keepRefusals(tenant, [second, other])).toEqual([other]);
  });
});
