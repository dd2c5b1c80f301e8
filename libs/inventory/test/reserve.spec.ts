import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { testDatabase, type TestDatabase } from '#testing';
import {
  brokenInvariants,
  decide,
  effect,
  longHoldMs,
  newTenant,
  outcomes,
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

const stockOf = async (productId: string, of = tenant) => inventory.readStock.execute(of, productId);
const price = (productId: string, unit_price_minor: number, currency = 'GBP') =>
  inventory.putProducts.execute(tenant, [{ product_id: productId, name: productId, unit_price_minor, currency }]);

describe('a decision', () => {
  it('holds available stock and returns the prices of the products', async () => {
    await stocked(inventory, tenant, { 'held-a': 5, 'held-b': 5 });
    const one = reservation({ 'held-b': 2, 'held-a': 5 });
    const request = { reservations: [one], hold_ms: longHoldMs };
    const { decisions, products } = await inventory.reserveStock.execute(tenant, request);
    expect(decisions).toEqual([{ outcome: 'held', order_id: one.order_id }]);
    expect(products).toEqual([
      { product_id: 'held-b', name: 'Product held-b', unit_price_minor: 100, currency: 'GBP' },
      { product_id: 'held-a', name: 'Product held-a', unit_price_minor: 100, currency: 'GBP' },
    ]);
    expect(await stockOf('held-a')).toEqual({ product_id: 'held-a', on_hand: 5, reserved: 5, available: 0, sold: 0 });
  });

  it('holds all lines or none, and lists every shortage', async () => {
    await stocked(inventory, tenant, { 'all-a': 3, 'all-b': 1, 'all-c': 9 });
    const [decision] = await decide(inventory, tenant, [reservation({ 'all-a': 4, 'all-b': 2, 'all-c': 9 })]);
    expect(decision).toMatchObject({
      outcome: 'out-of-stock',
      shortages: [
        { product_id: 'all-a', requested: 4, available: 3 },
        { product_id: 'all-b', requested: 2, available: 1 },
      ],
    });
    expect(await stockOf('all-c')).toMatchObject({ reserved: 0 });
  });

  it('sums the lines of one product before it compares them with the stock', async () => {
    await stocked(inventory, tenant, { sum: 5 });
    const lines = (...quantities: number[]) => quantities.map((quantity) => ({ product_id: 'sum', quantity }));
    const decisions = await decide(inventory, tenant, [
      reservation({}, { lines: lines(3, 3) }),
      reservation({}, { lines: lines(2, 3) }),
    ]);
    expect(decisions).toMatchObject([
      { outcome: 'out-of-stock', shortages: [{ product_id: 'sum', requested: 6, available: 5 }] },
      { outcome: 'held' },
    ]);
  });

  it('to refuse a reservation leaves its units to those after it in the batch, in their order', async () => {
    await stocked(inventory, tenant, { early: 10 });
    const wanted = [11, 4, 7, 6, 1].map((quantity) => reservation({ early: quantity }));
    const decisions = await decide(inventory, tenant, wanted);
    expect(decisions.map((it) => it.outcome)).toEqual(['out-of-stock', 'held', 'out-of-stock', 'held', 'out-of-stock']);
    expect(decisions[4]).toMatchObject({ shortages: [{ requested: 1, available: 0 }] });
  });

  it('on an unknown product affects only its reservation in the batch, and is not stored', async () => {
    await stocked(inventory, tenant, { known: 5 });
    const batch = [
      reservation({ known: 1 }),
      reservation({ 'unheard-of': 1, known: 1, nobody: 2 }),
      reservation({ known: 4 }),
    ];
    expect(await decide(inventory, tenant, batch)).toMatchObject([
      { outcome: 'held' },
      { outcome: 'unknown-product', product_ids: ['unheard-of', 'nobody'] },
      { outcome: 'held' },
    ]);
    await stocked(inventory, tenant, { 'unheard-of': 1, nobody: 2 });
    await inventory.adjustStock.execute(tenant, {
      ...{ productId: 'known', delta: 1, reason: 'found', account: 'a', idempotencyKey: randomUUID() },
    });
    expect(await outcomes(inventory, tenant, [batch[1]!])).toEqual(['held']);
  });

  it('refuses products in several currencies, and does not store that', async () => {
    await stocked(inventory, tenant, { 'in-gbp': 5, 'in-eur': 5 });
    await price('in-eur', 100, 'EUR');
    const mixed = reservation({ 'in-gbp': 1, 'in-eur': 1 });
    expect(await decide(inventory, tenant, [mixed, reservation({ 'in-eur': 5 })])).toMatchObject([
      { outcome: 'currency-mismatch', currencies: ['GBP', 'EUR'] },
      { outcome: 'held' },
    ]);
    await price('in-eur', 100, 'GBP');
    expect(await outcomes(inventory, tenant, [mixed])).toEqual(['out-of-stock']);
  });

  it('refuses a total outside the given range, in which prices from the caller replace those of products', async () => {
    await stocked(inventory, tenant, { ranged: 100 });
    const lines = [
      { product_id: 'ranged', quantity: 2 },
      { product_id: 'ranged', quantity: 3, unit_price_minor: 7 },
    ];
    const within = (at_least: number, at_most: number) =>
      reservation({}, { lines, items_total: { at_least, at_most } });
    expect(await decide(inventory, tenant, [within(221, 221), within(222, 300), within(0, 220)])).toMatchObject([
      { outcome: 'held' },
      { outcome: 'total-outside', items_total_minor: 221 },
      { outcome: 'total-outside', items_total_minor: 221 },
    ]);
    // A refusal for which nothing is held has no order.
    expect(await decide(inventory, tenant, [within(0, 220)])).toEqual([
      { outcome: 'total-outside', items_total_minor: 221 },
    ]);
    expect(await stockOf('ranged')).toMatchObject({ reserved: 5 });
  });

  it('of a batch that is tried at once differs for its orders if it has to, and leaves nothing of the try', async () => {
    await stocked(inventory, tenant, { 'once-a': 10, 'once-b': 1, 'once-eur': 10 });
    await price('once-eur', 100, 'EUR');
    // Only after a batch that was held as a whole is the next one tried at once.
    const whole = async () => {
      const [a, eur] = [reservation({ 'once-a': 1 }), reservation({ 'once-eur': 1 })];
      expect(await decide(inventory, tenant, [a, eur])).toEqual([
        { outcome: 'held', order_id: a.order_id },
        { outcome: 'held', order_id: eur.order_id },
      ]);
      return a;
    };
    await whole();
    const earlier = await whole();
    const repeat = reservation({ 'once-a': 1 }, { reservation_id: earlier.reservation_id });
    expect(await decide(inventory, tenant, [repeat, reservation({ 'once-a': 1 })])).toMatchObject([
      { outcome: 'held', order_id: earlier.order_id },
      { outcome: 'held' },
    ]);
    for (const [units, outcome] of [
      [{ 'once-a': 1, 'once-b': 2 }, 'out-of-stock'],
      [{ 'once-a': 1, 'never-heard-of': 1 }, 'unknown-product'],
      [{ 'once-a': 1, 'once-eur': 1 }, 'currency-mismatch'],
    ] as const) {
      await whole();
      expect(await outcomes(inventory, tenant, [reservation(units), reservation({ 'once-eur': 1 })])).toEqual([
        ...[outcome, 'held'],
      ]);
    }
    expect(await stockOf('once-a')).toMatchObject({ reserved: 6 });
    expect(await stockOf('once-b')).toMatchObject({ reserved: 0 });
    expect(await stockOf('once-eur')).toMatchObject({ reserved: 8 });
    expect(await brokenInvariants(inventory, tenant)).toEqual([]);
  });

  it('computes totals up to 2^53 exactly, and reports larger ones as null', async () => {
    await stocked(inventory, tenant, { dear: 1_000_000_000 });
    await price('dear', 100_000_000_000);
    const of = (quantity: number, at_most: number) =>
      reservation({ dear: quantity }, { items_total: { at_least: 0, at_most } });
    const own = reservation({}, { items_total: { at_least: 0, at_most: Number.MAX_SAFE_INTEGER } });
    own.lines = Array.from({ length: 2_000 }, () => ({
      ...{ product_id: 'dear', quantity: 1_000_000, unit_price_minor: 100_000_000_000 },
    }));
    expect(
      await decide(inventory, tenant, [of(90_071, 9_007_100_000_000_000), of(90_072, Number.MAX_SAFE_INTEGER), own]),
    ).toMatchObject([
      { outcome: 'held' },
      { outcome: 'total-outside', items_total_minor: null },
      { outcome: 'total-outside', items_total_minor: null },
    ]);
  });
});

describe('a retried reservation', () => {
  it('gets the stored decision, alone or in a batch with others', async () => {
    await stocked(inventory, tenant, { kept: 4 });
    const held = reservation({ kept: 3 });
    const refused = reservation({ kept: 2 });
    const first = await decide(inventory, tenant, [held, refused]);
    await inventory.countStock.execute(tenant, [{ product_id: 'kept', on_hand: 50 }]);

    expect(await decide(inventory, tenant, [refused, held])).toEqual(first.toReversed());
    const fresh = reservation({ kept: 5 });
    expect(await outcomes(inventory, tenant, [held, fresh, refused, held])).toEqual([
      'held',
      'held',
      'out-of-stock',
      'held',
    ]);
    expect(await stockOf('kept')).toMatchObject({ reserved: 8 });
  });

  it('is held after it was confirmed and fulfilled, and released after it was released', async () => {
    await stocked(inventory, tenant, { after: 4 });
    const one = reservation({ after: 2 });
    const seen = [await outcomes(inventory, tenant, [one])];
    for (const it of [
      effect(one.reservation_id, 1, 'confirm'),
      effect(one.reservation_id, 2, 'fulfil', { after: 2 }),
      effect(one.reservation_id, 3, 'release'),
    ]) {
      await inventory.settleStock.execute(tenant, [it]);
      seen.push(await outcomes(inventory, tenant, [one]));
    }
    expect(seen.flat()).toEqual(['held', 'held', 'held', 'released']);
    expect(await stockOf('after')).toEqual({ product_id: 'after', on_hand: 2, reserved: 0, available: 2, sold: 2 });
  });

  it('is refused if its release came first and left a tombstone', async () => {
    await stocked(inventory, tenant, { late: 4 });
    const late = reservation({ late: 1 });
    const release = effect(late.reservation_id, 1, 'release');
    expect(await inventory.settleStock.execute(tenant, [release, effect(late.reservation_id, 2, 'release')])).toEqual({
      ...{ applied: 2, repeated: 0, impossible: [] },
    });
    expect(await inventory.settleStock.execute(tenant, [release])).toEqual({ applied: 0, repeated: 1, impossible: [] });
    const fitting = reservation({ late: 4 });
    // The release did not name the order.
    expect(await decide(inventory, tenant, [fitting, late])).toEqual([
      { outcome: 'held', order_id: fitting.order_id },
      { outcome: 'released', order_id: null },
    ]);
  });

  it('is refused if its price has left the range since, and the hold is kept', async () => {
    await stocked(inventory, tenant, { moved: 4, 'moved-too': 4 });
    const expected = reservation({ moved: 2 }, { items_total: { at_least: 200, at_most: 200 } });
    const two = reservation({ moved: 1, 'moved-too': 1 });
    expect(await outcomes(inventory, tenant, [expected, two])).toEqual(['held', 'held']);

    await price('moved', 101);
    await price('moved-too', 100, 'EUR');
    for (const _ of ['once', 'and again']) {
      const again = [expected, two].map((it) => ({ ...it, order_id: randomUUID() }));
      expect(await decide(inventory, tenant, again)).toMatchObject([
        { outcome: 'total-outside', items_total_minor: 202, order_id: expected.order_id },
        { outcome: 'currency-mismatch', currencies: ['GBP', 'EUR'], order_id: two.order_id },
      ]);
    }
    expect(await stockOf('moved')).toMatchObject({ reserved: 3 });
    await price('moved', 100);
    expect(await outcomes(inventory, tenant, [expected])).toEqual(['held']);
    expect(await brokenInvariants(inventory, tenant)).toEqual([]);
  });
});

describe('the order of a reservation', () => {
  it('is that of the first request, and is returned with every later decision', async () => {
    await stocked(inventory, tenant, { ordered: 4 });
    const first = reservation({ ordered: 3 });
    const later = () => ({ ...first, order_id: randomUUID() });
    const held = { outcome: 'held', order_id: first.order_id };
    // In the same batch, and together with others.
    const fresh = reservation({ ordered: 1 });
    expect(await decide(inventory, tenant, [first, later()])).toEqual([held, held]);
    expect(await decide(inventory, tenant, [later(), fresh, later()])).toEqual([
      ...[held, { outcome: 'held', order_id: fresh.order_id }, held],
    ]);
    // Also if others of the batch are refused, and whatever became of the order.
    const [again, refused] = await decide(inventory, tenant, [later(), reservation({ ordered: 1 })]);
    expect([again, refused!.outcome]).toEqual([held, 'out-of-stock']);
    await inventory.settleStock.execute(tenant, [
      ...[effect(first.reservation_id, 1, 'confirm'), effect(first.reservation_id, 2, 'fulfil', { ordered: 1 })],
    ]);
    expect(await decide(inventory, tenant, [later()])).toEqual([held]);
    await inventory.settleStock.execute(tenant, [effect(first.reservation_id, 3, 'release')]);
    expect(await decide(inventory, tenant, [later()])).toEqual([{ outcome: 'released', order_id: first.order_id }]);
  });

  it('can change as long as no decision is stored', async () => {
    const unknown = reservation({ 'of-nobody': 1 });
    expect(await outcomes(inventory, tenant, [unknown])).toEqual(['unknown-product']);
    await stocked(inventory, tenant, { 'of-nobody': 1 });
    const other = { ...unknown, order_id: randomUUID() };
    expect(await decide(inventory, tenant, [other])).toEqual([{ outcome: 'held', order_id: other.order_id }]);
    expect(await decide(inventory, tenant, [unknown])).toEqual([{ outcome: 'held', order_id: other.order_id }]);
  });
});

it('tenants with the same product and reservation ids are kept apart', async () => {
  const other = newTenant();
  await stocked(inventory, tenant, { shared: 3 });
  await stocked(inventory, other, { shared: 2 });
  const one = reservation({ shared: 2 });
  expect(await outcomes(inventory, tenant, [one])).toEqual(['held']);
  expect(await outcomes(inventory, other, [one])).toEqual(['held']);
  const release = effect(one.reservation_id, 1, 'release');
  await inventory.settleStock.execute(other, [release]);
  expect(await stockOf('shared')).toMatchObject({ reserved: 2 });
  expect(await stockOf('shared', other)).toMatchObject({ reserved: 0 });
  expect(await inventory.settleStock.execute(tenant, [release])).toMatchObject({ applied: 1, repeated: 0 });

  await stocked(inventory, tenant, { own: 1 });
  expect(await outcomes(inventory, other, [reservation({ own: 1 })])).toEqual(['unknown-product']);
});

it('the largest batch is decided with a query plan made for small ones on empty tables', async () => {
  const own = await testDatabase();
  const instance = await startInstance(own.url);
  try {
    await stocked(instance, tenant, { first: 1_000 });
    // More often than Postgres makes custom plans before it keeps a generic one.
    for (let times = 0; times < 8; times += 1) {
      const small = reservation({ first: 1 });
      const ranged = reservation({ first: 1 }, { items_total: { at_least: 0, at_most: 1 } });
      await decide(instance, tenant, [small]);
      await decide(instance, tenant, [ranged, small]);
      await instance.settleStock.execute(tenant, [effect(small.reservation_id, 2, 'fulfil', { first: 1 })]);
    }
    const ids = Array.from({ length: 5_000 }, (_, index) => `product-${index}`);
    for (let from = 0; from < ids.length; from += 1_000)
      await stocked(
        instance,
        tenant,
        Object.fromEntries(ids.slice(from, from + 1_000).map((id, index) => [id, index % 10])),
      );
    const orders = Array.from({ length: 250 }, (_, order) =>
      reservation(Object.fromEntries(ids.slice(order * 20, order * 20 + 20).map((id) => [id, 1]))),
    );
    // Every tenth product is out of stock, so that each order is refused; with more units, each is held.
    expect(new Set(await outcomes(instance, tenant, orders))).toEqual(new Set(['out-of-stock']));
    for (let from = 0; from < ids.length; from += 1_000)
      await instance.countStock.execute(
        tenant,
        ids.slice(from, from + 1_000).map((product_id) => ({ product_id, on_hand: 5 })),
      );
    const held = orders.map((it) => ({ ...it, reservation_id: randomUUID() }));
    expect(new Set(await outcomes(instance, tenant, held))).toEqual(new Set(['held']));
    // Tried at once, because the batch before was held as a whole.
    const atOnce = orders.map((it) => ({ ...it, reservation_id: randomUUID() }));
    expect(new Set(await outcomes(instance, tenant, atOnce))).toEqual(new Set(['held']));
    const kinds = ['fulfil', 'release'] as const;
    const effects = held.map((it, index) => ({
      ...effect(it.reservation_id, 2, kinds[index % 2]!),
      ...(index % 2 === 0 && { lines: it.lines }),
    }));
    expect(await instance.settleStock.execute(tenant, effects)).toEqual({ applied: 250, repeated: 0, impossible: [] });
    expect(await brokenInvariants(instance, tenant)).toEqual([]);
  } finally {
    await instance.stop();
    await own.stop();
  }
});
