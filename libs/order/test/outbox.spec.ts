import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { CleaveError } from '#contracts';
import { testDatabase, type TestDatabase } from '#testing';
import { RelayOutbox } from '../src/use-cases/relay-outbox.js';
import { FakeInventory, startInstance, type Instance } from './order-under-test.js';

let database: TestDatabase;
let one: Instance;
let two: Instance;
let client: pg.Client;

beforeAll(async () => {
  database = await testDatabase();
  one = await startInstance(database.url);
  two = await startInstance(database.url);
  client = new pg.Client(database.url);
  await client.connect();
});

afterAll(async () => {
  await client?.end();
  await Promise.all([one?.stop(), two?.stop()]);
  await database?.stop();
});

const start = { xid: '0', id: '0' };

/** Writes rows as a change of an order does, in the transaction of the connection if there is one. */
const write = async (
  ids: readonly string[],
  consequences: unknown = [{ kind: 'confirm', lines: [] }],
  on = client,
): Promise<void> => {
  await on.query(
    `INSERT INTO orders.outbox (tenant_id, order_id, version, reservation_id, type, data, consequences, at)
     SELECT 't', id, 1, id, 'placed', '{}', $2, now() FROM unnest($1::uuid[]) WITH ORDINALITY AS r(id, position)
     ORDER BY position`,
    [ids, JSON.stringify(consequences)],
  );
};
const newIds = (count: number): string[] => Array.from({ length: count }, () => randomUUID());

beforeEach(async () => {
  await client.query('TRUNCATE orders.outbox');
  await client.query(`UPDATE orders.checkpoints SET xid = '0', id = 0, holder = NULL, lease_until = '-infinity'`);
});

describe('reading', () => {
  it('goes by transaction and id as numbers, page by page, and leaves nothing out', async () => {
    const ids: string[] = [];
    // Across a power of ten, of the ids for certain and of the transactions in time.
    for (let transaction = 0; transaction < 60; transaction += 1) {
      const more = newIds(4);
      ids.push(...more);
      await write(more);
    }
    const seen: string[] = [];
    for (let position = start; ;) {
      const page = await one.outbox.read(position, 7);
      if (page.length === 0) break;
      const numbers = page.map((it) => [BigInt(it.xid), BigInt(it.id)] as const);
      for (let at = 1; at < page.length; at += 1) {
        const [[xid, id], [nextXid, nextId]] = [numbers[at - 1]!, numbers[at]!];
        expect(xid < nextXid || (xid === nextXid && id < nextId)).toBe(true);
      }
      seen.push(...page.flatMap((it) => it.effects.map((effect) => effect.reservation_id)));
      const { xid, id } = page.at(-1)!;
      position = { xid, id };
    }
    expect(seen).toEqual(ids);
  });

  it('waits for a transaction that began before others and commits after them', async () => {
    const late = new pg.Client(database.url);
    await late.connect();
    const [early, slow, after] = [newIds(1), newIds(1), newIds(1)];
    await write(early);
    await late.query('BEGIN');
    await write(slow, undefined, late);
    await write(after);
    const read = async () => (await one.outbox.read(start, 10)).map((it) => it.effects[0]!.reservation_id);
    expect(await read()).toEqual(early);
    await late.query('COMMIT');
    expect(await read()).toEqual([...early, ...slow, ...after]);
    await late.end();
  });
});

describe('the lease', () => {
  it('is held by one, renewed by the same, and taken over with a new epoch once it has run out', async () => {
    const mine = (await one.outbox.acquire(randomUUID(), 60_000))!;
    const other = randomUUID();
    expect(await two.outbox.acquire(other, 60_000)).toBeUndefined();
    await client.query(`UPDATE orders.checkpoints SET lease_until = now()`);
    const theirs = (await two.outbox.acquire(other, 60_000))!;
    expect(BigInt(theirs.epoch)).toBe(BigInt(mine.epoch) + 1n);
    expect((await two.outbox.acquire(other, 60_000))!.epoch).toBe(theirs.epoch);

    expect(await one.outbox.advance(mine, { xid: '7', id: '7' })).toBe(false);
    expect(await two.outbox.advance(theirs, { xid: '5', id: '5' })).toBe(true);
    await two.outbox.release(other);
    expect(await two.outbox.advance(theirs, { xid: '6', id: '6' })).toBe(false);
    expect((await one.outbox.acquire(randomUUID(), 60_000))!.position).toEqual({ xid: '5', id: '5' });
  });
});

