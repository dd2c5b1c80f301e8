import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { limits } from '#contracts';
import { testDatabase, type TestDatabase } from '#testing';
import {
  brokenInvariants,
  decide,
  effect,
  newTenant,
  reservation,
  startInstance,
  stocked,
  type Instance,
} from './inventory-under-test.js';

let database: TestDatabase;
let inventory: Instance;
const tenant = newTenant();

beforeAll(async () => {
  database = await testDatabase();
  inventory = await startInstance(database.url);
});

afterAll(async () => {
  await inventory?.stop();
  await database?.stop();
});

const stockOf = (productId: string) => inventory.readStock.execute(tenant, productId);
const settle = (...effects: ReturnType<typeof effect>[]) => inventory.settleStock.execute(tenant, effects);
const adjust = (productId: string, delta: number, idempotencyKey: string = randomUUID(), reason = 'found') =>
  inventory.adjustStock.execute(tenant, { productId, delta, reason, account: 'a', idempotencyKey });
const hold = async (units: Record<string, number>): Promise<string> => {
  const wanted = reservation(units);
  const [decision] = await decide(inventory, tenant, [wanted]);
  expect(decision!.outcome).toBe('held');
  return wanted.reservation_id;
};

describe('products', () => {
  it('are put all or none, answered in the order given, and say which are new', async () => {
    const described = (...ids: string[]) =>
      ids.map((product_id) => ({ product_id, name: 'A name', unit_price_minor: 1, currency: 'GBP' }));
    const put = async (...ids: string[]) =>
      (await inventory.putProducts.execute(tenant, described(...ids))).map((it) => [it.product_id, it.created]);
    expect(await put('put-b', 'put-Ä', 'put-a')).toEqual([
      ['put-b', true],
      ['put-Ä', true],
      ['put-a', true],
    ]);
    expect(await put('put-c', 'put-a')).toEqual([
      ['put-c', true],
      ['put-a', false],
    ]);
    await expect(put('put-d', 'put-e', 'put-d')).rejects.toMatchObject({
      code: 'invalid-request',
      extensions: { faults: [{ path: 'products.2.product_id' }] },
    });
    await expect(stockOf('put-d')).rejects.toMatchObject({ code: 'product-not-found' });
  });

  it('keep the time of their last change until something changes', async () => {
    const put = async (name: string) =>
      (
        await inventory.putProducts.execute(tenant, [
          { product_id: 'timed', name, unit_price_minor: 1, currency: 'GBP' },
        ])
      )[0]!;
    const created = await put('One');
    expect((await put('One')).updated_at).toEqual(created.updated_at);
    const changed = await put('Two');
    expect(changed).toMatchObject({ name: 'Two', created: false, created_at: created.created_at });
    expect(changed.updated_at.getTime()).toBeGreaterThanOrEqual(created.updated_at.getTime());
  });

  it('are listed in one order, that of their bytes, whatever the language of the database', async () => {
    const other = newTenant();
    const ids = ['Z', 'a', 'É', 'é', '10', '9', 'z', '🦊', '\uffff', 'B'];
    const described = { name: 'A name', unit_price_minor: 1, currency: 'GBP' };
    await inventory.putProducts.execute(
      other,
      ids.map((product_id) => ({ product_id, ...described })),
    );
    const seen: string[] = [];
    for (let after: string | undefined; ; after = seen.at(-1)) {
      const page = await inventory.catalogue.page(other, after, 3);
      if (page.length === 0) break;
      seen.push(...page.map((it) => it.product_id));
    }
    expect(seen).toEqual(ids.toSorted((one, two) => Buffer.compare(Buffer.from(one), Buffer.from(two))));
  });
});

describe('a count', () => {
  it('sets what lies on the shelf, of all products or of none', async () => {
    await stocked(inventory, tenant, { 'count-a': 5, 'count-b': 5 });
    await hold({ 'count-b': 3 });
    const count = (...counts: [string, number][]) =>
      inventory.countStock.execute(
        tenant,
        counts.map(([product_id, on_hand]) => ({ product_id, on_hand })),
      );
    await expect(count(['count-a', 9], ['count-b', 2])).rejects.toMatchObject({
      code: 'stock-below-reserved',
      extensions: { products: [{ product_id: 'count-b', on_hand: 2, reserved: 3 }] },
    });
    await expect(count(['count-a', 9], ['count-z', 2], ['count-y', 1])).rejects.toMatchObject({
      code: 'product-not-found',
      extensions: { product_ids: ['count-z', 'count-y'] },
    });
    expect(await stockOf('count-a')).toMatchObject({ on_hand: 5 });
    expect(await count(['count-b', 3], ['count-a', 0])).toEqual([
      { product_id: 'count-b', on_hand: 3, reserved: 3, available: 0, sold: 0 },
      { product_id: 'count-a', on_hand: 0, reserved: 0, available: 0, sold: 0 },
    ]);
    expect(await brokenInvariants(inventory, tenant)).toEqual([]);
  });
});

