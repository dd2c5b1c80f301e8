import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import pg from 'pg';
import { CleaveError, logBeginning, type OrderEventType, type OrderLogEvent } from '#contracts';
import type { Sql, Statement } from '#database';
import { numbersOf, partCount, type LeasedPart } from '#events';
import { testDatabase, type TestDatabase } from '#testing';
import { PostgresOutbox } from '../src/adapters/postgres-outbox.js';
import { eventsIn } from '../src/use-cases/publish-events.js';
import { ReadEvents } from '../src/use-cases/read-events.js';
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

/** All parts, for a reader that has reached this position. */
const partsAt = (position: string): LeasedPart[] =>
  Array.from({ length: partCount }, (_, part) => ({ part, epoch: '0', position }));

const read = async (position: string, limit: number): Promise<readonly OutboxEvent[]> =>
  (await one.outbox.read(partsAt(position), limit)).events;

/** Takes all parts, like an instance that is alone. */
const acquire = (holder: string, leaseMs: number) => two.checkpoints.acquire('stock', holder, leaseMs);
const positionsOf = (parts: readonly LeasedPart[]): string[] => parts.map((it) => it.position);

const placed: Pick<OutboxEvent, 'version' | 'type' | 'data'> = { version: 1, type: 'placed', data: {} };

/** Writes events as a change of an order does, in the transaction of the connection, if there is one. */
const write = async (
  ids: readonly string[],
  { version, type, data } = placed,
  on = client,
  tenant = 't',
): Promise<void> => {
  await on.query(
    `INSERT INTO orders.events (tenant_id, order_id, version, reservation_id, type, status, data, at)
     SELECT $5, id, $2, id, $3, 'confirmed', $4, now() FROM unnest($1::uuid[]) WITH ORDINALITY AS r(id, position)
     ORDER BY position`,
    [ids, version, type, JSON.stringify(data), tenant],
  );
};
/** How many queries wait for the table of the log while it is locked. */
const readersWaiting = async (): Promise<number> => {
  const { rows } = await client.query<{ count: number }>(
    `SELECT count(*)::int FROM pg_locks WHERE relation = 'orders.events'::regclass AND NOT granted`,
  );
  return rows[0]!.count;
};
/** An inventory with a hold for each of the orders. */
const holding = (ids: readonly string[], units: Record<string, number> = {}, stock = new FakeInventory()) => {
  for (const id of ids) stock.hold('t', id, units);
  for (const id of Object.keys(units)) stock.onHand.set(id, 1_000_000);
  return stock;
};
/** A name that a caller may choose. */
const text = 'ä "quoted" \\ \n 🦊';
/** An order, without an event. */
const order = async (id: string, lines: number): Promise<void> => {
  const kept = Array.from({ length: lines }, (_, at) => ({
    ...{ product_id: `p-${at} ${text}`, name: text, quantity: at + 1, unit_price_minor: 5, fulfilled: 1 },
  }));
  await client.query(
    `INSERT INTO orders.orders (tenant_id, order_id, account_id, customer_id, reference, status, currency, total_minor,
      lines, adjustments, metadata, version, reservation_id, fingerprint, created_at, updated_at)
    VALUES ('t', $1, 'a', $2, $2, 'confirmed', 'GBP', 5, $3, '[]', '{}', 1, $1, $1, now(), now())`,
    [id, text, JSON.stringify(kept)],
  );
};
const newIds = (count: number): string[] => Array.from({ length: count }, () => randomUUID());

beforeEach(async () => {
  await client.query('TRUNCATE orders.events, orders.orders');
  await client.query('TRUNCATE orders.readers');
  await client.query(`UPDATE orders.checkpoints SET position = $1, holder = NULL, lease_until = '-infinity'`, [
    logBeginning,
  ]);
});

