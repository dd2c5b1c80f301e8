import { Body, Controller, Headers, Post } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { Endpoint } from '#rest';
import { HandleProviderNotice } from '../use-cases/handle-provider-notice.js';

const receipt = z.object({ received: z.literal(true) }).meta({ id: 'WebhookReceipt' });

/** Receives the events of Stripe. */
@ApiTags('payments')
@Controller('payments/webhooks')
export class StripeWebhooks {
  constructor(private readonly handleProviderNotice: HandleProviderNotice) {}

  @Post('stripe')
  @Endpoint({
    // The signature authenticates the sender.
    scope: 'open',
    operationId: 'receiveStripeEvent',
    summary: 'Receive an event from Stripe',
    description:
      'For a webhook endpoint at Stripe with the events `payment_intent.*` and `refund.*`. Events may come ' +
      'twice and in any order. Events that belong to no open operation are accepted and ignored.',
    rawBody: {
      description: 'The event, with its signature in the header `Stripe-Signature`.',
      example: { id: 'evt_1', object: 'event', type: 'payment_intent.succeeded', data: { object: { id: 'pi_1' } } },
    },
    replies: { 200: { schema: receipt, description: 'The event was received; Stripe need not send it again' } },
    errors: ['invalid-signature', 'not-found'],
  })
  async receive(
    @Body() body: Buffer | undefined,
    @Headers('stripe-signature') signature?: string,
  ): Promise<z.output<typeof receipt>> {
    await this.handleProviderNotice.execute(body ?? Buffer.alloc(0), signature);
    return { received: true };
  }
}