describe('an adjustment', () => {
  it('is made once a key, and its repeat gets the stock as it was then', async () => {
    await stocked(inventory, tenant, { adjusted: 5 });
    const key = randomUUID();
    const first = await adjust('adjusted', -2, key);
    expect(first).toEqual({
      stock: { product_id: 'adjusted', on_hand: 3, reserved: 0, available: 3, sold: 0 },
      replayed: false,
    });
    await adjust('adjusted', 10);
    expect(await adjust('adjusted', -2, key)).toEqual({ ...first, replayed: true });
    for (const other of [
      adjust('adjusted', -3, key),
      adjust('elsewhere', -2, key),
      adjust('adjusted', -2, key, 'lost'),
    ])
      await expect(other).rejects.toMatchObject({ code: 'idempotency-key-reused' });
    expect(await stockOf('adjusted')).toMatchObject({ on_hand: 13 });
  });

  it('that is refused leaves its key free', async () => {
    await stocked(inventory, tenant, { tight: 5 });
    const reservationId = await hold({ tight: 4 });
    const key = randomUUID();
    await expect(adjust('tight', -2, key)).rejects.toMatchObject({
      code: 'stock-below-reserved',
      extensions: { products: [{ product_id: 'tight', on_hand: 5, reserved: 4, available: 1 }] },
    });
    await expect(adjust('tight', limits.onHand, key)).rejects.toMatchObject({ code: 'invalid-request' });
    await expect(adjust('missing', 1, key)).rejects.toMatchObject({ code: 'product-not-found' });
    await settle(effect(reservationId, 'release'));
    expect(await adjust('tight', -2, key)).toMatchObject({ stock: { on_hand: 3 }, replayed: false });
    expect(await brokenInvariants(inventory, tenant)).toEqual([]);
  });
});

describe('an effect', () => {
  it('is applied once, however often and in whatever company it comes', async () => {
    await stocked(inventory, tenant, { once: 10, also: 10 });
    const one = await hold({ once: 3, also: 1 });
    const two = await hold({ once: 2 });
    const confirmed = effect(one, 'confirm');
    const part = effect(one, 'fulfil', { once: 1 });
    const rest = effect(one, 'fulfil', { once: 2, also: 1 });
    const back = effect(one, 'restock', { once: 2 });
    expect(await settle(confirmed, part, part)).toEqual({ applied: 2, repeated: 1, impossible: [] });
    expect(await settle(confirmed, part, rest, back, effect(two, 'release'))).toEqual({
      ...{ applied: 3, repeated: 2, impossible: [] },
    });
    expect(await settle(rest, back)).toEqual({ applied: 0, repeated: 2, impossible: [] });
    expect(await stockOf('once')).toEqual({ product_id: 'once', on_hand: 9, reserved: 0, available: 9, sold: 3 });
    expect(await stockOf('also')).toMatchObject({ on_hand: 9, reserved: 0, sold: 1 });
    expect(await brokenInvariants(inventory, tenant)).toEqual([]);
  });

  it('that names a product in several lines takes their sum', async () => {
    await stocked(inventory, tenant, { lines: 10 });
    const id = await hold({ lines: 7 });
    const lines = [1, 2, 3].map((quantity) => ({ product_id: 'lines', quantity }));
    await settle({ ...effect(id, 'fulfil'), lines });
    expect(await stockOf('lines')).toMatchObject({ on_hand: 4, reserved: 1, sold: 6 });
  });

  it('that is impossible is named, changes nothing and holds up nobody, and is applied once it has become possible', async () => {
    await stocked(inventory, tenant, { scarce: 10, other: 10 });
    const id = await hold({ scarce: 2, other: 1 });
    const tooMany = effect(id, 'fulfil', { other: 1, scarce: 3 });
    const nothingHeld = effect(randomUUID(), 'fulfil', { scarce: 1 });
    const unknown = effect(id, 'restock', { 'never-heard-of': 1 });
    const fine = effect(id, 'fulfil', { scarce: 1 });
    expect(await settle(tooMany, nothingHeld, fine, unknown)).toEqual({
      ...{ applied: 1, repeated: 0, impossible: [tooMany.effect_id, nothingHeld.effect_id, unknown.effect_id] },
    });
    expect(await stockOf('scarce')).toMatchObject({ on_hand: 9, reserved: 1, sold: 1 });
    expect(await stockOf('other')).toMatchObject({ on_hand: 10, reserved: 1, sold: 0 });

    await stocked(inventory, tenant, { 'never-heard-of': 0 });
    expect(await settle(unknown, fine, tooMany)).toEqual({
      ...{ applied: 1, repeated: 1, impossible: [tooMany.effect_id] },
    });
    expect(await stockOf('never-heard-of')).toMatchObject({ on_hand: 1 });
    expect(await brokenInvariants(inventory, tenant)).toEqual([]);
  });

  it('leaves a refused reservation refused and a fulfilled one fulfilled', async () => {
    await stocked(inventory, tenant, { final: 1 });
    const refused = reservation({ final: 2 });
    await decide(inventory, tenant, [refused]);
    await settle(effect(refused.reservation_id, 'confirm'));
    const fulfilled = await hold({ final: 1 });
    await settle(effect(fulfilled, 'fulfil', { final: 1 }), effect(fulfilled, 'confirm'));
    await settle(effect(fulfilled, 'release'));
    expect((await decide(inventory, tenant, [refused]))[0]).toMatchObject({ outcome: 'out-of-stock' });
    expect(await stockOf('final')).toMatchObject({ on_hand: 0, reserved: 0, sold: 1 });
  });
});
