import { Module, type DynamicModule, type OnModuleInit } from '@nestjs/common';
import type { z } from 'zod';
import { env } from '#config';
import { InjectSql, Sql, databaseFor } from '#database';
import { Readiness } from '#health';
import { Payments1764000000003 } from '../migrations/1-payments.js';
import { ManualProvider } from './adapters/manual-provider.js';
import { PostgresPayments } from './adapters/postgres-payments.js';
import { SimulatedProvider } from './adapters/simulated-provider.js';
import { PaymentMessages } from './transport/payment.messages.js';
import { PaymentProviders, Payments, PerformOperations } from './use-cases/perform-operations.js';
import { PaymentReader, ReadPayment } from './use-cases/read-payment.js';

/** What payment reads from the environment. */
export const paymentEnvironment = { PAYMENT_DATABASE_URL: env.postgresUrl };

type PaymentSettings = z.output<z.ZodObject<typeof paymentEnvironment>>;

/** Takes and returns money. */
@Module({})
export class PaymentModule implements OnModuleInit {
  constructor(
    @InjectSql('payment') private readonly sql: Sql,
    private readonly readiness: Readiness,
  ) {}

  onModuleInit(): void {
    this.readiness.add('payment-database', () => this.sql.ping());
  }

  static register(options: PaymentSettings): DynamicModule {
    return {
      module: PaymentModule,
      imports: [
        databaseFor({
          name: 'payment',
          url: options.PAYMENT_DATABASE_URL,
          schema: 'payment',
          entities: [],
          migrations: [Payments1764000000003],
        }),
      ],
      controllers: [PaymentMessages],
      providers: [
        ...[PerformOperations, ReadPayment],
        ...[PostgresPayments, ManualProvider, SimulatedProvider],
        ...[Payments, PaymentReader].map((port) => ({ provide: port, useExisting: PostgresPayments })),
        {
          provide: PaymentProviders,
          inject: [ManualProvider, SimulatedProvider],
          useFactory: (manual: ManualProvider, simulated: SimulatedProvider): PaymentProviders => {
            const providers = { manual, simulated };
            return { of: (method) => providers[method] };
          },
        },
      ],
    };
  }
}
