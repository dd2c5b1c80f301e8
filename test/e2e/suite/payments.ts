import { describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { ok, refused, type DeadLetterPage, type Order } from '../../support/api.js';
import { fresh } from '../../support/fresh.js';
import type { World } from './world.js';

export const paymentTests = (world: World): void => {
  const price = 250;
  const total = 2 * price;

  /** Two units of a product with a stock of ten. */
  const place = async (payment: object, key?: string): Promise<Order> => {
    const product_id = await world.api.product({ price, onHand: 10 });
    return world.api.placed({ customer_id: 'c', product_id, quantity: 2, payment }, key);
  };
  const bought = async (token?: string): Promise<Order> => place({ method: 'simulated', ...(token && { token }) });
  const invoiced = async (): Promise<Order> => place({ method: 'manual' });

  const until = (order: Order, status: Order['status']): Promise<Order> =>
    eventually(async () => {
      const now = await world.api.order(order.order_id);
      expect(now.status).toBe(status);
      return now;
    });
  /** Waits until the order's history has this entry. */
  const told = (order: Order, type: string): Promise<string[]> =>
    eventually(async () => {
      const types = (await world.api.history(order.order_id)).map((it) => it.type as string);
      expect(types).toContain(type);
      return types;
    });
  const stockOf = async (order: Order) => {
    await world.ledger.quiet();
    const { on_hand, reserved } = await world.api.stock(order.lines[0]!.product_id);
    return { on_hand, reserved };
  };

  describe('a purchase', () => {
    it('is pending until the payment is authorised, then confirmed, and then captured', async () => {
      const order = await bought('tok_ok');
      expect(order).toMatchObject({ status: 'pending', payment_method: 'simulated' });
      expect(await told(order, 'payment-captured')).toEqual(['placed', 'payment-authorised', 'payment-captured']);
      expect((await world.api.order(order.order_id)).status).toBe('confirmed');
      expect(await world.api.payment(order.order_id)).toMatchObject({
        ...{ order_id: order.order_id, method: 'simulated', currency: 'GBP', reversed: false },
        ...{ amount_minor: total, authorised_minor: total, captured_minor: total, refunded_minor: 0 },
        operations: [
          { kind: 'authorise', amount_minor: total, state: 'succeeded', reason: null },
          { kind: 'capture', amount_minor: total, state: 'succeeded', reason: null },
        ],
      });
      expect(await stockOf(order)).toEqual({ on_hand: 10, reserved: 2 });
      ok(await world.api.fulfil(order.order_id));
    });

    it('is cancelled when the payment is declined, and its stock is released', async () => {
      const order = await bought('tok_declined');
      await until(order, 'cancelled');
      const entries = await world.api.history(order.order_id);
      expect(entries.map((it) => it.type)).toEqual(['placed', 'payment-declined']);
      expect(entries[1]!.data).toEqual({ reason: 'card-declined' });
      expect(await stockOf(order)).toEqual({ on_hand: 10, reserved: 0 });
      expect(await world.api.payment(order.order_id)).toMatchObject({ authorised_minor: 0, captured_minor: 0 });
    });

    it('is charged once when the response of the provider is lost', async () => {
      const order = await bought('tok_lost');
      await told(order, 'payment-captured');
      const { captured_minor, operations } = await world.api.payment(order.order_id);
      expect(captured_minor).toBe(total);
      expect(operations).toHaveLength(2);
    });

    it('is cancelled and reversed when the capture is refused', async () => {
      const order = await bought('tok_capture_refused');
      expect(await told(order, 'payment-reversed')).toEqual([
        'placed',
        'payment-authorised',
        'payment-failed',
        'payment-reversed',
      ]);
      await until(order, 'cancelled');
      expect(await stockOf(order)).toEqual({ on_hand: 10, reserved: 0 });
      expect(await world.api.payment(order.order_id)).toMatchObject({ authorised_minor: 0, reversed: true });
    });

    it('that is cancelled during the authorisation is reversed', async () => {
      const order = await bought('tok_slow');
      await eventually(() => world.api.payment(order.order_id));
      ok(await world.api.cancel(order.order_id, { reason: 'changed my mind' }));
      expect(await told(order, 'payment-reversed')).toEqual(['placed', 'cancelled', 'payment-reversed']);
      expect(await world.api.payment(order.order_id)).toMatchObject({ authorised_minor: 0, captured_minor: 0 });
      expect(await stockOf(order)).toEqual({ on_hand: 10, reserved: 0 });
    });

    it('that is cancelled after the capture is refunded', async () => {
      const order = await bought();
      await told(order, 'payment-captured');
      ok(await world.api.cancel(order.order_id));
      await told(order, 'payment-reversed');
      expect(await world.api.payment(order.order_id)).toMatchObject({ captured_minor: total, refunded_minor: total });
    });

    it('does not wait for a slower one', async () => {
      const slow = await bought('tok_slow');
      const swift = await bought();
      await told(swift, 'payment-captured');
      expect((await world.api.order(slow.order_id)).status).toBe('pending');
      refused(await world.api.fulfil(slow.order_id), '409 illegal-transition');
      await told(slow, 'payment-captured');
    });

    it('is replayed under its key, and another payment under that key is refused', async () => {
      const key = fresh('key');
      const product_id = await world.api.product({ price });
      const body = { customer_id: 'c', product_id, quantity: 1, payment: { method: 'simulated', token: 'tok_ok' } };
      const order = await world.api.placed(body, key);
      await told(order, 'payment-captured');
      const again = await world.api.place(body, key);
      expect(again.headers.get('idempotent-replayed')).toBe('true');
      expect(again.body).toEqual(order);
      for (const payment of [undefined, { method: 'manual' }, { method: 'simulated' }])
        refused(await world.api.place({ ...body, payment }, key), '422 idempotency-key-reused');
    });

    it('with a total of zero captures zero', async () => {
      const product_id = await world.api.product({ price: 0 });
      const payment = { method: 'simulated' };
      const order = await world.api.placed({ customer_id: 'c', product_id, quantity: 1, payment });
      await told(order, 'payment-captured');
      expect(await world.api.payment(order.order_id)).toMatchObject({ amount_minor: 0, captured_minor: 0 });
    });

    it.each([
      [{ method: 'barter' }, ['payment.method']],
      [{ token: 'tok_ok' }, ['payment.method']],
      [{ method: 'simulated', token: '' }, ['payment.token']],
      [{ method: 'simulated', amount_minor: 1 }, ['payment.amount_minor']],
    ])('is refused with the payment %j', async (payment, paths) => {
      const product_id = await world.api.product();
      const answer = await world.api.place({ customer_id: 'c', product_id, quantity: 1, payment });
      refused(answer, '400 invalid-request', paths);
    });
  });

  describe('an order with manual payment', () => {
    it('is authorised at once and captured on request, up to its total', async () => {
      const order = await invoiced();
      expect(await told(order, 'payment-authorised')).toEqual(['placed', 'payment-authorised']);
      expect(await world.api.payment(order.order_id)).toMatchObject({ authorised_minor: total, captured_minor: 0 });
      const first = ok(await world.api.capture(order.order_id, { amount_minor: 100 }), 201);
      expect(first).toMatchObject({ kind: 'capture', amount_minor: 100, status: 'succeeded' });
      expect(ok(await world.api.capture(order.order_id), 201)).toMatchObject({ amount_minor: total - 100 });
      refused(await world.api.capture(order.order_id, { amount_minor: 1 }), '409 payment-refused');
      expect(await world.api.payment(order.order_id)).toMatchObject({ captured_minor: total });
    });

    it('can be captured on request, unlike a simulated purchase', async () => {
      const order = await bought();
      refused(await world.api.capture(order.order_id), '409 payment-refused');
    });

    it('whose remainder was cancelled needs an amount to be captured', async () => {
      const order = await invoiced();
      await told(order, 'payment-authorised');
      const [{ product_id }] = order.lines as [Order['lines'][number]];
      ok(await world.api.fulfil(order.order_id, { lines: [{ product_id, quantity: 1 }] }));
      const [before, key] = [fresh('capture'), fresh('capture')];
      ok(await world.api.capture(order.order_id, { amount_minor: 10 }, { key: before }), 201);
      ok(await world.api.cancel(order.order_id, { remaining: true }));
      const all = await world.api.capture(order.order_id, {}, { key });
      expect(refused(all, '409 payment-refused')['reason']).toBe('partly-cancelled');
      ok(await world.api.capture(order.order_id, { amount_minor: price - 10 }, { key }), 201);
      ok(await world.api.capture(order.order_id, { amount_minor: 10 }, { key: before }), 201);
      expect(await world.api.payment(order.order_id)).toMatchObject({ captured_minor: price, reversed: false });
      expect(await stockOf(order)).toEqual({ on_hand: 9, reserved: 0 });
    });

    it('cannot be captured once it is cancelled', async () => {
      const order = await invoiced();
      await told(order, 'payment-authorised');
      ok(await world.api.cancel(order.order_id));
      await told(order, 'payment-reversed');
      refused(await world.api.capture(order.order_id), '409 payment-refused');
    });
  });

  describe('a refund', () => {
    it('refunds a part once per key, and appears in the history', async () => {
      const order = await bought();
      await told(order, 'payment-captured');
      const key = fresh('refund');
      const body = { amount_minor: 200, reason: 'arrived late' };
      const refund = ok(await world.api.refund(order.order_id, body, { key }), 201);
      expect(refund).toMatchObject({
        kind: 'refund',
        order_id: order.order_id,
        amount_minor: 200,
        status: 'succeeded',
      });
      const again = await world.api.refund(order.order_id, body, { key });
      expect(again.headers.get('idempotent-replayed')).toBe('true');
      expect(again.body).toEqual(refund);
      refused(
        await world.api.refund(order.order_id, { ...body, amount_minor: 100 }, { key }),
        '422 idempotency-key-reused',
      );
      expect(await world.api.payment(order.order_id)).toMatchObject({ captured_minor: total, refunded_minor: 200 });
      const last = (await world.api.history(order.order_id)).at(-1)!;
      expect(last).toMatchObject({ type: 'refunded', data: { amount_minor: 200, reason: 'arrived late' } });
    });

    it('never exceeds the captured amount under concurrent requests', async () => {
      const order = await bought();
      await told(order, 'payment-captured');
      const answers = await Promise.all(
        Array.from({ length: 8 }, () => world.api.refund(order.order_id, { amount_minor: 150, reason: 'race' })),
      );
      expect(answers.filter((it) => it.status === 201)).toHaveLength(3);
      for (const answer of answers.filter((it) => it.status !== 201)) refused(answer, '409 payment-refused');
      expect(await world.api.payment(order.order_id)).toMatchObject({ refunded_minor: 450 });
    });

    it('requested before the capture succeeds after it under the same key', async () => {
      const order = await bought('tok_slow');
      const body = { amount_minor: 200, reason: 'changed my mind' };
      const key = fresh('refund');
      await eventually(async () => {
        const refund = ok(await world.api.refund(order.order_id, body, { key }), 201);
        expect(refund).toMatchObject({ amount_minor: 200, status: 'succeeded' });
      });
      expect(await world.api.payment(order.order_id)).toMatchObject({ captured_minor: total, refunded_minor: 200 });
    });

    it('that is refused is replayed under its key, and says to try another key', async () => {
      const order = await bought();
      await told(order, 'payment-captured');
      const body = { amount_minor: total + 1, reason: 'too much' };
      const key = fresh('refund');
      const first = await world.api.refund(order.order_id, body, { key });
      const again = await world.api.refund(order.order_id, body, { key });
      for (const answer of [first, again])
        expect(refused(answer, '409 payment-refused').detail).toContain('under another key');
      expect(again.body).toEqual(first.body);
      expect([first, again].map((it) => it.headers.get('idempotent-replayed'))).toEqual([null, 'true']);
    });

    it('is made once for ten concurrent requests under one key', async () => {
      const order = await bought();
      await told(order, 'payment-captured');
      const key = fresh('refund');
      const body = { amount_minor: 100, reason: 'race' };
      const answers = await Promise.all(
        Array.from({ length: 10 }, () => world.api.refund(order.order_id, body, { key })),
      );
      expect(new Set(answers.map((it) => ok(it, 201).move_id)).size).toBe(1);
      expect(answers.filter((it) => it.headers.get('idempotent-replayed') === null)).toHaveLength(1);
      expect(await world.api.payment(order.order_id)).toMatchObject({ refunded_minor: 100 });
    });

    it('needs a key, an existing order with a payment, and a positive amount', async () => {
      const body = { amount_minor: 1, reason: 'why' };
      const order = await bought();
      refused(await world.api.refund(order.order_id, body, {}), '400 idempotency-key-required');
      const product_id = await world.api.product();
      const unpaid = await world.api.placed({ customer_id: 'c', product_id, quantity: 1 });
      expect(unpaid).toMatchObject({ status: 'confirmed', payment_method: null });
      refused(await world.api.refund(unpaid.order_id, body), '404 payment-not-found');
      refused(await world.api.get(`/orders/${unpaid.order_id}/payment`), '404 payment-not-found');
      refused(await world.api.refund('01890000-0000-7000-8000-000000000000', body), '404 order-not-found');
      refused(await world.api.refund(order.order_id, { ...body, amount_minor: 0 }), '400 invalid-request', [
        'amount_minor',
      ]);
    });
  });

  describe('a return of an order with a payment', () => {
    it('credits no more than was paid', async () => {
      const order = await bought();
      await told(order, 'payment-captured');
      ok(await world.api.fulfil(order.order_id));
      const back = (amount_minor?: number) => ({
        lines: [
          { product_id: order.lines[0]!.product_id, quantity: 1, ...(amount_minor !== undefined && { amount_minor }) },
        ],
        ...{ restock: true, reason: 'unwanted' },
      });
      await world.ledger.unchangedBy(async () => {
        const answer = await world.api.return(order.order_id, back(total + 1));
        expect(refused(answer, '409 credit-exceeds-total')).toMatchObject({ at_most_minor: total });
      });
      ok(await world.api.return(order.order_id, back()), 201);
      refused(await world.api.return(order.order_id, back(price + 1)), '409 credit-exceeds-total');
      const all = ok(await world.api.return(order.order_id, back(price)), 201);
      expect(all).toMatchObject({ status: 'returned', returned_total_minor: total });
    });
  });

  describe('If-Match', () => {
    const ifMatch = (version: number, key = fresh('move')) => ({ key, headers: { 'if-match': `"v${version}"` } });
    const versionOf = async ({ order_id }: Order): Promise<number> => (await world.api.order(order_id)).version;
    const refundOf = (amount_minor: number) => ({ amount_minor, reason: 'why' });

    it('allows a refund only of the matching version, and replays it whatever the version is', async () => {
      const order = await bought();
      await told(order, 'payment-captured');
      const { order_id } = order;
      const seen = await versionOf(order);
      for (const version of [seen - 1, seen + 1, 99_999_999_999]) {
        const answer = await world.api.refund(order_id, refundOf(10), ifMatch(version));
        expect(refused(answer, '412 precondition-failed')).toMatchObject({ version: seen });
      }
      const headers = { 'if-match': 'v2' };
      const malformed = await world.api.refund(order_id, refundOf(10), { key: fresh('move'), headers });
      refused(malformed, '400 invalid-request', ['If-Match']);
      // A refused refund does not change the version.
      refused(await world.api.refund(order_id, refundOf(total + 1), ifMatch(seen)), '409 payment-refused');
      const sent = ifMatch(seen);
      const refund = ok(await world.api.refund(order_id, refundOf(10), sent), 201);
      expect(await versionOf(order)).toBe(seen + 1);
      refused(await world.api.refund(order_id, refundOf(10), ifMatch(seen)), '412 precondition-failed');
      const again = await world.api.refund(order_id, refundOf(10), sent);
      expect(ok(again, 201)).toEqual(refund);
      expect(again.headers.get('idempotent-replayed')).toBe('true');
      expect(await world.api.payment(order_id)).toMatchObject({ refunded_minor: 10 });
    });

    it('allows one of several concurrent refunds of the same version', async () => {
      const order = await bought();
      await told(order, 'payment-captured');
      const seen = await versionOf(order);
      const answers = await Promise.all(
        Array.from({ length: 10 }, () => world.api.refund(order.order_id, refundOf(10), ifMatch(seen))),
      );
      expect(answers.filter((it) => it.status === 201)).toHaveLength(1);
      for (const answer of answers.filter((it) => it.status !== 201)) refused(answer, '412 precondition-failed');
      const key = fresh('move');
      const equal = await Promise.all(
        Array.from({ length: 5 }, () => world.api.refund(order.order_id, refundOf(10), ifMatch(seen + 1, key))),
      );
      expect(new Set(equal.map((it) => ok(it, 201).move_id)).size).toBe(1);
      expect(await world.api.payment(order.order_id)).toMatchObject({ refunded_minor: 20 });
    });

    it('allows a capture only of the matching version', async () => {
      const order = await invoiced();
      await told(order, 'payment-authorised');
      const seen = await versionOf(order);
      const capture = (version: number) => world.api.capture(order.order_id, { amount_minor: 10 }, ifMatch(version));
      refused(await capture(seen - 1), '412 precondition-failed');
      ok(await capture(seen), 201);
      refused(await capture(seen), '412 precondition-failed');
      ok(await capture(seen + 1), 201);
      expect(await world.api.payment(order.order_id)).toMatchObject({ captured_minor: 20 });
    });
  });

  describe('Stripe without an API key', () => {
    it('is not offered: an order paid by it is cancelled', async () => {
      const order = await place({ method: 'stripe', token: 'pm_card_visa' });
      await until(order, 'cancelled');
      const [, declined] = await world.api.history(order.order_id);
      expect(declined).toMatchObject({ type: 'payment-declined', data: { reason: 'method-not-offered' } });
      expect(await stockOf(order)).toEqual({ on_hand: 10, reserved: 0 });
    });

    it('has no webhook', async () => {
      const path = '/payments/webhooks/stripe';
      refused(await world.api.send('POST', path, { body: { type: 'payment_intent.succeeded' } }), '404 not-found');
      refused(await world.api.get(path), '405 method-not-allowed');
      refused(await world.api.get('/payments/nothing'), '404 not-found');
    });
  });

  describe('a dead letter', () => {
    it('is listed, and can be retried and resolved', async () => {
      const order = await bought('tok_slow_capture_refused');
      await until(order, 'confirmed');
      ok(await world.api.fulfil(order.order_id));
      const letters = async () => {
        const { data } = ok(await world.api.get<DeadLetterPage>('/dead-letters?limit=200'));
        return data.filter((it) => it.order_id === order.order_id);
      };
      const parked = () =>
        eventually(async () => {
          const [letter, ...others] = await letters();
          expect(others).toEqual([]);
          expect(letter).toMatchObject({ saga: 'purchase', step: 'capture', result: { refused_for: 'card-expired' } });
          return letter!;
        });
      const { saga_id } = await parked();
      expect((await world.api.send('POST', `/dead-letters/${saga_id}/retry`)).status).toBe(204);
      await eventually(async () => expect(await letters()).toEqual([]));
      await parked();
      refused(await world.api.send('POST', `/dead-letters/${saga_id}/resolve`, { body: {} }), '400 invalid-request');
      const body = { note: 'paid in cash' };
      expect((await world.api.send('POST', `/dead-letters/${saga_id}/resolve`, { body })).status).toBe(204);
      expect(await letters()).toEqual([]);
      for (const verb of ['retry', 'resolve'])
        refused(
          await world.api.send('POST', `/dead-letters/${saga_id}/${verb}`, { body }),
          '404 dead-letter-not-found',
        );
      expect((await world.api.order(order.order_id)).status).toBe('fulfilled');
    });
  });
};
