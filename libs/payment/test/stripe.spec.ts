import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { PaymentOutcome, PaymentRequest } from '#contracts';
import { StripeStandIn, freePort, pendingRefundMinor, signed, twoInstances, type TwoInstances } from '#testing';
import { authorise as authoriseSimulated, capture, newTenant, refund, reverse } from './payment-under-test.js';
import { brokenAtStripe, callsAtATime, startWithStripe, type StripeInstance } from './stripe-under-test.js';

const secret = 'whsec_of_the_test';
let stripe: StripeStandIn;
let instances: TwoInstances<StripeInstance>;
let one: StripeInstance;
let two: StripeInstance;
/** The settings of an instance that uses the stand-in and the database of the others. */
let settings: Parameters<typeof startWithStripe>[0];
let tenant: string;
let order: string;

const base = new StripeStandIn();

beforeAll(async () => {
  const STRIPE_API_BASE = await base.start();
  instances = await twoInstances((PAYMENT_DATABASE_URL) => {
    const keys = { STRIPE_SECRET_KEY: 'sk_test_x', STRIPE_WEBHOOK_SECRET: secret };
    settings = { PAYMENT_DATABASE_URL, ...keys, STRIPE_API_BASE };
    return startWithStripe(settings);
  });
  ({ one, two } = instances);
});
afterAll(async () => {
  await instances?.stop();
  await base.stop();
});

beforeEach(() => {
  stripe = base;
  stripe.events.length = 0;
  stripe.asked.length = 0;
  Object.assign(stripe, { indexIsBehind: false, delayMs: 0, mostAtATime: 0 });
  tenant = newTenant();
  order = randomUUID();
});
afterEach(async () => {
  expect(stripe.faults).toEqual([]);
  expect(await brokenAtStripe(one, stripe, tenant)).toEqual([]);
});

const authorise = (id = order, amount = 500, token: string | null = 'pm_card_visa', currency = 'GBP') => ({
  ...authoriseSimulated(id, amount),
  ...{ method: 'stripe' as const, token, currency },
});
const perform = async (...requests: PaymentRequest[]): Promise<PaymentOutcome[]> =>
  one.performOperations.execute(tenant, requests);
const moved = (amount_minor: number): PaymentOutcome => ({ outcome: 'succeeded', amount_minor });
const refused = (reason: string): PaymentOutcome => ({ outcome: 'refused', reason });
const open = (reason: unknown = expect.any(String)) => ({ outcome: 'open', reason });
const payment = async () => (await one.payments.find(tenant, order))!;
const intent = () => stripe.of(order)[0]!;

const dayPasses = async (): Promise<void> => {
  stripe.forgetKeys();
  const text = `UPDATE payment.operations SET at = at - interval '24 hours' WHERE tenant_id = $1`;
  await one.sql.query({ name: 'test-stripe-day-passes', text }, [tenant]);
};