describe('reading the outbox', () => {
  it('returns all events page by page, in the numeric order of transaction and id', async () => {
    const ids: string[] = [];
    // The ids cross a power of ten, and so do the transaction numbers over time.
    for (let transaction = 0; transaction < 60; transaction += 1) {
      const more = newIds(4);
      ids.push(...more);
      await write(more);
    }
    const seen: string[] = [];
    for (let position = logBeginning; ;) {
      const page = await read(position, 7);
      if (page.length === 0) break;
      const numbers = page
        .map(({ sequence }) => numbersOf(sequence))
        .map((it) => [BigInt(it.xid), BigInt(it.id)] as const);
      for (let at = 1; at < page.length; at += 1) {
        const [[xid, id], [nextXid, nextId]] = [numbers[at - 1]!, numbers[at]!];
        expect(xid < nextXid || (xid === nextXid && id < nextId)).toBe(true);
      }
      seen.push(...page.map((it) => it.reservationId));
      position = page.at(-1)!.sequence;
    }
    expect(seen).toEqual(ids);
  });

  it('returns fewer events per page if they have many lines, and omits none', async () => {
    const ids = newIds(30);
    const lines = Array.from({ length: 2_000 }, (_, line) => ({ line, product_id: `p${line}`, quantity: 1 }));
    await write(ids, { version: 2, type: 'fulfilled', data: { lines } });
    const pages: string[][] = [];
    for (let position = logBeginning, isMore = true; isMore;) {
      const { events, ...page } = await one.outbox.read(partsAt(position), 100);
      pages.push(events.map((it) => it.reservationId));
      position = page.reached.get(0) ?? position;
      isMore = page.isMore;
    }
    expect(pages.flat()).toEqual(ids);
    for (const page of pages) expect(page.length).toBeLessThanOrEqual(10);
  });
});

describe('the feed of a tenant', () => {
  it('has fewer events per page if they are large, and omits none', async () => {
    const lines = Array.from({ length: 2_000 }, (_, at) => ({ line: at + 1, product_id: 'p', quantity: 1 }));
    const [large, small] = [newIds(24), newIds(3)];
    await write(small);
    await write(large, { version: 2, type: 'fulfilled', data: { lines } });
    const pages: string[][] = [];
    for (let position = { xid: '0', id: '0' }; ;) {
      const events = await one.outbox.after('t', position, 200);
      if (events.length === 0) break;
      pages.push(events.map((it) => it.orderId));
      position = events.at(-1)!;
    }
    expect(pages.flat()).toEqual([...small, ...large]);
    expect(pages.map((it) => it.length)).toEqual([13, 10, 4]);
    const gone = new AbortController();
    const followed: string[] = [];
    for await (const events of new ReadEvents(one.outbox).follow('t', undefined, gone.signal)) {
      followed.push(...events.map((it) => it.orderId));
      if (followed.length >= 27) gone.abort();
    }
    expect(followed).toEqual([...small, ...large]);
  });

  it('is read over at most two connections, however many clients follow it from behind', async () => {
    const ids = newIds(300);
    await write(ids);
    await client.query('BEGIN');
    await client.query('LOCK TABLE orders.events');
    const events = new ReadEvents(one.outbox);
    const following = Array.from({ length: 20 }, async () => {
      const gone = new AbortController();
      const followed: string[] = [];
      for await (const some of events.follow('t', undefined, gone.signal)) {
        followed.push(...some.map((it) => it.orderId));
        if (followed.length >= 300) gone.abort();
      }
      return followed;
    });
    try {
      while ((await readersWaiting()) < 2) await setTimeout(10);
      // A third reader would have queried before this.
      await one.sql.condition();
      expect(await readersWaiting()).toBe(2);
    } finally {
      await client.query('COMMIT');
    }
    for (const followed of await Promise.all(following)) expect(followed).toEqual(ids);
  });

  it('reads no rows of other tenants, even with a generic plan and statistics without this tenant', async () => {
    await client.query(
      `INSERT INTO orders.events (tenant_id, order_id, version, reservation_id, type, status, data, at)
       SELECT 'busy', gen_random_uuid(), 1, gen_random_uuid(), 'placed', 'confirmed', '{}', now()
       FROM generate_series(1, 20000)`,
    );
    // This makes it the only tenant in the statistics of Postgres.
    await client.query(`ANALYZE orders.events`);
    await write(newIds(1));
    const asked: [text: string, values: readonly unknown[]][] = [];
    const noting = { query: ({ text }: Statement, values: readonly unknown[]) => asked.push([text, values]) };
    const sql = { readSafely: (read: (it: typeof noting) => unknown) => read(noting) };
    await new PostgresOutbox(sql as unknown as Sql).after('t', { xid: '0', id: '0' }, 200);
    const [[text, values]] = asked as [(typeof asked)[0]];
    const planned = new pg.Client(database.url);
    await planned.connect();
    try {
      await planned.query(`SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan`);
      await planned.query(`PREPARE feed AS ${text}`);
      const given = values.map((it) => planned.escapeLiteral(String(it))).join();
      const { rows } = await planned.query<{ 'QUERY PLAN': [{ Plan: PlanNode }] }>(
        `EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE feed (${given})`,
      );
      const { Plan: plan } = rows[0]!['QUERY PLAN'][0];
      expect(plan['Actual Rows']).toBe(1);
      expect(readIn(plan)).toBe(1);
    } finally {
      await planned.end();
    }
  });
});

