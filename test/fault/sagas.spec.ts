import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { Api, ok, type Order } from '../support/api.js';
import { Ledger } from '../support/ledger.js';
import { has, type Place } from '../support/postgres-proxy.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { paused } from './paused.js';

describe('a payment whose worker is paused past its lease', () => {
  let shape: ProxiedShape;
  let ledger: Ledger;
  /** Clients of the instance with the paused worker, and of the one that takes over. */
  let here: Api;
  let there: Api;

  beforeAll(async () => {
    shape = await startProxied('two instances', { ORDER_SAGA_LEASE_MS: '500' });
    ledger = new Ledger(shape);
    [here, there] = shape.services.map((it) => new Api(it.url)) as [Api, Api];
  });
  afterEach(async () => {
    // A failed test may have left an instance paused.
    for (const { pid } of shape.services) process.kill(pid, 'SIGCONT');
    await ledger.expectInvariants({ holdsMayWait: false });
  });
  afterAll(() => shape?.stop());

  /** Places an order through the first instance while the other one is paused, so that the first takes its saga. */
  const buy = async (token = 'tok_ok'): Promise<Order> => {
    const product_id = await there.product({ onHand: 5 });
    const payment = { method: 'simulated', token };
    process.kill(shape.services[1]!.pid, 'SIGSTOP');
    return here.placed({ customer_id: 'c', product_id, quantity: 2, payment });
  };
  const history = async ({ order_id }: Order): Promise<string[]> =>
    (await there.history(order_id)).map((it) => it.type as string);
  const bought = ['placed', 'payment-authorised', 'payment-captured'];

  /** An order whose worker is paused, and which the other instance cancels and reverses before that worker resumes. */
  const cancelledMeanwhile = async (place: Place): Promise<Order> => {
    let order: Order | undefined;
    await paused(
      shape,
      place,
      async () => (order = await buy()),
      async () => {
        await eventually(async () => expect(order).toBeDefined());
        ok(await there.cancel(order!.order_id));
        await eventually(async () => expect(await history(order!)).toContain('payment-reversed'));
      },
    );
    return order!;
  };

  it.each(['order-sagas-move', 'payment-begin', 'payment-simulated-enter', 'payment-settle'])(
    'is continued by another worker, and %s of the late worker changes nothing',
    async (statement) => {
      let order: Order | undefined;
      await paused(
        shape,
        { statement, moment: 'before' },
        async () => (order = await buy()),
        () => eventually(async () => expect(await history(order!)).toEqual(bought)),
      );
      await ledger.quiet();
      expect(await history(order!)).toEqual(bought);
      const { operations, captured_minor } = await there.payment(order!.order_id);
      expect(operations).toHaveLength(2);
      expect(captured_minor).toBe(order!.total_minor);
    },
  );

  it('that is cancelled before the provider decides is not resumed by the late worker', async () => {
    let order: Order | undefined;
    await paused(
      shape,
      { statement: 'order-sagas-move', moment: 'before' },
      async () => (order = await buy('tok_slow')),
      // The paused worker resumes while the reversal is still pending.
      async () => {
        await eventually(async () => expect(order).toBeDefined());
        ok(await there.cancel(order!.order_id));
      },
    );
    await ledger.quiet();
    expect(await history(order!)).toEqual(['placed', 'cancelled', 'payment-reversed']);
    expect(await there.payment(order!.order_id)).toMatchObject({ authorised_minor: 0, captured_minor: 0 });
  });

  it.each([
    ['payment-simulated-enter', 'capture'],
    ['order-sagas-move', 'payment-captured'],
  ])(
    'that is cancelled during the capture (%s of %s) records one capture, and then its reversal',
    async (statement, word) => {
      const order = await cancelledMeanwhile({ statement, moment: 'before', with: has(word) });
      await ledger.quiet();
      const { order_id, total_minor } = order;
      expect(await history(order)).toEqual([
        ...['placed', 'payment-authorised', 'cancelled', 'payment-captured', 'payment-reversed'],
      ]);
      expect(await there.payment(order_id)).toMatchObject({ captured_minor: total_minor, refunded_minor: total_minor });
    },
  );

  it('that is cancelled meanwhile is not confirmed by the late worker', async () => {
    const order = await cancelledMeanwhile({ statement: 'order-sagas-move', moment: 'before' });
    await ledger.quiet();
    expect(await history(order)).toEqual(['placed', 'cancelled', 'payment-reversed']);
    expect(await there.payment(order.order_id)).toMatchObject({ authorised_minor: 0, captured_minor: 0 });
    expect(await there.stock(order.lines[0]!.product_id)).toMatchObject({ reserved: 0 });
  });
});