describe('a payment through Stripe', () => {
  it('is authorised, captured and refunded, each under the id of its operation', async () => {
    const requests = [authorise(), capture(order), refund(order, 200), refund(order, 300)];
    expect(await perform(...requests)).toEqual([500, 500, 200, 300].map(moved));
    expect(stripe.asked.map(({ key }) => key)).toEqual(requests.map((it) => it.operation_id));
    expect(stripe.asked[0]!.form).toMatchObject({
      ...{ amount: '500', currency: 'gbp', payment_method: 'pm_card_visa', capture_method: 'manual', confirm: 'true' },
      ...{ 'metadata[tenant]': tenant, 'metadata[order_id]': order },
      'metadata[operation_id]': requests[0]!.operation_id,
    });
    expect(await payment()).toMatchObject({ authorised_minor: 500, captured_minor: 500, refunded_minor: 500 });
  });

  it.each([
    ['pm_card_declined', 'generic_decline'],
    ['pm_card_declined_insufficient_funds', 'insufficient_funds'],
    ['tok_of_another_kind', 'resource_missing'],
    [null, 'token-required'],
  ])('with the token %s is refused as %s, also when retried', async (token, reason) => {
    const request = authorise(order, 500, token);
    stripe.indexIsBehind = true;
    expect(await perform(request, request, capture(order, 1))).toEqual([
      ...[refused(reason), refused(reason)],
      refused('not-authorised'),
    ]);
  });

  it.each(['ISK', 'UGX', 'MGA'])(
    'in %s is refused, because Stripe counts it in another minor unit',
    async (currency) => {
      expect(await perform(authorise(order, 500, 'pm_card_visa', currency))).toEqual([refused('currency-not-offered')]);
      expect(stripe.asked).toEqual([]);
    },
  );

  it('can be captured in part once, which releases the rest', async () => {
    const first = capture(order, 300);
    expect(await perform(authorise(), first, capture(order), first)).toEqual([
      ...[moved(500), moved(300), refused('captured-already')],
      moved(300),
    ]);
    expect(await perform(refund(order, 300), reverse(order))).toEqual([moved(300), moved(0)]);
  });

  it('is never refunded beyond the captured amount, concurrently or together with refunds made at Stripe', async () => {
    expect(await perform(authorise(), capture(order, 400), refund(order, 401))).toMatchObject([
      ...[{}, {}],
      refused('exceeds-captured'),
    ]);
    const answers = await Promise.all(
      Array.from({ length: 10 }, (_, index) =>
        (index % 2 === 0 ? one : two).performOperations.execute(tenant, [refund(order, 150)]),
      ),
    );
    expect(answers.flat().filter((it) => it.outcome === 'succeeded')).toHaveLength(2);
    // A refund made at Stripe directly is not in our sums, so Stripe has to refuse.
    const id = randomUUID();
    await perform(authorise(id), capture(id));
    const headers = { 'idempotency-key': randomUUID() };
    const body = new URLSearchParams({ payment_intent: stripe.of(id)[0]!.id, amount: '400' });
    await fetch(`${settings.STRIPE_API_BASE}/v1/refunds`, { method: 'POST', headers, body });
    expect(await perform(refund(id, 200))).toEqual([refused('exceeds-captured')]);
    [...stripe.refunds.values()].at(-1)!.status = 'failed';
  });

  it('is reversed by a void, or by a refund once it is captured', async () => {
    expect(await perform(authorise(), reverse(order))).toEqual([moved(500), moved(500)]);
    expect(intent().status).toBe('canceled');
    const taken = randomUUID();
    expect(await perform(authorise(taken), capture(taken), reverse(taken))).toEqual([500, 500, 500].map(moved));
  });

  it('that was cancelled at Stripe cannot be captured, and its reversal succeeds', async () => {
    await perform(authorise());
    Object.assign(intent(), { status: 'canceled' });
    expect(await perform(capture(order), reverse(order))).toEqual([refused('canceled'), moved(500)]);
  });

  it('stays open while Stripe does not know its PaymentIntent', async () => {
    const request = authorise(order, 500, 'pm_card_authentication');
    await perform(request);
    const kept = intent();
    stripe.intents.delete(kept.id);
    expect(await perform(request)).toEqual([open('Stripe does not know the PaymentIntent')]);
    stripe.intents.set(kept.id, kept);
    stripe.approve(kept);
    const taking = capture(order);
    expect(await perform(request)).toEqual([moved(500)]);
    stripe.intents.delete(kept.id);
    expect(await perform(taking)).toEqual([open('Stripe does not know the PaymentIntent')]);
    stripe.intents.set(kept.id, kept);
    stripe.forgetKeys();
    expect(await perform(taking)).toEqual([moved(500)]);
  });

  it('shares a limit of concurrent calls with others; those without a turn stay open and are retried', async () => {
    stripe.delayMs = 60;
    const requests = Array.from({ length: 40 }, () => authorise(randomUUID()));
    const answers = await perform(...requests);
    expect(stripe.mostAtATime).toBe(callsAtATime);
    expect(answers).toContainEqual(moved(500));
    expect(answers).toContainEqual(open('other requests to Stripe took too long'));
    stripe.delayMs = 0;
    for (let round = 0; (await perform(...requests)).some((it) => it.outcome === 'open'); round += 1)
      expect(round).toBeLessThan(20);
  });
});