interface PlanNode {
  'Relation Name'?: string;
  'Actual Rows': number;
  'Rows Removed by Filter'?: number;
  Plans?: PlanNode[];
}

/** How many rows of tables the plan has read. */
const readIn = (plan: PlanNode): number =>
  (plan['Relation Name'] ? plan['Actual Rows'] + (plan['Rows Removed by Filter'] ?? 0) : 0) +
  (plan.Plans ?? []).reduce((sum, it) => sum + readIn(it), 0);

describe('a transaction that begins before others and commits after them', () => {
  const page = (types: OrderEventType[] | null) => one.outbox.log(logBeginning, 10, types);
  const idsOf = (events: readonly OrderLogEvent[]): string[] => events.map((it) => it.subject);
  const readers: Record<string, () => Promise<string[]>> = {
    'the consumer of stock': async () => (await read(logBeginning, 10)).map((it) => it.reservationId),
    'the feed of a tenant': async () =>
      (await one.outbox.after('t', { xid: '0', id: '0' }, 10)).map((it) => it.orderId),
    'the log': async () => idsOf(eventsIn((await page(null)).events)),
    'the log by types': async () => idsOf(eventsIn((await page(['order.placed'])).events)),
    'the log in full pages': async () => {
      const { events, until } = await one.outbox.log(logBeginning, 2, null);
      const next = await one.outbox.log(until, 9, null);
      return [events, next.events].flatMap((it) => idsOf(eventsIn(it)));
    },
    'a reader that asks for no events': async () => {
      // It continues from the position that is returned, and never reads what lies before.
      const { rows } = await client.query<{ id: string }>(
        `SELECT order_id AS id FROM orders.events WHERE (xid, id) <= ($1::xid8, $2::bigint) ORDER BY xid, id`,
        Object.values(numbersOf((await page([])).until)),
      );
      return rows.map((it) => it.id);
    },
  };

  it.each(Object.keys(readers))('is waited for by %s', async (reader) => {
    const ids = readers[reader]!;
    const late = new pg.Client(database.url);
    await late.connect();
    const [early, slow, after] = [newIds(1), newIds(1), newIds(1)];
    try {
      for (const id of [early, slow, after].flat()) await order(id, 1);
      await write(early);
      await late.query('BEGIN');
      await write(slow, undefined, late);
      await write(after);
      expect(await ids()).toEqual(early);
      await late.query('COMMIT');
      expect(await ids()).toEqual([...early, ...slow, ...after]);
    } finally {
      // The next test truncates what this transaction has locked.
      await late.end();
    }
  });

  it('is detected by reading one row of the log, even if Postgres has no statistics of it', async () => {
    await client.query(
      `INSERT INTO orders.events (tenant_id, order_id, version, reservation_id, type, status, data, at)
       SELECT 'many', gen_random_uuid(), 1, gen_random_uuid(), 'placed', 'confirmed', '{}', now()
       FROM generate_series(1, 20000)`,
    );
    await client.query(`DELETE FROM pg_statistic WHERE starelid = 'orders.events'::regclass`);
    const asked: string[] = [];
    const noting = { query: async ({ text }: Statement) => (asked.push(text), []) };
    await new PostgresOutbox(noting as unknown as Sql).condition();
    const { rows } = await client.query<{ 'QUERY PLAN': [{ Plan: PlanNode }] }>(
      `EXPLAIN (ANALYZE, FORMAT JSON) ${asked[0]}`,
    );
    expect(readIn(rows[0]!['QUERY PLAN'][0].Plan)).toBe(1);
  });

  it('is not detectable while the log is locked, which is reported as degraded', async () => {
    await client.query('BEGIN; LOCK TABLE orders.events');
    try {
      expect(await one.outbox.condition()).toEqual({ isDegraded: true, details: { log: 'cannot be queried' } });
    } finally {
      await client.query('ROLLBACK');
    }
  });

  it('is not detectable without the privilege to read the log, which no waiting gives', async () => {
    const refused = new CleaveError('unavailable', 'no', {}, { cause: { code: '42501' } });
    const refusing = { query: () => Promise.reject(refused) };
    await expect(new PostgresOutbox(refusing as unknown as Sql).condition()).rejects.toBe(refused);
  });

  it('is reported as degraded once an event has been held back for over 30 seconds', async () => {
    const slow = new pg.Client(database.url);
    await slow.connect();
    const now = performance.now.bind(performance);
    let laterMs = 0;
    const clock = jest.spyOn(performance, 'now').mockImplementation(() => now() + laterMs);
    try {
      await slow.query('BEGIN; SELECT pg_current_xact_id()');
      expect(await one.outbox.condition()).toEqual({ isDegraded: false, details: { held_back_ms: 0 } });
      laterMs += 60_000;
      await write(newIds(1));
      expect(await one.outbox.condition()).toMatchObject({ isDegraded: false });
      laterMs += 31_000;
      const { isDegraded, details } = await one.outbox.condition();
      expect(isDegraded).toBe(true);
      expect(details['held_back_ms']).toBeGreaterThanOrEqual(31_000);
      await slow.query('ROLLBACK');
      expect(await one.outbox.condition()).toEqual({ isDegraded: false, details: { held_back_ms: 0 } });
    } finally {
      clock.mockRestore();
      await slow.end();
    }
  });
});

