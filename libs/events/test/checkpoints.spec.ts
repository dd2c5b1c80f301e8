import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type pg from 'pg';
import { logBeginning } from '#contracts';
import { Sql } from '#database';
import { Checkpoints, partCount, positionOf } from '#events';
import { testDatabase, type TestDatabase } from '#testing';
import { readerPool } from './log-under-test.js';

let database: TestDatabase;
let pool: pg.Pool;
let checkpoints: Checkpoints;

beforeAll(async () => {
  database = await testDatabase();
  pool = await readerPool(database.url);
  checkpoints = new Checkpoints(new Sql(pool, 'reader', 12_000), 'reader');
});

afterAll(async () => {
  await pool?.end();
  await database?.stop();
});

let consumer: string;
beforeEach(async () => {
  consumer = randomUUID();
  await checkpoints.begin(consumer);
});

const acquire = (holder: string, leaseMs = 60_000) => checkpoints.acquire(consumer, holder, leaseMs);
const lapse = async (): Promise<void> => {
  await pool.query(`UPDATE reader.checkpoints SET lease_until = now()`);
  await pool.query(`UPDATE reader.readers SET seen_until = now()`);
};
/** Sets the clock back, so that stored times lie ahead of it. */
const setBack = async (): Promise<void> => {
  await pool.query(`UPDATE reader.checkpoints SET lease_until = lease_until + interval '1 hour'`);
  await pool.query(`UPDATE reader.readers SET seen_until = seen_until + interval '1 hour'`);
};
const ascending = (a: number, b: number): number => a - b;
const at = (xid: string, id: string): string => positionOf({ xid, id });

describe('checkpoints', () => {
  it('begin once, at the given position', async () => {
    const later = at('7', '9');
    await checkpoints.begin(consumer, later);
    expect((await acquire(randomUUID())).map((it) => it.position)).toEqual(Array(partCount).fill(logBeginning));
    const other = randomUUID();
    await checkpoints.begin(other, later);
    const positions = (await checkpoints.read(other)).map((it) => it.position);
    expect(positions).toEqual(Array(partCount).fill(later));
  });

  it('all belong to a single reader, which renews its leases without a new epoch', async () => {
    const one = randomUUID();
    const parts = await acquire(one);
    expect(parts.map((it) => it.part).toSorted(ascending)).toEqual(
      Array.from({ length: partCount }, (_, part) => part),
    );
    expect((await acquire(one)).map((it) => it.epoch)).toEqual(parts.map((it) => it.epoch));
  });

  it('are divided fairly as readers come and go', async () => {
    const holders = [randomUUID(), randomUUID(), randomUUID()] as const;
    const [one, two, three] = holders;
    expect(await acquire(one)).toHaveLength(partCount);
    // No part is free before the first reader has released what exceeds its share.
    expect(await acquire(two)).toHaveLength(0);
    expect(await acquire(one)).toHaveLength(partCount / 2);
    expect(await acquire(two)).toHaveLength(partCount / 2);
    for (const holder of [...holders, ...holders]) await acquire(holder);
    const shares = [await acquire(one), await acquire(two), await acquire(three)];
    expect(shares.map((it) => it.length).toSorted(ascending)).toEqual([2, 3, 3]);
    expect(new Set(shares.flat().map((it) => it.part)).size).toBe(partCount);
    await checkpoints.release(consumer, two);
    await checkpoints.release(consumer, three);
    expect(await acquire(one)).toHaveLength(partCount);
  });

  it('are moved by the holder of the leases only, all or none', async () => {
    const one = randomUUID();
    const mine = await acquire(one);
    await lapse();
    const theirs = await acquire(randomUUID());
    expect(theirs.map((it) => BigInt(it.epoch))).toEqual(mine.map((it) => BigInt(it.epoch) + 1n));
    const moved = (parts: typeof mine, position: string) => parts.map((it) => ({ ...it, position }));
    await expect(checkpoints.at(consumer, moved(mine, at('7', '7'))).keep()).rejects.toThrow('taken over');
    await checkpoints.at(consumer, moved(theirs, at('5', '5'))).keep();
    // One of the leases is lost, so no part is moved.
    const some = [...moved(theirs.slice(1), at('6', '6')), { ...theirs[0]!, epoch: '0', position: at('6', '6') }];
    await expect(checkpoints.at(consumer, some).keep()).rejects.toThrow('taken over');
    expect((await checkpoints.read(consumer)).map((it) => it.position)).toEqual(Array(partCount).fill(at('5', '5')));
    await lapse();
    await expect(checkpoints.at(consumer, moved(theirs, at('8', '8'))).keep()).rejects.toThrow('taken over');
  });

  it('wait for the disk when parts are acquired, but not when they are moved', async () => {
    await pool.query(`
      CREATE TABLE reader.commits (waits text);
      CREATE FUNCTION reader.note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO reader.commits VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
      CREATE CONSTRAINT TRIGGER note_commit AFTER UPDATE ON reader.checkpoints DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION reader.note_commit()`);
    const settingsDuring = async <Result>(work: () => Promise<Result>): Promise<[Result, Set<string>]> => {
      const result = await work();
      const { rows } = await pool.query<{ waits: string }>('DELETE FROM reader.commits RETURNING waits');
      return [result, new Set(rows.map((it) => it.waits))];
    };
    const one = randomUUID();
    const [parts, acquiring] = await settingsDuring(() => acquire(one));
    const moved = parts.map((it) => ({ ...it, position: at('5', '5') }));
    const [, moving] = await settingsDuring(() => checkpoints.at(consumer, moved).keep());
    const [, renewing] = await settingsDuring(() => acquire(one));
    await pool.query('DROP FUNCTION reader.note_commit CASCADE; DROP TABLE reader.commits');
    // The setting ends with the statement, also on the same connection.
    expect([acquiring, moving, renewing]).toEqual([new Set(['on']), new Set(['off']), new Set(['on'])]);
  });

  it('are kept by a live reader after the clock was set back, and taken over from a dead one', async () => {
    const [gone, one] = [randomUUID(), randomUUID()];
    const before = await acquire(gone, 5_000);
    await setBack();
    expect((await acquire(gone, 5_000)).map((it) => it.epoch)).toEqual(before.map((it) => it.epoch));
    await setBack();
    const taken = await acquire(one, 5_000);
    expect(taken.map((it) => BigInt(it.epoch))).toEqual(before.map((it) => BigInt(it.epoch) + 1n));
    await expect(checkpoints.at(consumer, before).keep()).rejects.toThrow('taken over');
    await checkpoints.at(consumer, taken).keep();
  });

  it('are acquired concurrently, each part by one reader', async () => {
    const holders = Array.from({ length: 6 }, () => randomUUID());
    for (let round = 0; round < 4; round += 1) await Promise.all(holders.map((it) => acquire(it)));
    const shares = await Promise.all(holders.map((it) => acquire(it)));
    const parts = shares.flat().map((it) => it.part);
    expect(new Set(parts).size).toBe(parts.length);
    expect(parts).toHaveLength(partCount);
  });

  it('are deleted with their consumer, also for a reader that still holds leases', async () => {
    const mine = await acquire(randomUUID());
    await checkpoints.forget(consumer);
    await expect(checkpoints.at(consumer, mine).keep()).rejects.toThrow('taken over');
    expect(await checkpoints.read(consumer)).toEqual([]);
  });
});

describe('a position', () => {
  it('sorts as text like its numbers', () => {
    const sorted = [at('9', '99'), at('10', '1'), at('10', '2'), at('18446744073709551615', '9223372036854775807')];
    expect([...sorted].reverse().sort()).toEqual(sorted);
  });
});
