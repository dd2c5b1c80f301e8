import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { limits, type PlaceOrderRequest } from '#contracts';
import { testDatabase, type TestDatabase } from '#testing';
import { canonicalPlacement, commandOf } from '../src/domain/placement.js';
import { FakeInventory, newTenant, requestOf, startInstance, type Instance } from './order-under-test.js';

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

/** The promised limits of one batch. Not imported from the code, so that a change there is noticed. */
const promised = { orders: 250, lines: 5_000, bytes: 4_194_304 };

const products = Array.from({ length: limits.lines }, (_, at) => `p-${at}`);
const unitsOf = (lines: number): Record<string, number> =>
  Object.fromEntries(products.slice(0, lines).map((it) => [it, 1]));

/** Metadata of the maximum size, different for each order. */
const largeMetadata = (at: number) => {
  const bare = JSON.stringify({ at, note: '' }).length;
  return { at, note: 'm'.repeat(limits.metadataBytes - bare) };
};

/** The largest numbers among the batches in which these orders are placed at once. */
const largestOf = async (count: number, requestAt: (at: number) => PlaceOrderRequest): Promise<typeof promised> => {
  const tenant = newTenant();
  const stock = new FakeInventory();
  for (const it of products) stock.onHand.set(it, 1_000_000);
  one.use(stock);
  const requests = Array.from({ length: count }, (_, at) => requestAt(at));
  const results = await Promise.all(requests.map((it) => one.placeOrder.execute(tenant, 'acc', it, null)));
  const bytesOf = new Map(
    results.map((it, at) => {
      if (!('order' in it)) throw it.refusal;
      return [it.order.order_id, Buffer.byteLength(canonicalPlacement(commandOf(requests[at]!)))];
    }),
  );
  const batches = stock.batches.map((batch) => ({
    orders: batch.length,
    lines: batch.reduce((sum, it) => sum + it.lines.length, 0),
    bytes: batch.reduce((sum, it) => sum + bytesOf.get(it.order_id)!, 0),
  }));
  // Each order is in one batch: none was split because it failed.
  expect(batches.reduce((sum, it) => sum + it.orders, 0)).toBe(count);
  const most = (unit: keyof typeof promised) => Math.max(...batches.map((it) => it[unit]));
  return { orders: most('orders'), lines: most('lines'), bytes: most('bytes') };
};

// However many orders arrive at once, no batch is larger; and in each row, its bound is the one that ends the batches.
it.each([
  ['orders', 'small orders', 1_200, 1, (at: number) => requestOf(unitsOf(1), { reference: `r-${at}` })],
  ['lines', 'orders of as many lines as there may be', 12, limits.lines, () => requestOf(unitsOf(limits.lines))],
  ['lines', 'orders of many lines', 120, 90, () => requestOf(unitsOf(90))],
  [
    ...(['bytes', 'orders with large metadata', 500, 20] as const),
    (at: number) => requestOf(unitsOf(20), { metadata: largeMetadata(at) }),
  ],
] as const)('a batch keeps within its %s: %s', async (bound, _, count, lines, requestAt) => {
  const largest = await largestOf(count, requestAt);
  for (const unit of ['orders', 'lines', 'bytes'] as const) expect(largest[unit]).toBeLessThanOrEqual(promised[unit]);
  // There was no room for one more order.
  const oneMore = { orders: 1, lines, bytes: 17_000 }[bound];
  expect(largest[bound] + oneMore).toBeGreaterThan(promised[bound]);
});