describe('the log as other modules read it', () => {
  const pages = async (limit: number, types: OrderEventType[] | null = null): Promise<OrderLogEvent[][]> => {
    const found: OrderLogEvent[][] = [];
    for (let after = logBeginning; ;) {
      const { events, until, isMore } = await one.outbox.log(after, limit, types);
      found.push(eventsIn(events));
      if (!isMore) return found;
      after = until;
    }
  };

  it('includes the order in the events order.placed and order.cancelled, whatever characters it has', async () => {
    const [id] = newIds(1) as [string];
    await order(id, 2);
    await write([id]);
    await write([id], { version: 2, type: 'fulfilled', data: { lines: [{ line: 1, product_id: text, quantity: 1 }] } });
    await write([id], { version: 3, type: 'cancelled', data: { reason: text } });
    const [events] = await pages(10);
    const lines = [0, 1].map((at) => ({
      ...{ product_id: `p-${at} ${text}`, name: text, quantity: at + 1, unit_price_minor: 5 },
    }));
    const ordered = { customer_id: text, reference: text, total_minor: 5, lines };
    expect(events!.map(({ id, type, subject, data }) => ({ id, type, subject, data }))).toEqual([
      {
        ...{ id: `${id}:1`, type: 'order.placed', subject: id },
        data: { version: 1, status: 'confirmed', currency: 'GBP', order: ordered, details: {} },
      },
      {
        ...{ id: `${id}:2`, type: 'order.fulfilled', subject: id },
        data: {
          ...{ version: 2, status: 'confirmed', currency: 'GBP' },
          details: { lines: [{ line: 1, product_id: text, quantity: 1 }] },
        },
      },
      {
        ...{ id: `${id}:3`, type: 'order.cancelled', subject: id },
        data: { version: 3, status: 'confirmed', currency: 'GBP', order: ordered, details: { reason: text } },
      },
    ]);
    const { tenantid, source, specversion } = events![0]!;
    expect({ tenantid, source, specversion }).toEqual({ tenantid: 't', source: '/orders', specversion: '1.0' });
  });

  it('gives times in UTC, always with three digits of milliseconds', async () => {
    const times = ['2026-11-30T23:59:59.000Z', '2026-11-30T23:59:59.500Z', '2026-11-30T23:59:59.042Z'];
    const ids = newIds(times.length);
    for (const [at, id] of ids.entries()) {
      await order(id, 1);
      await write([id]);
      await client.query('UPDATE orders.events SET at = $2 WHERE order_id = $1', [id, times[at]]);
    }
    const { events } = await one.outbox.log(logBeginning, 10, null);
    expect(events.map((it) => (JSON.parse(it) as { time: string }).time)).toEqual(times);
  });

  it('includes events that were written after a page was read ahead', async () => {
    const ids = newIds(35);
    for (const id of ids) await order(id, 1);
    await write(ids.slice(0, 25));
    const found: string[] = [];
    let after = logBeginning;
    const next = async (): Promise<void> => {
      const { events, until } = await one.outbox.log(after, 10, null);
      found.push(...eventsIn(events).map((it) => it.subject));
      after = until;
    };
    await next();
    await next();
    // By now the third page is being read ahead, with five events.
    await setTimeout(100);
    await write(ids.slice(25));
    await next();
    expect(found).toEqual(ids.slice(0, 30));
    await next();
    expect(found).toEqual(ids);
  });

  it('is read over at most two connections, however many readers there are', async () => {
    const ids = newIds(30);
    for (const id of ids) await order(id, 1);
    await write(ids);
    await client.query('BEGIN');
    await client.query('LOCK TABLE orders.events');
    const limits = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
    const pages = Promise.all(limits.map((limit) => one.outbox.log(logBeginning, limit, null)));
    while ((await readersWaiting()) < 2) await setTimeout(10);
    // A third reader would have queried before this.
    await one.sql.condition();
    expect(await readersWaiting()).toBe(2);
    await client.query('COMMIT');
    expect((await pages).map((it) => eventsIn(it.events).length)).toEqual(limits);
  });

  it('returns only the requested types, and continues after pages without any', async () => {
    const ids = newIds(7);
    for (const id of ids) await order(id, 1);
    await write(ids);
    await write(ids, { version: 2, type: 'returned', data: {} });
    const returned = await pages(5, ['order.returned']);
    expect(returned.map((it) => it.length)).toEqual([0, 3, 4]);
    expect(returned.flat().map((it) => it.subject)).toEqual(ids);
    expect((await pages(5, [])).flat()).toEqual([]);
    expect((await pages(5)).flat()).toHaveLength(14);
  });

  it('omits no event of the requested type while those of others are written', async () => {
    const ids = newIds(300);
    for (const id of ids) await order(id, 1);
    let isWritten = false;
    const writing = (async () => {
      for (const id of ids) {
        await write([id]);
        await write([id], { version: 2, type: 'returned', data: {} });
      }
      isWritten = true;
    })();
    const seen: string[] = [];
    for (let [after, isOver] = [logBeginning, false]; !isOver;) {
      // Checked before reading, so that everything written by then is seen.
      const isLast = isWritten;
      const page = await one.outbox.log(after, 50, ['order.returned']);
      seen.push(...eventsIn(page.events).map((it) => it.subject));
      after = page.until;
      isOver = isLast && !page.isMore;
    }
    await writing;
    expect(seen).toEqual(ids);
  });

  it('has fewer events per page if the orders are large, and omits none', async () => {
    const ids = newIds(30);
    for (const id of ids) await order(id, 2_000);
    await write(ids);
    const found = await pages(100);
    expect(found.flat().map((it) => it.subject)).toEqual(ids);
    // 60,000 lines of at least 100 bytes.
    expect(found.length).toBeGreaterThanOrEqual(3);
    for (const page of found) expect(page.length).toBeLessThanOrEqual(10);
  });
});

