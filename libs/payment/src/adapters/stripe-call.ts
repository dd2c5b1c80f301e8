import type { Stripe } from 'stripe';
import type { ProviderOutcome, ProviderRequest } from '../use-cases/perform-operations.js';
import type { KnownOperation } from './stripe-intents.js';
import {
  declineOf,
  isRefundOf,
  open,
  outcomeByIntent,
  outcomeByRefund,
  outcomeOfError,
  placeOf,
  refused,
  type Marks,
} from './stripe-outcomes.js';

/** A request, and what is known of its operation. */
export type Asked = ProviderRequest & KnownOperation & { tenant: string };

type Intent = Stripe.PaymentIntent;

/** Stripe counts these currencies in another unit than ISO 4217, and an amount must not be misread. */
const countedOtherwise = new Set(['ISK', 'MGA', 'UGX']);

/**
 * Carries out one operation, with its id as the idempotency key, so that Stripe does it once. Under that key Stripe repeats
 * its first answer, its own errors included, for at least a day: if that answer may be outdated, inconclusive or forgotten,
 * we look at the object itself.
 */
export class StripeCall {
  /** The PaymentIntent, once it has been seen. */
  intent: Intent | undefined;

  constructor(
    private readonly stripe: Stripe,
    private readonly asked: Asked,
  ) {}

  async outcome(): Promise<ProviderOutcome> {
    const { kind, token, currency } = this.asked;
    if (kind === 'authorise' && token === null) return refused('token-required');
    if (countedOtherwise.has(currency)) return refused('currency-not-offered');
    try {
      return kind === 'refund' ? await this.refund() : await this.change();
    } catch (error) {
      return outcomeOfError(this.asked, error) ?? (await this.look(error as Error));
    }
  }

  private async change(): Promise<ProviderOutcome> {
    const { asked } = this;
    if (asked.kind === 'authorise') return this.authorise();
    const id = await this.intentId();
    if (id === undefined) return open('Stripe does not show the PaymentIntent yet');
    this.intent = asked.kind === 'void' ? await this.cancelled(id, asked.operationId) : await this.captured(id);
    return outcomeByIntent(asked, this.intent);
  }

  private async authorise(): Promise<ProviderOutcome> {
    try {
      this.intent = await this.asAsked();
    } catch (error) {
      const outcome = outcomeOfError(this.asked, error);
      const { payment_intent: made } = error as Stripe.errors.StripeError;
      if (outcome?.outcome !== 'refused' || !made) throw error;
      this.intent = made;
      return this.letGo(made, outcome.reason);
    }
    if (!this.intent) return refused('never-asked');
    const outcome = outcomeByIntent(this.asked, this.intent);
    if (outcome.outcome !== 'open') return outcome;
    const declined = declineOf(this.intent);
    // Without a decline it waits for an action of the customer, so it stays open unless the payment was reversed.
    return declined !== undefined || this.asked.isAbandoned ? this.letGo(this.intent, declined) : outcome;
  }

  /** Undefined if nobody has asked for it while the idempotency key was valid: then nobody may any more. */
  private async asAsked(): Promise<Intent | undefined> {
    const { intentId, isOld } = this.asked;
    if (intentId !== null) return this.stripe.paymentIntents.retrieve(intentId);
    return isOld ? this.search() : this.created();
  }

  /** Cancels it before the refusal is told, so that nobody can confirm it; until then the authorisation stays open. */
  private async letGo({ id }: Intent, declined: string | undefined): Promise<ProviderOutcome> {
    const { operationId, isAbandoned } = this.asked;
    try {
      this.intent = await this.cancelled(id, `${operationId}-${isAbandoned ? 'abandoned' : 'declined'}`);
    } catch (error) {
      const outcome = outcomeOfError(this.asked, error);
      if (outcome?.outcome !== 'refused') throw error;
      return open(`Stripe does not cancel the PaymentIntent: ${outcome.reason}`);
    }
    const outcome = outcomeByIntent(this.asked, this.intent);
    return outcome.outcome === 'refused' && declined !== undefined ? refused(declined) : outcome;
  }

  private created(): Promise<Intent> {
    const { amountMinor, currency, token, operationId } = this.asked;
    return this.stripe.paymentIntents.create(
      {
        amount: amountMinor,
        currency: currency.toLowerCase(),
        payment_method: token!,
        capture_method: 'manual',
        confirm: true,
        // We have no page for the customer to return to.
        automatic_payment_methods: { enabled: true, allow_redirects: 'never' },
        metadata: { ...this.marks },
      },
      { idempotencyKey: operationId },
    );
  }

  private captured(intentId: string): Promise<Intent> {
    const { amountMinor, operationId } = this.asked;
    return this.stripe.paymentIntents.capture(
      intentId,
      { amount_to_capture: amountMinor, metadata: { capture_operation_id: operationId } satisfies Partial<Marks> },
      { idempotencyKey: operationId },
    );
  }

  private cancelled(intentId: string, idempotencyKey: string): Promise<Intent> {
    return this.stripe.paymentIntents.cancel(intentId, {}, { idempotencyKey });
  }

  private async refund(): Promise<ProviderOutcome> {
    const { isOld, amountMinor, operationId } = this.asked;
    const intentId = await this.intentId();
    if (intentId === undefined) return open('Stripe does not show the PaymentIntent yet');
    const refund =
      (isOld ? await this.findRefund(intentId) : undefined) ??
      (await this.stripe.refunds.create(
        { payment_intent: intentId, amount: amountMinor, metadata: { ...this.marks } },
        { idempotencyKey: operationId },
      ));
    const outcome = outcomeByRefund(refund);
    // This may be a repeat of the first answer, so the current state is read.
    return outcome.outcome === 'open' ? outcomeByRefund(await this.stripe.refunds.retrieve(refund.id)) : outcome;
  }

  /** Decides by the current state, after an inconclusive answer. */
  private async look(cause: Error): Promise<ProviderOutcome> {
    const nothing = open(`Stripe answered: ${cause.message}`);
    try {
      const intentId = await this.intentId();
      if (intentId === undefined) return nothing;
      if (this.asked.kind === 'refund') {
        const refund = await this.findRefund(intentId);
        return refund ? outcomeByRefund(refund) : nothing;
      }
      this.intent = await this.stripe.paymentIntents.retrieve(intentId);
      const outcome = outcomeByIntent(this.asked, this.intent);
      return outcome.outcome === 'open' ? nothing : outcome;
    } catch (error) {
      outcomeOfError(this.asked, error);
      return nothing;
    }
  }

  private async intentId(): Promise<string | undefined> {
    if (this.asked.intentId !== null) return this.asked.intentId;
    this.intent ??= await this.search();
    return this.intent?.id;
  }

  /** The search index of Stripe lags behind by some seconds. */
  private async search(): Promise<Intent | undefined> {
    const { orderId, tenant } = this.asked;
    const { data } = await this.stripe.paymentIntents.search({ query: `metadata['order_id']:'${orderId}'` });
    return data.find((it) => placeOf(it)?.tenant === tenant);
  }

  private async findRefund(intentId: string): Promise<Stripe.Refund | undefined> {
    for await (const refund of this.stripe.refunds.list({ payment_intent: intentId, limit: 100 }))
      if (isRefundOf(this.asked.operationId, refund)) return refund;
    return undefined;
  }

  private get marks(): Marks {
    const { tenant, orderId, operationId } = this.asked;
    return { tenant, order_id: orderId, operation_id: operationId };
  }
}
