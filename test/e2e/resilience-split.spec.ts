import { describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { Api, ok, refused, type Problem, type Product } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { acknowledged, callers, expectAnswers, withTrial } from '../support/trial.js';
import { followersGoOn } from './followers.js';

describe('services over TCP', () => {
  const holder = withTrial('split-tcp');

  it('answer accepted requests when order is stopped, and keep their orders', async () => {
    const { trial } = holder;
    const order = trial.shape.service('order');
    const load = trial.load();
    await load.until(() => load.answered.length > 200 && load.inFlight.length === callers);
    const accepted = load.inFlight;
    expect(await order.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    await load.until(() => load.attempts.some((it) => it.outcome === 503));
    expectAnswers(await load.end(), [201, 409, 503]);
    // The gateway may not have forwarded all requests in flight; the others had no effect, and their responses say so.
    const refusals = accepted.filter((it) => it.outcome === 503);
    for (const { text } of refusals) expect(text).toContain('has had no effect');
    expect(refusals.length).toBeLessThan(callers);
    await order.restart();
    await trial.settle();
  });

  it('answer nothing worse than 503 while inventory restarts under load', async () => {
    const { trial } = holder;
    const inventory = trial.shape.service('inventory');
    const load = trial.load();
    await load.until(() => load.answered.length > 200);
    expect(await inventory.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    await load.until(() => load.attempts.some((it) => it.outcome === 503));
    await inventory.restart();
    const before = acknowledged(load.attempts).length;
    await load.until(() => acknowledged(load.attempts).length > before + 100);
    expectAnswers(await load.end(), [201, 409, 503]);
    await trial.settle();
  });

  it('refuse orders with 503 while inventory is killed under load, and accept them once it is back', async () => {
    const { trial } = holder;
    const inventory = trial.shape.service('inventory');
    const load = trial.load();
    await load.until(() => acknowledged(load.attempts).length > 150);
    await inventory.kill('SIGKILL');
    const killedAt = load.attempts.length;
    await load.until(() => load.attempts.slice(killedAt).filter((it) => it.outcome === 503).length > 50);
    // Requests that do not need inventory are still answered.
    const some = acknowledged(load.attempts).at(-1)!;
    expect(await trial.api.order(some.order!.order_id)).toEqual(some.order);
    ok(await trial.api.get('/health/live'));
    // Health reflects the current state, although inventory was reachable before.
    await eventually(async () => {
      const { body } = await new Api(trial.shape.service('order').url).get('/health/ready');
      expect(body).toMatchObject({ status: 'degraded', details: { 'order-inventory': { status: 'degraded' } } });
    });
    const probe = await trial.api.place(some.body);
    const { code } = probe.body as unknown as Problem;
    expect(['unavailable', 'deadline-exceeded']).toContain(code);
    refused(probe, `503 ${code}`);
    expect(probe.headers.get('retry-after')).toMatch(/^\d+$/);
    await inventory.restart();
    const before = acknowledged(load.attempts).length;
    await load.until(() => acknowledged(load.attempts).length > before + 50);
    expectAnswers(await load.end(), [201, 409, 503]);
    await trial.settle();
  });

  it('apply fulfilments, cancellations and returns to the stock once inventory is back', async () => {
    const { trial } = holder;
    const inventory = trial.shape.service('inventory');
    const [mug, lamp] = [await trial.api.product({ onHand: 10 }), await trial.api.product({ onHand: 10 })];
    const customer_id = fresh('c');
    const kept = await trial.api.placed({ customer_id, product_id: mug, quantity: 4 });
    const dropped = await trial.api.placed({ customer_id, product_id: lamp, quantity: 4 });
    await inventory.kill('SIGKILL');
    const { detail } = refused(await trial.api.place({ customer_id, product_id: mug, quantity: 1 }), '503 unavailable');
    expect(detail).toMatch(/Try again/);
    // The address that cannot be reached is only logged.
    expect(detail).not.toMatch(/\d{4}|ECONN/);
    expect(trial.shape.service('order').log).toMatch(/could not be called: .*:\d+ is unreachable/);
    ok(await trial.api.fulfil(kept.order_id, { lines: [{ product_id: mug, quantity: 3 }] }));
    ok(await trial.api.cancel(dropped.order_id));
    const back = { lines: [{ product_id: mug, quantity: 1 }], restock: true, reason: 'unwanted' };
    ok(await trial.api.return(kept.order_id, back), 201);
    ok(await trial.api.cancel(kept.order_id, { remaining: true }));
    await inventory.restart();
    await trial.ledger.quiet();
    expect(await trial.api.stock(mug)).toMatchObject({ on_hand: 8, reserved: 0, sold: 3 });
    expect(await trial.api.stock(lamp)).toMatchObject({ on_hand: 10, reserved: 0, sold: 0 });
    await trial.ledger.expectInvariants();
  });

  it('neither lose nor duplicate acknowledged orders when order is killed under load', async () => {
    const { trial } = holder;
    const order = trial.shape.service('order');
    const load = trial.load();
    await load.until(() => acknowledged(load.attempts).length > 150);
    await order.kill('SIGKILL');
    await load.until(() => load.attempts.filter((it) => it.outcome === 503).length > 20);
    await order.restart();
    const before = acknowledged(load.attempts).length;
    await load.until(() => acknowledged(load.attempts).length > before + 50);
    // The gateway also answers requests whose connection to the service broke.
    expectAnswers(await load.end(), [201, 409, 503]);
    await trial.settle();
  });

  it.each([
    ['never comes', true],
    ['comes late', false],
  ])('record retried orders once when order is killed after reserving stock, and the insert %s', async (_, isLost) => {
    const { trial } = holder;
    const order = trial.shape.service('order');
    const mug = await trial.api.product({ onHand: 12 });
    const body = { customer_id: fresh('c'), product_id: mug, quantity: 2 };
    const keys = Array.from({ length: 5 }, () => fresh('k'));
    const lock = await trial.ledger.lock('orders');
    const placing = keys.map((key) => trial.api.place(body, key));
    // Orders after the first two batches reserve nothing, because by then order knows that it cannot record them.
    await eventually(async () => expect((await trial.api.stock(mug)).reserved).toBeGreaterThan(0));
    await order.kill('SIGKILL');
    for (const answer of await Promise.all(placing)) refused(answer, '503 unavailable');
    // Postgres executes statements that order has sent, even after order was killed.
    if (isLost) await trial.ledger.endSessionsOf('order');
    await lock.release();
    await order.restart();
    const placed = await Promise.all(keys.map((key) => trial.api.placed(body, key)));
    expect(new Set(placed.map((it) => it.order_id)).size).toBe(5);
    await trial.ledger.expectInvariants();
    expect(await trial.api.stock(mug)).toMatchObject({ on_hand: 12, reserved: 10, available: 2 });
    const held = await trial.ledger.inventory(`SELECT reservation_id FROM inventory.reservations WHERE state = 'held'`);
    expect(held).toEqual([]);
  });

  it('apply each event to the stock once when order is killed between settling and moving its checkpoint', async () => {
    const { trial } = holder;
    const order = trial.shape.service('order');
    const mug = await trial.api.product({ onHand: 10 });
    const { order_id } = await trial.api.placed({ customer_id: fresh('c'), product_id: mug, quantity: 4 });
    await trial.ledger.quiet();
    // From now on, consumers cannot advance their checkpoints.
    await trial.ledger.orders('ALTER FUNCTION orders.advance_parts RENAME TO advance_parts_later');
    ok(await trial.api.fulfil(order_id, { lines: [{ product_id: mug, quantity: 3 }] }));
    const back = { lines: [{ product_id: mug, quantity: 1 }], restock: true, reason: 'unwanted' };
    ok(await trial.api.return(order_id, back), 201);
    const followed = { on_hand: 8, reserved: 1, available: 7, sold: 3 };
    await eventually(async () => expect(await trial.api.stock(mug)).toMatchObject({ sold: 3 }));
    await order.kill('SIGKILL');
    await trial.ledger.endSessionsOf('order');
    await trial.ledger.orders('ALTER FUNCTION orders.advance_parts_later RENAME TO advance_parts');
    await order.restart();
    await trial.ledger.quiet();
    expect(await trial.api.stock(mug)).toMatchObject(followed);
    await trial.ledger.expectInvariants();
  });

  it.each(['order', 'gateway'])(
    'end event streams when %s stops, and clients resume after the last event they saw',
    (name) => followersGoOn(holder.trial, name),
  );

  it.each(['SIGKILL', 'SIGSTOP'] as const)(
    'read current prices and take orders while the cache is down (%s)',
    async (signal) => {
      const { trial } = holder;
      const cache = trial.shape.service('cache');
      const product = await trial.api.product({ price: 100, onHand: 10 });
      const path = `/products/${product}`;
      ok(await trial.api.get<Product>(path));
      if (signal === 'SIGSTOP') process.kill(cache.pid, signal);
      else await cache.kill(signal);
      try {
        for (let price = 1; price <= 5; price += 1) {
          const body = { name: 'A thing', unit_price_minor: price, currency: 'GBP' };
          ok(await trial.api.send('PUT', path, { body }));
          expect(ok(await trial.api.get<Product>(path)).unit_price_minor).toBe(price);
          const order = { customer_id: fresh('c'), product_id: product, quantity: 1, expected_total_minor: price };
          await trial.api.placed(order);
        }
        ok(await trial.api.get('/health/ready'));
        if (signal === 'SIGKILL') refused(await trial.api.get('/cache?key=a'), '503 unavailable');
      } finally {
        if (signal === 'SIGSTOP') process.kill(cache.pid, 'SIGCONT');
        else await cache.restart();
      }
      await eventually(async () => {
        const answer = await trial.api.send('PUT', '/cache', { body: { key: 'back', value: 1 } });
        expect(answer.status).toBe(200);
      });
      // Entries whose invalidation the paused cache missed expire.
      await eventually(async () => expect(ok(await trial.api.get<Product>(path)).unit_price_minor).toBe(5));
    },
  );
});
