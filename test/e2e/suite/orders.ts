import { describe, expect, it } from '@jest/globals';
import { ok, refused, type Order } from '../../support/api.js';
import { fresh, freshInteger } from '../../support/fresh.js';
import type { World } from './world.js';

const isoMoment = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const largest = Number.MAX_SAFE_INTEGER;

export const orderTests = (world: World): void => {
  describe('placing an order', () => {
    it('accepts the order of the first specification and stores it in Postgres', async () => {
      const mug = await world.api.product({ name: 'Mug', price: 850, onHand: 5 });
      const customer = fresh('c');
      const body = { customer_id: customer, product_id: mug, quantity: 2 };
      const answer = await world.api.send<Order>('POST', '/order', { body });
      expect(answer.status).toBe(201);
      expect(answer.headers.get('content-type')).toMatch(/^application\/json/);
      const { order_id } = answer.body;
      expect(order_id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
      const rows = await world.ledger.orders(
        `SELECT customer_id, status, currency, total_minor::int AS total_minor, lines FROM orders.orders WHERE order_id = $1`,
        [order_id],
      );
      expect(rows).toEqual([
        {
          customer_id: customer,
          status: 'confirmed',
          currency: 'GBP',
          total_minor: 1_700,
          lines: [expect.objectContaining({ product_id: mug, quantity: 2, unit_price_minor: 850 })],
        },
      ]);
      expect(await world.api.order(order_id)).toEqual(answer.body);
      expect(await world.api.stock(mug)).toEqual({ product_id: mug, on_hand: 5, reserved: 2, available: 3, sold: 0 });
    });

    it('returns the whole order, with Location and ETag', async () => {
      const mug = await world.api.product({ name: 'Mug, wéiß 🍵', price: 850, onHand: 5 });
      const customer = fresh('c');
      const before = Date.now();
      const answer = await world.api.place({ customer_id: customer, product_id: mug, quantity: 2 });
      const placed = ok(answer, 201);
      expect(placed).toEqual({
        order_id: expect.any(String),
        status: 'confirmed',
        customer_id: customer,
        reference: null,
        currency: 'GBP',
        total_minor: 1_700,
        returned_total_minor: 0,
        lines: [
          {
            line: 1,
            product_id: mug,
            name: 'Mug, wéiß 🍵',
            quantity: 2,
            unit_price_minor: 850,
            fulfilled: 0,
            returned: 0,
          },
        ],
        adjustments: [],
        metadata: {},
        payment_method: null,
        version: 1,
        created_at: expect.stringMatching(isoMoment),
        updated_at: placed.created_at,
      });
      const createdAt = Date.parse(placed.created_at);
      expect(createdAt).toBeGreaterThanOrEqual(before - 1);
      expect(createdAt).toBeLessThanOrEqual(Date.now() + 1);
      expect(answer.headers.get('location')).toBe(`/orders/${placed.order_id}`);
      expect(answer.headers.get('etag')).toBe('"v1"');
      expect(answer.headers.get('idempotent-replayed')).toBeNull();
      const read = await world.api.get<Order>(answer.headers.get('location')!);
      expect(ok(read)).toEqual(placed);
      expect(read.headers.get('etag')).toBe('"v1"');
    });

    it('accepts one product on several lines at different prices', async () => {
      const [mug, lamp] = [
        await world.api.product({ price: 850, onHand: 10 }),
        await world.api.product({ price: 4_250, onHand: 10 }),
      ];
      const lines = [
        { product_id: mug, quantity: 2 },
        { product_id: lamp, quantity: 1, unit_price_minor: 3_999 },
        { product_id: mug, quantity: 3, unit_price_minor: 800 },
        { product_id: mug, quantity: 1, unit_price_minor: 0 },
      ];
      const placed = await world.api.placed({ customer_id: fresh('c'), lines });
      expect(placed.total_minor).toBe(2 * 850 + 3_999 + 3 * 800);
      expect(placed.lines.map((it) => [it.line, it.product_id, it.quantity, it.unit_price_minor])).toEqual([
        [1, mug, 2, 850],
        [2, lamp, 1, 3_999],
        [3, mug, 3, 800],
        [4, mug, 1, 0],
      ]);
      expect(await world.api.stock(mug)).toMatchObject({ reserved: 6, available: 4 });
      expect(await world.api.stock(lamp)).toMatchObject({ reserved: 1, available: 9 });
    });

    it('sums the lines of a product before it checks the stock', async () => {
      const mug = await world.api.product({ onHand: 5 });
      const lines = [
        { product_id: mug, quantity: 3 },
        { product_id: mug, quantity: 3 },
      ];
      const problem = refused(await world.api.place({ customer_id: fresh('c'), lines }), '409 out-of-stock');
      expect(problem['products']).toEqual([{ product_id: mug, requested: 6, available: 5 }]);
      expect(await world.api.stock(mug)).toMatchObject({ reserved: 0 });
    });

    it('accepts integer ids as their decimal text', async () => {
      const number = freshInteger();
      const mug = await world.api.product({ id: String(number), onHand: 5 });
      const placed = await world.api.placed({ customer_id: number, product_id: number, quantity: 1 });
      expect(placed.customer_id).toBe(mug);
      expect(placed.lines[0]!.product_id).toBe(mug);
      const odd = await world.api.placed({ customer_id: -number, lines: [{ product_id: number, quantity: 1 }] });
      expect(odd.customer_id).toBe(`-${number}`);
      expect((await world.api.placed({ customer_id: 0, product_id: mug, quantity: 1 })).customer_id).toBe('0');
      expect((await world.api.placed({ customer_id: largest, product_id: mug, quantity: 1 })).customer_id).toBe(
        String(largest),
      );
    });

    it('distinguishes ids by case and white space', async () => {
      const id = fresh('Case');
      const upper = await world.api.product({ id, onHand: 5 });
      const lower = await world.api.product({ id: id.toLowerCase(), onHand: 5 });
      await world.api.placed({ customer_id: fresh('c'), product_id: upper, quantity: 1 });
      expect(await world.api.stock(upper)).toMatchObject({ reserved: 1 });
      expect(await world.api.stock(lower)).toMatchObject({ reserved: 0 });
      const padded = { customer_id: fresh('c'), product_id: ` ${id}`, quantity: 1 };
      refused(await world.api.place(padded), '422 unknown-product');
    });

    it('accepts a price of zero', async () => {
      const gift = await world.api.product({ price: 0 });
      const body = { customer_id: fresh('c'), product_id: gift, quantity: 3, expected_total_minor: 0 };
      expect(await world.api.placed(body)).toMatchObject({ total_minor: 0, lines: [{ unit_price_minor: 0 }] });
    });

    it('adds tax and shipping, and subtracts discounts of either sign', async () => {
      const mug = await world.api.product({ price: 1_000 });
      const adjustments = [
        { kind: 'tax', label: 'VAT 20%', amount_minor: 400 },
        { kind: 'shipping', label: 'Parcel', amount_minor: 495 },
        { kind: 'discount', label: 'Loyal', amount_minor: 150 },
        { kind: 'discount', label: 'Voucher', amount_minor: -45 },
        { kind: 'shipping', label: 'Free', amount_minor: 0 },
      ];
      const placed = await world.api.placed({ customer_id: fresh('c'), product_id: mug, quantity: 2, adjustments });
      expect(placed.total_minor).toBe(2_000 + 400 + 495 - 150 - 45);
      expect(placed.adjustments.map((it) => it.amount_minor)).toEqual([400, 495, -150, -45, 0]);
      expect(placed.adjustments.map(({ kind, label }) => [kind, label])).toEqual(
        adjustments.map(({ kind, label }) => [kind, label]),
      );
      expect(await world.api.order(placed.order_id)).toEqual(placed);
    });

    it('refuses a total that differs from the expected total', async () => {
      const mug = await world.api.product({ price: 1_000, onHand: 10 });
      const adjustments = [{ kind: 'tax', label: 'VAT', amount_minor: 200 }];
      const order = { customer_id: fresh('c'), product_id: mug, quantity: 1, adjustments };
      expect(await world.api.placed({ ...order, expected_total_minor: 1_200 })).toMatchObject({ total_minor: 1_200 });
      await world.ledger.unchangedBy(async () => {
        for (const expected of [1_199, 1_201, 0, largest]) {
          const answer = await world.api.place({ ...order, expected_total_minor: expected });
          expect(refused(answer, '409 price-changed')).toMatchObject({
            total_minor: 1_200,
            expected_total_minor: expected,
          });
        }
      });
    });

    it('allows discounts up to the whole total, and not more', async () => {
      const mug = await world.api.product({ price: 1_000, onHand: 10 });
      const order = { customer_id: fresh('c'), product_id: mug, quantity: 2 };
      const discount = (amount_minor: number) => [{ kind: 'discount', label: 'All of it', amount_minor }];
      expect(await world.api.placed({ ...order, adjustments: discount(2_000) })).toMatchObject({ total_minor: 0 });
      await world.ledger.unchangedBy(async () => {
        for (const amount of [2_001, -2_001, largest, -largest]) {
          const answer = await world.api.place({ ...order, adjustments: discount(amount) });
          refused(answer, '400 invalid-request', ['adjustments']);
        }
        const both = [...discount(largest), ...discount(-largest)];
        refused(await world.api.place({ ...order, adjustments: both }), '400 invalid-request', ['adjustments']);
      });
      expect(await world.api.stock(mug)).toMatchObject({ reserved: 2 });
    });

    it('refuses totals beyond the largest safe integer', async () => {
      const gold = await world.api.product({ price: 100_000_000_000, onHand: 1_000_000 });
      const customer_id = fresh('c');
      const line = { product_id: gold, quantity: 1_000_000 };
      const tax = (amount_minor: number) => [{ kind: 'tax', label: 'Luxury', amount_minor }];
      await world.ledger.unchangedBy(async () => {
        for (const order of [
          { customer_id, ...line },
          { customer_id, lines: [{ ...line, quantity: 90_072 }] },
          { customer_id, lines: [{ ...line, unit_price_minor: 9_007_199_255 }] },
          { customer_id, lines: Array.from({ length: 2_000 }, () => ({ ...line, unit_price_minor: 100_000_000_000 })) },
        ]) {
          refused(await world.api.place(order), '400 invalid-request', ['lines']);
        }
        const taxed = { customer_id, lines: [{ ...line, quantity: 1 }], adjustments: tax(largest) };
        refused(await world.api.place(taxed), '400 invalid-request');
        const twice = { ...taxed, adjustments: [...tax(largest), ...tax(largest)] };
        refused(await world.api.place(twice), '400 invalid-request');
      });
      const lines = [{ ...line, quantity: 1 }];
      const most = await world.api.placed({ customer_id, lines, adjustments: tax(largest - 100_000_000_000) });
      expect(most.total_minor).toBe(largest);
      expect(await world.api.order(most.order_id)).toEqual(most);
    });

    it('refuses adjustments whose sum cannot be computed exactly, whatever their signs', async () => {
      const mug = await world.api.product({ price: 1_000, onHand: 10 });
      const order = { customer_id: fresh('c'), product_id: mug, quantity: 1 };
      const amounts = [
        ['tax', largest],
        ['tax', largest],
        ['tax', 1],
        ['discount', largest],
        ['discount', largest],
      ] as const;
      const adjustments = amounts.map(([kind, amount_minor]) => ({ kind, label: 'x', amount_minor }));
      await world.ledger.unchangedBy(async () => {
        refused(await world.api.place({ ...order, adjustments }), '400 invalid-request', ['adjustments']);
        const expecting = { ...order, expected_total_minor: largest };
        const discounted = { ...expecting, adjustments: adjustments.slice(-1) };
        refused(await world.api.place(discounted), '409 price-changed');
      });
    });

    it('returns metadata and reference unchanged', async () => {
      const mug = await world.api.product();
      const metadata = {
        text: 'a "quoted" \\ text\nof two lines \u2028 and 🧾',
        'kéy of any kind': { deep: [{ er: [[], {}, null] }] },
        numbers: [0, -1, 1.5, 1e21, 1e-7, Number.MAX_SAFE_INTEGER],
        yes: true,
        no: false,
        nothing: null,
        '': 'an empty key',
        constructor: 'just a word',
        toString: 'another',
        backslash: '\\u0000 is six characters',
      };
      const reference = `№ ${fresh('ref')} / 🧾`;
      const placed = await world.api.placed({
        customer_id: fresh('c'),
        product_id: mug,
        quantity: 1,
        reference,
        metadata,
      });
      expect(placed.metadata).toEqual(metadata);
      expect(placed.reference).toBe(reference);
      expect(await world.api.order(placed.order_id)).toEqual(placed);
    });

    it('treats both forms at both paths as the same command', async () => {
      const mug = await world.api.product({ onHand: 10 });
      const short = { customer_id: fresh('c'), product_id: mug, quantity: 2 };
      const long = { customer_id: short.customer_id, lines: [{ product_id: mug, quantity: 2 }] };
      const [one, other] = [fresh('k'), fresh('k')];
      const first = ok(await world.api.place(short, one, '/order'), 201);
      const second = ok(await world.api.place(long, other, '/orders'), 201);
      for (const [body, key, path, expected] of [
        [long, one, '/orders', first],
        [long, one, '/order', first],
        [short, other, '/order', second],
        [short, other, '/orders', second],
      ] as const) {
        const replay = await world.api.place(body, key, path);
        expect(ok(replay, 201)).toEqual(expected);
        expect(replay.headers.get('idempotent-replayed')).toBe('true');
      }
      expect(await world.api.stock(mug)).toMatchObject({ reserved: 4 });
    });

    it('reserves all lines or none', async () => {
      const [plenty, scarce] = [await world.api.product({ onHand: 100 }), await world.api.product({ onHand: 1 })];
      const lines = [
        { product_id: plenty, quantity: 5 },
        { product_id: scarce, quantity: 2 },
      ];
      const answer = await world.api.place({ customer_id: fresh('c'), lines });
      const problem = refused(answer, '409 out-of-stock');
      expect(problem['products']).toEqual([{ product_id: scarce, requested: 2, available: 1 }]);
      expect(await world.api.stock(plenty)).toMatchObject({ reserved: 0, available: 100 });
      expect(await world.api.stock(scarce)).toMatchObject({ reserved: 0, available: 1 });
    });

    it('refuses unknown products by id, and reserves nothing', async () => {
      const mug = await world.api.product({ onHand: 10 });
      const [ghost, phantom] = [fresh('ghost'), fresh('phantom')];
      const lines = [ghost, mug, phantom].map((product_id) => ({ product_id, quantity: 1 }));
      await world.ledger.unchangedBy(async () => {
        const problem = refused(await world.api.place({ customer_id: fresh('c'), lines }), '422 unknown-product');
        expect(problem['product_ids']).toEqual([ghost, phantom]);
      });
    });

    it('refuses products in several currencies, and reserves nothing', async () => {
      const pounds = await world.api.product({ currency: 'GBP' });
      const euros = await world.api.product({ currency: 'EUR' });
      const lines = [pounds, euros].map((product_id) => ({ product_id, quantity: 1 }));
      await world.ledger.unchangedBy(async () => {
        const problem = refused(await world.api.place({ customer_id: fresh('c'), lines }), '422 currency-mismatch');
        expect((problem['currencies'] as string[]).toSorted()).toEqual(['EUR', 'GBP']);
      });
      expect(await world.api.placed({ customer_id: fresh('c'), lines: lines.slice(1) })).toMatchObject({
        currency: 'EUR',
      });
    });

    it('accepts 2,000 lines', async () => {
      const products = await Promise.all([1, 2, 3, 4, 5].map(() => world.api.product({ onHand: 1_000, price: 3 })));
      const lines = Array.from({ length: 2_000 }, (_, index) => ({ product_id: products[index % 5], quantity: 2 }));
      const placed = await world.api.placed({ customer_id: fresh('c'), lines });
      expect(placed.lines).toHaveLength(2_000);
      expect(placed.total_minor).toBe(12_000);
      expect(await world.api.order(placed.order_id)).toEqual(placed);
      expect(await world.api.stock(products[4]!)).toMatchObject({ reserved: 800 });
    });

    it('accepts a quantity in any JSON notation of the integer', async () => {
      const mug = await world.api.product({ onHand: 5_000 });
      const customer = fresh('c');
      for (const [notation, quantity] of [
        ['1e3', 1_000],
        ['1.0', 1],
        ['20e-1', 2],
      ] as const) {
        const raw = `{"customer_id": "${customer}", "product_id": "${mug}", "quantity": ${notation}}`;
        const placed = ok(await world.api.send<Order>('POST', '/orders', { raw }), 201);
        expect(placed.lines[0]!.quantity).toBe(quantity);
      }
    });
  });
};
