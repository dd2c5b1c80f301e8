import { randomUUID } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import { ok, refused, type Order } from '../../support/api.js';
import { fresh } from '../../support/fresh.js';
import type { World } from './world.js';

export const transitionTests = (world: World): void => {
  /** A confirmed order of a new product. */
  const confirmed = async (quantity = 5, price = 100): Promise<{ order: Order; id: string; mug: string }> => {
    const mug = await world.api.product({ onHand: 100, price });
    const order = await world.api.placed({ customer_id: fresh('c'), product_id: mug, quantity });
    return { order, id: order.order_id, mug };
  };
  const units = (product_id: string, quantity: number, more: object = {}) => ({
    lines: [{ product_id, quantity, ...more }],
  });
  const back = (product_id: string, quantity: number, more: object = {}) => ({
    ...units(product_id, quantity, more),
    restock: true,
    reason: 'unwanted',
  });

  describe('an order', () => {
    it('records its transitions in its history', async () => {
      const { id, order, mug } = await confirmed(5);
      expect(await world.api.history(id)).toEqual([
        { version: 1, type: 'placed', status: 'confirmed', data: {}, at: order.created_at },
      ]);
      ok(await world.api.fulfil(id, units(mug, 2)));
      ok(await world.api.fulfil(id));
      ok(await world.api.return(id, back(mug, 1)), 201);
      const last = ok(
        await world.api.return(id, { ...back(mug, 4, { amount_minor: 50 }), restock: false, reason: 'broken' }),
        201,
      );
      const history = await world.api.history(id);
      expect(history.map(({ version, type, status }) => [version, type, status])).toEqual([
        [1, 'placed', 'confirmed'],
        [2, 'fulfilled', 'partially-fulfilled'],
        [3, 'fulfilled', 'fulfilled'],
        [4, 'returned', 'fulfilled'],
        [5, 'returned', 'returned'],
      ]);
      expect(history[1]!.data).toMatchObject({ lines: [{ product_id: mug, quantity: 2 }] });
      expect(history[2]!.data).toMatchObject({ lines: [{ product_id: mug, quantity: 3 }] });
      expect(history[4]!.data).toMatchObject({ amount_minor: 50, restock: false, reason: 'broken' });
      const times = history.map((it) => it.at);
      expect(times).toEqual(times.toSorted());
      expect(times.at(-1)).toBe(last.updated_at);
      expect(await world.api.order(id)).toEqual(last);
    });

    it('names each hand-over by the reference of the caller, in its history and under its key', async () => {
      const { id, mug } = await confirmed(5);
      const sent = { key: fresh('k') };
      const parcel = { ...units(mug, 2), reference: 'JD0002254' };
      const first = ok(await world.api.fulfil(id, parcel, sent));
      await world.ledger.unchangedBy(async () => {
        expect(ok(await world.api.fulfil(id, parcel, sent))).toEqual(first);
        for (const other of [units(mug, 2), { ...parcel, reference: 'JD0002255' }])
          refused(await world.api.fulfil(id, other, sent), '422 idempotency-key-reused');
        for (const reference of ['', 'x'.repeat(129), 7, null])
          refused(await world.api.fulfil(id, { reference }), '400 invalid-request', ['reference']);
      });
      ok(await world.api.fulfil(id));
      // Nothing is handed over any more, so there is nothing to name.
      expect(ok(await world.api.fulfil(id, { reference: 'late' }))).toMatchObject({ version: 3 });
      const [, one, rest] = await world.api.history(id);
      expect(one!.data).toEqual({ lines: [{ line: 1, product_id: mug, quantity: 2 }], reference: 'JD0002254' });
      expect(rest!.data).toEqual({ lines: [{ line: 1, product_id: mug, quantity: 3 }] });
    });

    it('that does not exist is not found by any operation', async () => {
      const mug = await world.api.product();
      await world.ledger.unchangedBy(async () => {
        for (const id of [randomUUID(), '0'.repeat(8), 'x', '__proto__', '%20', 'null', encodeURIComponent('a/b?c')]) {
          refused(await world.api.get(`/orders/${id}`), '404 order-not-found');
          refused(await world.api.get(`/orders/${id}/history`), '404 order-not-found');
          refused(await world.api.cancel(id), '404 order-not-found');
          refused(await world.api.fulfil(id), '404 order-not-found');
          refused(await world.api.fulfil(id, undefined, { key: fresh('k') }), '404 order-not-found');
          refused(await world.api.return(id, back(mug, 1)), '404 order-not-found');
        }
      });
    });
  });

  describe('cancelling an order', () => {
    it('happens once, however often it is requested', async () => {
      const { id, order, mug } = await confirmed(5);
      const answer = await world.api.cancel(id, { reason: 'changed my mind' });
      const cancelled = ok(answer);
      expect(cancelled).toEqual({ ...order, status: 'cancelled', version: 2, updated_at: cancelled.updated_at });
      expect(Date.parse(cancelled.updated_at)).toBeGreaterThanOrEqual(Date.parse(order.created_at));
      expect(answer.headers.get('etag')).toBe('"v2"');
      for (const body of [undefined, {}, { reason: 'another' }])
        expect(ok(await world.api.cancel(id, body))).toEqual(cancelled);
      const history = await world.api.history(id);
      expect(history).toHaveLength(2);
      expect(history[1]).toMatchObject({ type: 'cancelled', data: { reason: 'changed my mind' } });
      await world.ledger.quiet();
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 100, reserved: 0, sold: 0 });
    });

    it('is replayed under its key, even if its If-Match no longer holds', async () => {
      const { id } = await confirmed(5);
      const sent = { key: fresh('k'), headers: { 'if-match': '"v1"' } };
      const first = await world.api.cancel(id, { reason: 'changed my mind' }, sent);
      expect(ok(first)).toMatchObject({ status: 'cancelled', version: 2 });
      expect(first.headers.get('idempotent-replayed')).toBeNull();
      await world.ledger.unchangedBy(async () => {
        const again = await world.api.cancel(id, { reason: 'changed my mind' }, sent);
        expect([again.status, again.text, again.headers.get('etag')]).toEqual([200, first.text, '"v2"']);
        expect(again.headers.get('idempotent-replayed')).toBe('true');
        for (const body of [{}, { remaining: true, reason: 'changed my mind' }])
          refused(await world.api.cancel(id, body, sent), '422 idempotency-key-reused');
        refused(await world.api.cancel(id, {}, { headers: sent.headers }), '412 precondition-failed');
      });
    });

    it('is refused once some units were fulfilled', async () => {
      const { id, mug } = await confirmed(5);
      ok(await world.api.fulfil(id, units(mug, 1)));
      await world.ledger.unchangedBy(async () => {
        expect(refused(await world.api.cancel(id), '409 illegal-transition')['order_status']).toBe(
          'partially-fulfilled',
        );
      });
      ok(await world.api.fulfil(id));
      refused(await world.api.cancel(id), '409 illegal-transition');
      ok(await world.api.return(id, back(mug, 5)), 201);
      expect(refused(await world.api.cancel(id), '409 illegal-transition')['order_status']).toBe('returned');
    });

    it('after a partial fulfilment needs `remaining: true` and releases the remaining stock', async () => {
      const [mug, lamp] = [await world.api.product({ onHand: 10 }), await world.api.product({ onHand: 10 })];
      const lines = [
        { product_id: mug, quantity: 5 },
        { product_id: lamp, quantity: 2 },
      ];
      const { order_id: id } = await world.api.placed({ customer_id: fresh('c'), lines });
      ok(await world.api.fulfil(id, units(mug, 2)));
      refused(await world.api.cancel(id, { remaining: false }), '409 illegal-transition');
      const answer = await world.api.cancel(id, { remaining: true, reason: 'not to be had' });
      const cancelled = ok(answer);
      expect(cancelled).toMatchObject({
        ...{ status: 'fulfilled', version: 3 },
        lines: [
          { quantity: 5, cancelled: 3, fulfilled: 2, returned: 0 },
          { quantity: 2, cancelled: 2, fulfilled: 0, returned: 0 },
        ],
      });
      expect(answer.headers.get('etag')).toBe('"v3"');
      expect(await world.api.order(id)).toEqual(cancelled);
      expect((await world.api.history(id)).at(-1)).toMatchObject({
        ...{ version: 3, type: 'cancelled', status: 'fulfilled' },
        data: {
          ...{ reason: 'not to be had', remaining: true },
          lines: [
            { line: 1, product_id: mug, quantity: 3 },
            { line: 2, product_id: lamp, quantity: 2 },
          ],
        },
      });
      await world.ledger.quiet();
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 8, reserved: 0, sold: 2 });
      expect(await world.api.stock(lamp)).toMatchObject({ on_hand: 10, reserved: 0, sold: 0 });

      await world.ledger.unchangedBy(async () => {
        expect(ok(await world.api.cancel(id, { remaining: true }))).toEqual(cancelled);
        refused(await world.api.fulfil(id), '409 illegal-transition');
        refused(await world.api.fulfil(id, undefined, { key: fresh('k') }), '409 illegal-transition');
        refused(await world.api.fulfil(id, units(mug, 1)), '409 illegal-transition');
        refused(await world.api.return(id, back(mug, 3)), '409 illegal-transition', ['lines.0.quantity']);
      });
      expect(ok(await world.api.return(id, back(mug, 2)), 201)).toMatchObject({ status: 'returned' });
      await world.ledger.quiet();
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 10, reserved: 0 });
    });

    it('with `remaining: true` before any fulfilment cancels all of it', async () => {
      const { id, mug } = await confirmed(5);
      expect(ok(await world.api.cancel(id, { remaining: true }))).toMatchObject({
        ...{ status: 'cancelled', version: 2 },
        lines: [{ fulfilled: 0 }],
      });
      await world.ledger.quiet();
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 100, reserved: 0 });
    });

    it('with `remaining: true` during a concurrent fulfilment either cancels or fulfils each unit', async () => {
      const orders = await Promise.all(Array.from({ length: 12 }, () => confirmed(4)));
      await Promise.all(
        orders.map(async ({ id, mug }, index) => {
          ok(await world.api.fulfil(id, units(mug, 1)));
          const [handedOver, ...cancelled] = await Promise.all([
            world.api.fulfil(id, index % 2 === 0 ? units(mug, 1) : undefined),
            world.api.cancel(id, { remaining: true }),
            world.api.cancel(id, { remaining: true }),
          ]);
          const { lines } = await world.api.order(id);
          const isCancelled = lines[0]!.cancelled !== undefined;
          for (const it of cancelled) expect(it.status).toBe(isCancelled ? 200 : 409);
          expect(handedOver.status).toBe(lines[0]!.fulfilled > 1 ? 200 : 409);
        }),
      );
      await world.ledger.quiet();
      for (const { id, mug } of orders) {
        const { status, lines } = await world.api.order(id);
        const { cancelled = 0, fulfilled } = lines[0]!;
        expect([status, cancelled + fulfilled]).toEqual(['fulfilled', 4]);
        expect(await world.api.stock(mug)).toMatchObject({ on_hand: 100 - fulfilled, reserved: 0, sold: fulfilled });
      }
    });

    it('prevents fulfilment and return', async () => {
      const { id, mug } = await confirmed(5);
      ok(await world.api.cancel(id));
      await world.ledger.unchangedBy(async () => {
        refused(await world.api.fulfil(id), '409 illegal-transition');
        refused(await world.api.fulfil(id, units(mug, 1)), '409 illegal-transition');
        refused(await world.api.return(id, back(mug, 1)), '409 illegal-transition');
      });
    });

    it('and fulfilling it concurrently has exactly one winner', async () => {
      const orders = await Promise.all(Array.from({ length: 12 }, () => confirmed(3)));
      await Promise.all(
        orders.map(async ({ id }) => {
          const [cancelled, fulfilled] = await Promise.all([world.api.cancel(id), world.api.fulfil(id)]);
          expect(new Set([cancelled.status, fulfilled.status])).toEqual(new Set([200, 409]));
          refused(cancelled.status === 409 ? cancelled : fulfilled, '409 illegal-transition');
        }),
      );
      await world.ledger.quiet();
      for (const { id, mug } of orders) {
        const { status } = await world.api.order(id);
        const sold = status === 'fulfilled' ? 3 : 0;
        expect(await world.api.stock(mug)).toMatchObject({ on_hand: 100 - sold, reserved: 0, sold });
      }
    });
  });

  describe('fulfilling an order', () => {
    it('can take several steps, and never exceeds what was ordered', async () => {
      const { id, mug } = await confirmed(5);
      const first = ok(await world.api.fulfil(id, units(mug, 2)));
      expect(first).toMatchObject({
        status: 'partially-fulfilled',
        version: 2,
        lines: [{ quantity: 5, fulfilled: 2 }],
      });
      await world.ledger.unchangedBy(async () => {
        refused(await world.api.fulfil(id, units(mug, 4)), '409 illegal-transition', ['lines.0.quantity']);
        const twice = { lines: [...units(mug, 2).lines, ...units(mug, 2).lines] };
        refused(await world.api.fulfil(id, twice), '409 illegal-transition', ['lines.1.quantity']);
        refused(await world.api.fulfil(id, units(fresh('ghost'), 1)), '409 illegal-transition', ['lines.0.quantity']);
        refused(await world.api.fulfil(id, units(mug, 1, { line: 2 })), '409 illegal-transition', ['lines.0.quantity']);
      });
      expect(ok(await world.api.fulfil(id, units(mug, 3)))).toMatchObject({ status: 'fulfilled', version: 3 });
      refused(await world.api.fulfil(id, units(mug, 1)), '409 illegal-transition');
    });

    it('that is already fulfilled changes nothing', async () => {
      const { id } = await confirmed(5);
      const first = ok(await world.api.fulfil(id));
      expect(first).toMatchObject({ status: 'fulfilled', version: 2, lines: [{ fulfilled: 5 }] });
      expect(ok(await world.api.fulfil(id))).toEqual(first);
      expect(ok(await world.api.fulfil(id, {}))).toEqual(first);
      expect(await world.api.history(id)).toHaveLength(2);
    });

    it('happens once under an idempotency key', async () => {
      const { id, mug } = await confirmed(5);
      const key = fresh('k');
      const first = await world.api.fulfil(id, units(mug, 1), { key });
      expect(first.headers.get('idempotent-replayed')).toBeNull();
      ok(await world.api.fulfil(id, units(mug, 2)));
      const repeat = await world.api.fulfil(id, units(mug, 1), { key });
      expect(ok(repeat)).toEqual(ok(first));
      expect(repeat.headers.get('idempotent-replayed')).toBe('true');
      expect(repeat.headers.get('etag')).toBe('"v2"');
      expect(await world.api.order(id)).toMatchObject({ version: 3, lines: [{ fulfilled: 3 }] });
      const { id: otherId, mug: otherMug } = await confirmed(5);
      refused(await world.api.fulfil(id, units(mug, 2), { key }), '422 idempotency-key-reused');
      refused(await world.api.fulfil(otherId, units(otherMug, 1), { key }), '422 idempotency-key-reused');
    });

    it('that is already fulfilled uses up its idempotency key as well', async () => {
      const { id } = await confirmed(5);
      ok(await world.api.fulfil(id));
      const key = fresh('k');
      const first = await world.api.fulfil(id, undefined, { key });
      expect(ok(first)).toMatchObject({ status: 'fulfilled', version: 2 });
      expect(first.headers.get('idempotent-replayed')).toBeNull();
      const repeat = await world.api.fulfil(id, undefined, { key });
      expect(ok(repeat)).toEqual(ok(first));
      expect(repeat.headers.get('idempotent-replayed')).toBe('true');
      const { id: otherId } = await confirmed(5);
      refused(await world.api.fulfil(otherId, undefined, { key }), '422 idempotency-key-reused');
      expect(await world.api.order(otherId)).toMatchObject({ status: 'confirmed', version: 1 });
    });

    it('takes units from the named line, or else from the first lines with units left', async () => {
      const mug = await world.api.product({ onHand: 100 });
      const lines = [
        { product_id: mug, quantity: 2 },
        { product_id: mug, quantity: 3, unit_price_minor: 90 },
      ];
      const { order_id } = await world.api.placed({ customer_id: fresh('c'), lines });
      const named = ok(await world.api.fulfil(order_id, units(mug, 1, { line: 2 })));
      expect(named.lines.map((it) => it.fulfilled)).toEqual([0, 1]);
      const spread = ok(await world.api.fulfil(order_id, units(mug, 3)));
      expect(spread.lines.map((it) => it.fulfilled)).toEqual([2, 2]);
      refused(await world.api.fulfil(order_id, units(mug, 1, { line: 1 })), '409 illegal-transition');
      expect(ok(await world.api.fulfil(order_id))).toMatchObject({ status: 'fulfilled' });
      await world.ledger.quiet();
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 95, reserved: 0, sold: 5 });
    });

    it('with thirty concurrent requests fulfils each of twenty units once', async () => {
      const { id, mug } = await confirmed(20);
      const answers = await Promise.all(Array.from({ length: 30 }, () => world.api.fulfil(id, units(mug, 1))));
      expect(answers.filter((it) => it.status === 200)).toHaveLength(20);
      for (const answer of answers.filter((it) => it.status !== 200)) refused(answer, '409 illegal-transition');
      const versions = answers.filter((it) => it.status === 200).map((it) => it.body.version);
      expect(versions.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, index) => index + 2));
      expect(await world.api.order(id)).toMatchObject({ status: 'fulfilled', version: 21, lines: [{ fulfilled: 20 }] });
      await world.ledger.quiet();
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 80, reserved: 0, sold: 20 });
    });
  });

  describe('a return', () => {
    it('needs an idempotency key, and happens once under it', async () => {
      const { id, mug } = await confirmed(5);
      ok(await world.api.fulfil(id));
      await world.ledger.unchangedBy(async () =>
        refused(await world.api.return(id, back(mug, 1), {}), '400 idempotency-key-required'),
      );
      const key = fresh('k');
      const answers = await Promise.all(Array.from({ length: 10 }, () => world.api.return(id, back(mug, 1), { key })));
      expect(new Set(answers.map((it) => it.text)).size).toBe(1);
      expect(answers.map((it) => it.status)).toEqual(answers.map(() => 201));
      expect(answers.filter((it) => it.headers.get('idempotent-replayed') === null)).toHaveLength(1);
      expect(await world.api.order(id)).toMatchObject({ version: 3, lines: [{ returned: 1 }] });
      refused(await world.api.return(id, back(mug, 2), { key }), '422 idempotency-key-reused');
      const broken = { ...back(mug, 1), restock: false };
      refused(await world.api.return(id, broken, { key }), '422 idempotency-key-reused');
      await world.ledger.quiet();
      expect(await world.api.stock(mug)).toMatchObject({ on_hand: 96, sold: 5 });
    });

    it('accepts only units that were fulfilled and not yet returned', async () => {
      const { id, mug } = await confirmed(5);
      await world.ledger.unchangedBy(async () =>
        refused(await world.api.return(id, back(mug, 1)), '409 illegal-transition'),
      );
      ok(await world.api.fulfil(id, units(mug, 3)));
      await world.ledger.unchangedBy(async () => {
        refused(await world.api.return(id, back(mug, 4)), '409 illegal-transition', ['lines.0.quantity']);
        refused(await world.api.return(id, back(fresh('ghost'), 1)), '409 illegal-transition', ['lines.0.quantity']);
      });
      expect(ok(await world.api.return(id, back(mug, 2)), 201)).toMatchObject({ status: 'partially-fulfilled' });
      refused(await world.api.return(id, back(mug, 2)), '409 illegal-transition', ['lines.0.quantity']);
      expect(ok(await world.api.fulfil(id))).toMatchObject({ status: 'fulfilled' });
      expect(ok(await world.api.return(id, back(mug, 3)), 201)).toMatchObject({
        status: 'returned',
        lines: [{ quantity: 5, fulfilled: 5, returned: 5 }],
      });
      refused(await world.api.return(id, back(mug, 1)), '409 illegal-transition');
    });

    it('credits the price of the order, or the amount given', async () => {
      const { id, mug } = await confirmed(6, 100);
      ok(await world.api.fulfil(id));
      ok(
        await world.api.send('PUT', `/products/${mug}`, {
          body: { name: 'Dearer', unit_price_minor: 999, currency: 'GBP' },
        }),
      );
      expect(ok(await world.api.return(id, back(mug, 2)), 201)).toMatchObject({ returned_total_minor: 200 });
      const partly = back(mug, 1, { amount_minor: 33 });
      expect(ok(await world.api.return(id, partly), 201)).toMatchObject({ returned_total_minor: 233 });
      const nothing = back(mug, 1, { amount_minor: 0 });
      expect(ok(await world.api.return(id, nothing), 201)).toMatchObject({ returned_total_minor: 233 });
      const order = await world.api.order(id);
      expect(order).toMatchObject({ returned_total_minor: 233, total_minor: 600, status: 'fulfilled' });
    });

    it('splits an amount among the lines without a rounding loss', async () => {
      const mug = await world.api.product({ onHand: 100, price: 100 });
      const lines = [1, 1, 1].map((quantity) => ({ product_id: mug, quantity }));
      const { order_id } = await world.api.placed({ customer_id: fresh('c'), lines });
      ok(await world.api.fulfil(order_id));
      const returned = ok(await world.api.return(order_id, back(mug, 3, { amount_minor: 100 })), 201);
      expect(returned).toMatchObject({ status: 'returned', returned_total_minor: 100 });
      const entry = (await world.api.history(order_id)).at(-1)!;
      const credited = (entry.data['lines'] as { amount_minor: number }[]).map((it) => it.amount_minor);
      expect(credited.reduce((sum, it) => sum + it, 0)).toBe(100);
      expect(credited).toHaveLength(3);
    });

    it.each([
      [{}, ['lines', 'reason', 'restock']],
      [{ lines: [], restock: true, reason: 'x' }, ['lines']],
      [{ lines: [{ product_id: 'x', quantity: 1 }], restock: 'yes', reason: 'x' }, ['restock']],
      [{ lines: [{ product_id: 'x', quantity: 1 }], restock: true, reason: '' }, ['reason']],
      [
        { lines: [{ product_id: 'x', quantity: 1, amount_minor: -1 }], restock: true, reason: 'x' },
        ['lines.0.amount_minor'],
      ],
      [
        { lines: [{ product_id: 'x', quantity: 0, line: 0 }], restock: true, reason: 'x' },
        ['lines.0.line', 'lines.0.quantity'],
      ],
    ])('is refused with the body %j', async (body, paths) => {
      const { id } = await confirmed(1);
      refused(await world.api.return(id, body), '400 invalid-request', paths);
    });
  });

  describe('If-Match', () => {
    it('allows a change only of a matching version', async () => {
      const { id, mug } = await confirmed(5);
      const ifMatch = (tag: string) => ({ headers: { 'if-match': tag } });
      const first = await world.api.fulfil(id, units(mug, 1), ifMatch('"v1"'));
      expect(ok(first)).toMatchObject({ version: 2 });
      await world.ledger.unchangedBy(async () => {
        for (const tag of ['"v1"', '"v3"', '"v02"', 'W/"v2"', '"something-else"', '""', '"v1", "v3", W/"v2"']) {
          refused(await world.api.fulfil(id, units(mug, 1), ifMatch(tag)), '412 precondition-failed');
          refused(await world.api.cancel(id, {}, ifMatch(tag)), '412 precondition-failed');
          const returning = { ...ifMatch(tag), key: fresh('k') };
          refused(await world.api.return(id, back(mug, 1), returning), '412 precondition-failed');
        }
        for (const tag of ['v2', '"v2', '"v1" "v2"', '"something else"', '']) {
          refused(await world.api.fulfil(id, units(mug, 1), ifMatch(tag)), '400 invalid-request', ['If-Match']);
        }
      });
      const tag = first.headers.get('etag')!;
      expect(ok(await world.api.fulfil(id, units(mug, 1), ifMatch(tag)))).toMatchObject({ version: 3 });
      expect(ok(await world.api.fulfil(id, units(mug, 1), ifMatch('*')))).toMatchObject({ version: 4 });
      expect(ok(await world.api.fulfil(id, units(mug, 1), ifMatch('"v1", "v4"')))).toMatchObject({ version: 5 });
    });

    it('allows one of several concurrent changes of the same version', async () => {
      const { id, mug } = await confirmed(20);
      const headers = { 'if-match': '"v1"' };
      const answers = await Promise.all(
        Array.from({ length: 10 }, () => world.api.fulfil(id, units(mug, 1), { headers })),
      );
      expect(answers.filter((it) => it.status === 200)).toHaveLength(1);
      for (const answer of answers.filter((it) => it.status !== 200)) refused(answer, '412 precondition-failed');
      expect(await world.api.order(id)).toMatchObject({ version: 2, lines: [{ fulfilled: 1 }] });
    });
  });
};
