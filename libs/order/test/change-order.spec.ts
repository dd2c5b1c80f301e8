import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { twoInstances, type TwoInstances } from '#testing';
import {
  cancelOrder,
  fulfilOrder,
  returnGoods,
  stockEffectOf,
  type HistoryEntry,
  type Order,
} from '../src/domain/order.js';
import { fingerprintOf } from '../src/domain/placement.js';
import { ChangeOrder, type ChangeableOrders, type KeyedChange } from '../src/use-cases/change-order.js';
import { newTenant, orderIn, requestOf, settled, startInstance, type Instance } from './order-under-test.js';

let instances: TwoInstances<Instance>;
let one: Instance;
let two: Instance;
const tenant = newTenant();

beforeAll(async () => {
  instances = await twoInstances(startInstance);
  ({ one, two } = instances);
  one.stock.onHand.set('mug', 1_000_000);
});

afterAll(() => instances?.stop());

const placed = async (quantity: number, of = tenant): Promise<Order> =>
  orderIn(await one.placeOrder.execute(of, 'acc', requestOf({ mug: quantity }), null));

const changing = (order: Order, more: { expectedVersions?: number[]; keyed?: KeyedChange } = {}) => ({
  ...{ tenant, orderId: order.order_id, expectedVersions: undefined },
  ...more,
});
const fulfilUnits = (quantity: number) => (order: Order, at: Date) =>
  fulfilOrder(order, [{ product_id: 'mug', quantity }], at);
const keyed = (operation: string, idempotencyKey: string, command = 'f'): KeyedChange => ({
  ...{ account: 'acc', operation, idempotencyKey, fingerprint: fingerprintOf(command) },
});

/** The stock effects of the events of an order, in the order in which the relay reads them. */
const toldAbout = async ({ order_id }: Order): Promise<{ version: number; kind: string | undefined }[]> => {
  const rows = await one.sql.query<Pick<HistoryEntry, 'version' | 'type' | 'status' | 'data'>>(
    {
      name: 'test-told',
      text: 'SELECT version, type, status, data FROM orders.events WHERE order_id = $1 ORDER BY xid, id',
    },
    [order_id],
  );
  return rows.map((it) => ({ version: it.version, kind: stockEffectOf(it)?.kind }));
};

describe('concurrent changes of one order', () => {
  it('are applied one after the other, each with its own version, history entry and event (I10)', async () => {
    const order = await placed(60);
    const calls = Array.from({ length: 40 }, (_, index) => (index % 2 === 0 ? one : two)).map(({ changeOrder }) =>
      changeOrder.execute(changing(order), fulfilUnits(2)),
    );
    const results = await Promise.all(calls.map(settled));
    for (const it of results) if (it instanceof Error) expect(it).toMatchObject({ code: 'illegal-transition' });
    const versions = results.flatMap((it) => (it instanceof Error ? [] : it.order.version));
    expect(versions.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 30 }, (_, index) => index + 2));

    const now = (await two.orders.find(tenant, order.order_id))!;
    expect(now).toMatchObject({ status: 'fulfilled', version: 31, lines: [{ fulfilled: 60 }] });
    const history = await one.orders.history(tenant, order.order_id);
    expect(history.map((it) => it.version)).toEqual(Array.from({ length: 31 }, (_, index) => index + 1));
    expect(history.at(-1)).toMatchObject({ type: 'fulfilled', status: 'fulfilled', at: now.updated_at });
    const told = await toldAbout(order);
    expect(told.map((it) => it.version)).toEqual(history.map((it) => it.version));
    expect(told.map((it) => it.kind)).toEqual(['confirm', ...Array<string>(30).fill('fulfil')]);
  });

  it('that expect the same version succeed exactly once', async () => {
    const order = await placed(10);
    const calls = [one, two, one, two].map(({ changeOrder }) =>
      settled(changeOrder.execute(changing(order, { expectedVersions: [1] }), fulfilUnits(1))),
    );
    const results = await Promise.all(calls);
    expect(results.filter((it) => !(it instanceof Error))).toHaveLength(1);
    for (const it of results)
      if (it instanceof Error) expect(it).toMatchObject({ code: 'precondition-failed', extensions: { version: 2 } });
  });

  it('that cancel and fulfil it have exactly one winner', async () => {
    for (let round = 0; round < 5; round += 1) {
      const order = await placed(1);
      const [cancelled, fulfilled] = await Promise.all([
        settled(one.changeOrder.execute(changing(order), (it, at) => cancelOrder(it, undefined, at))),
        settled(two.changeOrder.execute(changing(order), fulfilUnits(1))),
      ]);
      expect([cancelled, fulfilled].filter((it) => it instanceof Error)).toHaveLength(1);
      const { status } = (await one.orders.find(tenant, order.order_id))!;
      expect(status).toBe(cancelled instanceof Error ? 'fulfilled' : 'cancelled');
      expect((await toldAbout(order)).map((it) => it.kind)).toEqual([
        'confirm',
        cancelled instanceof Error ? 'fulfil' : 'release',
      ]);
    }
  });
});

