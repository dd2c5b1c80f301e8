import { Logger } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { mapConcurrently } from '#admission';
import type { CustomerAction } from '#contracts';
import type { Stripe } from 'stripe';
import type { PaymentProvider, ProviderOutcome, ProviderRequest } from '../use-cases/perform-operations.js';
import { StripeCall, type Asked } from './stripe-call.js';
import type { StripeIntents } from './stripe-intents.js';
import { keyRefused, open, refused } from './stripe-outcomes.js';

export interface StripeLimits {
  /** How long one call may take. */
  callTimeoutMs: number;
  /** The same for calls whose answer is optional; that answer is also cached for as long. */
  readTimeoutMs: number;
  /** For how long operations of a batch are started. */
  beginWithinMs: number;
  /** When the batch is answered at the latest: before the caller gives up on all of it. */
  answerWithinMs: number;
  /** How many operations of a batch run at once. */
  callsAtATime: number;
}

export const stripeLimits: StripeLimits = {
  ...{ callTimeoutMs: 5_000, readTimeoutMs: 2_000, beginWithinMs: 2_000, answerWithinMs: 6_000 },
  callsAtATime: 16,
};

/** How many optional answers are cached; an answer that was evicted is asked for again. */
const keptAnswers = 1_000;

/** Cards and the other methods that Stripe takes, through PaymentIntents that we capture. */
export class StripeProvider implements PaymentProvider {
  private readonly logger = new Logger(StripeProvider.name);
  /**
   * By PaymentIntent, failures included: however often a payment is read, that must not use up the rate limit of Stripe,
   * which is there to take money.
   */
  private readonly actions: LRUCache<string, Promise<CustomerAction | null>>;

  constructor(
    private readonly stripe: Stripe | undefined,
    private readonly intents: StripeIntents,
    private readonly limits: StripeLimits,
  ) {
    this.actions = new LRUCache({ max: keptAnswers, ttl: limits.readTimeoutMs, ttlAutopurge: true });
  }

  async perform(tenant: string, requests: readonly ProviderRequest[]): Promise<ProviderOutcome[]> {
    const known = await this.intents.read(
      tenant,
      requests.map((it) => it.operationId),
    );
    const asked = requests.map((it): Asked => ({ ...it, ...known.get(it.operationId)!, tenant }));
    const { stripe } = this;
    return stripe ? this.carryOut(stripe, tenant, asked) : asked.map(withoutKey);
  }

  async customerAction(operationId: string, tenant: string): Promise<CustomerAction | null> {
    const known = (await this.intents.read(tenant, [operationId])).get(operationId);
    if (!this.stripe || !known?.intentId || known.isAbandoned) return null;
    let action = this.actions.get(known.intentId);
    if (!action) {
      action = this.askForAction(this.stripe, known.intentId);
      this.actions.set(known.intentId, action);
    }
    return action;
  }

  private async askForAction(stripe: Stripe, intentId: string): Promise<CustomerAction | null> {
    const { status, client_secret } = await stripe.paymentIntents.retrieve(intentId, undefined, {
      timeout: this.limits.readTimeoutMs,
    });
    return status === 'requires_action' && client_secret ? { method: 'stripe', client_secret } : null;
  }

  private async carryOut(stripe: Stripe, tenant: string, asked: readonly Asked[]): Promise<ProviderOutcome[]> {
    const { beginWithinMs, answerWithinMs, callsAtATime } = this.limits;
    const begunBefore = performance.now() + beginWithinMs;
    const { promise: over, resolve: end } = Promise.withResolvers<ProviderOutcome>();
    const timer = setTimeout(() => end(open('Stripe has not answered yet')), answerWithinMs);
    const found = new Map<string, string>();
    const outcomes = await mapConcurrently(asked, callsAtATime, async (request) => {
      if (performance.now() > begunBefore) return open('other requests to Stripe took too long');
      const call = new StripeCall(stripe, request);
      const outcome = await Promise.race([call.outcome().catch((error) => this.complain(error)), over]);
      if (call.intent) found.set(request.orderId, call.intent.id);
      return outcome;
    }).finally(() => clearTimeout(timer));
    // Before the outcomes are returned, because whatever follows needs the ids.
    await this.intents.keep(tenant, found);
    if (outcomes.includes(keyRefused))
      this.logger.error('Stripe rejects STRIPE_SECRET_KEY, and payments wait: set a valid key');
    return outcomes;
  }

  /** A fault of ours in one operation does not hold up the others. */
  private complain(error: unknown): ProviderOutcome {
    this.logger.error('a response of Stripe could not be processed', (error as Error).stack);
    return open('the response could not be processed');
  }
}

/** The key was removed from the configuration: operations that Stripe knows of wait until it is back. */
const withoutKey = ({ kind, intentId }: Asked): ProviderOutcome =>
  kind === 'authorise' && intentId === null ? refused('method-not-offered') : open('method-not-offered');
