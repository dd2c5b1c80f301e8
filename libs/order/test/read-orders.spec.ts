import { afterAll, beforeAll, expect, it } from '@jest/globals';
import fc from 'fast-check';
import pg from 'pg';
import type { Repository } from 'typeorm';
import { testDatabase, testSeed, type TestDatabase } from '#testing';
import type { OrderEntity } from '../src/adapters/order.entity.js';
import { PostgresOrders } from '../src/adapters/postgres-orders.js';
import { newOrderId, placedAtOf } from '../src/domain/order.js';
import { ReadOrders, type OrderFilter } from '../src/use-cases/read-orders.js';
import { newTenant, startInstance, type Instance } from './order-under-test.js';

let database: TestDatabase;
let one: Instance;
let client: pg.Client;

beforeAll(async () => {
  database = await testDatabase();
  one = await startInstance(database.url);
  client = new pg.Client(database.url);
  await client.connect();
  await client.query(`SET enable_seqscan = off; SET jit = off`);
});

afterAll(async () => {
  await client?.end();
  await one?.stop();
  await database?.stop();
});

/** @param rows SQL for rows of id, customer, status, reference */
const insert = (tenant: string, rows: string, values: unknown[]) =>
  client.query(
    `INSERT INTO orders.orders (tenant_id, order_id, account_id, customer_id, status, reference, currency, total_minor, lines,
       adjustments, metadata, version, reservation_id, fingerprint, created_at, updated_at)
     SELECT $1, id, 'acc', customer, status, reference, 'GBP', 1, '[]', '[]', '{}', 1, id, id, now(), now()
     FROM (${rows}) AS r(id, customer, status, reference)`,
    [tenant, ...values],
  );

const someStatus = fc.constantFrom('confirmed' as const, 'cancelled' as const);
const someCustomer = fc.constantFrom('c-1', 'c-2');
const someReference = fc.constantFrom('r-1', 'r-2');
const perhaps = <T>(it: fc.Arbitrary<T>) => fc.option(it, { nil: undefined });
/** Few enough for orders to share a millisecond with each other and with the bounds. */
const someMoment = fc.integer({ min: 0, max: 12 }).map((it) => new Date(Date.UTC(2026, 10, 28) + it));

it('lists exactly the orders that match, newest first, whatever the filter, the range and the size of the pages', async () => {
  const orders = fc.array(
    fc.record({
      at: someMoment,
      customer: someCustomer,
      status: fc.oneof({ weight: 5, arbitrary: someStatus }, { weight: 1, arbitrary: fc.constant('void' as const) }),
      reference: fc.option(someReference),
    }),
    { maxLength: 40, size: 'max' },
  );
  const filter: fc.Arbitrary<OrderFilter> = fc.record({
    customerId: perhaps(someCustomer),
    status: perhaps(someStatus),
    reference: perhaps(someReference),
    createdFrom: perhaps(someMoment),
    createdBefore: perhaps(someMoment),
  });
  const reading = new ReadOrders(one.orders, undefined as never);
  const run = async (
    some: typeof orders extends fc.Arbitrary<infer T> ? T : never,
    filters: OrderFilter[],
    limit: number,
  ): Promise<void> => {
    const tenant = newTenant();
    const kept = some.map((it) => ({ ...it, id: newOrderId(it.at.getTime()) }));
    const column = (name: 'id' | 'customer' | 'status' | 'reference') => kept.map((it) => it[name]);
    await insert(tenant, 'SELECT * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[])', [
      ...[column('id'), column('customer'), column('status'), column('reference')],
    ]);
    for (const { customerId, status, reference, createdFrom, createdBefore } of filters) {
      const matching = kept.filter(
        (it) =>
          it.status !== 'void' &&
          (customerId === undefined || it.customer === customerId) &&
          (status === undefined || it.status === status) &&
          (reference === undefined || it.reference === reference) &&
          (createdFrom === undefined || it.at >= createdFrom) &&
          (createdBefore === undefined || it.at < createdBefore),
      );
      const listed: string[] = [];
      for (let before: string | undefined | null; before !== null;) {
        const asked = { customerId, status, reference, createdFrom, createdBefore };
        const { data, last } = await reading.list(tenant, asked, before, limit);
        listed.push(...data.map((it) => it.order_id));
        before = last;
      }
      expect(listed).toEqual(
        matching
          .map((it) => it.id)
          .toSorted()
          .toReversed(),
      );
    }
  };
  const filters = fc.array(filter, { minLength: 1, maxLength: 10 });
  await fc.assert(fc.asyncProperty(orders, filters, fc.integer({ min: 1, max: 9 }), run), {
    ...{ seed: testSeed(), numRuns: 100 },
    plugins: [fc.interruptAfterTimeLimit(15_000)],
  });
});

