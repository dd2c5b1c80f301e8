import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { setTimeout } from 'node:timers/promises';
import pg from 'pg';
import { Sql } from '#database';
import { eventually, testDatabase } from '#testing';
import { Api, ok, refused, type Answer, type Order } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startReplicatedPostgres, type ReplicatedPostgres } from '../support/replicated-postgres.js';
import { servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { ofEach, query } from '../support/tables.js';

/** Two ways to end a wait for the standby: terminate the connection, or cancel only the wait. */
const ends = { terminated: 'pg_terminate_backend', cancelled: 'pg_cancel_backend' } as const;

/** A monolith with only one module on a replicated Postgres, so that only that module waits for the standby. */
const startWith = async (module: 'order' | 'inventory'): Promise<{ postgres: ReplicatedPostgres; shape: Shape }> => {
  const [postgres, other, [port]] = await Promise.all([startReplicatedPostgres(), testDatabase(), servicePorts(1)]);
  const environment = { DATABASE_URL: other.url, [`${module.toUpperCase()}_DATABASE_URL`]: postgres.url };
  const urls = ofEach((keeper) => (keeper === module ? postgres.url : other.url));
  const shape = await startPlan(`${module} on a replicated Postgres`, {
    services: [{ app: 'monolith', port: port!, environment }],
    databaseUrls: () => Promise.resolve(urls),
    release: async () => {
      await postgres.stop();
      await other.stop();
    },
  });
  return { postgres, shape };
};

/** Ends every wait for the standby until the promise is settled. */
const endingWaitsAt = async <T>(url: string, how: keyof typeof ends, deciding: Promise<T>): Promise<T> => {
  for (;;) {
    const decided = await Promise.race([deciding.then((value) => ({ value })), setTimeout(50, undefined)]);
    if (decided) return decided.value;
    await query(url, `SELECT ${ends[how]}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`);
  }
};

describe('a read from a standby', () => {
  it('is refused if its result will be used, and its connection is closed', async () => {
    const postgres = await startReplicatedPostgres();
    const pools = [postgres.url, postgres.standbyUrl].map((connectionString) => new pg.Pool({ connectionString }));
    try {
      const [primary, standby] = pools.map((pool) => new Sql(pool, 'order', 12_000)) as [Sql, Sql];
      const read = (sql: Sql, isTold = true) =>
        sql.readSafely(
          (within) => within.query({ name: 'test-read', text: 'SELECT 1 AS one' }),
          () => isTold,
        );
      await eventually(async () => expect(await read(standby, false)).toEqual([{ one: 1 }]));
      expect(await read(primary)).toEqual([{ one: 1 }]);
      expect(pools[1]!.totalCount).toBe(1);
      await expect(read(standby)).rejects.toMatchObject({ code: 'unavailable' });
      expect(pools[1]!.totalCount).toBe(0);
    } finally {
      await Promise.all(pools.map((it) => it.end()));
      await postgres.stop();
    }
  });
});

describe('inventory whose synchronous standby is unreachable', () => {
  let postgres: ReplicatedPostgres;
  let shape: Shape;
  let api: Api;

  beforeAll(async () => {
    ({ postgres, shape } = await startWith('inventory'));
    api = new Api(shape.baseUrl);
  });
  afterEach(() => postgres?.link.mend());
  afterAll(() => (shape ?? postgres)?.stop());

  it.each([
    ['an unknown product', () => ({ product_id: fresh('unknown') }), '422 unknown-product'],
    ['a changed price', (product_id: string) => ({ product_id, expected_total_minor: 1 }), '409 price-changed'],
  ] as const)(
    'does not refuse %s before the standby has the data that the refusal is based on',
    async (_, requestOf, refusal) => {
      const body = { customer_id: 'c', quantity: 1, ...requestOf(await api.product({ onHand: 10 })) };
      refused(await api.place(body), refusal);
      postgres.link.cut();
      refused(await endingWaitsAt(postgres.url, 'terminated', api.place(body)), '503 unavailable');
      postgres.link.mend();
      refused(await api.place(body), refusal);
    },
  );
});

describe('orders whose synchronous standby is unreachable', () => {
  let postgres: ReplicatedPostgres;
  let shape: Shape;
  let api: Api;

  beforeAll(async () => {
    ({ postgres, shape } = await startWith('order'));
    api = new Api(shape.baseUrl);
  });
  afterEach(() => postgres?.link.mend());
  afterAll(() => (shape ?? postgres)?.stop());

  /** Orders that the server has under the key, replicated or not. */
  const found = (key: string, url = postgres.url) =>
    query<{ order_id: string }>(url, `SELECT order_id FROM orders.orders WHERE idempotency_key = $1`, [key]);

  const endingWaits = <T>(how: keyof typeof ends, deciding: Promise<T>): Promise<T> =>
    endingWaitsAt(postgres.url, how, deciding);

  const waiting = () => query(postgres.url, `SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'`);

  it('a row lock waits for the standby, and a read does not', async () => {
    await api.placed({ customer_id: 'c', product_id: await api.product(), quantity: 1 });
    postgres.link.cut();
    await query(postgres.url, 'SELECT FROM orders.orders LIMIT 1');
    const locking = query(postgres.url, 'SELECT FROM orders.orders LIMIT 1 FOR NO KEY UPDATE');
    await eventually(async () => expect(await waiting()).not.toHaveLength(0));
    postgres.link.mend();
    await locking;
  });

  it('no stock is reserved after the first order that could not be replicated', async () => {
    const product_id = await api.product({ onHand: 10 });
    const body = { customer_id: 'c', product_id, quantity: 1 };
    postgres.link.cut();
    // Only the first one reserves stock, because the outage cannot be known before.
    for (let times = 0; times < 3; times += 1)
      refused(await endingWaits('terminated', api.place(body)), '503 unavailable');
    expect((await api.stock(product_id)).reserved).toBe(1);
    postgres.link.mend();
    await eventually(async () => ok(await api.place(body), 201));
    await new Ledger(shape).expectInvariants({ holdsMayWait: true });
  });

  it.each(['terminated', 'cancelled'] as const)(
    'a wait that is %s acknowledges nothing, and no retry is answered from unreplicated data',
    async (how) => {
      const body = { customer_id: 'c', product_id: await api.product({ onHand: 10 }), quantity: 3 };
      ok(await api.place(body), 201);
      const key = fresh('replicated');
      postgres.link.cut();

      refused(await endingWaits(how, api.place(body, key)), '503 unavailable');
      // It is committed on the primary only.
      const [order] = await found(key);
      expect(order).toBeDefined();
      expect(await found(key, postgres.standbyUrl)).toEqual([]);

      refused(await endingWaits(how, api.place(body, key)), '503 unavailable');
      // Twice, because the order is already cancelled the second time.
      for (let times = 0; times < 2; times += 1)
        refused(await endingWaits(how, api.cancel(order!.order_id)), '503 unavailable');
      refused(await endingWaits(how, api.get('/events')), '503 unavailable');
      // An unknown order is not reported as missing, because a new primary may have it.
      refused(await endingWaits(how, api.cancel(randomUUID())), '503 unavailable');
      const refund = { amount_minor: 1, reason: 'unwanted' };
      for (const refunded of [randomUUID(), order!.order_id])
        refused(await endingWaits(how, api.refund(refunded, refund, { key: fresh('refund') })), '503 unavailable');

      // While the request waits for the standby, nothing else answers it.
      const last: Promise<Answer<Order>> = api.place(body, key);
      await eventually(async () =>
        expect(await query(postgres.url, `SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'`)).not.toHaveLength(
          0,
        ),
      );
      postgres.link.mend();
      const answer = await last;
      expect(ok(answer, 201).order_id).toBe(order!.order_id);
      expect(answer.headers.get('idempotent-replayed')).toBe('true');
      await eventually(async () => expect(await found(key, postgres.standbyUrl)).toEqual([order]));
      await new Ledger(shape).expectInvariants({ holdsMayWait: false });
    },
  );
});
