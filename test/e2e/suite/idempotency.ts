import { describe, expect, it } from '@jest/globals';
import { ok, refused, type Answer, type Order } from '../../support/api.js';
import { fresh } from '../../support/fresh.js';
import { exchange } from '../../support/raw-http.js';
import type { World } from './world.js';

const wasReplayed = (answer: Answer): boolean => answer.headers.get('idempotent-replayed') === 'true';

export const idempotencyTests = (world: World): void => {
  describe('an idempotency key', () => {
    it('replays the first response to a retry, even after the order has changed', async () => {
      const mug = await world.api.product({ onHand: 10 });
      const body = { customer_id: fresh('c'), product_id: mug, quantity: 2 };
      const key = fresh('k');
      const first = await world.api.place(body, key);
      expect(first.headers.get('idempotent-replayed')).toBeNull();
      const repeat = await world.api.place(body, key);
      ok(await world.api.fulfil(first.body.order_id, { lines: [{ product_id: mug, quantity: 2 }] }));
      const restock = { lines: [{ product_id: mug, quantity: 1 }], restock: true, reason: 'Chipped' };
      ok(await world.api.return(first.body.order_id, restock), 201);
      const late = await world.api.place(body, key);
      for (const replay of [repeat, late]) {
        expect(replay.status).toBe(201);
        expect(wasReplayed(replay)).toBe(true);
        expect(replay.text).toBe(first.text);
        for (const name of ['location', 'etag', 'content-type'])
          expect(replay.headers.get(name)).toBe(first.headers.get(name));
      }
      expect(await world.api.order(first.body.order_id)).toMatchObject({ status: 'fulfilled', version: 3 });
    });

    it('replays a cancelled order as it was placed, and reserves no stock', async () => {
      const mug = await world.api.product({ onHand: 10 });
      const metadata = { z: 1, a: { y: 2, b: 3 } };
      const body = { customer_id: fresh('c'), product_id: mug, quantity: 2, metadata };
      const key = fresh('k');
      const first = ok(await world.api.place(body, key), 201);
      ok(await world.api.cancel(first.order_id));
      await world.ledger.unchangedBy(async () => {
        const replay = await world.api.place(body, key);
        expect(ok(replay, 201)).toEqual(first);
        expect(wasReplayed(replay)).toBe(true);
      });
      expect(await world.api.stock(mug)).toMatchObject({ reserved: 0, available: 10 });
    });

    it('is refused when it is reused for another command', async () => {
      const [mug, lamp] = [await world.api.product(), await world.api.product()];
      const body = { customer_id: fresh('c'), product_id: mug, quantity: 2 };
      const key = fresh('k');
      ok(await world.api.place(body, key), 201);
      await world.ledger.unchangedBy(async () => {
        for (const other of [
          { ...body, quantity: 3 },
          { ...body, product_id: lamp },
          { ...body, customer_id: fresh('c') },
          { ...body, reference: 'another' },
          { ...body, metadata: { another: true } },
          { ...body, expected_total_minor: 500 },
          { ...body, adjustments: [{ kind: 'tax', label: 'VAT', amount_minor: 1 }] },
          { customer_id: body.customer_id, lines: [{ product_id: mug, quantity: 2, unit_price_minor: 250 }] },
        ]) {
          refused(await world.api.place(other, key), '422 idempotency-key-reused');
        }
      });
    });

    it('replays an out-of-stock refusal even if there is stock by now', async () => {
      const mug = await world.api.product({ onHand: 1 });
      const body = { customer_id: fresh('c'), product_id: mug, quantity: 2 };
      const key = fresh('k');
      const first = await world.api.place(body, key);
      refused(first, '409 out-of-stock');
      expect(wasReplayed(first)).toBe(false);
      ok(await world.api.send('PUT', `/stock/${mug}`, { body: { on_hand: 100 } }));
      const repeat = await world.api.place(body, key);
      refused(repeat, '409 out-of-stock');
      expect(wasReplayed(repeat)).toBe(true);
      expect(repeat.body).toEqual(first.body);
      refused(await world.api.place({ ...body, quantity: 3 }, key), '422 idempotency-key-reused');
      expect(await world.api.stock(mug)).toMatchObject({ reserved: 0, available: 100 });
      ok(await world.api.place(body, fresh('k')), 201);
    });

    it('can be used again after an invalid request, an unknown product or a changed price', async () => {
      const customer_id = fresh('c');
      const invalid = fresh('k');
      const mug = await world.api.product({ price: 100 });
      refused(await world.api.place({ customer_id, product_id: mug, quantity: 0 }, invalid), '400 invalid-request');
      ok(await world.api.place({ customer_id, product_id: mug, quantity: 1 }, invalid), 201);

      const unknown = fresh('k');
      const later = { customer_id, product_id: fresh('p'), quantity: 1 };
      refused(await world.api.place(later, unknown), '422 unknown-product');
      await world.api.product({ id: later.product_id });
      ok(await world.api.place(later, unknown), 201);

      const expecting = fresh('k');
      const cheap = { customer_id, product_id: mug, quantity: 1, expected_total_minor: 90 };
      refused(await world.api.place(cheap, expecting), '409 price-changed');
      const body = { name: 'A thing', unit_price_minor: 90, currency: 'GBP' };
      ok(await world.api.send('PUT', `/products/${mug}`, { body }));
      ok(await world.api.place(cheap, expecting), 201);
    });

    it('ignores the order of members and the notation of values in a request', async () => {
      const mug = await world.api.product({ onHand: 10 });
      const customer = fresh('c');
      const key = fresh('k');
      const one = `{"customer_id":"${customer}","lines":[{"product_id":"${mug}","quantity":1}],"metadata":{"a":{"x":1,"y":[1,2]},"b":2}}`;
      const other = ` { "metadata": {"b":2.0, "a": {"y":[1,2],"x":1e0}},\n "lines": [{"quantity":1,"product_id":"${mug}"}], "customer_id":"\\u0063${customer.slice(1)}" }`;
      const first = await world.api.send<Order>('POST', '/orders', { raw: one, key });
      const second = await world.api.send<Order>('POST', '/orders', { raw: other, key });
      expect(ok(second, 201)).toEqual(ok(first, 201));
      expect(wasReplayed(second)).toBe(true);
      const swapped = one.replace('[1,2]', '[2,1]');
      refused(await world.api.send('POST', '/orders', { raw: swapped, key }), '422 idempotency-key-reused');
    });

    it('makes one order of fifty concurrent requests', async () => {
      const mug = await world.api.product({ onHand: 100 });
      const body = { customer_id: fresh('c'), product_id: mug, quantity: 2 };
      const key = fresh('k');
      const answers = await Promise.all(Array.from({ length: 50 }, () => world.api.place(body, key)));
      expect(answers.map((it) => it.status)).toEqual(answers.map(() => 201));
      expect(new Set(answers.map((it) => it.text)).size).toBe(1);
      expect(answers.filter((it) => !wasReplayed(it))).toHaveLength(1);
      expect(await world.api.stock(mug)).toMatchObject({ reserved: 2 });
      const rows = await world.ledger.orders(`SELECT count(*)::int FROM orders.orders WHERE idempotency_key = $1`, [
        key,
      ]);
      expect(rows).toEqual([{ count: 1 }]);
    });

    it('makes one order of different concurrent commands, and refuses the others', async () => {
      const mug = await world.api.product({ onHand: 100 });
      const customer_id = fresh('c');
      const key = fresh('k');
      const answers = await Promise.all(
        Array.from({ length: 20 }, (_, index) =>
          world.api.place({ customer_id, product_id: mug, quantity: 1 + (index % 4) }, key),
        ),
      );
      const placed = answers.filter((it) => it.status === 201);
      expect(new Set(placed.map((it) => it.body.order_id)).size).toBe(1);
      expect(placed).toHaveLength(5);
      for (const answer of answers.filter((it) => it.status !== 201)) refused(answer, '422 idempotency-key-reused');
      await world.ledger.quiet();
      expect(await world.api.stock(mug)).toMatchObject({ reserved: placed[0]!.body.lines[0]!.quantity });
    });

    it('makes separate orders of requests with different keys or none', async () => {
      const mug = await world.api.product({ onHand: 10 });
      const body = { customer_id: fresh('c'), product_id: mug, quantity: 1 };
      const keys = [undefined, undefined, fresh('k'), fresh('k')];
      const ids = await Promise.all(keys.map(async (key) => (await world.api.placed(body, key)).order_id));
      expect(new Set(ids).size).toBe(4);
    });

    it('may be written with or without quotes, with escapes, and up to 255 characters long', async () => {
      const mug = await world.api.product({ onHand: 100 });
      const body = { customer_id: fresh('c'), product_id: mug, quantity: 1 };
      const bare = fresh('k');
      for (const [header, same] of [
        [bare, `"${bare}"`],
        [`"${bare} a, \\"quoted\\" \\\\ one"`, ` "${bare} a, \\"quoted\\" \\\\ one" `],
        [`"${bare.padEnd(255, '~')}"`, bare.padEnd(255, '~')],
      ] as const) {
        const first = await world.api.send<Order>('POST', '/orders', { body, headers: { 'idempotency-key': header } });
        const second = await world.api.send<Order>('POST', '/orders', { body, headers: { 'idempotency-key': same } });
        expect(ok(second, 201).order_id).toBe(ok(first, 201).order_id);
        expect(wasReplayed(second)).toBe(true);
      }
    });

    it('that is malformed is refused without any change', async () => {
      const mug = await world.api.product({ onHand: 100 });
      const body = JSON.stringify({ customer_id: fresh('c'), product_id: mug, quantity: 1 });
      const malformed = [
        ['Idempotency-Key: ""'],
        ['Idempotency-Key: '],
        [`Idempotency-Key: "${'x'.repeat(256)}"`],
        [`Idempotency-Key: ${'x'.repeat(256)}`],
        ['Idempotency-Key: "unterminated'],
        ['Idempotency-Key: two words'],
        ['Idempotency-Key: "a\\b"'],
        ['Idempotency-Key: "na\u00efve"'],
        ['Idempotency-Key: "tab\there"'],
        ['Idempotency-Key: "one", "two"'],
        ['Idempotency-Key: "one"', 'Idempotency-Key: "two"'],
        ['Idempotency-Key: one', 'Idempotency-Key: one'],
      ];
      await world.ledger.unchangedBy(async () => {
        for (const headers of malformed) {
          const answer = await exchange(world.api.baseUrl, {
            line: 'POST /orders HTTP/1.1',
            headers: ['Content-Type: application/json', `Content-Length: ${body.length}`, ...headers],
            body,
          });
          expect({ headers, code: refused(answer, '400 invalid-idempotency-key').code }).toBeTruthy();
        }
      });
    });
  });
};