it('accepts bounds before the first possible order and after the last', async () => {
  const tenant = newTenant();
  const id = newOrderId(Date.now());
  await insert(tenant, `VALUES ($2::uuid, 'c', 'confirmed', NULL)`, [id]);
  const early = [new Date(Date.UTC(-1, 0)), new Date(0)];
  const late = [new Date(placedAtOf(id).getTime() + 1), new Date(Date.UTC(10_000, 1))];
  const ids = async (filter: OrderFilter) =>
    (await one.orders.page(tenant, filter, undefined, 9)).map((it) => it.order_id);
  for (const at of early) {
    expect(await ids({ createdFrom: at })).toEqual([id]);
    expect(await ids({ createdBefore: at })).toEqual([]);
  }
  for (const at of late) {
    expect(await ids({ createdFrom: at })).toEqual([]);
    expect(await ids({ createdBefore: at })).toEqual([id]);
  }
});

interface PlanNode {
  'Node Type': string;
  'Index Cond'?: string;
  'Relation Name'?: string;
  'Actual Rows': number;
  'Rows Removed by Filter'?: number;
  Plans?: PlanNode[];
}

const nodesIn = (plan: PlanNode): PlanNode[] => [plan, ...(plan.Plans ?? []).flatMap(nodesIn)];

/** The plan for a page, as Postgres makes it with its current statistics. */
const planOf = async (tenant: string, filter: OrderFilter, limit: number): Promise<PlanNode[]> => {
  const asked: [text: string, values: unknown[]][] = [];
  const noting = { query: (...it: (typeof asked)[0]) => (asked.push(it), []) } as unknown as Repository<OrderEntity>;
  await new PostgresOrders(noting, one.sql, 1).page(tenant, filter, undefined, limit);
  const [[text, values]] = asked as [(typeof asked)[0]];
  const { rows } = await client.query<{ 'QUERY PLAN': [{ Plan: PlanNode }] }>(
    `EXPLAIN (ANALYZE, FORMAT JSON) ${text}`,
    values,
  );
  return nodesIn(rows[0]!['QUERY PLAN'][0].Plan);
};

it('reads no more than a page of the range, by an index that the range bounds', async () => {
  const [tenant, other] = [newTenant(), newTenant()];
  const begun = Date.UTC(2026, 0, 1);
  const count = 100_000;
  const limit = 51;
  /** One order a second. */
  const fill = (of: string, variant: string) =>
    insert(
      of,
      `SELECT (lpad(to_hex($2 + i * 1000), 12, '0') || '7000' || $4 || lpad(to_hex(i), 12, '0'))::uuid, 'c-' || i % 1000,
         CASE i % 100 WHEN 0 THEN 'pending' ELSE 'confirmed' END, CASE i % 5 WHEN 0 THEN 'r-' || i % 200 END
       FROM generate_series(1, $3::bigint) i`,
      [begun, count, variant],
    );
  const ranges: [from: number | undefined, before: number | undefined][] = [
    ...([
      [50_000, 50_040],
      [20_000, 70_000],
      [0, count + 1],
    ] as [number, number][]),
    ...([
      [60_000, undefined],
      [undefined, 60_000],
    ] as [number | undefined, number | undefined][]),
  ];
  const filters: OrderFilter[] = [
    {},
    ...[{ customerId: 'c-5' }, { customerId: 'nobody' }, { reference: 'r-5' }],
    ...([{ status: 'pending' }, { status: 'confirmed' }, { status: 'returned' }] as const),
    { customerId: 'c-5', status: 'confirmed' },
    { customerId: 'c-5', reference: 'r-5' },
    { reference: 'r-5', status: 'confirmed' },
    { customerId: 'c-5', reference: 'r-5', status: 'confirmed' },
  ];
  const atOf = (second: number | undefined) => (second === undefined ? undefined : new Date(begun + second * 1_000));
  await fill(tenant, 'a000');
  await fill(other, 'b000');
  await client.query(`ANALYZE orders.orders`);
  for (const cache of ['4GB', '4MB']) {
    await client.query(`SET effective_cache_size = '${cache}'`);
    for (const [from, before] of [...ranges, [undefined, undefined]])
      for (const filter of filters) {
        const nodes = await planOf(tenant, { ...filter, createdFrom: atOf(from), createdBefore: atOf(before) }, limit);
        const scans = nodes.filter((it) => it['Relation Name'] !== undefined);
        const read = scans.reduce((sum, it) => sum + it['Actual Rows'] + (it['Rows Removed by Filter'] ?? 0), 0);
        const inRange = (before ?? count + 1) - (from ?? 0);
        const told = { cache, range: [from, before], filter, nodes };
        // Of several filters, one is for the index.
        const most = Math.min(inRange, Object.keys(filter).length > 1 ? 500 : 2 * limit);
        expect({ ...told, isBounded: read <= most }).toEqual({ ...told, isBounded: true });
        expect({ ...told, scans: scans.map((it) => it['Node Type']) }).toEqual({ ...told, scans: ['Index Scan'] });
        for (const { 'Index Cond': condition } of scans) {
          if (from !== undefined) expect(condition).toContain('(order_id >= ');
          if (before !== undefined) expect(condition).toContain('(order_id < ');
        }
      }
  }
});
