import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import pg from 'pg';
import { SeededRandom, testDatabase, testSeed, type TestDatabase } from '#testing';
import {
  brokenInvariants,
  decide,
  effect,
  newTenant,
  outcomes,
  reservation,
  startInstance,
  stocked,
  untilBlocked,
  type Instance,
} from './inventory-under-test.js';

let database: TestDatabase;
/** Two instances of the module: two pools on one database. */
let instances: [Instance, Instance];

beforeAll(async () => {
  database = await testDatabase();
  instances = [await startInstance(database.url), await startInstance(database.url)];
});

afterAll(async () => {
  await Promise.all((instances ?? []).map((it) => it.stop()));
  await database?.stop();
});

const stockOf = (tenant: string, productId: string) => instances[0].readStock.execute(tenant, productId);

it('concurrent reservations, settlements, counts and changes neither deadlock nor lose a unit', async () => {
  const random = new SeededRandom(testSeed());
  const tenant = newTenant();
  // Ids that other collations and JavaScript sort differently.
  const products = ['a', 'B', 'ä', 'Z', '10', '9', '🦊', '\uffee', 'a-b', 'ab'];
  await stocked(instances[0], tenant, Object.fromEntries(products.map((id) => [id, 400])));
  const held = new Map<string, Record<string, number>>();
  const expected = new Map(products.map((id) => [id, { onHand: 400, reserved: 0, sold: 0 }]));
  const someUnits = () =>
    Object.fromEntries(
      random
        .shuffled(products)
        .slice(0, random.integer(1, 6))
        .map((id) => [id, random.integer(1, 3)]),
    );
  const add = (units: Record<string, number>, change: { onHand?: number; reserved?: number; sold?: number }) => {
    for (const [id, quantity] of Object.entries(units)) {
      const it = expected.get(id)!;
      it.onHand += (change.onHand ?? 0) * quantity;
      it.reserved += (change.reserved ?? 0) * quantity;
      it.sold += (change.sold ?? 0) * quantity;
    }
  };

  const reserve = async (at: Instance) => {
    const wanted = Array.from({ length: random.integer(1, 12) }, () => someUnits());
    const batch = wanted.map((it) => reservation(it));
    const decisions = await outcomes(at, tenant, batch);
    batch.forEach(({ reservation_id }, index) => {
      if (decisions[index] === 'out-of-stock') return;
      expect(decisions[index]).toBe('held');
      add(wanted[index]!, { reserved: 1 });
      held.set(reservation_id, wanted[index]!);
    });
  };
  const settle = async (at: Instance) => {
    const mine = random.shuffled([...held]).slice(0, random.integer(1, 12));
    const effects = mine.flatMap(([id, units]) => {
      held.delete(id);
      const kind = random.pick(['release', 'fulfil'] as const);
      add(units, kind === 'release' ? { reserved: -1 } : { reserved: -1, onHand: -1, sold: 1 });
      const end = effect(id, 2, kind, kind === 'fulfil' ? units : undefined);
      return random.pick([true, false]) ? [effect(id, 1, 'confirm'), end] : [end];
    });
    if (effects.length === 0) return;
    expect(await at.settleStock.execute(tenant, effects)).toMatchObject({ applied: effects.length, impossible: [] });
  };
  const adjust = async (at: Instance) => {
    const productId = random.pick(products);
    await at.adjustStock.execute(tenant, {
      ...{ productId, delta: 2, reason: 'found', account: 'a', idempotencyKey: randomUUID() },
    });
    add({ [productId]: 1 }, { onHand: 2 });
  };
  const describeAnew = (at: Instance) =>
    at.putProducts.execute(
      tenant,
      random.shuffled(products).map((product_id) => ({
        ...{ product_id, name: `Name ${random.integer(1, 9)}`, unit_price_minor: 100, currency: 'GBP' },
      })),
    );
  // Locks all of the products. It must not set them, so it is refused because of a product that does not exist.
  const count = async (at: Instance) => {
    const counts = [...random.shuffled(products), 'nowhere'].map((product_id) => ({ product_id, on_hand: 1 }));
    await expect(at.countStock.execute(tenant, counts)).rejects.toMatchObject({ code: 'product-not-found' });
  };

  const worker = async (index: number) => {
    for (let turn = 0; turn < 30; turn += 1) {
      const work = random.pick([reserve, reserve, reserve, settle, settle, adjust, describeAnew, count]);
      await work(instances[index % 2 === 0 ? 0 : 1]);
    }
  };
  await Promise.all(Array.from({ length: 12 }, (_, index) => worker(index)));

  expect(await brokenInvariants(instances[0], tenant)).toEqual([]);
  for (const [id, { onHand, reserved, sold }] of expected)
    expect(await stockOf(tenant, id)).toMatchObject({ on_hand: onHand, reserved, sold });
}, 60_000);

