import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';

/** A fault of the next request that changes something. */
type Fault =
  /** It is performed, but never answered. */
  | 'silent'
  /** It is performed, but the connection breaks instead of an answer. */
  | 'cut'
  /** It is performed, but the answer is 500, now and for every retry under this key. */
  | 'failed-after'
  /** It is not performed, and the answer is 500, now and for every retry under this key. */
  | 'failed-before'
  /** It is refused (429 or 401) before idempotency keys are checked. */
  | 'too-many'
  | 'no-such-key';

/** The changes that can be requested from Stripe, in our terms. */
export const stripeChanges = ['authorise', 'capture', 'refund', 'void'] as const;
type StripeChange = (typeof stripeChanges)[number];

/** A request that was caught before it was performed or before it was answered. It waits until it is passed or cut. */
export interface CaughtByStripe {
  pass(): void;
  /** Ends it without an answer. If it was not performed yet, it never is. */
  cut(): void;
}

interface Snare {
  change: StripeChange;
  moment: 'before' | 'after';
  left: number;
  act: (caught: CaughtByStripe) => void;
}

interface Intent {
  id: string;
  client_secret: string;
  object: 'payment_intent';
  status: string;
  amount: number;
  amount_capturable: number;
  amount_received: number;
  currency: string;
  metadata: Record<string, string>;
  last_payment_error: object | null;
}

interface Refund {
  id: string;
  object: 'refund';
  status: string;
  failure_reason?: string;
  amount: number;
  payment_intent: string;
  metadata: Record<string, string>;
}

/** The amounts that were moved for an order according to our database. */
export interface PaymentSums {
  order_id: string;
  authorised_minor: number | string;
  captured_minor: number | string;
  refunded_minor: number | string;
}

interface Answer {
  status: number;
  body: object;
}

/** The parts of Stripe that we use, including its rules on idempotency keys, states and limits. */
export class StripeStandIn {
  readonly intents = new Map<string, Intent>();
  readonly refunds = new Map<string, Refund>();
  /** The events that webhooks would send, oldest first, with copies of the objects at that time. */
  readonly events: { id: string; type: string; data: { object: object } }[] = [];
  /** The requests that change something, with their idempotency keys, in the order of arrival. */
  readonly asked: { path: string; key: string | undefined; form: Record<string, string> }[] = [];
  /** The number of requests that only read. */
  looks = 0;
  readonly faults: Fault[] = [];
  /** Searches find nothing, as if the search index lagged behind. */
  indexIsBehind = false;
  /** The highest number of concurrent calls so far. */
  mostAtATime = 0;
  /** How long each answer takes. */
  delayMs = 0;
  private atATime = 0;
  private readonly keys = new Map<string, { fingerprint: string; answer: Promise<Answer> | Answer }>();
  private readonly expired = new Set<string>();
  private snare: Snare | undefined;
  private ids = 0;
  private readonly server = createServer((request, response) => void this.respond(request, response));

  async start(): Promise<string> {
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }

  /**
   * Resolves when the n-th request of this kind from now on is caught, before or after it is performed. Rejects if that
   * takes too long.
   */
  next(change: StripeChange, moment: Snare['moment'], occurrence = 1): Promise<CaughtByStripe> {
    const { promise, resolve, reject } = Promise.withResolvers<CaughtByStripe>();
    this.snare = { change, moment, left: occurrence, act: resolve };
    const late = setTimeout(reject, caughtWithinMs, new Error(`no ${change} was caught`));
    return promise.finally(() => {
      clearTimeout(late);
      this.snare = undefined;
    });
  }

  /** A day passes, so Stripe forgets idempotency keys. */
  forgetKeys(): void {
    this.keys.clear();
  }

  /** The payments that differ at Stripe: other sums, or more than one PaymentIntent. */
  differences(payments: readonly PaymentSums[]): object[] {
    return payments.flatMap((payment) => {
      const intents = this.of(payment.order_id);
      const refunds = intents.flatMap((it) => this.refundsOf(it.id));
      const sum = (amounts: number[]) => amounts.reduce((total, amount) => total + amount, 0);
      const theirs = [
        sum(intents.map(({ status, amount }) => (/requires_capture|succeeded/.test(status) ? amount : 0))),
        sum(intents.map((it) => it.amount_received)),
        sum(refunds.map(({ status, amount }) => (status === 'succeeded' ? amount : 0))),
      ];
      const ours = [payment.authorised_minor, payment.captured_minor, payment.refunded_minor].map(Number);
      return intents.length <= 1 && theirs.join() === ours.join() ? [] : [{ ...payment, intents, refunds }];
    });
  }

  /** The PaymentIntents of an order. */
  of(orderId: string): Intent[] {
    return [...this.intents.values()].filter((it) => it.metadata['order_id'] === orderId);
  }