describe('the relay', () => {
  const running: RelayOutbox[] = [];
  const startRelay = (at: Instance, stock: FakeInventory): RelayOutbox => {
    const relay = new RelayOutbox(at.outbox, stock);
    relay.onApplicationBootstrap();
    running.push(relay);
    return relay;
  };
  const stopAll = () => Promise.all(running.splice(0).map((it) => it.beforeApplicationShutdown()));
  afterEach(stopAll);

  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await setTimeout(5);
  };
  const appliedTo = (stock: FakeInventory): string[] => stock.effects.map((it) => it.reservation_id);

  it('delivers what is written once, in order, woken or not, by whichever instance has the lease', async () => {
    const stock = new FakeInventory();
    const relays = [startRelay(one, stock), startRelay(two, stock)];
    const ids: string[] = [];
    for (let round = 0; round < 15; round += 1) {
      const more = newIds(70);
      ids.push(...more);
      await write(more);
      relays[round % 2]!.wake();
    }
    await until(() => stock.effects.length >= ids.length);
    await stopAll();
    expect(appliedTo(stock)).toEqual(ids);
    expect((await one.outbox.acquire(randomUUID(), 1))!.position).not.toEqual(start);
  });

  it('goes on where the last one stopped, and delivers again what was not noted as delivered', async () => {
    const stock = new FakeInventory();
    const ids = newIds(3);
    await write(ids);
    // It has delivered, but is gone before it could say so.
    const rows = await one.outbox.read(start, 10);
    await stock.settle(
      't',
      rows.flatMap((it) => it.effects),
    );
    startRelay(two, stock);
    const more = newIds(2);
    await write(more);
    await until(() => stock.effects.length === 5);
    expect(appliedTo(stock)).toEqual([...ids, ...more]);
  });

  it('survives an inventory that is away, that forgets to answer, and comes back', async () => {
    const stock = new FakeInventory();
    let calls = 0;
    stock.interrupt = (_, when) => {
      if (when === 'before') calls += 1;
      if ((calls <= 2 && when === 'before') || (calls === 3 && when === 'after'))
        throw new CleaveError('unavailable', 'gone');
    };
    const relay = startRelay(one, stock);
    const ids = newIds(4);
    await write(ids);
    relay.wake();
    await until(() => calls >= 4);
    expect(appliedTo(stock)).toEqual(ids);
  });

  it('notices that the lease went to another while it was delivering, and does not move the checkpoint', async () => {
    const stock = new FakeInventory();
    const entered = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    stock.interrupt = async (_, when) => {
      if (when !== 'before') return;
      entered.resolve();
      await gate.promise;
    };
    const ids = newIds(2);
    await write(ids);
    startRelay(one, stock);
    await entered.promise;
    await client.query(`UPDATE orders.checkpoints SET lease_until = now()`);
    const other = randomUUID();
    const theirs = (await two.outbox.acquire(other, 60_000))!;
    expect(theirs.position).toEqual(start);
    gate.resolve();
    await until(() => stock.effects.length === 2);
    await stopAll();
    const { rows } = await client.query(`SELECT xid::text, id::text, holder FROM orders.checkpoints`);
    expect(rows).toEqual([{ ...start, holder: other }]);
  });

  it('passes over what cannot be applied, and splits what is too much for one call', async () => {
    const stock = new FakeInventory();
    const sizes: number[] = [];
    const settle = stock.settle.bind(stock);
    stock.settle = (tenant, effects) => {
      sizes.push(effects.reduce((sum, it) => sum + it.lines.length, 0));
      return settle(tenant, effects);
    };
    const lines = Array.from({ length: 2_000 }, (_, index) => ({ product_id: `p-${index}`, quantity: 1 }));
    const large = newIds(6);
    await write(large, [{ kind: 'fulfil', lines }]);
    stock.impossible = (effect) => effect.reservation_id === large[1];
    const small = newIds(3);
    await write(small);
    startRelay(one, stock);
    await until(() => stock.effects.length === 8);
    expect(appliedTo(stock)).toEqual([large[0], ...large.slice(2), ...small]);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(5_000);
    expect(sizes.length).toBeLessThanOrEqual(5);
  });

  it('finishes what is under way before it stops, and gives the lease back', async () => {
    const stock = new FakeInventory();
    const entered = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    stock.interrupt = async (_, when) => {
      entered.resolve();
      if (when === 'before') await gate.promise;
    };
    await write(newIds(1));
    startRelay(one, stock);
    await entered.promise;
    const stopped = stopAll();
    gate.resolve();
    await stopped;
    expect(stock.effects).toHaveLength(1);
    const lease = (await two.outbox.acquire(randomUUID(), 1_000))!;
    expect(lease.position).not.toEqual(start);
    expect(await one.outbox.read(lease.position, 10)).toEqual([]);
  });
});
