import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { setTimeout } from 'node:timers/promises';
import {
  StripeStandIn,
  eventually,
  signed,
  stripeChanges,
  testSeed,
  type PaymentSums,
  type SeededRandom,
} from '#testing';
import { Api, ok, type Order } from '../support/api.js';
import { fresh, randomOf } from '../support/fresh.js';
import type { ChangeAttempt, RefundAttempt } from '../support/history.js';
import { Ledger } from '../support/ledger.js';
import type { Attempt } from '../support/load.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { askOrder, askPayment, lapseLeases, query, type Row } from '../support/tables.js';
import { printTable } from './table.js';

/** At which point of a change at Stripe the process is killed, and what happens until it is back. */
interface StripeCrash {
  change: (typeof stripeChanges)[number];
  /** `late`: Stripe has received the request, but executes it only when the process is back. */
  at: 'Stripe' | 'payment-stripe-keep' | 'payment-settle';
  moment: 'before' | 'after' | 'late';
  /** When Stripe sends its events: at once, from the crash on, or when nothing depends on them. */
  events: 'at once' | 'from the crash on' | 'at the end';
  /** Whether a day passes, after which Stripe has deleted its idempotency keys. */
  isLong: boolean;
}

const whenEvents = ['at once', 'from the crash on', 'at the end'] as const;

/** All crashes with `npm run test:crash`; otherwise one for each change, in one shape, chosen by the seed. */
const isComplete = 'fullRun' in globalThis;
const allShapes = ['one database', 'split'] as const;
const shapes = isComplete ? allShapes : [randomOf('stripe').pick(allShapes)];

const crashesOf = (shape: (typeof shapes)[number]): StripeCrash[] => {
  const random = randomOf(`stripe ${shape}`);
  return stripeChanges.flatMap((change) => {
    const atStripe = (moment: StripeCrash['moment'], isLong = false) =>
      whenEvents.map((events): StripeCrash => ({ change, at: 'Stripe', moment, events, isLong }));
    const commits = (['payment-stripe-keep', 'payment-settle'] as const)
      .filter((at) => change === 'authorise' || at === 'payment-settle')
      .flatMap((at) => [false, true].map((isLong) => ({ at, isLong })))
      .flatMap((it) => [
        { ...it, moment: 'before' as const },
        { ...it, moment: 'after' as const },
      ])
      .map((it): StripeCrash => ({ ...it, change, events: random.pick(whenEvents) }));
    const groups = [
      [...atStripe('before'), ...atStripe('after'), ...atStripe('late')],
      [...atStripe('before', true), ...atStripe('after', true)],
      commits,
    ];
    return isComplete ? groups.flat() : [random.pick(random.pick(groups))];
  });
};

const secret = 'whsec_of_the_test';

/** Delivers Stripe's events, each twice and in random order, and retries each until it is accepted. */
class Courier {
  private readonly brought = new Set<string>();
  private isOver = false;
  private working: Promise<void> = Promise.resolve();

  constructor(
    private readonly stripe: StripeStandIn,
    private readonly api: Api,
    private readonly random: SeededRandom,
  ) {}

  start(): void {
    this.working = this.work();
  }

  /** Resolves once all events so far are delivered. */
  async caughtUp(): Promise<void> {
    const ids = this.stripe.events.map((it) => it.id);
    await eventually(async () => expect(ids.filter((it) => !this.brought.has(it))).toEqual([]));
  }

  async stop(): Promise<void> {
    this.isOver = true;
    await this.working;
  }

  private async work(): Promise<void> {
    for (; !this.isOver; await setTimeout(10))
      await Promise.all(
        this.random
          .shuffled(this.stripe.events.filter((it) => !this.brought.has(it.id)))
          .flatMap((it) => [this.bring(it), this.bring(it)]),
      );
  }

  private async bring(event: StripeStandIn['events'][number]): Promise<void> {
    const { body, signature } = signed(event, secret);
    const headers = { 'stripe-signature': signature, 'content-type': 'application/json; charset=utf-8' };
    const status = await this.api.send('POST', '/payments/webhooks/stripe', { raw: body, headers }).then(
      (answer) => answer.status,
      () => 'nobody is there',
    );
    if (status === 200) this.brought.add(event.id);
  }
}