describe('a keyed change', () => {
  it('is made once, and retries get its answer even if the order no longer has the version they expect', async () => {
    const order = await placed(10);
    const key = randomUUID();
    const change = (at: Instance) =>
      at.changeOrder.execute(changing(order, { keyed: keyed('fulfil', key), expectedVersions: [1] }), fulfilUnits(1));
    const results = await Promise.all([one, two, one, two, two].map(change));
    expect(results.filter((it) => !it.replayed)).toHaveLength(1);
    await one.changeOrder.execute(changing(order), fulfilUnits(5));
    for (const { order: answer } of [...results, await change(two)]) {
      expect(answer).toEqual(results[0]!.order);
      expect(answer).toMatchObject({ version: 2, lines: [{ fulfilled: 1 }] });
    }
    expect((await one.orders.find(tenant, order.order_id))!.lines[0]!.fulfilled).toBe(6);
  });

  it('is replayed exactly as it was first answered, after any later changes', async () => {
    const order = await placed(10);
    const back = (quantity: number, restock: boolean) => (it: Order, at: Date) =>
      returnGoods(it, { lines: [{ product_id: 'mug', quantity, amount_minor: 7 }], restock, reason: 'r' }, at);
    const changes = [
      ['fulfil', fulfilUnits(3)],
      ['return', back(1, true)],
      ['fulfil', fulfilUnits(7)],
      ['return', back(2, false)],
      ['return', back(7, true)],
    ] as const;
    const requests = changes.map(([operation]) => changing(order, { keyed: keyed(operation, randomUUID()) }));
    const answers: Order[] = [];
    for (const [index, [, decide]] of changes.entries()) {
      const { order: answer, replayed } = await one.changeOrder.execute(requests[index]!, decide);
      expect(replayed).toBe(false);
      answers.push(answer);
      for (const [earlier, request] of requests.slice(0, index + 1).entries())
        expect(await two.changeOrder.execute(request, changes[earlier]![1])).toEqual({
          ...{ order: answers[earlier], replayed: true },
        });
    }
    expect(answers.at(-1)).toMatchObject({ status: 'returned', version: 6, returned_total_minor: 21 });
    expect(await two.orders.find(tenant, order.order_id)).toEqual(answers.at(-1));
  });

  it('is replayed from a long history, which is read page by page', async () => {
    const order = await placed(450);
    const request = changing(order, { keyed: keyed('fulfil', randomUUID()) });
    const unit = fulfilUnits(1);
    for (let times = 0; times < 449; times += 1) await one.changeOrder.execute(changing(order), unit);
    const { order: answer } = await one.changeOrder.execute(request, unit);
    expect(answer).toMatchObject({ status: 'fulfilled', version: 451 });
    await one.changeOrder.execute(changing(order), (it, at) =>
      returnGoods(it, { lines: [{ product_id: 'mug', quantity: 1 }], restock: false, reason: 'r' }, at),
    );
    const pages: number[] = [];
    const counting: ChangeableOrders = {
      readSafely: (work, isTold) =>
        two.orders.readSafely(
          (orders) =>
            work({
              ...orders,
              history: async (...asked) => {
                const page = await orders.history(...asked);
                pages.push(page.length);
                return page;
              },
            }),
          isTold,
        ),
      save: two.orders.save.bind(two.orders),
      keepKey: two.orders.keepKey.bind(two.orders),
    };
    expect(await new ChangeOrder(counting, two.relay).execute(request, unit)).toEqual({
      ...{ order: answer, replayed: true },
    });
    expect(pages).toEqual([200, 200, 51]);
  });

  it.each([2, 3])('fails to be replayed if the history lacks version %i', async (version) => {
    const order = await placed(3);
    await one.changeOrder.execute(changing(order), fulfilUnits(1));
    const request = changing(order, { keyed: keyed('fulfil', randomUUID()) });
    for (const it of [request, changing(order)]) await one.changeOrder.execute(it, fulfilUnits(1));
    const lost = 'DELETE FROM orders.events WHERE tenant_id = $1 AND order_id = $2 AND version = $3';
    await one.sql.query({ name: 'test-entry-lost', text: lost }, [tenant, order.order_id, version]);
    await expect(two.changeOrder.execute(request, fulfilUnits(1))).rejects.toThrow('lacks an entry');
  });

  it('that an equal request has made meanwhile is a replay, although version and status no longer allow it', async () => {
    const order = await placed(1);
    const request = changing(order, { keyed: keyed('fulfil', randomUUID()), expectedVersions: [1] });
    let overtaken = false;
    const orders: ChangeableOrders = {
      readSafely: async (work, isTold) => {
        if (!overtaken) await two.changeOrder.execute(request, fulfilUnits(1));
        overtaken = true;
        return one.orders.readSafely(work, isTold);
      },
      save: one.orders.save.bind(one.orders),
      keepKey: one.orders.keepKey.bind(one.orders),
    };
    expect(await new ChangeOrder(orders, one.relay).execute(request, fulfilUnits(1))).toMatchObject({
      ...{ replayed: true, order: { status: 'fulfilled', version: 2 } },
    });
  });

  it('that changes nothing stores its key as well, and is replayed with the order as it was', async () => {
    const order = await placed(2);
    const other = await placed(1);
    await one.changeOrder.execute(changing(order), fulfilUnits(2));
    const key = randomUUID();
    const fulfil = (at: Instance, it: Order) =>
      at.changeOrder.execute(changing(it, { keyed: keyed('fulfil', key, it.order_id) }), (found, when) =>
        fulfilOrder(found, undefined, when),
      );
    const answers = await Promise.all([one, two, one, two].map((at) => fulfil(at, order)));
    expect(answers.filter((it) => !it.replayed)).toHaveLength(1);
    await expect(fulfil(two, other)).rejects.toMatchObject({ code: 'idempotency-key-reused' });
    expect(await one.orders.find(tenant, other.order_id)).toMatchObject({ status: 'confirmed', version: 1 });
    const back = { lines: [{ product_id: 'mug', quantity: 1 }], restock: true, reason: 'r' };
    await one.changeOrder.execute(changing(order), (it, at) => returnGoods(it, back, at));
    const again = await fulfil(two, order);
    expect(again.replayed).toBe(true);
    for (const { order: answer } of [...answers, again]) {
      expect(answer).toEqual(answers[0]!.order);
      expect(answer).toMatchObject({ status: 'fulfilled', version: 2, lines: [{ returned: 0 }] });
    }
  });

  it('is made once per key, even for two orders at the same time', async () => {
    const orders = [await placed(5), await placed(5)];
    const key = randomUUID();
    const results = await Promise.all(
      [...orders, ...orders].map((order, index) => {
        const request = changing(order, { keyed: keyed('fulfil', key, order.order_id) });
        return settled((index % 2 === 0 ? one : two).changeOrder.execute(request, fulfilUnits(1)));
      }),
    );
    const failed = results.filter((it) => it instanceof Error);
    expect(failed).toHaveLength(2);
    for (const it of failed) expect(it).toMatchObject({ code: 'idempotency-key-reused' });
    const now = await Promise.all(orders.map((it) => one.orders.find(tenant, it.order_id)));
    expect(new Set(now.map((it) => it!.version))).toEqual(new Set([1, 2]));
  });

  it('has a key of its own per operation, account and tenant, which a refused change leaves free', async () => {
    const order = await placed(10);
    const key = randomUUID();
    const back = (it: Order, at: Date) =>
      returnGoods(it, { lines: [{ product_id: 'mug', quantity: 1 }], restock: true, reason: 'r' }, at);
    const request = changing(order, { keyed: keyed('return', key) });
    await expect(one.changeOrder.execute(request, back)).rejects.toMatchObject({ code: 'illegal-transition' });
    await one.changeOrder.execute(changing(order, { keyed: keyed('fulfil', key) }), fulfilUnits(2));
    expect(await one.changeOrder.execute(request, back)).toMatchObject({ replayed: false, order: { version: 3 } });
    expect(await one.changeOrder.execute(request, back)).toMatchObject({ replayed: true, order: { version: 3 } });
    const otherAccount = changing(order, { keyed: { ...keyed('return', key), account: 'other' } });
    expect(await one.changeOrder.execute(otherAccount, back)).toMatchObject({ replayed: false });
    await expect(one.changeOrder.execute({ ...request, tenant: newTenant() }, back)).rejects.toMatchObject({
      code: 'order-not-found',
    });
  });
});

it('paging returns every order that existed at its start exactly once, newest first', async () => {
  const own = newTenant();
  const there = new Set<string>();
  for (let round = 0; round < 4; round += 1)
    for (const it of await Promise.all(Array.from({ length: 10 }, () => placed(1, own)))) there.add(it.order_id);
  const seen: string[] = [];
  for (let before: string | undefined; ; before = seen.at(-1)) {
    const page = await two.orders.page(own, { customerId: 'c-1', status: 'confirmed' }, before, 7);
    if (page.length === 0) break;
    seen.push(...page.map((it) => it.order_id));
    await placed(1, own);
  }
  expect(seen).toEqual([...there].toSorted().toReversed());
});
