import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { testDatabase, type TestDatabase } from '#testing';
import { FinishBranches } from '../src/use-cases/finish-branches.js';
import { longHoldMs, newTenant, reservation, startInstance, stocked, type Instance } from './inventory-under-test.js';

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

describe('what is told of branches in doubt', () => {
  it('is how many there are, and the age of the oldest', async () => {
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

  it('is an alarm once the oldest is older than half a minute', async () => {
    const condition = (ages: readonly number[]) => {
      const branches = ages.map((age_ms) => ({ branch_id: randomUUID(), age_ms }));
      return new FinishBranches({ finish: async () => {}, inDoubt: async () => branches }).condition();
    };
    expect(await condition([30_000, 5])).toEqual({ isDegraded: false, details: { in_doubt: 2, oldest_ms: 30_000 } });
    expect(await condition([5, 30_001])).toEqual({ isDegraded: true, details: { in_doubt: 2, oldest_ms: 30_001 } });
  });
});
