import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from '@jest/globals';
import pg from 'pg';
import type { Decision, ReservationRequest } from '#contracts';
import { testDatabase, type TestDatabase } from '#testing';
import {
  brokenInvariants,
  effect,
  longHoldMs,
  newTenant,
  reservation,
  startInstance,
  stocked,
  untilBlocked,
  type Instance,
} from './inventory-under-test.js';

let database: TestDatabase;
/** Two instances of the module: two pools on one database. */
let instances: [Instance, Instance];
/** A session of an operator, and one that looks on. */
let [operator, watcher]: pg.Client[] = [];
let tenant: string;

beforeAll(async () => {
  database = await testDatabase();
  instances = [await startInstance(database.url), await startInstance(database.url)];
});
afterAll(async () => {
  await Promise.all((instances ?? []).map((it) => it.stop()));
  await database?.stop();
});
beforeEach(async () => {
  [operator, watcher] = [new pg.Client(database.url), new pg.Client(database.url)];
  await Promise.all([operator.connect(), watcher.connect()]);
  tenant = newTenant();
  await stocked(instances[0], tenant, { a: 100, m: 100, z: 100 });
});
afterEach(async () => {
  await Promise.all([operator!.end(), watcher!.end()]);
});

const ask = async (at: Instance, reservations: ReservationRequest[], knows_locked = true): Promise<Decision[]> =>
  (await at.reserveStock.execute(tenant, { reservations, hold_ms: longHoldMs, knows_locked })).decisions;

const lockProduct = async (id: string, how = 'UPDATE', by = operator!): Promise<void> => {
  await by.query('BEGIN');
  await by.query(`SELECT FROM inventory.products WHERE tenant_id = $1 AND product_id = $2 FOR ${how}`, [
    ...[tenant, id],
  ]);
};

/** A statement that locks product m and then takes an hour. @returns the code it is ended with */
const workOn = (by: pg.Client): Promise<unknown> => {
  const locked = `SELECT FROM inventory.products WHERE tenant_id = $1 AND product_id = 'm' FOR NO KEY UPDATE`;
  const working = by.query(`WITH held AS MATERIALIZED (${locked}) SELECT pg_sleep(3600) FROM held`, [tenant]);
  return working.catch((error: { code: string }) => error.code);
};

/** @returns the process id of the session that works on product m */
const untilAtWork = async (): Promise<number> => {
  const atWork = `SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'PgSleep' AND pid <> pg_backend_pid()`;
  for (;;) {
    const [session] = (await watcher!.query<{ pid: number }>(atWork)).rows;
    if (session) return session.pid;
    await setTimeout(10);
  }
};

const lockedProducts = async (ids: string[]): Promise<string[]> => {
  const look = `SELECT products FROM inventory.locked_rows($1, $2, '{}')`;
  return (await watcher!.query<{ products: string[] }>(look, [tenant, ids])).rows[0]!.products;
};

/** How long decisions wait for a lock; with 0 without limit. */
const waitAtMost = async (limit: string): Promise<void> => {
  for (const name of ['reserve', 'hold', 'settle'])
    await watcher!.query(`ALTER FUNCTION inventory.${name} SET lock_timeout = '${limit}'`);
};

const reservedOf = async (id: string): Promise<number> => (await instances[0].readStock.execute(tenant, id)).reserved;

it.each(['UPDATE', 'SHARE'])(
  'a product that stays locked refuses only the reservations that need it (FOR %s)',
  async (how) => {
    await lockProduct('m', how);
    const wanted = [reservation({ z: 1 }), reservation({ a: 1, m: 1 }), reservation({ a: 1 }), reservation({ m: 1 })];
    const expected = [
      { outcome: 'held' },
      { outcome: 'locked', product_ids: ['m'] },
      { outcome: 'held' },
      { outcome: 'locked', product_ids: ['m'] },
    ];
    expect(await ask(instances[0], wanted)).toMatchObject(expected);
    // It is known by now: nobody waits for it any more, or would wait for ever.
    await waitAtMost('0');
    try {
      const more = [reservation({ z: 1 }), reservation({ a: 1, m: 1 }), reservation({ a: 1 }), reservation({ m: 1 })];
      expect(await ask(instances[0], more)).toMatchObject(expected);
      expect(await ask(instances[0], [reservation({ m: 1 })])).toMatchObject([{ outcome: 'locked' }]);
    } finally {
      await waitAtMost('2s');
    }
    expect([await reservedOf('a'), await reservedOf('m'), await reservedOf('z')]).toEqual([2, 0, 2]);

    // Once it is free, the refused ones are held.
    await operator!.query('ROLLBACK');
    expect((await ask(instances[0], wanted)).map((it) => it.outcome)).toEqual(['held', 'held', 'held', 'held']);
    expect(await brokenInvariants(instances[0], tenant)).toEqual([]);
  },
  60_000,
);

