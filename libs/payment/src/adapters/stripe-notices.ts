import { Logger } from '@nestjs/common';
import type { Stripe } from 'stripe';
import { CleaveError } from '#contracts';
import type { ProviderNotice, ProviderNotices } from '../use-cases/handle-provider-notice.js';
import type { StripeIntents } from './stripe-intents.js';
import { isRefundOf, open, outcomeByIntent, outcomeByRefund, placeOf } from './stripe-outcomes.js';

/** How old an event may be when it arrives, so that a recorded one cannot be replayed later. */
const toleranceSeconds = 300;

/** Reads the events of Stripe's webhooks. All that matters of them is the object that they contain. */
export class StripeNotices implements ProviderNotices {
  private readonly logger = new Logger(StripeNotices.name);

  constructor(
    private readonly webhooks: { secret: string; library: typeof Stripe.webhooks } | undefined,
    private readonly intents: StripeIntents,
  ) {}

  async receive(body: Buffer, signature: string | undefined): Promise<ProviderNotice | undefined> {
    const event = this.eventIn(body, signature);
    if (event === undefined) return undefined;
    switch (event.type) {
      case 'payment_intent.amount_capturable_updated':
      case 'payment_intent.succeeded':
      case 'payment_intent.canceled':
      case 'payment_intent.payment_failed':
        return this.ofIntent(event.data.object);
      case 'refund.failed':
        // The refund may have been settled as succeeded: then a person has to give the money back in another way.
        this.logger.warn(`refund ${event.data.object.id} has failed at Stripe`);
        return this.ofRefund(event.data.object);
      case 'refund.created':
      case 'refund.updated':
      case 'charge.refund.updated':
        return this.ofRefund(event.data.object);
      default:
        return undefined;
    }
  }

  private async ofIntent(intent: Stripe.PaymentIntent): Promise<ProviderNotice | undefined> {
    const place = placeOf(intent) ?? (await this.intents.orderOf(intent.id));
    if (!place) return undefined;
    await this.intents.keep(place.tenant, new Map([[place.orderId, intent.id]]));
    return { method: 'stripe', ...place, outcomeOf: (operation) => outcomeByIntent(operation, intent) };
  }

  private async ofRefund(refund: Stripe.Refund): Promise<ProviderNotice | undefined> {
    const { payment_intent: intent } = refund;
    const intentId = typeof intent === 'string' ? intent : intent?.id;
    const place = placeOf(refund) ?? (intentId === undefined ? undefined : await this.intents.orderOf(intentId));
    if (!place) return undefined;
    return {
      method: 'stripe',
      ...place,
      outcomeOf: ({ operationId }) =>
        isRefundOf(operationId, refund) ? outcomeByRefund(refund) : open('another refund'),
    };
  }

  /** Undefined for an event of a kind that the library does not read. */
  private eventIn(body: Buffer, signature: string | undefined): Stripe.Event | undefined {
    if (!this.webhooks)
      throw new CleaveError('not-found', 'Webhooks of Stripe are not accepted here: STRIPE_WEBHOOK_SECRET is not set.');
    const { secret, library } = this.webhooks;
    const signed = [body, signature ?? '', secret, toleranceSeconds] as const;
    try {
      // Verified separately, because the library throws the same for some malformed headers as for events it does not read.
      library.signature!.verifyHeader(...signed);
    } catch (error) {
      const detail = `The header Stripe-Signature is missing, is older than ${toleranceSeconds} seconds, or does not match this body and our secret.`;
      throw new CleaveError('invalid-signature', detail, {}, { cause: error });
    }
    try {
      return library.constructEvent(...signed);
    } catch {
      return undefined;
    }
  }
}
