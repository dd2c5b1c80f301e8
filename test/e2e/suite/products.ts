import { describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { ok, refused, type Answer, type Product, type ProductBatch, type ProductPage } from '../../support/api.js';
import { fresh } from '../../support/fresh.js';
import type { World } from './world.js';

const described = (name = 'Mug', unit_price_minor = 850, currency = 'GBP') => ({ name, unit_price_minor, currency });

/** Ids that may confuse paths, objects, patterns or encodings. The mark makes them unique; some cannot have one. */
const oddIds = (mark: string): string[] => [
  `${mark}/with/slashes/`,
  `/${mark}`,
  `${mark}//`,
  `${mark}%`,
  `${mark}%2F`,
  `${mark}%zz`,
  `${mark} with spaces`,
  ` ${mark}`,
  `${mark} `,
  `${mark}?a=b&c#d`,
  `${mark}+plus;semi:colon,comma`,
  `:${mark}`,
  `*${mark}`,
  `${mark}.json`,
  `${mark}/adjustments`,
  `${mark}\\back\\slash`,
  `${mark}"quotes'and\`ticks`,
  `${mark}\ttab\nline\u007f`,
  `${mark}\u00e9`,
  `${mark}e\u0301`,
  `${mark}日本語`,
  `${mark}🧸👩‍👩‍👧`,
  `${mark}\u202eright to left`,
  `${mark}{"json":[1]}`,
  `${mark}'; DROP TABLE inventory.products; --`,
  mark.padEnd(128, 'x'),
  mark.padEnd(128, '語'),
  mark + '🧸'.repeat(128 - mark.length),
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'hasOwnProperty',
  'batch',
  'null',
  'undefined',
  '0',
  '-1',
  ' ',
];

export const productTests = (world: World): void => {
  const put = (id: string, body: unknown): Promise<Answer<Product>> =>
    world.api.send<Product>('PUT', `/products/${encodeURIComponent(id)}`, { body });
  const get = (id: string): Promise<Answer<Product>> => world.api.get<Product>(`/products/${encodeURIComponent(id)}`);
  const putBatch = (products: unknown): Promise<Answer<ProductBatch>> =>
    world.api.send<ProductBatch>('POST', '/products/batch', { body: { products } });

  const all = async (limit: number): Promise<Product[]> => {
    const found: Product[] = [];
    let path = `/products?limit=${limit}`;
    for (;;) {
      const page = ok(await world.api.get<ProductPage>(path));
      expect(page.data.length).toBeLessThanOrEqual(limit);
      found.push(...page.data);
      if (page.next_cursor === null) return found;
      expect(page.data).toHaveLength(limit);
      path = `/products?limit=${limit}&cursor=${encodeURIComponent(page.next_cursor)}`;
    }
  };

  describe('a product', () => {
    it('is created by the first PUT and changed by the next', async () => {
      const id = fresh('p');
      refused(await get(id), '404 product-not-found');
      const created = ok(await put(id, described()), 201);
      expect(created).toEqual({
        product_id: id,
        ...described(),
        created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z$/),
        updated_at: created.created_at,
      });
      expect(Math.abs(Date.now() - Date.parse(created.created_at))).toBeLessThan(60_000);
      expect(ok(await get(id))).toEqual(created);
      const changed = ok(await put(id, described('Mug, blue', 0, 'EUR')));
      expect(changed).toMatchObject({ ...described('Mug, blue', 0, 'EUR'), created_at: created.created_at });
      expect(Date.parse(changed.updated_at)).toBeGreaterThan(Date.parse(created.updated_at));
      expect(ok(await get(id))).toEqual(changed);
    });

    it('that is put unchanged keeps its timestamps', async () => {
      const id = fresh('p');
      const created = ok(await put(id, described()), 201);
      expect(ok(await put(id, described()))).toEqual(created);
      expect(ok(await get(id))).toEqual(created);
    });

    it('shows a change at once, although it was read and cached before', async () => {
      const id = fresh('p');
      ok(await put(id, described('Mug', 0)), 201);
      for (let price = 1; price <= 25; price += 1) {
        ok(await get(id));
        ok(await get(id));
        if (price % 2 === 0) ok(await put(id, described('Mug', price)));
        else ok(await putBatch([{ product_id: id, ...described('Mug', price) }]));
        expect(ok(await get(id)).unit_price_minor).toBe(price);
      }
    });

    it('shows a change whose process was killed before it invalidated the cache', async () => {
      const id = fresh('p');
      ok(await put(id, described('Mug', 1)), 201);
      ok(await get(id));
      expect(ok(await get(id)).unit_price_minor).toBe(1);
      // As a process leaves it that is killed after its commit.
      await world.ledger.inventory(
        `WITH changed AS (
           UPDATE inventory.products SET unit_price_minor = 2 WHERE product_id = $1 RETURNING tenant_id, product_id
         ) INSERT INTO inventory.product_changes (tenant_id, product_id) SELECT * FROM changed`,
        [id],
      );
      const noted = `SELECT FROM inventory.product_changes WHERE product_id = $1`;
      await eventually(async () => expect(await world.ledger.inventory(noted, [id])).toEqual([]));
      expect(ok(await get(id)).unit_price_minor).toBe(2);
    });

    it('is sold at its current price, which the order keeps', async () => {
      const id = await world.api.product({ price: 100 });
      ok(await get(id));
      ok(await put(id, described('Mug', 333)));
      const order = { customer_id: fresh('c'), product_id: id, quantity: 1 };
      const placed = await world.api.placed(order);
      expect(placed).toMatchObject({ total_minor: 333, lines: [{ name: 'Mug', unit_price_minor: 333 }] });
      ok(await put(id, described('Cup', 1)));
      expect(await world.api.order(placed.order_id)).toEqual(placed);
    });

    it('is not affected by cache entries of callers', async () => {
      const id = await world.api.product({ price: 100 });
      const genuine = ok(await get(id));
      const forged = { ...genuine, name: 'Forged', unit_price_minor: 1 };
      for (const key of [`product:default:${id}`, `product:${id}`, id])
        ok(await world.api.send('PUT', '/cache', { body: { key, value: forged } }));
      expect(ok(await get(id))).toEqual(genuine);
    });

    it('can have an id of slashes, spaces, escapes, Unicode or reserved words', async () => {
      const ids = oddIds(fresh('odd'));
      for (const id of ids) {
        expect(ok(await put(id, described(`Called ${id}`)), 201).product_id).toBe(id);
        expect(ok(await get(id))).toMatchObject({ product_id: id, name: `Called ${id}` });
        const path = `/stock/${encodeURIComponent(id)}`;
        expect(ok(await world.api.send('PUT', path, { body: { on_hand: 5 } }))).toMatchObject({ product_id: id });
        const adjustment = { body: { delta: 1, reason: 'found' }, key: fresh('k') };
        ok(await world.api.send('POST', `${path}/adjustments`, adjustment));
      }
      const lines = ids.map((product_id) => ({ product_id, quantity: 2 }));
      const placed = await world.api.placed({ customer_id: ids[0], lines });
      expect(placed.lines.map((it) => it.product_id)).toEqual(ids);
      for (const id of ids)
        expect(await world.api.stock(id)).toMatchObject({ product_id: id, on_hand: 6, reserved: 2 });
      ok(await world.api.fulfil(placed.order_id, { lines }));
      ok(await world.api.return(placed.order_id, { lines, restock: true, reason: 'all of them' }), 201);
      await world.ledger.quiet();
      for (const id of ids)
        expect(await world.api.stock(id)).toMatchObject({ product_id: id, on_hand: 6, reserved: 0, sold: 2 });
      const listed = new Set((await all(200)).map((it) => it.product_id));
      expect(ids.filter((id) => !listed.has(id))).toEqual([]);
    });

    it('can have an id that no URL path can contain, and be ordered', async () => {
      const ids = ['.', '..', `../${fresh('dots')}`, `${fresh('dots')}/../..`];
      ok(await putBatch(ids.map((product_id) => ({ product_id, ...described() }))));
      ok(
        await world.api.send('POST', '/stock/batch', {
          body: { stock: ids.map((product_id) => ({ product_id, on_hand: 5 })) },
        }),
      );
      const lines = ids.map((product_id) => ({ product_id, quantity: 5 }));
      const placed = await world.api.placed({ customer_id: fresh('c'), lines });
      expect(placed.lines.map((it) => it.product_id)).toEqual(ids);
      refused(await world.api.place({ customer_id: fresh('c'), lines }), '409 out-of-stock');
    });

    it.each([
      ['name', { ...described(), name: '' }],
      ['name', { ...described(), name: 'x'.repeat(501) }],
      ['name', { ...described(), name: 5 }],
      ['name', { unit_price_minor: 1, currency: 'GBP' }],
      ['unit_price_minor', described('Mug', -1)],
      ['unit_price_minor', described('Mug', 1.5)],
      ['unit_price_minor', described('Mug', 100_000_000_001)],
      ['unit_price_minor', { ...described(), unit_price_minor: '850' }],
      ['currency', described('Mug', 1, 'gbp')],
      ['currency', described('Mug', 1, 'GBPX')],
      ['currency', described('Mug', 1, '')],
      ['on_hand', { ...described(), on_hand: 5 }],
    ])('with an invalid %s is refused: %j', async (path, body) => {
      const id = fresh('p');
      refused(await put(id, body), '400 invalid-request', [path]);
      refused(await get(id), '404 product-not-found');
    });
  });

  describe('products', () => {
    it('are put in a batch, all or none', async () => {
      const [one, other, third] = [fresh('p'), fresh('p'), fresh('p')];
      ok(await put(one, described()), 201);
      const { data } = ok(
        await putBatch([
          { product_id: other, ...described('Lamp', 4_250) },
          { product_id: one, ...described('Mug', 900) },
        ]),
      );
      expect(data.map((it) => [it.product_id, it.name, it.unit_price_minor])).toEqual([
        [other, 'Lamp', 4_250],
        [one, 'Mug', 900],
      ]);
      expect(ok(await get(other))).toEqual(data[0]);
      expect(ok(await get(one))).toEqual(data[1]);
      await world.ledger.unchangedBy(async () => {
        const wrong = await putBatch([
          { product_id: one, ...described('Changed', 1) },
          { product_id: third, ...described('New', -1) },
        ]);
        refused(wrong, '400 invalid-request', ['products.1.unit_price_minor']);
        const repeated = await putBatch([
          { product_id: third, ...described() },
          { product_id: one, ...described('Changed', 1) },
          { product_id: third, ...described() },
        ]);
        refused(repeated, '400 invalid-request', ['products.2.product_id']);
        refused(await putBatch([]), '400 invalid-request', ['products']);
      });
      refused(await get(third), '404 product-not-found');
    });

    it('can have an integer as id in a batch, which equals its decimal text', async () => {
      const number = Number(world.shape.services[0]!.pid) * 1_000_003;
      const { data } = ok(await putBatch([{ product_id: number, ...described() }]));
      expect(data[0]!.product_id).toBe(String(number));
      const both = [
        { product_id: number, ...described() },
        { product_id: String(number), ...described() },
      ];
      refused(await putBatch(both), '400 invalid-request', ['products.1.product_id']);
    });

    it('can be put in batches of up to a thousand', async () => {
      const mark = fresh('many');
      const products = Array.from({ length: 1_001 }, (_, index) => ({
        product_id: `${mark}-${index}`,
        ...described(),
      }));
      refused(await putBatch(products), '400 invalid-request', ['products']);
      const { data } = ok(await putBatch(products.slice(1)));
      expect(data.map((it) => it.product_id)).toEqual(products.slice(1).map((it) => it.product_id));
    });

    it('can be put in concurrent batches in different orders without deadlock', async () => {
      const ids = Array.from({ length: 15 }, () => fresh('p'));
      const answers = await Promise.all(
        Array.from({ length: 20 }, (_, price) =>
          putBatch(
            (price % 2 ? ids : ids.toReversed()).map((product_id) => ({ product_id, ...described('Mug', price) })),
          ),
        ),
      );
      for (const answer of answers) ok(answer);
      const prices = await Promise.all(ids.map(async (id) => ok(await get(id)).unit_price_minor));
      expect(new Set(prices).size).toBe(1);
    });

    it('are listed completely, without duplicates, in the order of their ids', async () => {
      const ids = Array.from({ length: 23 }, () => fresh('listed'));
      ok(await putBatch(ids.map((product_id) => ({ product_id, ...described() }))));
      for (const limit of [37, 200]) {
        const listed = (await all(limit)).map((it) => it.product_id);
        expect(new Set(listed).size).toBe(listed.length);
        const inOrder = listed.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
        expect(listed).toEqual(inOrder);
        expect(ids.filter((id) => !listed.includes(id))).toEqual([]);
      }
    });
  });
};