const price = 250;
const total = 2 * price;

/** Waits longer than a process takes to restart, even on a busy machine. */
const insist = <T>(check: () => Promise<T>): Promise<T> => eventually(check, 120_000);

/** Customers who pay by card, each in a different way, and retry until they get an answer. They remember the answers. */
class Cardholders {
  readonly placements: Attempt[] = [];
  readonly changes: ChangeAttempt[] = [];
  readonly refunds: RefundAttempt[] = [];
  private product = '';

  constructor(
    private readonly stripe: StripeStandIn,
    private readonly api: Api,
  ) {}

  /** Resolves once each is done. @returns the state that each order must end in, if it is paid at all */
  async start(): Promise<{ order: Order; status: Order['status']; refunded?: number }[]> {
    this.product = await this.api.product({ price, onHand: 1_000 });
    const paid = { status: 'confirmed', refunded: 0 } as const;
    const cancelled = { status: 'cancelled' } as const;
    return Promise.all([
      this.buy('pm_card_visa').then((order) => ({ order, ...paid })),
      this.refunded().then((order) => ({ order, ...paid, refunded: 300 })),
      this.acts().then((order) => ({ order, ...paid })),
      this.buy('pm_card_declined').then((order) => ({ order, ...cancelled, refunded: 0 })),
      this.buy('pm_card_expired').then((order) => ({ order, ...cancelled, refunded: 0 })),
      this.failsToAct().then((order) => ({ order, ...cancelled, refunded: 0 })),
      this.cancelsWhatIsPaid().then((order) => ({ order, ...cancelled, refunded: total })),
      this.cancelsInsteadOfActing().then((order) => ({ order, ...cancelled, refunded: 0 })),
      // The refund depends on how far the payment had got.
      this.cancelsAtOnce().then((order) => ({ order, ...cancelled })),
    ]);
  }

  private async buy(token: string): Promise<Order> {
    const body = { customer_id: 'c', product_id: this.product, quantity: 2, payment: { method: 'stripe', token } };
    const key = fresh('card');
    const order = await insist(async () => this.api.placed(body, key));
    this.placements.push({ key, body, outcome: 201, order });
    return order;
  }

  private async refunded(): Promise<Order> {
    const order = await this.buy('pm_card_visa');
    if (!(await this.comesTo(order, 'payment-captured'))) return order;
    for (const amountMinor of [100, 200]) {
      const key = fresh('refund');
      const body = { amount_minor: amountMinor, reason: 'unwanted' };
      const move = await insist(async () => {
        const told = ok(await this.api.refund(order.order_id, body, { key }), 201);
        expect(told.status).toBe('succeeded');
        return told;
      });
      this.refunds.push({ key, orderId: order.order_id, amountMinor, outcome: 201, move });
    }
    return order;
  }

  /** Authenticates the payment once that is requested. */
  private async acts(): Promise<Order> {
    const order = await this.buy('pm_card_authentication');
    const intent = await this.hasToAct(order);
    if (intent) this.stripe.approve(intent);
    return order;
  }

  /** Fails to authenticate, and can no longer authenticate once the order is cancelled. */
  private async failsToAct(): Promise<Order> {
    const order = await this.buy('pm_card_authentication');
    const intent = await this.hasToAct(order);
    if (!intent) return order;
    this.stripe.fail(intent);
    await insist(async () => expect((await this.api.order(order.order_id)).status).toBe('cancelled'));
    expect(this.stripe.approve(intent)).toBe(false);
    return order;
  }

  /** @returns the PaymentIntent that waits for the customer, once it is public; undefined if the order is cancelled */
  private hasToAct({ order_id }: Order) {
    return insist(async () => {
      if ((await this.api.order(order_id)).status === 'cancelled') return undefined;
      const [intent] = this.stripe.of(order_id);
      const { customer_action } = await this.api.payment(order_id);
      expect(customer_action).toEqual({ method: 'stripe', client_secret: intent!.client_secret });
      return intent;
    });
  }

