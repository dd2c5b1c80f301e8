import { describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import {
  ok,
  refused,
  type Answer,
  type ProductPage,
  type Stock,
  type StockBatch,
  type StockPage,
} from '../../support/api.js';
import { fresh, randomOf } from '../../support/fresh.js';
import type { World } from './world.js';

interface Shortage {
  product_id: string;
  requested: number;
  available: number;
}

export const stockTests = (world: World): void => {
  const put = (productId: string, on_hand: unknown): Promise<Answer<Stock>> =>
    world.api.send<Stock>('PUT', `/stock/${productId}`, { body: { on_hand } });
  const putBatch = (stock: unknown): Promise<Answer<StockBatch>> =>
    world.api.send<StockBatch>('POST', '/stock/batch', { body: { stock } });
  const adjust = (productId: string, delta: unknown, key?: string, reason = 'counted again'): Promise<Answer<Stock>> =>
    world.api.send<Stock>('POST', `/stock/${productId}/adjustments`, {
      body: { delta, reason },
      ...(key !== undefined && { key }),
    });
  const one = (product_id: string, quantity = 1) => ({ customer_id: fresh('c'), product_id, quantity });

  /** Orders take effect on the stock asynchronously. */
  const becomes = (productId: string, expected: Partial<Stock>): Promise<void> =>
    eventually(async () => expect(await world.api.stock(productId)).toMatchObject(expected));

  describe('stock', () => {
    it('equals the last count', async () => {
      const mug = await world.api.product({ onHand: 0 });
      const nothing = { product_id: mug, on_hand: 0, reserved: 0, available: 0, sold: 0 };
      expect(await world.api.stock(mug)).toEqual(nothing);
      expect(ok(await put(mug, 12))).toEqual({ ...nothing, on_hand: 12, available: 12 });
      expect(ok(await put(mug, 12))).toEqual({ ...nothing, on_hand: 12, available: 12 });
      expect(ok(await put(mug, 7))).toEqual({ ...nothing, on_hand: 7, available: 7 });
      expect(ok(await put(mug, 1_000_000_000_000))).toMatchObject({ on_hand: 1_000_000_000_000 });
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 1_000_000_000_000 });
      expect(ok(await put(mug, 0))).toEqual(nothing);
    });

    it('is listed page by page, each product once', async () => {
      const counted = await Promise.all([3, 0, 7].map((onHand) => world.api.product({ onHand })));
      await world.api.placed(one(counted[0]!, 2));
      const found: Stock[] = [];
      for (let cursor: string | null = ''; cursor !== null;) {
        const from = cursor && `&cursor=${encodeURIComponent(cursor)}`;
        const page: StockPage = ok(await world.api.get<StockPage>(`/stock?limit=2${from}`));
        expect(page.data.length).toBeLessThanOrEqual(2);
        found.push(...page.data);
        cursor = page.next_cursor;
      }
      expect(new Set(found.map((it) => it.product_id)).size).toBe(found.length);
      const levels = await Promise.all(counted.map((it) => world.api.stock(it)));
      expect(levels.map((it) => it.available)).toEqual([1, 0, 7]);
      expect(found).toEqual(expect.arrayContaining(levels));
    });

    it('is not listed from a cursor of the products, nor the other way round', async () => {
      await Promise.all([world.api.product(), world.api.product()]);
      const { next_cursor } = ok(await world.api.get<StockPage>('/stock?limit=1'));
      const products = ok(await world.api.get<ProductPage>('/products?limit=1'));
      refused(await world.api.get(`/products?cursor=${next_cursor}`), '400 invalid-cursor');
      refused(await world.api.get(`/stock?cursor=${products.next_cursor}`), '400 invalid-cursor');
    });

    it('of an unknown product is not found', async () => {
      const ghost = fresh('ghost');
      await world.ledger.unchangedBy(async () => {
        refused(await world.api.get(`/stock/${ghost}`), '404 product-not-found');
        refused(await put(ghost, 5), '404 product-not-found');
        refused(await adjust(ghost, 5, fresh('k')), '404 product-not-found');
        const problem = refused(await putBatch([{ product_id: ghost, on_hand: 1 }]), '404 product-not-found');
        expect(problem['product_ids']).toEqual([ghost]);
      });
    });

    it('cannot be counted below what is reserved', async () => {
      const mug = await world.api.product({ onHand: 10 });
      await world.api.placed(one(mug, 4));
      await world.ledger.unchangedBy(async () => {
        const problem = refused(await put(mug, 3), '409 stock-below-reserved');
        expect(problem['products']).toEqual([{ product_id: mug, counted: 3, reserved: 4 }]);
      });
      expect(ok(await put(mug, 4))).toMatchObject({ on_hand: 4, reserved: 4, available: 0 });
      refused(await world.api.place(one(mug)), '409 out-of-stock');
    });

    it('is counted for all products of a batch or for none', async () => {
      const [mug, lamp] = [await world.api.product({ onHand: 10 }), await world.api.product({ onHand: 20 })];
      const counted = ok(
        await putBatch([
          { product_id: lamp, on_hand: 21 },
          { product_id: mug, on_hand: 11 },
        ]),
      );
      expect(counted.data.map((it) => [it.product_id, it.on_hand])).toEqual([
        [lamp, 21],
        [mug, 11],
      ]);
      await world.api.placed(one(mug, 5));
      await world.ledger.unchangedBy(async () => {
        const ghost = fresh('ghost');
        const unknown = await putBatch([
          { product_id: lamp, on_hand: 1 },
          { product_id: ghost, on_hand: 1 },
        ]);
        expect(refused(unknown, '404 product-not-found')['product_ids']).toEqual([ghost]);
        const below = await putBatch([
          { product_id: lamp, on_hand: 1 },
          { product_id: mug, on_hand: 4 },
        ]);
        expect(refused(below, '409 stock-below-reserved')['products']).toEqual([
          { product_id: mug, counted: 4, reserved: 5 },
        ]);
        const repeated = await putBatch([
          { product_id: lamp, on_hand: 1 },
          { product_id: mug, on_hand: 9 },
          { product_id: lamp, on_hand: 2 },
        ]);
        refused(repeated, '400 invalid-request', ['stock.2.product_id']);
        refused(await putBatch([]), '400 invalid-request', ['stock']);
        const negative = await putBatch([
          { product_id: lamp, on_hand: 1 },
          { product_id: mug, on_hand: -1 },
        ]);
        refused(negative, '400 invalid-request', ['stock.1.on_hand']);
        const many = Array.from({ length: 1_001 }, (_, index) => ({ product_id: `${lamp}-${index}`, on_hand: 1 }));
        refused(await putBatch(many), '400 invalid-request', ['stock']);
      });
    });

    it('accepts concurrent batches in different orders without deadlock', async () => {
      const products = await Promise.all(Array.from({ length: 12 }, () => world.api.product({ onHand: 5 })));
      const random = randomOf('stock batches');
      const answers = await Promise.all(
        Array.from({ length: 30 }, (_, on_hand) =>
          putBatch(random.shuffled(products).map((product_id) => ({ product_id, on_hand }))),
        ),
      );
      expect(answers.map((it) => it.status)).toEqual(answers.map(() => 200));
      const left = await Promise.all(products.map(async (it) => (await world.api.stock(it)).on_hand));
      expect(new Set(left).size).toBe(1);
    });

    it('is adjusted by a difference, once per key', async () => {
      const mug = await world.api.product({ onHand: 10 });
      const key = fresh('k');
      const first = await adjust(mug, -3, key);
      expect(ok(first)).toEqual({ product_id: mug, on_hand: 7, reserved: 0, available: 7, sold: 0 });
      expect(first.headers.get('idempotent-replayed')).toBeNull();
      expect(ok(await adjust(mug, 5, fresh('k')))).toMatchObject({ on_hand: 12 });
      const repeat = await adjust(mug, -3, key);
      expect(ok(repeat)).toEqual(first.body);
      expect(repeat.headers.get('idempotent-replayed')).toBe('true');
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 12 });
    });

    it('is adjusted once by twenty concurrent requests under one key', async () => {
      const mug = await world.api.product({ onHand: 10 });
      const key = fresh('k');
      const answers = await Promise.all(Array.from({ length: 20 }, () => adjust(mug, 1, key)));
      expect(answers.map((it) => ok(it).on_hand)).toEqual(answers.map(() => 11));
      expect(answers.filter((it) => it.headers.get('idempotent-replayed') === null)).toHaveLength(1);
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 11 });
    });

    it('loses no concurrent adjustment', async () => {
      const mug = await world.api.product({ onHand: 100 });
      const deltas = Array.from({ length: 40 }, (_, index) => (index % 2 === 0 ? 3 : -2));
      for (const answer of await Promise.all(deltas.map((it) => adjust(mug, it, fresh('k'))))) ok(answer);
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 120 });
    });

    it('is not adjusted without a key, under a reused key, by an invalid delta, or below what is reserved', async () => {
      const [mug, lamp] = [await world.api.product({ onHand: 10 }), await world.api.product({ onHand: 10 })];
      await world.api.placed(one(mug, 8));
      const key = fresh('k');
      ok(await adjust(mug, 1, key));
      await world.ledger.unchangedBy(async () => {
        refused(await adjust(mug, 1), '400 idempotency-key-required');
        refused(await adjust(mug, 2, key), '422 idempotency-key-reused');
        refused(await adjust(lamp, 1, key), '422 idempotency-key-reused');
        refused(await adjust(mug, 1, key, 'another reason'), '422 idempotency-key-reused');
        refused(await adjust(mug, -4, fresh('k')), '409 stock-below-reserved');
        refused(await adjust(mug, 1_000_000_000_000, fresh('k')), '400 invalid-request', ['delta']);
        for (const delta of [0, 1.5, '1', null, 1_000_000_000_001])
          refused(await adjust(mug, delta, fresh('k')), '400 invalid-request', ['delta']);
        refused(await adjust(mug, 1, fresh('k'), ''), '400 invalid-request', ['reason']);
      });
      expect(ok(await adjust(mug, -3, fresh('k')))).toMatchObject({ on_hand: 8, reserved: 8, available: 0 });
    });

    it('follows an order through reservation, fulfilment and return', async () => {
      const mug = await world.api.product({ onHand: 10 });
      const { order_id } = await world.api.placed(one(mug, 5));
      await becomes(mug, { on_hand: 10, reserved: 5, available: 5, sold: 0 });
      ok(await world.api.fulfil(order_id, { lines: [{ product_id: mug, quantity: 2 }] }));
      await becomes(mug, { on_hand: 8, reserved: 3, available: 5, sold: 2 });
      ok(await world.api.fulfil(order_id));
      await becomes(mug, { on_hand: 5, reserved: 0, available: 5, sold: 5 });
      const back = (quantity: number, restock: boolean) => ({
        lines: [{ product_id: mug, quantity }],
        restock,
        reason: 'unwanted',
      });
      ok(await world.api.return(order_id, back(2, true)), 201);
      await becomes(mug, { on_hand: 7, reserved: 0, available: 7, sold: 5 });
      ok(await world.api.return(order_id, back(3, false)), 201);
      await world.ledger.quiet();
      await becomes(mug, { on_hand: 7, reserved: 0, available: 7, sold: 5 });
    });

    it('is available again once an order is cancelled', async () => {
      const mug = await world.api.product({ onHand: 5 });
      const { order_id } = await world.api.placed(one(mug, 5));
      refused(await world.api.place(one(mug)), '409 out-of-stock');
      ok(await world.api.cancel(order_id));
      await becomes(mug, { on_hand: 5, reserved: 0, available: 5, sold: 0 });
      await world.api.placed(one(mug, 5));
    });

    it('that is short is named in the refusal, with what is available', async () => {
      const [mug, lamp, rug] = [
        await world.api.product({ onHand: 1 }),
        await world.api.product({ onHand: 0 }),
        await world.api.product({ onHand: 9 }),
      ];
      const lines = [
        { product_id: mug, quantity: 2 },
        { product_id: rug, quantity: 9 },
        { product_id: lamp, quantity: 1 },
      ];
      const problem = refused(await world.api.place({ customer_id: fresh('c'), lines }), '409 out-of-stock');
      expect(problem['products']).toEqual([
        { product_id: mug, requested: 2, available: 1 },
        { product_id: lamp, requested: 1, available: 0 },
      ]);
    });
  });

  describe('stock under concurrent orders', () => {
    it('is not oversold by 200 orders for a stock of 50', async () => {
      const mug = await world.api.product({ onHand: 50 });
      const random = randomOf('never oversold');
      const quantities = Array.from({ length: 200 }, () => random.integer(1, 3));
      const answers = await Promise.all(quantities.map((it) => world.api.place(one(mug, it))));
      const promised = answers.reduce((sum, it, index) => sum + (it.status === 201 ? quantities[index]! : 0), 0);
      const left = 50 - promised;
      expect(left).toBeGreaterThanOrEqual(0);
      await world.ledger.quiet();
      expect(await world.api.stock(mug)).toEqual({
        product_id: mug,
        on_hand: 50,
        reserved: promised,
        available: left,
        sold: 0,
      });
      answers.forEach((answer, index) => {
        if (answer.status === 201) return;
        const [shortage] = refused(answer, '409 out-of-stock')['products'] as Shortage[];
        expect(shortage).toMatchObject({ product_id: mug, requested: quantities[index]! });
        // Stock only decreased, so a quantity that was too much then is too much now.
        expect(shortage!.available).toBeLessThan(quantities[index]!);
        expect(shortage!.available).toBeGreaterThanOrEqual(left);
      });
      const rows = await world.ledger.orders(
        `SELECT count(*)::int, sum((lines->0->>'quantity')::int)::int FROM orders.orders WHERE lines->0->>'product_id' = $1`,
        [mug],
      );
      expect(rows).toEqual([{ count: answers.filter((it) => it.status === 201).length, sum: promised }]);
    });

    it('is reserved for all products of an order or none, in whichever order they are named', async () => {
      const [mug, lamp, rug] = [
        await world.api.product({ onHand: 20 }),
        await world.api.product({ onHand: 12 }),
        await world.api.product({ onHand: 100 }),
      ];
      const random = randomOf('crossed orders');
      const answers = await Promise.all(
        Array.from({ length: 80 }, () => {
          const lines = random.shuffled([mug, lamp, rug]).map((product_id) => ({ product_id, quantity: 1 }));
          return world.api.place({ customer_id: fresh('c'), lines });
        }),
      );
      expect(answers.filter((it) => it.status === 201)).toHaveLength(12);
      for (const answer of answers.filter((it) => it.status !== 201)) {
        expect(refused(answer, '409 out-of-stock')['products']).toEqual([
          { product_id: lamp, requested: 1, available: 0 },
        ]);
      }
      await world.ledger.quiet();
      for (const [product, onHand] of [[mug, 20] as const, [lamp, 12] as const, [rug, 100] as const])
        expect(await world.api.stock(product)).toMatchObject({ reserved: 12, available: onHand - 12 });
    });

    it('gives the last unit to exactly one of thirty', async () => {
      const mug = await world.api.product({ onHand: 1 });
      const answers = await Promise.all(Array.from({ length: 30 }, () => world.api.place(one(mug), fresh('k'))));
      expect(answers.filter((it) => it.status === 201)).toHaveLength(1);
      for (const answer of answers.filter((it) => it.status !== 201)) refused(answer, '409 out-of-stock');
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 1, reserved: 1, available: 0 });
    });

    it('satisfies the invariants while orders are placed, cancelled, fulfilled and returned, and stock is adjusted', async () => {
      const random = randomOf('everything at once');
      const products = await Promise.all(Array.from({ length: 4 }, () => world.api.product({ onHand: 15 })));
      const customer = async (): Promise<void> => {
        for (let turn = 0; turn < 6; turn += 1) {
          const lines = random
            .shuffled(products)
            .slice(0, random.integer(1, 3))
            .map((product_id) => ({ product_id, quantity: random.integer(1, 4) }));
          const placed = await world.api.place({ customer_id: fresh('c'), lines }, fresh('k'));
          if (placed.status !== 201) {
            refused(placed, '409 out-of-stock');
            continue;
          }
          const { order_id } = placed.body;
          const fate = random.integer(1, 3);
          if (fate === 1) ok(await world.api.cancel(order_id));
          if (fate === 2) ok(await world.api.fulfil(order_id));
          if (fate === 2 && random.integer(1, 2) === 1)
            ok(await world.api.return(order_id, { lines: lines.slice(0, 1), restock: true, reason: 'unwanted' }), 201);
          await adjust(random.pick(products), random.pick([-1, 1]), fresh('k'));
        }
      };
      await Promise.all(Array.from({ length: 12 }, customer));
      await world.ledger.expectInvariants();
    });
  });
};