it('concurrent requests to two instances reserve exactly the units of a hot product', async () => {
  const tenant = newTenant();
  await stocked(instances[0], tenant, { hot: 101, cold: 1_000 });
  const batches = await Promise.all(
    Array.from({ length: 30 }, (_, index) => {
      const wanted = Array.from({ length: 4 }, () => reservation({ cold: 1, hot: 3 }));
      return outcomes(instances[index % 2 === 0 ? 0 : 1], tenant, wanted);
    }),
  );
  expect(batches.flat().filter((it) => it === 'held')).toHaveLength(33);
  expect(await stockOf(tenant, 'hot')).toMatchObject({ reserved: 99, available: 2 });
  expect(await stockOf(tenant, 'cold')).toMatchObject({ reserved: 33 });
});

it('a decision uses the stock found after the lock was acquired, not that seen before', async () => {
  const tenant = newTenant();
  await stocked(instances[0], tenant, { a: 10, b: 10, c: 10 });
  const [blocker, watcher] = [new pg.Client(database.url), new pg.Client(database.url)];
  await Promise.all([blocker.connect(), watcher.connect()]);
  try {
    await blocker.query('BEGIN');
    const [other] = (
      await blocker.query(
        `SELECT (inventory.reserve($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)).outcomes`,
        [
          ...[tenant, [randomUUID()], [randomUUID()], ['{"b":8}'], 1_000, ['b'], [8]],
          ...[[1], [1], [8], [8], [0], [null], [null]],
        ],
      )
    ).rows as { outcomes: string[] }[];
    expect(other!.outcomes).toEqual(['held']);
    const reserving = decide(instances[0], tenant, [reservation({ a: 1, b: 3, c: 1 }), reservation({ c: 1, b: 2 })]);
    const counting = instances[1].countStock.execute(tenant, [{ product_id: 'b', on_hand: 7 }]);
    await untilBlocked(watcher, 2);
    await blocker.query('COMMIT');
    await expect(counting).rejects.toMatchObject({ code: 'stock-below-reserved' });
    expect(await reserving).toMatchObject([
      { outcome: 'out-of-stock', shortages: [{ product_id: 'b', requested: 3, available: 2 }] },
      { outcome: 'held' },
    ]);
  } finally {
    await Promise.all([blocker.end(), watcher.end()]);
  }
  expect(await brokenInvariants(instances[0], tenant)).toEqual([]);
});

type Asking = (at: Instance, tenant: string, ids: string[]) => Promise<unknown>;
const reserving: Asking = (at, tenant, ids) =>
  decide(
    at,
    tenant,
    ids.map((reservation_id) => reservation({ a: 1 }, { reservation_id })),
  );
/** The next batch is tried at once after one that was held as a whole, and otherwise decided one by one. */
const reservingAfter =
  (units: number): Asking =>
  async (at, tenant, ids) => {
    await decide(at, tenant, [reservation({ a: units })]);
    await reserving(at, tenant, ids);
  };
const settling =
  (kind: 'confirm' | 'release', version: number): Asking =>
  (at, tenant, ids) =>
    at.settleStock.execute(
      tenant,
      ids.map((id) => effect(id, version, kind)),
    );

it.each<[string, boolean, Asking, Asking]>([
  ['two reserve', false, reservingAfter(1_000), reservingAfter(1_000)],
  ['two reserve at once', false, reservingAfter(1), reservingAfter(1)],
  ['one reserves what the other releases', false, reserving, settling('release', 1)],
  ['two release what nobody has reserved', false, settling('release', 1), settling('release', 1)],
  ['two release', true, settling('release', 2), settling('release', 2)],
  ['one confirms what the other releases', true, settling('confirm', 1), settling('release', 2)],
])(
  'reservations are locked in the order of their ids, whatever the order of the request: %s',
  async (_, areThere, one, two) => {
    const tenant = newTenant();
    await stocked(instances[0], tenant, { a: 10 });
    const ids = Array.from({ length: 3 }, () => randomUUID()).toSorted();
    if (areThere) await reserving(instances[0], tenant, ids);
    const [blocker, watcher] = [new pg.Client(database.url), new pg.Client(database.url)];
    await Promise.all([blocker.connect(), watcher.connect()]);
    try {
      // The one in the middle is locked, so requests from either end have to wait for it.
      await blocker.query('BEGIN');
      await blocker.query(
        areThere
          ? `SELECT FROM inventory.reservations WHERE tenant_id = $1 AND reservation_id = $2 FOR UPDATE`
          : `INSERT INTO inventory.reservations (tenant_id, reservation_id, state, held, deadline_at)
          VALUES ($1, $2, 'held', '{}', now())`,
        [tenant, ids[1]],
      );
      const asking = Promise.all([one(instances[0], tenant, ids), two(instances[1], tenant, ids.toReversed())]);
      await Promise.race([asking, untilBlocked(watcher, 2)]);
      await blocker.query('ROLLBACK');
      await asking;
    } finally {
      await Promise.all([blocker.end(), watcher.end()]);
    }
    expect(await brokenInvariants(instances[0], tenant)).toEqual([]);
  },
);