it('a product that several share is named, unless all of them let others change it', async () => {
  const other = new pg.Client(database.url);
  await other.connect();
  try {
    for (const [how, named] of [
      ['SHARE', ['m']],
      ['KEY SHARE', []],
    ] as const) {
      await lockProduct('m', how);
      await lockProduct('m', how, other);
      await watcher!.query('SELECT pg_sleep(2.1)');
      expect(await lockedProducts(['a', 'm'])).toEqual(named);
      await Promise.all([operator!.query('ROLLBACK'), other.query('ROLLBACK')]);
    }
  } finally {
    await other.end();
  }
}, 60_000);

it('a product is not named because the list of those that share another row has the number of its holder', async () => {
  const [sharer, busy] = [new pg.Client(database.url), new pg.Client(database.url)];
  await Promise.all([sharer.connect(), busy.connect()]);
  const table = `"${tenant}"`;
  /** Runs a statement in a subtransaction of its own, which is undone. */
  const tried = (statement: string) => `BEGIN ${statement} EXCEPTION WHEN division_by_zero THEN NULL; END;`;
  const sharedBy = `(SELECT max(xmax::text::bigint) FROM ${table})`;
  try {
    await watcher!.query(`CREATE TABLE ${table} AS SELECT n FROM generate_series(1, 20) n`);
    // Each row is shared by another subtransaction and an operator, who leaves the transaction open.
    await sharer.query(`BEGIN; DO $$ BEGIN FOR i IN 1..20 LOOP
      ${tried(`PERFORM FROM ${table} WHERE n = i FOR KEY SHARE;`)} END LOOP; END $$`);
    await operator!.query(`BEGIN; UPDATE ${table} SET n = n`);
    // Whoever joins them makes twenty lists, until those have the numbers of the transactions to come.
    await watcher!.query(`DO $$ BEGIN
      WHILE ${sharedBy} < pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 200 LOOP
        ${tried(`PERFORM FROM ${table} FOR KEY SHARE; RAISE division_by_zero;`)} END LOOP; END $$`);
    await watcher!.query(`SELECT pg_sleep(2.1)`);
    for (let holder = 0, last = 1; holder < last;) {
      await lockProduct('m', 'NO KEY UPDATE', busy);
      expect(await lockedProducts(['m'])).toEqual([]);
      const numbers = `SELECT pg_current_xact_id()::text::bigint::int AS holder, ${sharedBy}::int AS last`;
      ({ holder, last } = (await busy.query<{ holder: number; last: number }>(numbers)).rows[0]!);
      await busy.query('ROLLBACK');
    }
  } finally {
    await Promise.all([sharer.end(), busy.end()]);
  }
}, 60_000);

it('a busy product is not named because somebody shares it who lets others change it', async () => {
  await lockProduct('m', 'KEY SHARE');
  await watcher!.query('SELECT pg_sleep(2.1)');
  const busy = new pg.Client(database.url);
  await busy.connect();
  try {
    const working = workOn(busy);
    const pid = await untilAtWork();
    expect(await lockedProducts(['m'])).toEqual([]);
    await watcher!.query('SELECT pg_cancel_backend($1)', [pid]);
    expect(await working).toBe('57014');
  } finally {
    await busy.end();
  }
}, 60_000);

it('while a table is locked, as to create an index, no reservation is taken for locked', async () => {
  await operator!.query('BEGIN; LOCK TABLE inventory.reservations IN SHARE MODE');
  await waitAtMost('500ms');
  try {
    const asked = ask(instances[0], [reservation({ a: 1 })]);
    const begun = async () => {
      await untilBlocked(watcher!, 1);
      const blocked = `SELECT xact_start::text AS at FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%inventory.hold%'`;
      return (await watcher!.query<{ at: string }>(blocked)).rows[0]?.at;
    };
    const first = await begun();
    // It has given up, has looked for locked rows, and tries again.
    for (let next = first; next === undefined || next === first; next = await begun()) await setTimeout(10);
    await operator!.query('ROLLBACK');
    expect(await asked).toMatchObject([{ outcome: 'held' }]);
  } finally {
    await waitAtMost('2s');
  }
}, 60_000);

