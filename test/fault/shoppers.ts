import { setTimeout } from 'node:timers/promises';
import { SeededRandom, eventually } from '#testing';
import { ok, type Answer, type Api, type MoneyMove, type Order } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import type { ChangeAttempt, RefundAttempt } from '../support/history.js';
import type { Attempt } from '../support/load.js';

const usualCount = 5;
/** Timeout of a hanging test: on a busy machine, a killed process may take a minute to restart. */
const patienceMs = 120_000;
const pauseMs = 30;

const payments = [
  { method: 'manual' },
  ...['ok', 'ok', 'lost', 'declined', 'capture_refused', 'capture_refused', 'notified_before', 'notified_after'].map(
    (it) => ({
      ...{ method: 'simulated', token: `tok_${it}` },
    }),
  ),
];

const ends = new Set(['payment-captured', 'payment-declined', 'payment-failed']);

interface Outcome {
  outcome: number | string;
  text?: string;
  order?: Order;
  move?: MoneyMove;
}

/**
 * Well-behaved clients: each places orders with idempotency keys, half of them with a payment, cancels some, fulfils,
 * returns or refunds others, and retries every request until it gets a final answer. They remember all answers.
 */
export class Shoppers {
  readonly placements: Attempt[] = [];
  readonly changes: ChangeAttempt[] = [];
  readonly refunds: RefundAttempt[] = [];
  /** How many orders were found by a retry instead of being placed. */
  replayed = 0;
  private products: string[] = [];
  private isOver = false;
  private shopping: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly api: Api,
    private readonly random: SeededRandom,
    private readonly count = usualCount,
  ) {}

  /** Creates two products with plenty of stock and two that soon run out, and starts all shoppers. */
  async start(): Promise<void> {
    this.products = await Promise.all([1_000_000, 1_000_000, 15, 4].map((onHand) => this.api.product({ onHand })));
    this.shopping = Promise.all(
      Array.from({ length: this.count }, () => this.shop(new SeededRandom(this.random.integer(0, 2 ** 31)))),
    );
    // `finish` awaits it; until then, a failure must not count as unhandled.
    this.shopping.catch(() => undefined);
  }

  /** Orders that were sent but not answered yet. */
  get inFlight(): Attempt[] {
    return this.placements.filter((it) => it.outcome === undefined);
  }

  /** Resolves once the condition holds, which it polls while the shoppers continue. */
  async until(condition: () => boolean): Promise<void> {
    for (const giveUpAt = Date.now() + patienceMs; !condition(); await setTimeout(5))
      if (Date.now() > giveUpAt) throw new Error('waited in vain');
  }

  /** Waits until all shoppers have finished what they began. */
  async finish(): Promise<void> {
    this.isOver = true;
    await this.shopping;
  }

  /** Sends every order again and remembers the answers, which must equal the earlier ones. */
  async repeat(): Promise<void> {
    const bodies = new Map(this.placements.map(({ key, body }) => [key, body]));
    await Promise.all([...bodies].map(([key, body]) => this.insistOnPlacing(body, key)));
  }

  /** Places an order, retries until the answer is final, and remembers every attempt. */
  insistOnPlacing(body: object, key: string): Promise<Answer<Order>> {
    const isFinal = ({ status, text }: Answer): boolean =>
      status === 201 || (status === 409 && text.includes('out-of-stock'));
    return this.insist(
      () => this.api.place(body, key),
      isFinal,
      () => {
        const attempt: Attempt = { key, body };
        this.placements.push(attempt);
        return attempt;
      },
    );
  }

  /** @param random one per shopper, so that the seed determines what it does */
  private async shop(random: SeededRandom): Promise<void> {
    // Checked after an order, so that each shopper places one more on the recovered system.
    while (!this.isOver) {
      const order = await this.place(random);
      if (order && random.next() < 0.5) await this.change(order, random);
    }
  }

  private async place(random: SeededRandom): Promise<Order | undefined> {
    const body = {
      customer_id: 'shopper',
      lines: random
        .shuffled(this.products)
        .slice(0, random.integer(1, 3))
        .map((product_id) => ({ product_id, quantity: random.integer(1, 3) })),
      adjustments: random.pick([[], [{ kind: 'shipping', label: 'Parcel', amount_minor: 495 }]]),
      ...random.pick([{}, { payment: random.pick(payments) }]),
    };
    const answer = await this.insistOnPlacing(body, fresh('shop'));
    if (answer.headers.get('idempotent-replayed') === 'true') this.replayed += 1;
    return answer.status === 201 ? answer.body : undefined;
  }

  /** Cancels the order, or fulfils it wholly or partly, and may then return a part or cancel the remainder. */
  private async change(order: Order, random: SeededRandom): Promise<void> {
    const { order_id, lines, payment_method } = order;
    if (payment_method !== null) return this.changePaid(order, random);
    const [first] = lines;
    const some = { lines: [{ product_id: first!.product_id, quantity: 1 }] };
    const verb = random.pick(['cancel', 'fulfil', 'fulfil some', 'cancel the rest', 'return'] as const);
    const [key, other] = [fresh('change'), fresh('change')];
    if (verb === 'cancel') return this.changed(order_id, () => this.api.cancel(order_id));
    const body = verb === 'fulfil some' || verb === 'cancel the rest' ? some : undefined;
    await this.changed(order_id, () => this.api.fulfil(order_id, body, { key }));
    if (verb === 'cancel the rest')
      await this.changed(order_id, () => this.api.cancel(order_id, { remaining: true }), ['illegal-transition']);
    if (verb !== 'return') return;
    const back = { ...some, restock: random.next() < 0.7, reason: 'unwanted' };
    await this.changed(order_id, () => this.api.return(order_id, back, { key: other }));
  }

  /** Cancels the order, or requests a refund, which is refused if nothing was captured. */
  private async changePaid({ order_id, payment_method }: Order, random: SeededRandom): Promise<void> {
    if (random.next() < 0.4) return this.changed(order_id, () => this.api.cancel(order_id), ['illegal-transition']);
    // A refund is refused before the capture.
    if (payment_method !== 'manual' && random.next() < 0.7) await this.decided(order_id);
    const key = fresh('refund');
    const body = { amount_minor: random.integer(1, 300), reason: 'unwanted' };
    const isFinal = ({ status, text }: Answer): boolean => status === 201 || text.includes('payment-refused');
    await this.insist(
      () => this.api.refund(order_id, body, { key }),
      isFinal,
      () => {
        const attempt: RefundAttempt = { key, orderId: order_id, amountMinor: body.amount_minor };
        this.refunds.push(attempt);
        return attempt;
      },
    );
  }

  /** Waits until the payment is captured, or has failed for good. */
  private decided(orderId: string): Promise<void> {
    return eventually(async () => {
      const types = (await this.api.history(orderId)).map((it) => it.type as string);
      if (!types.some((it) => ends.has(it)))
        throw new Error(`the payment of ${orderId} comes to no end: ${types.join()}`);
    }, patienceMs);
  }

  private async changed(
    orderId: string,
    send: () => Promise<Answer<Order>>,
    refusals: readonly string[] = [],
  ): Promise<void> {
    const isFinal = ({ status, text }: Answer): boolean =>
      status === 200 || status === 201 || refusals.some((it) => text.includes(it));
    await this.insist(send, isFinal, () => {
      const attempt: ChangeAttempt = { orderId };
      this.changes.push(attempt);
      return attempt;
    });
  }

  /** Repeats a request until it gets a final answer. */
  private async insist<Body extends Order | MoneyMove>(
    send: () => Promise<Answer<Body>>,
    isFinal: (answer: Answer) => boolean,
    begin: () => Partial<Outcome>,
  ): Promise<Answer<Body>> {
    for (const giveUpAt = Date.now() + patienceMs; ; await setTimeout(pauseMs)) {
      const attempt = begin();
      try {
        const answer = await send();
        Object.assign(attempt, outcomeOf(answer));
        if (isFinal(answer)) return answer;
        // Retried because it may pass: an unavailable server, or a request that is still in progress.
        if (answer.status < 500 && !answer.text.includes('request-in-progress')) ok(answer);
      } catch (error) {
        if (attempt.outcome !== undefined) throw error;
        const cause = (error as Error).cause as NodeJS.ErrnoException | undefined;
        attempt.outcome = cause?.code ?? String(error);
      }
      if (Date.now() > giveUpAt) throw new Error(`given up: ${JSON.stringify(attempt)}`);
    }
  }
}

const outcomeOf = ({ status, text, body }: Answer<Order | MoneyMove>): Outcome => ({
  outcome: status,
  text,
  ...((status === 200 || status === 201) && ('version' in body ? { order: body } : { move: body })),
});