describe('the relay', () => {
  const running: RelayOutbox[] = [];
  const startRelay = (at: Instance, stock: FakeInventory): RelayOutbox => {
    const relay = new RelayOutbox(at.checkpoints, at.outbox, stock);
    relay.onApplicationBootstrap();
    running.push(relay);
    return relay;
  };
  const stopAll = () => Promise.all(running.splice(0).map((it) => it.beforeApplicationShutdown()));
  afterEach(stopAll, 60_000);

  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await setTimeout(5);
  };
  const appliedTo = (stock: FakeInventory): string[] => stock.effects.map((it) => it.reservation_id);

  it('delivers every event once with two instances running, woken or not', async () => {
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
    expect(appliedTo(stock).sort()).toEqual([...ids].sort());
    expect(positionsOf(await acquire(randomUUID(), 1))).not.toContain(logBeginning);
  });

  it('delivers in order after a crash before the checkpoint was stored, and each event is applied once', async () => {
    const [ids, more] = [newIds(3), newIds(2)];
    const stock = holding([...ids, ...more]);
    await write(ids);
    // An instance that was killed after delivering, before it could store the checkpoint.
    await stock.settle(
      't',
      ids.map((reservation_id) => ({ reservation_id, version: 1, kind: 'confirm' })),
    );
    startRelay(two, stock);
    await write(more);
    await until(() => stock.effects.length === 5);
    expect(appliedTo(stock)).toEqual([...ids, ...more]);
  });

  it('retries while inventory is unavailable, and when its answer is lost', async () => {
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
  }, 60_000);

  it('delivers to two tenants at a time, to each in order, and to all of them although one call fails', async () => {
    const stock = new FakeInventory();
    stock.onHand.set('mug', 1_000);
    const fulfilled = {
      version: 2,
      type: 'fulfilled' as const,
      data: { lines: [{ line: 1, product_id: 'mug', quantity: 1 }] },
    };
    const tenants = Array.from({ length: 12 }, (_, at) => `tenant-${at}`);
    for (const tenant of tenants) {
      const ids = newIds(2);
      for (const id of ids) stock.hold(tenant, id, { mug: 1 });
      await write(ids, placed, client, tenant);
      await write(ids, fulfilled, client, tenant);
    }
    const underWay = new Set<string>();
    let most = 0;
    let failures = 1;
    const settle = stock.settle.bind(stock);
    stock.settle = async (tenant, effects) => {
      expect(underWay).not.toContain(tenant);
      most = Math.max(most, underWay.add(tenant).size);
      await setTimeout(20);
      underWay.delete(tenant);
      if (tenant === 'tenant-5' && failures-- > 0) throw new CleaveError('unavailable', 'gone');
      return settle(tenant, effects);
    };
    startRelay(one, stock);
    await until(() => stock.effects.length === 48);
    await stopAll();
    expect(most).toBe(2);
    expect(stock.inState('fulfilled')).toHaveLength(24);
    expect(positionsOf(await acquire(randomUUID(), 1))).not.toContain(logBeginning);
  }, 60_000);

  it('does not move the checkpoint if it loses the lease while it delivers', async () => {
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
    await client.query('TRUNCATE orders.readers');
    expect(positionsOf(await acquire(other, 60_000))).toEqual(Array(partCount).fill(logBeginning));
    gate.resolve();
    await until(() => stock.effects.length === 2);
    await stopAll();
    const { rows } = await client.query(`SELECT DISTINCT position, holder FROM orders.checkpoints`);
    expect(rows).toEqual([{ position: logBeginning, holder: other }]);
  });

  it('delivers the stock effect of each event, with the version of the order', async () => {
    const [id] = newIds(1) as [string];
    const stock = holding([id], { mug: 5 });
    const lines = [{ line: 1, product_id: 'mug', quantity: 2 }];
    const credited = lines.map((it) => ({ ...it, amount_minor: 7 }));
    const returned = { lines: credited, amount_minor: 7, reason: 'r' };
    await write([id]);
    await write([id], { version: 2, type: 'fulfilled', data: { lines } });
    await write([id], { version: 3, type: 'returned', data: { ...returned, restock: true } });
    // Goods that are not restocked do not concern inventory.
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

  it('skips effects that cannot be applied, and splits calls that have too many lines', async () => {
    const [large, small] = [newIds(6), newIds(3)];
    const lines = Array.from({ length: 2_000 }, (_, index) => ({
      ...{ line: index + 1, product_id: `p-${index}`, quantity: 1 },
    }));
    const stock = holding(
      large.filter((id) => id !== large[1]),
      Object.fromEntries(lines.map((it) => [it.product_id, 1])),
    );
    // Fewer units than the order needs.
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

  it('finishes its delivery before it stops, and releases the lease', async () => {
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
    const parts = await acquire(randomUUID(), 1_000);
    expect(positionsOf(parts)).not.toContain(logBeginning);
    expect((await one.outbox.read(parts, 10)).events).toEqual([]);
  });
});