it('effects wait once for a product that stays locked, and do not block other products by waiting again', async () => {
  const [both, other] = [reservation({ a: 1, m: 1 }), reservation({ a: 1 })];
  await ask(instances[0], [both, other]);
  await lockProduct('m');
  const effects = [effect(both.reservation_id, 2, 'release'), effect(other.reservation_id, 2, 'fulfil', { a: 1 })];
  const settled = () => instances[0].settleStock.execute(tenant, effects);
  await expect(settled()).rejects.toMatchObject({ code: 'unavailable', cause: { code: '55P03' } });
  await watcher!.query('SELECT pg_sleep(2.1)');
  // From now on they would wait for ever, and hold the other product meanwhile.
  await waitAtMost('0');
  try {
    await expect(settled()).rejects.toMatchObject({ code: 'unavailable', detail: expect.stringContaining(': m.') });
    // Nor do they after others, which do not need the product, were applied: those of another part of the log, for instance.
    const others = [effect(other.reservation_id, 1, 'confirm')];
    expect(await instances[0].settleStock.execute(tenant, others)).toMatchObject({ applied: 1 });
    await expect(settled()).rejects.toMatchObject({ code: 'unavailable', detail: expect.stringContaining(': m.') });
    expect(await ask(instances[0], [reservation({ a: 1 })])).toMatchObject([{ outcome: 'held' }]);
    await operator!.query('ROLLBACK');
    expect(await settled()).toMatchObject({ applied: 2 });
    // A product that is merely busy is waited for again.
    const working = workOn(operator!);
    const pid = await untilAtWork();
    const more = instances[0].settleStock.execute(tenant, [effect(both.reservation_id, 3, 'restock', { m: 1 })]);
    await untilBlocked(watcher!, 1);
    await watcher!.query('SELECT pg_cancel_backend($1)', [pid]);
    expect(await working).toBe('57014');
    expect(await more).toMatchObject({ applied: 1 });
  } finally {
    await waitAtMost('2s');
  }
  expect(await brokenInvariants(instances[0], tenant)).toEqual([]);
}, 60_000);

it('what a batch holds while it waits for a locked product is not taken for locked', async () => {
  await lockProduct('m');
  await waitAtMost('4s');
  try {
    const waiting = ask(instances[1], [reservation({ a: 1, m: 1 })]);
    await untilBlocked(watcher!, 1);
    // Until the locked product counts as kept. If the batch has given up by then, the other one is free.
    await watcher!.query(`SELECT pg_sleep(2.1)`);
    expect(await lockedProducts(['a', 'm', 'z'])).toEqual(['m']);
    expect(await waiting).toMatchObject([{ outcome: 'locked', product_ids: ['m'] }]);
  } finally {
    await waitAtMost('2s');
  }
}, 60_000);

it('a product is not taken for locked because its holder has waited long for it', async () => {
  const busy = new pg.Client(database.url);
  await busy.connect();
  try {
    for (let found: string[] | undefined; found === undefined;) {
      await lockProduct('m');
      const [{ pid } = { pid: 0 }] = (await busy.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows;
      const working = workOn(busy);
      await untilBlocked(watcher!, 1);
      await watcher!.query(`SELECT pg_sleep(2.1)`);
      await operator!.query('ROLLBACK');
      const stateOf = async () => {
        const state = `SELECT wait_event = 'PgSleep' AS works, now() - xact_start < interval '9 seconds' AS began_lately
          FROM pg_stat_activity WHERE pid = $1`;
        return (await watcher!.query<{ works: boolean | null; began_lately: boolean }>(state, [pid])).rows[0]!;
      };
      while (!(await stateOf()).works) await setTimeout(10);
      const seen = await lockedProducts(['m']);
      // If the test itself was too slow, it looks again.
      if ((await stateOf()).began_lately) found = seen;
      await watcher!.query('SELECT pg_cancel_backend($1)', [pid]);
      expect(await working).toBe('57014');
      if (found) expect(found).toEqual([]);
    }
  } finally {
    await busy.end();
  }
}, 60_000);

it('a product that a batch is about to commit, locked in a subtransaction that has ended, is not taken for locked', async () => {
  await operator!.query('BEGIN; SAVEPOINT tried');
  await operator!.query(`UPDATE inventory.products SET reserved = reserved WHERE tenant_id = $1 AND product_id = 'm'`, [
    tenant,
  ]);
  await operator!.query('RELEASE tried');
  expect(await lockedProducts(['m'])).toEqual([]);
});

it('a prepared transaction refuses only the reservations that need its products, and a repeat of its own', async () => {
  const prepared = reservation({ m: 1 });
  const branch_id = randomUUID();
  const request = { hold_ms: longHoldMs, knows_locked: true };
  await instances[1].reserveStock.execute(tenant, { ...request, reservations: [prepared], branch_id });
  const repeated = { ...prepared, lines: [{ product_id: 'a', quantity: 1 }] };
  expect(await ask(instances[0], [reservation({ a: 1 }), repeated, reservation({ m: 1 })])).toMatchObject([
    { outcome: 'held' },
    { outcome: 'locked', product_ids: [] },
    { outcome: 'locked', product_ids: ['m'] },
  ]);
  await instances[1].finishBranches.execute(branch_id, 'commit');
  expect(await ask(instances[0], [reservation({ a: 1 }), prepared, reservation({ m: 1 })])).toMatchObject([
    { outcome: 'held' },
    { outcome: 'held', order_id: prepared.order_id },
    { outcome: 'held' },
  ]);
  expect(await brokenInvariants(instances[0], tenant)).toEqual([]);
}, 60_000);

it('an older version of order, which does not know the outcome, is refused as a whole', async () => {
  await lockProduct('m');
  await expect(ask(instances[0], [reservation({ a: 1 }), reservation({ m: 1 })], false)).rejects.toMatchObject({
    code: 'unavailable',
  });
  expect(await reservedOf('a')).toBe(0);
}, 60_000);
