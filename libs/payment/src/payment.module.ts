import { Module, type DynamicModule, type OnModuleInit } from '@nestjs/common';
import type { z } from 'zod';
import { env } from '#config';
import { InjectSql, Sql, databaseFor, type Database } from '#database';
import { Readiness } from '#health';
import { Payments1764000000003 } from '../migrations/1-payments.js';
import { Stripe1764000000004 } from '../migrations/2-stripe.js';
import { NothingAside1764000000050 } from '../migrations/3-nothing-aside.js';
import { ManualProvider } from './adapters/manual-provider.js';
import { PostgresPayments } from './adapters/postgres-payments.js';
import { SimulatedProvider } from './adapters/simulated-provider.js';
import { stripeClient, stripeEnvironment, stripeWebhooks } from './adapters/stripe-client.js';
import { StripeIntents } from './adapters/stripe-intents.js';
import { StripeNotices } from './adapters/stripe-notices.js';
import { StripeProvider, stripeLimits, type StripeLimits } from './adapters/stripe-provider.js';
import { PaymentMessages } from './transport/payment.messages.js';
import { StripeWebhooks } from './transport/stripe-webhooks.controller.js';
import { HandleProviderNotice, ProviderNotices } from './use-cases/handle-provider-notice.js';
import { PaymentProviders, Payments, PerformOperations } from './use-cases/perform-operations.js';
import { PaymentReader, ReadPayment } from './use-cases/read-payment.js';

/** The environment variables of payment. */
export const paymentEnvironment = { PAYMENT_DATABASE_URL: env.postgresUrl, ...stripeEnvironment };

/** The database of payment. */
export const paymentDatabase = (url: string): Database => ({
  name: 'payment',
  url,
  schema: 'payment',
  entities: [],
  migrations: [Payments1764000000003, Stripe1764000000004, NothingAside1764000000050],
});

type PaymentSettings = z.output<z.ZodObject<typeof paymentEnvironment>> & { stripe?: Partial<StripeLimits> };

/** Takes payments and refunds them, through providers such as Stripe. */
@Module({})
export class PaymentModule implements OnModuleInit {
  constructor(
    @InjectSql('payment') private readonly sql: Sql,
    private readonly readiness: Readiness,
  ) {}

  onModuleInit(): void {
    this.readiness.add('payment-database', () => this.sql.condition());
  }

  static register({ stripe, ...options }: PaymentSettings): DynamicModule {
    const limits = { ...stripeLimits, ...stripe };
    return {
      module: PaymentModule,
      imports: [databaseFor(paymentDatabase(options.PAYMENT_DATABASE_URL))],
      controllers: [PaymentMessages, StripeWebhooks],
      providers: [
        ...[PerformOperations, ReadPayment, HandleProviderNotice],
        ...[PostgresPayments, ManualProvider, SimulatedProvider, StripeIntents],
        ...[Payments, PaymentReader].map((port) => ({ provide: port, useExisting: PostgresPayments })),
        {
          provide: StripeProvider,
          inject: [StripeIntents],
          useFactory: async (intents: StripeIntents) =>
            new StripeProvider(await stripeClient(options, limits.callTimeoutMs), intents, limits),
        },
        {
          provide: ProviderNotices,
          inject: [StripeIntents],
          useFactory: async (intents: StripeIntents) => new StripeNotices(await stripeWebhooks(options), intents),
        },
        {
          provide: PaymentProviders,
          inject: [ManualProvider, SimulatedProvider, StripeProvider],
          useFactory: (
            manual: ManualProvider,
            simulated: SimulatedProvider,
            stripe: StripeProvider,
          ): PaymentProviders => {
            const providers = { manual, simulated, stripe };
            return { of: (method) => providers[method] };
          },
        },
      ],
    };
  }
}