  private async cancelsWhatIsPaid(): Promise<Order> {
    const order = await this.buy('pm_card_visa');
    return (await this.comesTo(order, 'payment-captured')) ? this.cancels(order) : order;
  }

  private async cancelsInsteadOfActing(): Promise<Order> {
    const order = await this.buy('pm_card_authentication');
    return (await this.hasToAct(order)) ? this.cancels(order) : order;
  }

  private async cancelsAtOnce(): Promise<Order> {
    return this.cancels(await this.buy('pm_card_visa'));
  }

  private async cancels(order: Order): Promise<Order> {
    const cancelled = await insist(async () => ok(await this.api.cancel(order.order_id)));
    this.changes.push({ orderId: order.order_id, outcome: 200, order: cancelled });
    return order;
  }

  /** @returns whether the event occurs; false if the order is cancelled instead */
  private comesTo({ order_id }: Order, type: string): Promise<boolean> {
    return insist(async () => {
      if ((await this.api.order(order_id)).status === 'cancelled') return false;
      expect((await this.api.history(order_id)).map((it) => it.type)).toContain(type);
      return true;
    });
  }
}

describe.each(shapes)('a process that takes payments by Stripe, killed in the shape %s', (name) => {
  const stripe = new StripeStandIn();
  const table: object[] = [];
  let environment: Record<string, string>;
  let shape: ProxiedShape | undefined;

  beforeAll(async () => {
    environment = {
      ...{ STRIPE_SECRET_KEY: 'sk_test_x', STRIPE_WEBHOOK_SECRET: secret },
      STRIPE_API_BASE: await stripe.start(),
    };
    shape = await startProxied(name, environment);
  });
  afterAll(async () => {
    printTable(`crashes around Stripe with TEST_SEED=${testSeed()}`, table);
    await shape?.stop();
    await stripe.stop();
  });

  const crash = async (
    { proxies, ...system }: ProxiedShape,
    { change, at, moment, events, isLong }: StripeCrash,
    random: SeededRandom,
    courier: Courier,
  ): Promise<void> => {
    const urls = await system.databaseUrls();
    const api = new Api(system.baseUrl);
    const killed = system.service(name === 'split' ? 'payment' : 'monolith');
    const cardholders = new Cardholders(stripe, api);
    if (events === 'at once') courier.start();

    const catching = stripe.next(
      change,
      at === 'Stripe' && moment !== 'after' ? 'before' : 'after',
      random.integer(1, 2),
    );
    const shopping = cardholders.start();
    shopping.catch(() => undefined);
    const caught = await catching;
    if (at !== 'Stripe') {
      const committing = proxies.payment.next({ statement: at, moment: moment as 'before' | 'after' });
      caught.pass();
      const statement = await committing;
      await killed.kill('SIGKILL');
      if (moment === 'after') expect(statement.outcome).toBe('committed');
      statement.cut();
    } else {
      // Stripe's event arrives before its response.
      if (events === 'at once' && moment === 'after') await courier.caughtUp();
      await killed.kill('SIGKILL');
      if (moment !== 'late') caught.cut();
    }
    if (events === 'from the crash on') courier.start();
    if (isLong) {
      stripe.forgetKeys();
      await query(urls.payment, `UPDATE payment.operations SET at = at - interval '25 hours'`);
    }
    await killed.restart();
    await lapseLeases(urls);
    // Resets the backoff of retries made while the process was down.
    await query(urls.order, `UPDATE orders.sagas SET attempts = 0, due_at = now() WHERE state = 'running'`);
    if (moment === 'late') caught.pass();
    const expected = await shopping;

    const ledger = new Ledger(system);
    await ledger.quiet();
    if (events === 'at the end') courier.start();
    await courier.caughtUp();
    const log = { placements: cardholders.placements, changes: cardholders.changes, refunds: cardholders.refunds };
    await ledger.expectInvariants({ log, holdsMayWait: false });
    expect(await askOrder(urls, `SELECT * FROM sagas WHERE state = 'parked'`)).toEqual([]);
    await expectTheSameMoney();
    for (const { order, status, refunded } of expected) {
      const now = await api.order(order.order_id);
      // If it cannot be known whether Stripe executed the change, the order is cancelled without a charge or a refund.
      if (isLong && now.status === 'cancelled') continue;
      expect(now.status).toBe(status);
      if (refunded === undefined) continue;
      expect(await api.payment(order.order_id)).toMatchObject({ refunded_minor: refunded, customer_action: null });
    }
  };

  /** Stripe has exactly the recorded payments, and holds nothing for cancelled orders. */
  const expectTheSameMoney = async (): Promise<void> => {
    const urls = await shape!.databaseUrls();
    const payments = await askPayment<Row & PaymentSums & { amount_minor: string }>(urls, `SELECT * FROM payments`);
    expect(stripe.differences(payments)).toEqual([]);
    const known = new Set(payments.map((it) => it.order_id));
    expect([...stripe.intents.values()].filter((it) => !known.has(it.metadata['order_id']!))).toEqual([]);
    const refunds = [...stripe.refunds.values()].map((it) => it.metadata['operation_id']);
    expect(refunds).toEqual([...new Set(refunds)]);
    const orders = await askOrder<{ order_id: string; status: string }>(urls, `SELECT order_id, status FROM kept`);
    for (const { order_id, status } of orders) {
      const { amount_minor, captured_minor, refunded_minor } = payments.find((it) => it.order_id === order_id)!;
      if (status === 'cancelled') {
        const open = stripe.of(order_id).filter((it) => it.status.startsWith('requires_'));
        expect(open).toEqual([]);
        expect(captured_minor).toBe(refunded_minor);
      } else expect(captured_minor).toBe(amount_minor);
    }
  };

  for (const point of crashesOf(name)) {
    const { change, at, moment, events, isLong } = point;
    const title = `${moment} ${change} at ${at}, events ${events}${isLong ? ', for more than a day' : ''}`;
    it(`${title}: charges and refunds once`, async () => {
      const startedAt = Date.now();
      shape ??= await startProxied(name, environment);
      stripe.events.length = 0;
      const random = randomOf(`${name} ${JSON.stringify(point)}`);
      const courier = new Courier(stripe, new Api(shape.baseUrl), random);
      try {
        await crash(shape, point, random, courier);
      } catch (error) {
        // The next crash starts a new system, unaffected by this failure.
        await shape.stop().catch(() => undefined);
        shape = undefined;
        for (const kept of [stripe.intents, stripe.refunds]) kept.clear();
        throw error;
      } finally {
        await courier.stop();
      }
      table.push({ at: `${name}: ${title}`, ms: Date.now() - startedAt });
    });
  }

  it('reports the pending customer action with few calls to Stripe, and omits it while Stripe times out', async () => {
    shape ??= await startProxied(name, environment);
    const api = new Api(shape.baseUrl);
    const product_id = await api.product({ price });
    const payment = { method: 'stripe', token: 'pm_card_authentication' };
    const { order_id } = await api.placed({ customer_id: 'c', product_id, quantity: 2, payment });
    const told = async (): Promise<unknown> => (await api.payment(order_id)).customer_action;
    const comesTo = (expected: unknown) => eventually(async () => expect(await told()).toEqual(expected));
    const [intent] = await eventually(async () => {
      const intents = stripe.of(order_id);
      expect(intents).toHaveLength(1);
      return intents;
    });
    const action = { method: 'stripe', client_secret: intent!.client_secret };
    await comesTo(action);

    const looksBefore = stripe.looks;
    expect(await Promise.all(Array.from({ length: 100 }, told))).toEqual(Array.from({ length: 100 }, () => action));
    expect(stripe.looks - looksBefore).toBeLessThan(20);

    // Longer than any timeout.
    stripe.delayMs = 6_000;
    try {
      await comesTo(null);
    } finally {
      stripe.delayMs = 0;
    }
    await comesTo(action);

    stripe.approve(intent!);
    await comesTo(null);
    await new Ledger(shape).expectInvariants();
    expect(await api.payment(order_id)).toMatchObject({ captured_minor: total, customer_action: null });
  });
});
