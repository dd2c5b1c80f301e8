import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { CleaveError } from '#contracts';
import { testDatabase, type TestDatabase } from '#testing';
import { RelayOutbox, type OutboxEvent } from '../src/use-cases/relay-outbox.js';
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

const placed: Pick<OutboxEvent, 'version' | 'type' | 'data'> = { version: 1, type: 'placed', data: {} };

/** Writes events as a change of an order does, in the transaction of the connection if there is one. */
const write = async (ids: readonly string[], { version, type, data } = placed, on = client): Promise<void> => {
  await on.query(
    `INSERT INTO orders.events (tenant_id, order_id, version, reservation_id, type, status, data, at)
     SELECT 't', id, $2, id, $3, 'confirmed', $4, now() FROM unnest($1::uuid[]) WITH ORDINALITY AS r(id, position)
     ORDER BY position`,
    [ids, version, type, JSON.stringify(data)],
  );
};
/** An inventory that holds something for each of the orders. */
const holding = (ids: readonly string[], units: Record<string, number> = {}, stock = new FakeInventory()) => {
  for (const id of ids) stock.hold('t', id, units);
  for (const id of Object.keys(units)) stock.onHand.set(id, 1_000_000);
  return stock;
};
const newIds = (count: number): string[] => Array.from({ length: count }, () => randomUUID());

beforeEach(async () => {
  await client.query('TRUNCATE orders.events');
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
      seen.push(...page.map((it) => it.reservationId));
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
    const read = async () => (await one.outbox.read(start, 10)).map((it) => it.reservationId);
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
      holding(more, {}, stock);
      await write(more);
      relays[round % 2]!.wake();
    }
    await until(() => stock.effects.length >= ids.length);
    await stopAll();
    expect(appliedTo(stock)).toEqual(ids);
    expect((await one.outbox.acquire(randomUUID(), 1))!.position).not.toEqual(start);
  });

  it('goes on where the last one stopped, and delivers again what was not noted as delivered', async () => {
    const [ids, more] = [newIds(3), newIds(2)];
    const stock = holding([...ids, ...more]);
    await write(ids);
    // It has delivered, but is gone before it could say so.
    await stock.settle(
      't',
      ids.map((reservation_id) => ({ reservation_id, version: 1, kind: 'confirm' })),
    );
    startRelay(two, stock);
    await write(more);
    await until(() => stock.effects.length === 5);
    expect(appliedTo(stock)).toEqual([...ids, ...more]);
  });

  it('survives an inventory that is away, that forgets to answer, and comes back', async () => {
    const ids = newIds(4);
    const stock = holding(ids);
    let calls = 0;
    stock.interrupt = (_, when) => {
      if (when === 'before') calls += 1;
      if ((calls <= 2 && when === 'before') || (calls === 3 && when === 'after'))
        throw new CleaveError('unavailable', 'gone');
    };
    const relay = startRelay(one, stock);
    await write(ids);
    relay.wake();
    await until(() => calls >= 4);
    expect(appliedTo(stock)).toEqual(ids);
  });

  it('notices that the lease went to another while it was delivering, and does not move the checkpoint', async () => {
    const ids = newIds(2);
    const stock = holding(ids);
    const entered = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    stock.interrupt = async (_, when) => {
      if (when !== 'before') return;
      entered.resolve();
      await gate.promise;
    };
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

  it('tells of every event what it means for the stock, under the version that it led to', async () => {
    const [id] = newIds(1) as [string];
    const stock = holding([id], { mug: 5 });
    const lines = [{ line: 1, product_id: 'mug', quantity: 2 }];
    const credited = lines.map((it) => ({ ...it, amount_minor: 7 }));
    const returned = { lines: credited, amount_minor: 7, reason: 'r' };
    await write([id]);
    await write([id], { version: 2, type: 'fulfilled', data: { lines } });
    await write([id], { version: 3, type: 'returned', data: { ...returned, restock: true } });
    // Goods that are not put back on the shelf are no business of the stock.
    await write([id], { version: 4, type: 'returned', data: { ...returned, restock: false } });
    await write([id], { version: 5, type: 'cancelled', data: { reason: 'r' } });
    startRelay(one, stock);
    await until(() => stock.effects.length === 4);
    await stopAll();
    const units = { lines: [{ product_id: 'mug', quantity: 2 }] };
    expect(stock.effects).toEqual([
      { reservation_id: id, version: 1, kind: 'confirm' },
      { reservation_id: id, version: 2, kind: 'fulfil', ...units },
      { reservation_id: id, version: 3, kind: 'restock', ...units },
      { reservation_id: id, version: 5, kind: 'release' },
    ]);
    expect(stock.onHand.get('mug')).toBe(1_000_000);
    expect(stock.reserved).toBe(0);
  });

  it('passes over what cannot be applied, and splits what is too much for one call', async () => {
    const [large, small] = [newIds(6), newIds(3)];
    const lines = Array.from({ length: 2_000 }, (_, index) => ({
      ...{ line: index + 1, product_id: `p-${index}`, quantity: 1 },
    }));
    const stock = holding(
      large.filter((id) => id !== large[1]),
      Object.fromEntries(lines.map((it) => [it.product_id, 1])),
    );
    // Some of it, and not all.
    holding([large[1]!], { 'p-0': 1 }, stock);
    holding(small, {}, stock);
    const sizes: number[] = [];
    const settle = stock.settle.bind(stock);
    stock.settle = (tenant, effects) => {
      sizes.push(effects.reduce((sum, it) => sum + (it.lines?.length ?? 0), 0));
      return settle(tenant, effects);
    };
    await write(large, { version: 2, type: 'fulfilled', data: { lines } });
    await write(small);
    startRelay(one, stock);
    await until(() => stock.effects.length === 8);
    expect(appliedTo(stock)).toEqual([large[0], ...large.slice(2), ...small]);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(5_000);
    expect(sizes.length).toBeLessThanOrEqual(5);
  });

  it('finishes what is under way before it stops, and gives the lease back', async () => {
    const ids = newIds(1);
    const stock = holding(ids);
    const entered = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    stock.interrupt = async (_, when) => {
      entered.resolve();
      if (when === 'before') await gate.promise;
    };
    await write(ids);
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