  /**
   * The customer of a PaymentIntent completes what it requires, or tries another card.
   *
   * @returns whether that was still possible
   */
  approve(intent: Intent): boolean {
    if (!['requires_action', 'requires_payment_method'].includes(intent.status)) return false;
    Object.assign(intent, {
      ...{ status: 'requires_capture', amount_capturable: intent.amount },
      last_payment_error: null,
    });
    this.tell('payment_intent.amount_capturable_updated', intent);
    return true;
  }

  /** The customer of a PaymentIntent fails to complete what it requires. */
  fail(intent: Intent): void {
    this.decline(intent, { type: 'invalid_request_error', code: 'payment_intent_authentication_failure' });
  }

  /** A pending refund succeeds or fails. */
  end(refund: Refund, status: 'succeeded' | 'failed'): void {
    Object.assign(refund, { status, ...(status === 'failed' && { failure_reason: 'expired_or_canceled_card' }) });
    this.tell(status === 'failed' ? 'refund.failed' : 'refund.updated', refund);
  }

  private async respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.mostAtATime = Math.max(this.mostAtATime, (this.atATime += 1));
    response.once('close', () => (this.atATime -= 1));
    const url = new URL(request.url!, 'http://stripe');
    const form = Object.fromEntries(new URLSearchParams(await text(request)));
    if (request.method === 'GET') this.looks += 1;
    if (this.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.delayMs));
    if (request.method === 'GET') return send(response, this.read(url));
    const key = request.headers['idempotency-key'] as string | undefined;
    this.asked.push({ path: url.pathname, key, form });
    const fault = this.faults.shift();
    if (fault === 'too-many') return send(response, refusal(429, { type: 'invalid_request_error' }));
    if (fault === 'no-such-key') return send(response, refusal(401, { type: 'invalid_request_error' }));
    const snare = this.snare?.change === changeBy(url.pathname) && --this.snare.left === 0 ? this.snare : undefined;
    if (snare?.moment === 'before' && !(await isLetGo(snare))) return void request.socket.destroy();
    const answer = await this.under(key, `${url.pathname} ${JSON.stringify(form)}`, async () => {
      if (fault === 'failed-before') return refusal(500, { type: 'api_error' });
      const done = await this.change(url.pathname, form);
      return fault === 'failed-after' ? refusal(500, { type: 'api_error' }) : done;
    });
    if (snare?.moment === 'after' && !(await isLetGo(snare))) return void request.socket.destroy();
    if (fault === 'cut') request.socket.destroy();
    else if (fault !== 'silent') send(response, answer);
  }

  /** The first answer under an idempotency key, whatever it is, is the answer to its repeats for ever. */
  private async under(key = '', fingerprint: string, work: () => Promise<Answer>): Promise<Answer> {
    const known = this.keys.get(key);
    if (known && known.fingerprint !== fingerprint) return refusal(400, { type: 'idempotency_error' });
    if (known?.answer instanceof Promise) {
      return refusal(409, { type: 'invalid_request_error', code: 'idempotency_key_in_use' });
    }
    if (known) return known.answer;
    const answer = work();
    this.keys.set(key, { fingerprint, answer });
    const body = structuredClone(await answer);
    this.keys.set(key, { fingerprint, answer: body });
    return body;
  }

  private read({ pathname, searchParams }: URL): Answer {
    const [, , kind, id] = pathname.split('/');
    if (id === 'search') {
      const orderId = /^metadata\['order_id'\]:'([^']+)'$/.exec(searchParams.get('query')!)![1]!;
      const data = this.indexIsBehind ? [] : this.of(orderId);
      return ok({ object: 'search_result', data, has_more: false, next_page: null });
    }
    if (kind === 'refunds' && id === undefined) {
      const data = this.refundsOf(searchParams.get('payment_intent')!);
      return ok({ object: 'list', data, has_more: false, url: '/v1/refunds' });
    }
    const found = kind === 'refunds' ? this.refunds.get(id!) : this.intents.get(id!);
    return found ? ok(found) : missing;
  }

  private async change(path: string, form: Record<string, string>): Promise<Answer> {
    const [, , kind, id, verb] = path.split('/');
    if (kind === 'refunds') return this.refund(form);
    if (id === undefined) return this.create(form);
    const intent = this.intents.get(id);
    if (!intent) return missing;
    return verb === 'capture' ? this.capture(intent, form) : this.cancel(intent);
  }

  private async create(form: Record<string, string>): Promise<Answer> {
    const method = form['payment_method'] ?? '';
    if (!method.startsWith('pm_')) return refusal(400, { type: 'invalid_request_error', code: 'resource_missing' });
    if (form['capture_method'] !== 'manual' || form['confirm'] !== 'true') throw new Error('not as we ask');
    const id = this.newId('pi');
    const intent: Intent = {
      id,
      client_secret: `${id}_secret_of_the_test`,
      object: 'payment_intent',
      status: 'requires_payment_method',
      amount: Number(form['amount']),
      ...{ amount_capturable: 0, amount_received: 0 },
      currency: form['currency']!,
      metadata: metadataIn(form),
      last_payment_error: null,
    };
    this.intents.set(intent.id, intent);
    if (method.includes('expired')) this.expired.add(intent.id);
    if (method.includes('slow')) await new Promise((resolve) => setTimeout(resolve, 100));
    const declined = /declined_?(\w*)/.exec(method);
    if (declined) {
      const error = { type: 'card_error', code: 'card_declined', decline_code: declined[1] || 'generic_decline' };
      this.decline(intent, error);
      return refusal(402, { ...error, payment_intent: intent });
    }
    if (method.includes('authentication')) intent.status = 'requires_action';
    else this.approve(intent);
    return ok(intent);
  }

  private decline(intent: Intent, error: object): void {
    Object.assign(intent, { status: 'requires_payment_method', last_payment_error: error });
    this.tell('payment_intent.payment_failed', intent);
  }

  private capture(intent: Intent, form: Record<string, string>): Answer {
    if (intent.status !== 'requires_capture') return unexpected(intent);
    if (this.expired.has(intent.id))
      return refusal(400, { type: 'invalid_request_error', code: 'charge_expired_for_capture' });
    const amount = Number(form['amount_to_capture']);
    if (amount > intent.amount_capturable) {
      return refusal(400, { type: 'invalid_request_error', code: 'amount_too_large', param: 'amount_to_capture' });
    }
    const metadata = { ...intent.metadata, ...metadataIn(form) };
    Object.assign(intent, { status: 'succeeded', amount_received: amount, amount_capturable: 0, metadata });
    this.tell('payment_intent.succeeded', intent);
    return ok(intent);
  }

  private cancel(intent: Intent): Answer {
    if (intent.status === 'succeeded' || intent.status === 'canceled') return unexpected(intent);
    Object.assign(intent, { status: 'canceled', amount_capturable: 0 });
    this.tell('payment_intent.canceled', intent);
    return ok(intent);
  }

  private refund(form: Record<string, string>): Answer {
    const intent = this.intents.get(form['payment_intent']!)!;
    const given = this.refundsOf(intent.id).filter(({ status }) => status !== 'failed');
    const left = intent.amount_received - given.reduce((sum, { amount }) => sum + amount, 0);
    const amount = Number(form['amount']);
    if (left === 0) return refusal(400, { type: 'invalid_request_error', code: 'charge_already_refunded' });
    if (amount > left) return refusal(400, { type: 'invalid_request_error', param: 'amount' });
    const refund: Refund = {
      id: this.newId('re'),
      object: 'refund',
      // With some payment methods, the outcome is not known at once.
      status: amount === pendingRefundMinor ? 'pending' : 'succeeded',
      amount,
      payment_intent: intent.id,
      metadata: metadataIn(form),
    };
    this.refunds.set(refund.id, refund);
    this.tell('refund.created', refund);
    return ok(refund);
  }

  private refundsOf(intentId: string): Refund[] {
    return [...this.refunds.values()].filter((it) => it.payment_intent === intentId);
  }

  private tell(type: string, object: object): void {
    this.events.push({ id: this.newId('evt'), type, data: { object: structuredClone(object) } });
  }

  private newId(prefix: string): string {
    this.ids += 1;
    return `${prefix}_${this.ids}`;
  }
}

