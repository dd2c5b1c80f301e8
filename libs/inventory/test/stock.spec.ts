import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { limits, type Stock } from '#contracts';
import type { Statement } from '#database';
import { testDatabase, type TestDatabase } from '#testing';
import { PostgresStock } from '../src/adapters/postgres-stock.js';
import { ListStock } from '../src/use-cases/list-stock.js';
import {
  brokenInvariants,
  decide,
  effect,
  fillOnePart,
  longHoldMs,
  nameOf,
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
  // Its default collation does not sort by bytes, as that of the embedded server does.
  database = await testDatabase('a server', 'en');
  inventory = await startInstance(database.url);
});

afterAll(async () => {
  await inventory?.stop();
  await database?.stop();
});

/** The page that each reservation is in. */
const pagesOf = {
  name: 'test-pages-of',
  text: `
    SELECT reservation_id AS id, (ctid::text::point)[0]::int AS page FROM inventory.reservations
    WHERE tenant_id = $1 AND reservation_id = ANY ($2) ORDER BY reservation_id`,
};

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
  it('are put all or none, and are returned in the order given, with which of them are new', async () => {
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

  it('keep updated_at until something changes', async () => {
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

  it('are listed across pages in the byte order of their ids, whatever the collation of the database', async () => {
    const other = newTenant();
    const isEnglish = { name: 'test-order', text: `SELECT 'a' < 'Z' AS "isEnglish"` };
    expect(await inventory.sql.query(isEnglish)).toEqual([{ isEnglish: true }]);
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
  it('sets the stock on hand of all its products or of none', async () => {
    await stocked(inventory, tenant, { 'count-a': 5, 'count-b': 5 });
    await hold({ 'count-b': 3 });
    const count = (...counts: [string, number][]) =>
      inventory.countStock.execute(
        tenant,
        counts.map(([product_id, on_hand]) => ({ product_id, on_hand })),
      );
    // Named `counted`, because `on_hand` means the stock on hand everywhere else.
    await expect(count(['count-a', 9], ['count-b', 2])).rejects.toMatchObject({
      code: 'stock-below-reserved',
      extensions: { products: [{ product_id: 'count-b', counted: 2, reserved: 3 }] },
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
  it('is made once per idempotency key, and a retry gets the stock as it was then', async () => {
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

  it('of another account may have the same idempotency key', async () => {
    await stocked(inventory, tenant, { adjusted: 5 });
    const [productId, idempotencyKey] = ['adjusted', randomUUID()];
    const by = (account: string) =>
      inventory.adjustStock.execute(tenant, { productId, delta: 1, reason: 'found', account, idempotencyKey });
    expect(await by('a')).toMatchObject({ stock: { on_hand: 6 }, replayed: false });
    expect(await by('b')).toMatchObject({ stock: { on_hand: 7 }, replayed: false });
    expect(await by('a')).toMatchObject({ stock: { on_hand: 6 }, replayed: true });
    expect(await stockOf('adjusted')).toMatchObject({ on_hand: 7 });
  });

  it('that is refused does not use up its idempotency key', async () => {
    await stocked(inventory, tenant, { tight: 5 });
    const reservationId = await hold({ tight: 4 });
    const key = randomUUID();
    await expect(adjust('tight', -2, key)).rejects.toMatchObject({
      code: 'stock-below-reserved',
      extensions: { products: [{ product_id: 'tight', on_hand: 5, reserved: 4, available: 1 }] },
    });
    await expect(adjust('tight', limits.onHand, key)).rejects.toMatchObject({ code: 'invalid-request' });
    await expect(adjust('missing', 1, key)).rejects.toMatchObject({ code: 'product-not-found' });
    await settle(effect(reservationId, 2, 'release'));
    expect(await adjust('tight', -2, key)).toMatchObject({ stock: { on_hand: 3 }, replayed: false });
    expect(await brokenInvariants(inventory, tenant)).toEqual([]);
  });
});

describe('an effect', () => {
  it('is applied once, even if it is delivered again in another batch', async () => {
    await stocked(inventory, tenant, { once: 10, also: 10 });
    const one = await hold({ once: 3, also: 1 });
    const two = await hold({ once: 2 });
    const confirmed = effect(one, 1, 'confirm');
    const part = effect(one, 2, 'fulfil', { once: 1 });
    const rest = effect(one, 3, 'fulfil', { once: 2, also: 1 });
    const back = effect(one, 4, 'restock', { once: 2 });
    expect(await settle(confirmed, part, part)).toEqual({ applied: 2, repeated: 1, impossible: [] });
    expect(await settle(confirmed, part, rest, back, effect(two, 1, 'release'))).toEqual({
      ...{ applied: 3, repeated: 2, impossible: [] },
    });
    expect(await settle(rest, back)).toEqual({ applied: 0, repeated: 2, impossible: [] });
    expect(await stockOf('once')).toEqual({ product_id: 'once', on_hand: 9, reserved: 0, available: 9, sold: 3 });
    expect(await stockOf('also')).toMatchObject({ on_hand: 9, reserved: 0, sold: 1 });
    expect(await brokenInvariants(inventory, tenant)).toEqual([]);
  });

  it('that confirms a hold leaves it in its page, where it needs no new entry in the index', async () => {
    await stocked(inventory, tenant, { place: 1_000 });
    const holds = Array.from({ length: 500 }, () => reservation({ place: 1 }));
    await decide(inventory, tenant, holds);
    const ids = holds.map((it) => it.reservation_id);
    const pages = () => inventory.sql.query<{ id: string; page: number }>(pagesOf, [tenant, ids]);
    const before = await pages();
    await settle(...ids.map((id) => effect(id, 1, 'confirm')));
    expect(await pages()).toEqual(before);
  });

  it('with several lines for one product applies their sum', async () => {
    await stocked(inventory, tenant, { lines: 10 });
    const id = await hold({ lines: 7 });
    const lines = [1, 2, 3].map((quantity) => ({ product_id: 'lines', quantity }));
    await settle({ ...effect(id, 2, 'fulfil'), lines });
    expect(await stockOf('lines')).toMatchObject({ on_hand: 4, reserved: 1, sold: 6 });
  });

  it('that is impossible is reported, changes nothing and does not hold up others', async () => {
    await stocked(inventory, tenant, { scarce: 10, other: 10 });
    const [id, nobody] = [await hold({ scarce: 2, other: 1 }), randomUUID()];
    const tooMany = effect(id, 2, 'fulfil', { other: 1, scarce: 3 });
    const nothingHeld = effect(nobody, 2, 'fulfil', { scarce: 1 });
    const nothingToConfirm = effect(nobody, 1, 'confirm');
    const neverSold = effect(nobody, 3, 'restock', { scarce: 1 });
    const unknown = effect(id, 4, 'restock', { 'never-heard-of': 1 });
    const fine = effect(id, 3, 'fulfil', { scarce: 1 });
    const all = [tooMany, nothingHeld, nothingToConfirm, neverSold, fine, unknown];
    const { impossible, ...counted } = await settle(...all);
    expect(counted).toEqual({ applied: 1, repeated: 0 });
    expect(new Set(impossible)).toEqual(new Set(all.filter((it) => it !== fine).map(nameOf)));
    expect(await stockOf('scarce')).toMatchObject({ on_hand: 9, reserved: 1, sold: 1 });
    expect(await stockOf('other')).toMatchObject({ on_hand: 10, reserved: 1, sold: 0 });
    // It is reported as well among valid confirmations.
    const confirmed = effect(await hold({ other: 1 }), 1, 'confirm');
    expect(await settle(confirmed, nothingToConfirm)).toEqual({
      ...{ applied: 1, repeated: 0, impossible: [nameOf(nothingToConfirm)] },
    });
    expect(await brokenInvariants(inventory, tenant)).toEqual([]);
  });

  it('that was impossible is applied once it is possible, unless a later version was applied meanwhile', async () => {
    await stocked(inventory, tenant, { mended: 10 });
    const id = await hold({ mended: 2 });
    const [unknown, tooMany] = [effect(id, 2, 'restock', { 'not-yet': 1 }), effect(id, 3, 'fulfil', { mended: 3 })];
    expect(await settle(unknown, tooMany)).toMatchObject({
      applied: 0,
      impossible: [nameOf(unknown), nameOf(tooMany)],
    });
    await stocked(inventory, tenant, { 'not-yet': 0 });
    expect(await settle(unknown, tooMany)).toEqual({ applied: 1, repeated: 0, impossible: [nameOf(tooMany)] });
    expect(await stockOf('not-yet')).toMatchObject({ on_hand: 1 });

    expect(await settle(effect(id, 4, 'fulfil', { mended: 1 }))).toMatchObject({ applied: 1 });
    expect(await settle(unknown, tooMany)).toEqual({ applied: 0, repeated: 2, impossible: [] });
    expect(await stockOf('mended')).toMatchObject({ on_hand: 9, reserved: 1, sold: 1 });
    expect(await brokenInvariants(inventory, tenant)).toEqual([]);
  });

  it.each(['confirm', 'release', 'fulfil', 'restock'] as const)(
    '(%s) with an older version than the last one applied is skipped, alone and in a batch',
    async (kind) => {
      const product = `late-${kind}`;
      await stocked(inventory, tenant, { [product]: 10, [`${product}-2`]: 10 });
      const [id, other] = [await hold({ [product]: 4 }), await hold({ [`${product}-2`]: 4 })];
      const late = effect(id, 2, kind, kind === 'fulfil' || kind === 'restock' ? { [product]: 1 } : undefined);
      await settle(effect(id, 1, 'confirm'), effect(id, 3, 'fulfil', { [product]: 2 }));
      const before = [await stockOf(product), await decide(inventory, tenant, [reservation({ [product]: 9 })])];
      expect(await settle(late)).toEqual({ applied: 0, repeated: 1, impossible: [] });
      const company = [effect(other, 1, 'confirm'), effect(other, 2, 'fulfil', { [`${product}-2`]: 1 })];
      expect(await settle(...company, late, effect(id, 3, 'release'), effect(id, 1, 'confirm'))).toEqual({
        ...{ applied: 2, repeated: 3, impossible: [] },
      });
      expect([await stockOf(product), await decide(inventory, tenant, [reservation({ [product]: 9 })])]).toEqual(
        before,
      );
      // Later effects are applied as if the skipped one had never come.
      expect(await settle(effect(id, 4, 'release'))).toMatchObject({ applied: 1 });
      expect(await stockOf(product)).toMatchObject({ on_hand: 8, reserved: 0, sold: 2 });
      expect(await brokenInvariants(inventory, tenant)).toEqual([]);
    },
  );

  it('leaves a refused reservation refused and a fulfilled one fulfilled', async () => {
    await stocked(inventory, tenant, { final: 1 });
    const refused = reservation({ final: 2 });
    await decide(inventory, tenant, [refused]);
    await settle(effect(refused.reservation_id, 1, 'confirm'));
    const fulfilled = await hold({ final: 1 });
    await settle(effect(fulfilled, 1, 'confirm'), effect(fulfilled, 2, 'fulfil', { final: 1 }));
    await settle(effect(fulfilled, 3, 'release'));
    expect((await decide(inventory, tenant, [refused]))[0]).toMatchObject({ outcome: 'out-of-stock' });
    expect(await stockOf('final')).toMatchObject({ on_hand: 0, reserved: 0, sold: 1 });
  });
});

describe('an overdue hold', () => {
  // Overdue holds are found for all tenants, so these tests have a database of their own.
  let own: TestDatabase;
  let alone: Instance;
  beforeAll(async () => {
    own = await testDatabase();
    alone = await startInstance(own.url);
  });
  afterAll(async () => {
    await alone?.stop();
    await own?.stop();
  });

  const overdue = async (after: Date | null = null, limit = 100) => {
    const { holds, looked_at } = await alone.findOverdueHolds.execute({ after, limit });
    return { ids: holds.map((it) => it.reservation_id).toSorted(), holds, looked_at };
  };
  const held = async (of: string, holdMs: number, units: Record<string, number> = { mug: 1 }) => {
    const wanted = reservation(units);
    const [decision] = await decide(alone, of, [wanted], holdMs);
    expect(decision!.outcome).toBe('held');
    return wanted;
  };
  const age = (reservationId: string, by: string) =>
    alone.sql.query(
      {
        name: 'test-age',
        text: `UPDATE inventory.reservations SET deadline_at = now() - $2::interval WHERE reservation_id = $1`,
      },
      [reservationId, by],
    );
  const untilPast = async (ms: number) => {
    await setTimeout(ms + 20);
  };

  it('is one of any tenant that is past its deadline and neither confirmed nor released', async () => {
    const [here, there] = [newTenant(), newTenant()];
    for (const it of [here, there]) await stocked(alone, it, { mug: 100 });
    await held(here, longHoldMs);
    const [mine, theirs] = [await held(here, 1), await held(there, 1)];
    const ends = [
      ...[effect((await held(here, 1)).reservation_id, 1, 'confirm')],
      ...[effect((await held(here, 1)).reservation_id, 1, 'release')],
      ...[effect(randomUUID(), 1, 'release')],
    ];
    await alone.settleStock.execute(here, ends);
    const done = await held(here, 1);
    await alone.settleStock.execute(here, [
      ...[effect(done.reservation_id, 1, 'confirm'), effect(done.reservation_id, 2, 'fulfil', { mug: 1 })],
    ]);
    const [refusal] = await decide(alone, here, [reservation({ mug: 1_000 })], 1);
    expect(refusal!.outcome).toBe('out-of-stock');
    await untilPast(1);

    const { holds, ids } = await overdue();
    expect(ids).toEqual([mine.reservation_id, theirs.reservation_id].toSorted());
    expect(holds).toContainEqual({
      ...{ tenant_id: here, reservation_id: mine.reservation_id, order_id: mine.order_id },
    });
    expect(holds).toContainEqual({
      ...{ tenant_id: there, reservation_id: theirs.reservation_id, order_id: theirs.order_id },
    });
    // Finding a hold does not release it.
    expect((await alone.readStock.execute(here, 'mug')).reserved).toBe(3);
    expect((await overdue()).ids).toEqual(ids);

    expect((await overdue(null, 1)).ids).toHaveLength(1);
    await alone.settleStock.execute(here, [effect(mine.reservation_id, 1, 'release')]);
    expect((await overdue(null, 1)).ids).toEqual([theirs.reservation_id]);
    await alone.settleStock.execute(there, [effect(theirs.reservation_id, 1, 'confirm')]);
    expect((await overdue()).ids).toEqual([]);
  });

  it('has the order and the deadline of the first request, whatever its retries say', async () => {
    const tenant = newTenant();
    await stocked(alone, tenant, { mug: 100 });
    const [first, long] = [await held(tenant, 60_000), await held(tenant, longHoldMs)];
    const deadlines = () =>
      alone.sql.query(
        {
          name: 'test-deadlines',
          text: 'SELECT deadline_at FROM inventory.reservations WHERE tenant_id = $1 ORDER BY deadline_at',
        },
        [tenant],
      );
    const before = await deadlines();
    const again = (it: typeof first) => ({ ...it, order_id: randomUUID() });
    expect(await outcomes(alone, tenant, [again(first)], longHoldMs)).toEqual(['held']);
    expect(await outcomes(alone, tenant, [again(long)], 1)).toEqual(['held']);
    expect(await deadlines()).toEqual(before);
    expect((await overdue()).ids).toEqual([]);
    await age(first.reservation_id, '1 second');
    expect((await overdue()).holds).toEqual([
      { tenant_id: tenant, reservation_id: first.reservation_id, order_id: first.order_id },
    ]);
    await alone.settleStock.execute(tenant, [effect(first.reservation_id, 1, 'release')]);
  });

  it('that was overdue a minute before the previous search is only found by a search from the start', async () => {
    const tenant = newTenant();
    await stocked(alone, tenant, { mug: 100 });
    const [old, justInTime] = [await held(tenant, 1), await held(tenant, 1)];
    const { looked_at } = await overdue();
    await age(old.reservation_id, '61 seconds');
    await age(justInTime.reservation_id, '30 seconds');
    const fresh = await held(tenant, 1);
    await untilPast(1);
    expect((await overdue(looked_at)).ids).toEqual([justInTime, fresh].map((it) => it.reservation_id).toSorted());
    const all = await overdue();
    expect(all.ids).toEqual([old, justInTime, fresh].map((it) => it.reservation_id).toSorted());
    expect(all.looked_at.getTime()).toBeGreaterThanOrEqual(looked_at.getTime());
    await age(fresh.reservation_id, '-1 hour');
    expect((await overdue(looked_at)).ids).toEqual([justInTime.reservation_id]);
  });

  it('is also found part by part of the table, each with a TID range scan', async () => {
    const tenant = newTenant();
    await stocked(alone, tenant, { mug: 100 });
    const inFront = await held(tenant, 1);
    await fillOnePart(alone);
    const behind = await held(tenant, 1);
    await untilPast(1);
    const parts: string[][] = [];
    for (let part = 0, count = 1; part < count; part += 1) {
      const look = await alone.findOverdueHolds.execute({ after: null, part, limit: 100 });
      count = look.parts!;
      parts.push(look.holds.filter((it) => it.tenant_id === tenant).map((it) => it.reservation_id));
    }
    expect(parts).toHaveLength(2);
    expect(parts.flat().toSorted()).toEqual([inFront, behind].map((it) => it.reservation_id).toSorted());

    // Even a generic plan, which is made for all parts at once, scans only its part.
    const asked: [statement: Statement, values: readonly unknown[]][] = [];
    const noting = {
      query: (...it: (typeof asked)[0]) => {
        asked.push(it);
        return [{ looked_at: new Date(), parts: 1, forgotten: 0 }];
      },
    };
    const stock = new PostgresStock({ readSafely: (read: (sql: typeof noting) => unknown) => read(noting) } as never);
    await stock.find({ after: null, part: 0, limit: 1 });
    await stock.forget(limits.refusalKeptMs, { after: null, part: 0 }, 1);
    const client = new pg.Client(own.url);
    await client.connect();
    try {
      await client.query(`SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan`);
      for (const [{ name, text }, values] of asked.filter(([it]) => it.name.endsWith('-part'))) {
        await client.query(`PREPARE "${name}" AS ${text}`);
        const given = values.map((it) => client.escapeLiteral(String(it))).join();
        const { rows } = await client.query<{ 'QUERY PLAN': string }>(`EXPLAIN EXECUTE "${name}" (${given})`);
        const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
        expect(plan).toContain('Tid Range Scan on reservations');
        expect(plan).not.toMatch(/by_deadline|Seq Scan/);
      }
    } finally {
      await client.end();
    }
  });
});

describe('the list of stock', () => {
  it('reads every product once, across pages, and shows its present stock', async () => {
    const other = newTenant();
    const ids = ['a', 'Z', 'é', '10', '9', '🦊', '\uffff'];
    await stocked(inventory, other, Object.fromEntries(ids.map((id, index) => [id, index + 3])));
    await stocked(inventory, newTenant(), { b: 1 });
    await decide(inventory, other, [reservation({ Z: 2 })]);
    const list = new ListStock(new PostgresStock(inventory.sql));
    const pages: Stock[][] = [];
    for (let after: string | undefined; ;) {
      const { data, last } = await list.execute(other, after, 3);
      pages.push(data);
      if (last === null) break;
      expect(last).toBe(data.at(-1)!.product_id);
      after = last;
    }
    expect(pages.map((it) => it.length)).toEqual([3, 3, 1]);
    const sorted = ids.toSorted((one, two) => Buffer.compare(Buffer.from(one), Buffer.from(two)));
    expect(pages.flat()).toEqual(
      sorted.map((product_id) => {
        const on_hand = ids.indexOf(product_id) + 3;
        const reserved = product_id === 'Z' ? 2 : 0;
        return { product_id, on_hand, reserved, available: on_hand - reserved, sold: 0 };
      }),
    );
    expect(await list.execute(newTenant(), undefined, 3)).toEqual({ data: [], last: null });
  });

  it('reads no more than a page of a large catalogue, also by a plan that was made for all pages', async () => {
    const asked: [statement: Statement, values: readonly unknown[]][] = [];
    const noting = { query: (...it: (typeof asked)[0]) => (asked.push(it), []) };
    const large = newTenant();
    const limit = 51;
    await new PostgresStock(noting as never).page(large, '7', limit);
    const [[{ name, text }, values]] = asked as [(typeof asked)[0]];
    const own = await testDatabase();
    const alone = await startInstance(own.url);
    const client = new pg.Client(own.url);
    try {
      await client.connect();
      // In an order that the ids do not follow, so that to sort all rows looks cheaper than to read them by the index.
      await client.query(
        `INSERT INTO inventory.products (tenant_id, product_id, name, unit_price_minor, currency)
         SELECT $1, md5(i::text), repeat('n', 100), 1, 'GBP' FROM generate_series(1, 60000) i`,
        [large],
      );
      await client.query(`ANALYZE inventory.products`);
      await client.query(`SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan`);
      await client.query(`PREPARE "${name}" AS ${text}`);
      const given = values.map((it) => client.escapeLiteral(String(it))).join();
      const { rows } = await client.query<{ 'QUERY PLAN': string }>(`EXPLAIN (ANALYZE) EXECUTE "${name}" (${given})`);
      const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
      expect(plan).toMatch(/Index Scan using products_pkey/);
      expect(plan).not.toMatch(/Sort|Bitmap|Seq Scan/);
    } finally {
      await client.end();
      await alone.stop();
      await own.stop();
    }
  });
});