it('concurrent requests of one reservation get the same decision and reserve its units once', async () => {
  const tenant = newTenant();
  await stocked(instances[0], tenant, { twin: 20 });
  const wanted = Array.from({ length: 8 }, () => reservation({ twin: 3 }));
  const answers = await Promise.all(
    Array.from({ length: 8 }, (_, index) => {
      // Each request names another order, and all get the same one back.
      const mine = wanted.map((it) => ({ ...it, order_id: randomUUID() }));
      return decide(instances[index % 2 === 0 ? 0 : 1], tenant, index % 3 === 0 ? mine.toReversed() : mine);
    }),
  );
  const inOneOrder = answers.map((it, index) => (index % 3 === 0 ? it.toReversed() : it));
  for (const answer of inOneOrder) expect(answer).toEqual(inOneOrder[0]);
  expect(answers[0]!.filter((it) => it.outcome === 'held')).toHaveLength(6);
  expect(await stockOf(tenant, 'twin')).toMatchObject({ reserved: 18 });
});

it('an effect is applied once when it is delivered concurrently', async () => {
  const tenant = newTenant();
  await stocked(instances[0], tenant, { shared: 100 });
  const ids = Array.from({ length: 10 }, () => reservation({ shared: 5 }));
  await decide(instances[0], tenant, ids);
  const effects = ids.flatMap(({ reservation_id }, index) => [
    effect(reservation_id, 1, 'confirm'),
    effect(reservation_id, 2, 'fulfil', { shared: 2 }),
    index % 2 === 0 ? effect(reservation_id, 3, 'release') : effect(reservation_id, 3, 'fulfil', { shared: 3 }),
  ]);
  const replies = await Promise.all(
    Array.from({ length: 8 }, (_, index) =>
      instances[index % 2 === 0 ? 0 : 1].settleStock.execute(tenant, effects.slice(index % 4 === 0 ? 0 : 6)),
    ),
  );
  expect(replies.reduce((sum, it) => sum + it.applied, 0)).toBe(effects.length);
  expect(await stockOf(tenant, 'shared')).toMatchObject({ on_hand: 65, reserved: 0, sold: 35 });
  expect(await brokenInvariants(instances[0], tenant)).toEqual([]);
});

it('an adjustment is made once per idempotency key, on two instances and for two products', async () => {
  const tenant = newTenant();
  await stocked(instances[0], tenant, { left: 10, right: 10 });
  const idempotencyKey = randomUUID();
  const adjust = (index: number, productId: string) =>
    instances[index % 2 === 0 ? 0 : 1].adjustStock.execute(tenant, {
      ...{ productId, delta: 1, reason: 'found', account: 'a', idempotencyKey },
    });
  const same = await Promise.all(Array.from({ length: 8 }, (_, index) => adjust(index, 'left')));
  expect(same.filter((it) => !it.replayed)).toHaveLength(1);
  expect(new Set(same.map((it) => it.stock.on_hand))).toEqual(new Set([11]));

  const other = randomUUID();
  const results = await Promise.allSettled(
    ['left', 'right', 'left', 'right'].map((productId, index) =>
      instances[index % 2 === 0 ? 0 : 1].adjustStock.execute(tenant, {
        ...{ productId, delta: -1, reason: 'lost', account: 'a', idempotencyKey: other },
      }),
    ),
  );
  for (const it of results)
    if (it.status === 'rejected') expect(it.reason).toMatchObject({ code: 'idempotency-key-reused' });
  expect(results.filter((it) => it.status === 'fulfilled')).toHaveLength(2);
  const [left, right] = [await stockOf(tenant, 'left'), await stockOf(tenant, 'right')];
  expect(left.on_hand + right.on_hand).toBe(20);
  expect(await brokenInvariants(instances[0], tenant)).toEqual([]);
});