describe('a request to Stripe without a final answer', () => {
  it.each(['authorise', 'capture', 'refund', 'void'] as const)('is performed once: %s', async (kind) => {
    const request = {
      authorise: authorise(),
      capture: capture(order),
      refund: refund(order, 500),
      void: reverse(order),
    };
    if (kind !== 'authorise') await perform(request.authorise);
    if (kind === 'refund') await perform(request.capture);
    stripe.faults.push('silent');
    expect(await perform(request[kind])).toEqual([open()]);
    expect(await perform(request[kind])).toEqual([moved(500)]);
  });

  it.each(['cut', 'failed-after'] as const)('is completed within the same call if it can be: %s', async (fault) => {
    for (const request of [authorise(), capture(order), refund(order, 500)]) {
      stripe.faults.push(fault);
      expect(await perform(request)).toEqual([moved(500)]);
    }
  });

  it('is found once the search index has caught up, and is sent under one idempotency key only', async () => {
    // Another tenant may have an order with the same id.
    await one.performOperations.execute(newTenant(), [authorise()]);
    const other = intent();
    stripe.asked.length = 0;
    const request = authorise();
    stripe.faults.push('failed-after');
    stripe.indexIsBehind = true;
    expect(await perform(request)).toEqual([open()]);
    expect(await perform(request)).toEqual([open()]);
    stripe.indexIsBehind = false;
    expect(await perform(request)).toEqual([moved(500)]);
    expect(new Set(stripe.asked.map(({ key }) => key))).toEqual(new Set([request.operation_id]));
    stripe.intents.delete(other.id);
  });

  it('is found even after Stripe has forgotten the idempotency key', async () => {
    for (const request of [authorise(), capture(order), refund(order, 500)]) {
      stripe.faults.push('silent');
      expect(await perform(request)).toEqual([open()]);
      await dayPasses();
      expect(await perform(request)).toEqual([moved(500)]);
    }
    expect(stripe.refunds.size).toBeGreaterThan(0);
  });

  it('that was never performed is refused, not repeated, once its idempotency key has expired', async () => {
    const request = authorise();
    stripe.faults.push('failed-before');
    expect(await perform(request, request)).toEqual([open(), open()]);
    await dayPasses();
    expect(await perform(request, reverse(order))).toEqual([refused('never-asked'), moved(0)]);
  });

  it.each(['too-many', 'no-such-key'] as const)('succeeds on retry after the refusal "%s"', async (fault) => {
    const request = authorise();
    stripe.faults.push(fault);
    expect(await perform(request)).toEqual([open()]);
    expect(await perform(request)).toEqual([moved(500)]);
  });

  it('charges once, even if several instances send it at the same time', async () => {
    const request = authorise(order, 500, 'pm_card_slow');
    const ask = (index: number) => (index % 2 === 0 ? one : two).performOperations.execute(tenant, [request]);
    const answers = (await Promise.all(Array.from({ length: 10 }, (_, index) => ask(index)))).flat();
    expect(answers).toContainEqual(moved(500));
    for (const answer of answers)
      expect([moved(500), open('Stripe is still processing the request')]).toContainEqual(answer);
    expect(await perform(request)).toEqual([moved(500)]);
  });

  it('stays open if looking it up takes too long', async () => {
    const request = authorise();
    stripe.delayMs = 800;
    stripe.faults.push('failed-after');
    expect(await perform(request)).toEqual([open('Stripe has not answered yet')]);
    stripe.delayMs = 0;
    expect(await perform(request)).toEqual([moved(500)]);
  });

  it('stays open, with the reason, if no connection can be made', async () => {
    const STRIPE_API_BASE = `http://127.0.0.1:${await freePort()}`;
    const cutOff = await startWithStripe({ ...settings, STRIPE_API_BASE });
    const request = authorise();
    expect(await cutOff.performOperations.execute(tenant, [request])).toEqual([
      open(expect.stringContaining('connection to Stripe')),
    ]);
    await cutOff.stop();
    expect(await perform(request)).toEqual([moved(500)]);
  });
});

