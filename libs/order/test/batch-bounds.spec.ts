import { setTimeout } from 'node:timers/promises';
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

/** The most orders, lines and bytes in any batch when these orders are placed at once. */
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

// However many orders arrive at once, no batch exceeds a limit; each row reaches the limit that it names.
it.each([
  ['orders', 'small orders', 1_200, 1, (at: number) => requestOf(unitsOf(1), { reference: `r-${at}` })],
  ['lines', 'orders with the maximum number of lines', 12, limits.lines, () => requestOf(unitsOf(limits.lines))],
  ['lines', 'orders of many lines', 120, 90, () => requestOf(unitsOf(90))],
  [
    ...(['bytes', 'orders with large metadata', 500, 20] as const),
    (at: number) => requestOf(unitsOf(20), { metadata: largeMetadata(at) }),
  ],
] as const)('a batch stays within its limit of %s: %s', async (bound, _, count, lines, requestAt) => {
  const largest = await largestOf(count, requestAt);
  for (const unit of ['orders', 'lines', 'bytes'] as const) expect(largest[unit]).toBeLessThanOrEqual(promised[unit]);
  // There was no room for one more order.
  const oneMore = { orders: 1, lines, bytes: 17_000 }[bound];
  expect(largest[bound] + oneMore).toBeGreaterThan(promised[bound]);
});

/** How many of these are refused at once, and under which code, while the first batch gets no answer. */
const refusedOf = async (
  count: number,
  requestAt: (at: number) => PlaceOrderRequest,
  key: string | null,
): Promise<{ count: number; codes: Set<unknown> }> => {
  const stock = new FakeInventory();
  for (const it of products) stock.onHand.set(it, 1_000_000);
  one.use(stock);
  const answered = Promise.withResolvers<void>();
  stock.interrupt = () => answered.promise;
  const codes: unknown[] = [];
  const tenant = newTenant();
  const patience = { deadlineMs: Number.POSITIVE_INFINITY };
  // Expires before the timer of any request: on a slow machine, the first may give up while the last are being placed.
  const counted = setTimeout(1);
  const placing = Array.from({ length: count }, (_, at) =>
    one.placeOrder
      .execute(tenant, 'acc', requestAt(at), key, patience)
      .catch((error: { code: unknown }) => codes.push(error.code)),
  );
  await counted;
  const refused = { count: codes.length, codes: new Set(codes) };
  // The requests that found room give up, so that they need not be placed one after the other.
  if (key !== null) await Promise.all(placing.slice(1));
  patience.deadlineMs = 0;
  answered.resolve();
  await Promise.all(placing);
  return refused;
};

/** The limit of what waits for a batch, and again of what waits for an earlier request with the same key. */
const waiting = { orders: 5_000, bytes: 67_108_864 };
/** The batches that are in flight at once; what is in them no longer waits. */
const lanes = 2;

it.each([
  ['orders', waiting.orders, promised.orders, (at: number) => requestOf(unitsOf(1), { reference: `r-${at}` })],
  [
    ...(['bytes', Math.floor(waiting.bytes / 16_700), Math.ceil(promised.bytes / 16_384)] as const),
    (at: number) => requestOf(unitsOf(1), { metadata: largeMetadata(at) }),
  ],
] as const)('no more %s wait than the limit, with a key or without', async (_, most, ofBatch, requestAt) => {
  const sent = most + lanes * ofBatch + 1_000;
  const free = await refusedOf(sent, requestAt, null);
  expect(free.codes).toEqual(new Set(['unavailable']));
  expect(free.count).toBeGreaterThanOrEqual(700);
  // There was room for them.
  expect(free.count).toBeLessThan(1_000 + lanes * ofBatch + most / 20);
  const ofOneKey = await refusedOf(sent, () => requestAt(0), 'k');
  expect(ofOneKey.codes).toEqual(new Set(['request-in-progress']));
  expect(ofOneKey.count).toBeGreaterThanOrEqual(700);
  expect(ofOneKey.count).toBeLessThan(1_000 + lanes * ofBatch + most / 20);
});