const caughtWithinMs = 60_000;

const changeBy = (path: string): StripeChange => {
  if (path.endsWith('/capture')) return 'capture';
  if (path.endsWith('/cancel')) return 'void';
  return path.endsWith('/refunds') ? 'refund' : 'authorise';
};

const isLetGo = ({ act }: Snare): Promise<boolean> =>
  new Promise((resolve) => act({ pass: () => resolve(true), cut: () => resolve(false) }));

/** A refund of this amount stays pending until it is ended. */
export const pendingRefundMinor = 99;

/** An event as Stripe sends it. */
export const signed = (event: object, secret: string, ageSeconds = 0): { body: string; signature: string } => {
  const body = JSON.stringify({ object: 'event', ...event });
  const timestamp = Math.floor(Date.now() / 1000) - ageSeconds;
  const digest = createHmac('sha256', secret).update(`${timestamp}.${body}`).digest('hex');
  return { body, signature: `t=${timestamp},v1=${digest}` };
};

const ok = (body: object): Answer => ({ status: 200, body });
const refusal = (status: number, error: object): Answer => ({
  status,
  body: { error: { message: `answered ${status}`, ...error } },
});
const missing = refusal(404, { type: 'invalid_request_error', code: 'resource_missing', param: 'intent' });
const unexpected = (intent: Intent): Answer =>
  refusal(400, { type: 'invalid_request_error', code: 'payment_intent_unexpected_state', payment_intent: intent });

const send = (response: ServerResponse, { status, body }: Answer): void => {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
};

const metadataIn = (form: Record<string, string>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(form).flatMap(([name, value]) => {
      const key = /^metadata\[(\w+)\]$/.exec(name)?.[1];
      return key === undefined ? [] : [[key, value]];
    }),
  );