describe('a payment that needs an action of the customer', () => {
  const told = async () => (await one.readPayment.execute(tenant, order))!.customer_action;
  const action = () => ({ method: 'stripe', client_secret: `${intent().id}_secret_of_the_test` });
  /** Waits, because the previous answer is cached for a while. */
  const untilTold = async (expected: object | null): Promise<void> => {
    const giveUpAt = Date.now() + 10_000;
    while (JSON.stringify(await told()) !== JSON.stringify(expected) && Date.now() < giveUpAt)
      await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await told()).toEqual(expected);
  };

  it('is authorised once the customer has approved it', async () => {
    const request = authorise(order, 500, 'pm_card_authentication');
    expect(await perform(request, request)).toEqual([open('requires_action'), open('requires_action')]);
    expect(await told()).toEqual(action());
    stripe.approve(intent());
    await untilTold(null);
    expect(await perform(request)).toEqual([moved(500)]);
    expect(await told()).toBeNull();
  });

  it('shows no customer action as soon as it is settled', async () => {
    const request = authorise(order, 500, 'pm_card_authentication');
    await perform(request);
    expect(await told()).toEqual(action());
    stripe.approve(intent());
    expect(await perform(request)).toEqual([moved(500)]);
    expect(await told()).toBeNull();
  });

  it('is shown without the customer action while Stripe does not answer', async () => {
    expect(await perform(authorise(order, 500, 'pm_card_authentication'))).toEqual([open('requires_action')]);
    stripe.delayMs = 1_000;
    expect(await one.readPayment.execute(tenant, order)).toMatchObject({ customer_action: null, reversed: false });
    stripe.delayMs = 0;
    await untilTold(action());
  });

  it.each([
    ['', 0],
    [' that does not answer', 1_000],
  ])('is read by 200 callers at once with fewer than 20 calls to Stripe%s', async (_what, delayMs) => {
    await perform(authorise(order, 500, 'pm_card_authentication'));
    Object.assign(stripe, { delayMs, looks: 0 });
    const all = await Promise.all(Array.from({ length: 200 }, told));
    expect(new Set(all.map((it) => JSON.stringify(it)))).toEqual(new Set([JSON.stringify(delayMs ? null : action())]));
    expect(stripe.looks).toBeGreaterThan(0);
    expect(stripe.looks).toBeLessThan(20);
  });

  it('is cancelled by a reversal', async () => {
    const request = authorise(order, 500, 'pm_card_authentication');
    expect(await perform(request)).toEqual([open('requires_action')]);
    expect(await perform(reverse(order))).toEqual([moved(0)]);
    expect(intent().status).toBe('canceled');
    expect(await perform(request)).toEqual([refused('canceled')]);
  });
});

