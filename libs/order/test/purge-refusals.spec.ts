import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, expect, it } from '@jest/globals';
import { limits } from '#contracts';
import { twoInstances, type TwoInstances } from '#testing';
import { PurgeRefusals } from '../src/use-cases/purge-refusals.js';
import { FakeInventory, newTenant, requestOf, startInstance, type Instance } from './order-under-test.js';

let instances: TwoInstances<Instance>;
/** Two instances on one database, which purge concurrently. */
let one: Instance;
let two: Instance;
let tenant: string;
let stock: FakeInventory;

beforeAll(async () => {
  instances = await twoInstances(startInstance);
  ({ one, two } = instances);
});

afterAll(() => instances?.stop());

beforeEach(() => {
  tenant = newTenant();
  stock = new FakeInventory();
  for (const it of [one, two]) it.use(stock);
});

const request = requestOf({ mug: 1 });
const place = (key: string, body = request) => one.placeOrder.execute(tenant, 'a', body, key);
const purge = () => Promise.all([one.purgeRefusals.execute(), two.purgeRefusals.execute()]);
/** Backdates the refusals of these keys. */
const age = (keys: readonly string[], ms: number): Promise<unknown> =>
  one.sql.query(
    {
      name: 'test-age-refusals',
      text: `
        UPDATE orders.refusals SET refused_at = refused_at - $3::bigint * interval '1 millisecond'
        WHERE tenant_id = $1 AND idempotency_key = ANY ($2)`,
    },
    [tenant, keys, ms],
  );
const refusal = (replayed: boolean) => ({ replayed, refusal: { code: 'out-of-stock' } });

it('concurrent purges delete expired refusals only, and free their idempotency keys', async () => {
  stock.onHand.set('mug', 0);
  // More than one batch deletes.
  const old = Array.from({ length: 1_200 }, (_, index) => `old-${index}`);
  for (const answer of await Promise.all([...old, 'young'].map((key) => place(key))))
    expect(answer).toMatchObject(refusal(false));
  expect(await place('old-0')).toMatchObject(refusal(true));
  await age(old, limits.refusalKeptMs + 1);
  await age(['young'], limits.refusalKeptMs - 60_000);
  await purge();

  stock.onHand.set('mug', 2_000);
  expect(await place('young')).toMatchObject(refusal(true));
  const other = requestOf({ mug: 1 }, { reference: 'another command' });
  for (const answer of await Promise.all(old.map((key) => place(key, other))))
    expect(answer).toMatchObject({ replayed: false, order: { status: 'confirmed' } });
});

it('a refusal that inventory has forgotten is still replayed, and its repeats hold no stock', async () => {
  stock.onHand.set('mug', 0);
  expect(await place('k')).toMatchObject(refusal(false));
  const later = new FakeInventory();
  later.onHand.set('mug', 10);
  one.use(later);
  for (let times = 0; times < 3; times += 1) expect(await place('k')).toMatchObject(refusal(true));
  expect(later.reserved).toBe(0);
  expect(later.released).toHaveLength(1);
});

it('a purge never frees the idempotency key of an order, however old', async () => {
  stock.onHand.set('mug', 10);
  const placed = await place('kept');
  await one.sql.query(
    {
      name: 'test-age-orders',
      text: `UPDATE orders.orders SET created_at = '2001-01-01', updated_at = '2001-01-01' WHERE tenant_id = $1`,
    },
    [tenant],
  );
  await purge();
  const { order_id } = (placed as { order: { order_id: string } }).order;
  expect(await place('kept')).toMatchObject({ replayed: true, order: { order_id } });
  await expect(place('kept', requestOf({ mug: 2 }))).rejects.toMatchObject({ code: 'idempotency-key-reused' });
});

it('a purge stops when the module shuts down, even if more refusals are left', async () => {
  const begun = Promise.withResolvers<void>();
  let isOver = false;
  const purging = new PurgeRefusals({
    forget: async (_, limit) => {
      begun.resolve();
      await setTimeout(1);
      return isOver ? 0 : limit;
    },
  });
  purging.onApplicationBootstrap();
  await begun.promise;
  const stopped = purging.beforeApplicationShutdown().then(() => 'stopped');
  try {
    expect(await Promise.race([stopped, setTimeout(30_000, 'goes on', { ref: false })])).toBe('stopped');
  } finally {
    isOver = true;
    await stopped;
  }
});
