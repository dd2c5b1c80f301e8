import { afterAll, beforeAll, expect, it } from '@jest/globals';
import fc from 'fast-check';
import pg from 'pg';
import { testDatabase, testSeed, type TestDatabase } from '#testing';
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
    { maxLength: 40 },
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