describe('a declined payment', () => {
  const failure = 'payment_intent_authentication_failure';
  const waiting = () => authorise(order, 500, 'pm_card_authentication');
  const cancels = () => stripe.asked.filter(({ path }) => path.endsWith('/cancel')).map(({ key }) => key);
  /** It cannot be paid any more, and no amount is held. */
  const expectOver = async (): Promise<void> => {
    expect(intent().status).toBe('canceled');
    expect(stripe.approve(intent())).toBe(false);
    expect(await perform(reverse(order))).toEqual([moved(0)]);
  };

  /** The customer failed to authenticate; the request to cancel the PaymentIntent has not reached Stripe yet. */
  const declinedAndBeingCancelled = async () => {
    const request = waiting();
    await perform(request);
    stripe.fail(intent());
    const caught = stripe.next('void', 'before');
    const asking = perform(request);
    return { asking, cancelling: await caught };
  };

  it.each([
    ['at once', 'generic_decline'],
    ['when the customer fails to authenticate', failure],
  ])('declined %s cannot be confirmed with another card afterwards', async (when, reason) => {
    const request = when === 'at once' ? authorise(order, 500, 'pm_card_declined') : waiting();
    if (when !== 'at once') {
      expect(await perform(request)).toEqual([open('requires_action')]);
      stripe.fail(intent());
    }
    expect(await perform(request)).toEqual([refused(reason)]);
    expect(cancels()).toEqual([`${request.operation_id}-declined`]);
    await expectOver();
  });

  it('that is paid with another card before it is cancelled is authorised', async () => {
    const request = waiting();
    await perform(request);
    stripe.fail(intent());
    expect(stripe.approve(intent())).toBe(true);
    expect(await perform(request)).toEqual([moved(500)]);
    expect(cancels()).toEqual([]);
  });

  it('that is paid with another card while it is being cancelled is voided', async () => {
    const { asking, cancelling } = await declinedAndBeingCancelled();
    expect(stripe.approve(intent())).toBe(true);
    cancelling.pass();
    expect(await asking).toEqual([refused(failure)]);
    await expectOver();
  });

  it.each(['silent', 'cut', 'failed-after', 'failed-before', 'too-many', 'no-such-key'] as const)(
    'is refused only after it is cancelled, whatever happens to the cancellation: %s',
    async (fault) => {
      const request = waiting();
      await perform(request);
      stripe.fail(intent());
      stripe.faults.push(fault);
      const told = await perform(request);
      const isDone = ['cut', 'failed-after'].includes(fault);
      // After a cut connection the library retries by itself; after a 500 we look the PaymentIntent up.
      expect(told).toEqual([isDone ? refused(failure) : open()]);
      expect(await payment()).toMatchObject({ operations: [{ state: isDone ? 'refused' : 'open' }] });
      // Under this key Stripe answers 500 for ever; a reversal cancels under another key.
      if (fault === 'failed-before') {
        expect(await perform(request)).toEqual([open()]);
        expect(await perform(reverse(order))).toEqual([moved(0)]);
      }
      expect(await perform(request)).toEqual([refused(failure)]);
      await expectOver();
    },
  );

  it.each([false, true])('is refused if the instance dies after cancelling it; a day passes: %s', async (isLong) => {
    const request = authorise(order, 500, 'pm_card_declined');
    const caught = stripe.next('void', 'after');
    const asking = perform(request);
    const cancelled = await caught;
    expect(intent().status).toBe('canceled');
    expect(await payment()).toMatchObject({ operations: [{ state: 'open' }] });
    // The instance that cancelled it got no answer, and has stored nothing.
    if (isLong) await dayPasses();
    expect(await two.performOperations.execute(tenant, [request])).toEqual([refused('generic_decline')]);
    cancelled.cut();
    await asking;
    await expectOver();
  });

  it('that is cancelled at Stripe meanwhile is refused', async () => {
    const { asking, cancelling } = await declinedAndBeingCancelled();
    Object.assign(intent(), { status: 'canceled', last_payment_error: null });
    cancelling.pass();
    expect(await asking).toEqual([refused('canceled')]);
    await expectOver();
  });
});

