import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { testDatabase, type TestDatabase } from '#testing';
import { FinishBranches } from '../src/use-cases/finish-branches.js';
import {
  brokenInvariants,
  effect,
  longHoldMs,
  nameOf,
  newTenant,
  outcomes,
  reservation,
  startInstance,
  stocked,
  type Instance,
} from './inventory-under-test.js';

let database: TestDatabase;
let one: Instance;

beforeAll(async () => {
  database = await testDatabase();
  one = await startInstance(database.url);
});
afterAll(async () => {
  await one?.stop();
  await database?.stop();
});

describe('the health condition of in-doubt branches', () => {
  it('contains their number and the age of the oldest', async () => {
    const { finishBranches } = one;
    const tenant = newTenant();
    await stocked(one, tenant, { one: 1, two: 1 });
    const told = async () => (await finishBranches.condition()).details as { in_doubt: number; oldest_ms: number };
    expect(await finishBranches.condition()).toEqual({ isDegraded: false, details: { in_doubt: 0, oldest_ms: 0 } });
    const ids: string[] = [];
    for (const product of ['one', 'two']) {
      const branch_id = randomUUID();
      const reservations = [reservation({ [product]: 1 })];
      await one.reserveStock.execute(tenant, { branch_id, hold_ms: longHoldMs, reservations });
      ids.push(branch_id);
    }
    const [{ age_ms } = { age_ms: 0 }] = await finishBranches.inDoubt();
    expect(await told()).toMatchObject({ in_doubt: 2 });
    expect((await told()).oldest_ms).toBeGreaterThanOrEqual(Math.floor(age_ms));
    for (const id of ids) await finishBranches.execute(id, 'rollback');
    expect(await told()).toEqual({ in_doubt: 0, oldest_ms: 0 });
  });

  it('is degraded once the oldest is older than 30 seconds', async () => {
    const condition = (ages: readonly number[]) => {
      const branches = ages.map((age_ms) => ({ branch_id: randomUUID(), age_ms }));
      return new FinishBranches({ finish: async () => {}, inDoubt: async () => branches }).condition();
    };
    expect(await condition([30_000, 5])).toEqual({ isDegraded: false, details: { in_doubt: 2, oldest_ms: 30_000 } });
    expect(await condition([5, 30_001])).toEqual({ isDegraded: true, details: { in_doubt: 2, oldest_ms: 30_001 } });
  });
});

it('a branch beyond max_prepared_transactions is refused with a hint to raise it', async () => {
  // On a server of its own, so that no other test runs out of prepared transactions.
  const server = await testDatabase('another server');
  const there = await startInstance(server.url);
  const tenant = newTenant();
  const ids: string[] = [];
  const prepare = () => {
    const branch_id = randomUUID();
    ids.push(branch_id);
    const reservations = [reservation({ [`p-${ids.length}`]: 1 })];
    return there.reserveStock.execute(tenant, { branch_id, hold_ms: longHoldMs, reservations });
  };
  try {
    const [{ most } = { most: 0 }] = await there.sql.query<{ most: number }>({
      name: 'test-most-prepared',
      text: `SELECT current_setting('max_prepared_transactions')::int AS most`,
    });
    await stocked(there, tenant, Object.fromEntries(Array.from({ length: most + 1 }, (_, at) => [`p-${at + 1}`, 1])));
    for (let prepared = 0; prepared < most; prepared += 1) await prepare();
    await expect(prepare()).rejects.toMatchObject({
      code: 'unavailable',
      detail: expect.stringContaining('raise max_prepared_transactions'),
    });
  } finally {
    for (const id of ids) await there.finishBranches.execute(id, 'rollback');
    await there.stop();
    await server.stop();
  }
});

describe('a confirm effect', () => {
  it.each(['commit', 'rollback'] as const)(
    'for a prepared reservation is refused as unavailable until the %s',
    async (outcome) => {
      const tenant = newTenant();
      await stocked(one, tenant, { mug: 10 });
      const branch_id = randomUUID();
      const prepared = reservation({ mug: 3 });
      await one.reserveStock.execute(tenant, { branch_id, hold_ms: 1, reservations: [prepared] });
      const confirm = effect(prepared.reservation_id, 1, 'confirm');
      // On `unavailable` the caller retries.
      await expect(one.settleStock.execute(tenant, [confirm])).rejects.toMatchObject({ code: 'unavailable' });
      await one.finishBranches.execute(branch_id, outcome);
      const impossible = outcome === 'commit' ? [] : [nameOf(confirm)];
      expect((await one.settleStock.execute(tenant, [confirm])).impossible).toEqual(impossible);
      const { holds } = await one.findOverdueHolds.execute({ after: null, limit: 10 });
      expect(holds.filter((it) => it.tenant_id === tenant)).toEqual([]);
      expect(await brokenInvariants(one, tenant)).toEqual([]);
      expect(await outcomes(one, tenant, [prepared])).toEqual(['held']);
    },
  );

  it('that arrives after later effects still confirms what is held', async () => {
    const tenant = newTenant();
    await stocked(one, tenant, { mug: 10 });
    const late = reservation({ mug: 3 });
    expect(await outcomes(one, tenant, [late], 1)).toEqual(['held']);
    const { reservation_id } = late;
    await one.settleStock.execute(tenant, [effect(reservation_id, 2, 'fulfil', { mug: 1 })]);
    await one.settleStock.execute(tenant, [effect(reservation_id, 1, 'confirm')]);
    const { holds } = await one.findOverdueHolds.execute({ after: null, limit: 10 });
    expect(holds.filter((it) => it.tenant_id === tenant)).toEqual([]);
    // An effect that was applied is not applied again.
    await one.settleStock.execute(tenant, [effect(reservation_id, 2, 'fulfil', { mug: 1 })]);
    expect(await one.readStock.execute(tenant, 'mug')).toMatchObject({ on_hand: 9, reserved: 2, sold: 1 });
    expect(await brokenInvariants(one, tenant)).toEqual([]);
  });
});

describe('a search for overdue holds', () => {
  const lookedAt = async (): Promise<number> =>
    (await one.findOverdueHolds.execute({ after: null, limit: 1 })).looked_at.getTime();
  const nowThere = async (): Promise<number> =>
    (await one.sql.query<{ at: Date }>({ name: 'test-now', text: 'SELECT now() AS at' }))[0]!.at.getTime();

  it('reports a time no later than the start of the oldest running transaction', async () => {
    const running = new pg.Client(database.url);
    await running.connect();
    try {
      await running.query('BEGIN');
      const { rows } = await running.query<{ at: Date }>('SELECT now() AS at');
      await setTimeout(20);
      expect(await lookedAt()).toBeLessThanOrEqual(rows[0]!.at.getTime());
      const since = await nowThere();
      await running.query('COMMIT');
      expect(await lookedAt()).toBeGreaterThanOrEqual(since);
    } finally {
      await running.end();
    }
  });

  it('reports a time no later than the start of the oldest prepared transaction', async () => {
    const tenant = newTenant();
    await stocked(one, tenant, { mug: 1 });
    const branch_id = randomUUID();
    await one.reserveStock.execute(tenant, { branch_id, hold_ms: 1, reservations: [reservation({ mug: 1 })] });
    const since = await nowThere();
    await setTimeout(20);
    expect(await lookedAt()).toBeLessThanOrEqual(since);
    await one.finishBranches.execute(branch_id, 'rollback');
    expect(await lookedAt()).toBeGreaterThan(since);
  });
});