describe('an event from Stripe', () => {
  const deliver = async (event: object, to = one, key = secret, ageSeconds = 0): Promise<Response> => {
    const { body, signature } = signed(event, key, ageSeconds);
    return send(body, { 'stripe-signature': signature }, to);
  };
  const send = (body: string, headers: Record<string, string>, to = one): Promise<Response> =>
    fetch(`${to.url}/payments/webhooks/stripe`, {
      method: 'POST',
      headers: { 'content-type': 'application/json; charset=utf-8', ...headers },
      body,
    });
  const received = async (answer: Promise<Response>): Promise<void> => {
    const { status } = await answer;
    expect(status).toBe(200);
  };
  const expectProblem = async (answer: Promise<Response>, status: number, code: string): Promise<void> => {
    const { status: told, body } = await answer.then(async (it) => ({ status: it.status, body: await it.json() }));
    expect([told, body]).toEqual([status, expect.objectContaining({ code })]);
  };

  /** The first event not delivered yet, as soon as there is one. */
  const nextEvent = async (): Promise<object> => {
    const giveUpAt = Date.now() + 10_000;
    while (stripe.events.length === 0) {
      if (Date.now() > giveUpAt) throw new Error('nothing has happened at Stripe');
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return stripe.events.shift()!;
  };

  it('that arrives before the answer settles the operation and provides the PaymentIntent', async () => {
    stripe.indexIsBehind = true;
    const requests = [authorise(), capture(order), refund(order, 200)];
    for (const request of requests) {
      stripe.faults.push('silent');
      const asking = perform(request);
      await received(deliver(await nextEvent()));
      expect(await asking).toEqual([open()]);
    }
    expect(await payment()).toMatchObject({ authorised_minor: 500, captured_minor: 500, refunded_minor: 200 });
    const asked = stripe.asked.length;
    expect(await perform(...requests)).toEqual([500, 500, 200].map(moved));
    expect(stripe.asked).toHaveLength(asked);
  });

  it('that arrives with the answer, many times and at both instances, counts once', async () => {
    for (const request of [authorise(), capture(order), refund(order, 200)]) {
      stripe.delayMs = 30;
      const asking = perform(request);
      const event = await nextEvent();
      await Promise.all(Array.from({ length: 10 }, (_, index) => received(deliver(event, index % 2 ? one : two))));
      expect(await asking).toMatchObject([{ outcome: 'succeeded' }]);
    }
    expect(await payment()).toMatchObject({ authorised_minor: 500, captured_minor: 500, refunded_minor: 200 });
  });

  it('that arrives late, twice and out of order changes nothing', async () => {
    const declined = randomUUID();
    await perform(authorise(), capture(order), refund(order, 200), authorise(declined, 500, 'pm_card_declined'));
    const before = await payment();
    const [authorised] = stripe.events;
    const changed = { ...authorised!.data.object, status: 'canceled' };
    const contradiction = { id: 'evt_x', type: 'payment_intent.canceled', data: { object: changed } };
    for (const event of [...stripe.events, contradiction].reverse().flatMap((it) => [it, it]))
      await received(deliver(event));
    expect(await payment()).toEqual(before);
    expect(await one.payments.find(tenant, declined)).toMatchObject({ authorised_minor: 0 });
  });

  it('settles a void, and a decline after its cancellation', async () => {
    const declined = authorise(order, 500, 'pm_card_declined');
    const promised = authorise(randomUUID());
    const voided = reverse(promised.order_id);
    await perform(promised);
    stripe.events.length = 0;
    stripe.faults.push('silent', 'silent');
    expect(await perform(declined, voided)).toEqual([open(), open()]);
    for (const event of stripe.events.splice(0)) await received(deliver(event));
    stripe.asked.length = 0;
    stripe.faults.push('silent', 'silent');
    // The decline does not settle it: it has to be cancelled first, and that answer is lost as well.
    expect(await perform(declined, voided)).toEqual([open(), moved(500)]);
    stripe.faults.length = 0;
    expect(await perform(declined)).toEqual([refused('generic_decline')]);
  });

  it('that reports a payment while it is being cancelled wins; a reversal then voids it', async () => {
    const request = authorise(order, 500, 'pm_card_authentication');
    await perform(request);
    stripe.fail(intent());
    const caught = stripe.next('void', 'after');
    const asking = perform(request);
    const { data } = structuredClone(stripe.events[0]!);
    Object.assign(data.object, { status: 'requires_capture', last_payment_error: null });
    const cancelled = await caught;
    await received(deliver({ id: 'evt_late', type: 'payment_intent.amount_capturable_updated', data }));
    cancelled.pass();
    expect(await asking).toEqual([moved(500)]);
    expect(await perform(capture(order), reverse(order))).toEqual([refused('canceled'), moved(500)]);
  });

  it('settles a pending refund, and earlier events that arrive later do not change that', async () => {
    const [kept, broken] = [refund(order, pendingRefundMinor), refund(order, pendingRefundMinor)];
    await perform(authorise(), capture(order));
    expect(await perform(kept, broken)).toEqual([open('refund pending'), open('refund pending')]);
    const [first, second] = [...stripe.refunds.values()].slice(-2);
    stripe.end(first!, 'succeeded');
    stripe.end(second!, 'failed');
    for (const event of stripe.events.toReversed()) await received(deliver(event));
    stripe.asked.length = 0;
    expect(await perform(kept, broken)).toEqual([moved(pendingRefundMinor), refused('expired_or_canceled_card')]);
    expect(stripe.asked).toEqual([]);
    // The failed refund can be made once more.
    expect(await perform(refund(order, 500 - pendingRefundMinor))).toEqual([moved(500 - pendingRefundMinor)]);
  });

  it('without metadata is matched by its PaymentIntent', async () => {
    const request = authorise(order, 500, 'pm_card_authentication');
    expect(await perform(request)).toEqual([open('requires_action')]);
    stripe.approve(intent());
    const [event] = stripe.events;
    await received(deliver({ ...event, data: { object: { ...event!.data.object, metadata: {} } } }));
    expect(await payment()).toMatchObject({ authorised_minor: 500 });
  });

  it('without a valid signature is refused and changes nothing', async () => {
    const request = authorise(order, 500, 'pm_card_authentication');
    await perform(request);
    stripe.approve(intent());
    const event = stripe.events.at(-1)!;
    const { body, signature } = signed(event, secret);
    const bad = [
      deliver(event, one, 'whsec_of_somebody_else'),
      deliver(event, one, secret, 301),
      send(`${body} `, { 'stripe-signature': signature }),
      ...['t=now,v1=', 't,v1', 'v1', ''].map((it) => send(body, { 'stripe-signature': it })),
      send(body, {}),
      send('', { 'stripe-signature': signature }),
    ];
    for (const answer of bad) await expectProblem(answer, 400, 'invalid-signature');
    await expectProblem(
      send(body, { 'stripe-signature': signature, 'content-type': 'text/plain' }),
      415,
      'unsupported-media-type',
    );
    expect(await payment()).toMatchObject({ authorised_minor: 0 });
    // While the secret is being replaced, Stripe signs with both.
    const other = signed(event, 'whsec_old').signature.split(',')[1]!;
    await received(send(body, { 'stripe-signature': `${signature},${other}` }));
    expect(await payment()).toMatchObject({ authorised_minor: 500 });
  });

  it('settles neither an operation of another provider nor an unknown operation', async () => {
    const elsewhere = authoriseSimulated(randomUUID(), 500, 'tok_slow');
    const here = authorise(order, 500, 'pm_card_authentication');
    expect(await perform(elsewhere, here)).toEqual([open(), open()]);
    const { order_id, operation_id } = elsewhere;
    const strangers = [
      { tenant, order_id, operation_id },
      { tenant, order_id: order, operation_id: randomUUID() },
    ];
    for (const metadata of strangers) {
      const object = { id: 'pi_stranger', object: 'payment_intent', status: 'requires_capture', metadata };
      await received(deliver({ type: 'payment_intent.amount_capturable_updated', data: { object } }));
    }
    for (const id of [order_id, order])
      expect(await one.payments.find(tenant, id)).toMatchObject({
        authorised_minor: 0,
        operations: [{ state: 'open' }],
      });
    // Nor does a stranger take the place of the PaymentIntent that is known.
    stripe.approve(intent());
    expect(await perform(here)).toEqual([moved(500)]);
  });

  it('of an unknown type or about an unknown object is acknowledged', async () => {
    const stranger = { id: 'pi_stranger', object: 'payment_intent', status: 'succeeded', metadata: {} };
    const ofType = (type: string, object: object) => ({ id: 'evt_1', type, data: { object } });
    const nobody = { tenant, order_id: randomUUID(), operation_id: randomUUID() };
    for (const event of [
      ofType('customer.created', { id: 'cus_1', object: 'customer' }),
      ofType('payment_intent.succeeded', stranger),
      ofType('payment_intent.succeeded', { ...stranger, metadata: nobody }),
      ofType('payment_intent.succeeded', { ...stranger, metadata: { ...nobody, order_id: "'; --" } }),
      ofType('refund.updated', {
        id: 're_1',
        object: 'refund',
        status: 'succeeded',
        payment_intent: null,
        metadata: {},
      }),
      { object: 'v2.core.event', id: 'evt_2', type: 'v1.billing.meter.no_meter_found' },
    ])
      await received(deliver(event));
  });

  it('is answered with 404 without a webhook secret, and no operation starts without an API key', async () => {
    const { PAYMENT_DATABASE_URL } = settings;
    const bare = await startWithStripe({ PAYMENT_DATABASE_URL });
    await expectProblem(deliver({ id: 'evt_1', type: 'charge.captured' }, bare), 404, 'not-found');
    await perform(authorise());
    const taking = capture(order);
    expect(await bare.performOperations.execute(tenant, [authorise(randomUUID()), taking])).toEqual([
      refused('method-not-offered'),
      open('method-not-offered'),
    ]);
    await bare.stop();
    expect(await perform(taking)).toEqual([moved(500)]);
  });
});
