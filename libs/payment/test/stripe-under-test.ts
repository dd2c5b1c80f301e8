import type { AddressInfo } from 'node:net';
import { Logger } from '@nestjs/common';
import { sqlToken, type Sql } from '#database';
import { createService } from '#service';
import type { PaymentSums, StripeStandIn } from '#testing';
import { PostgresPayments } from '../src/adapters/postgres-payments.js';
import { PaymentModule } from '../src/payment.module.js';
import { PerformOperations } from '../src/use-cases/perform-operations.js';
import { ReadPayment } from '../src/use-cases/read-payment.js';

Logger.overrideLogger(false);

/** The payment service as it is deployed, with REST, but with short timeouts. */
export interface StripeInstance {
  url: string;
  sql: Sql;
  payments: PostgresPayments;
  performOperations: PerformOperations;
  readPayment: ReadPayment;
  stop(): Promise<void>;
}

type Settings = Parameters<typeof PaymentModule.register>[0];

export const callsAtATime = 4;

export const startWithStripe = async (settings: Settings): Promise<StripeInstance> => {
  const stripe = { callTimeoutMs: 1_000, readTimeoutMs: 500, beginWithinMs: 200, answerWithinMs: 1_500, callsAtATime };
  const app = await createService({
    ...{ name: 'payment', HOST: '127.0.0.1', PORT: 0 },
    document: { title: 'Payment', description: '' },
    modules: [PaymentModule.register({ ...settings, stripe })],
  });
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    sql: app.get<Sql>(sqlToken('payment'), { strict: false }),
    payments: app.get(PostgresPayments, { strict: false }),
    performOperations: app.get(PerformOperations, { strict: false }),
    readPayment: app.get(ReadPayment, { strict: false }),
    stop: () => app.close(),
  };
};

const find = { name: 'test-stripe-payments', text: 'SELECT * FROM payment.payments WHERE tenant_id = $1' };

/** Violations of I5 among the payments of a tenant. */
export const brokenAtStripe = async ({ sql }: StripeInstance, stripe: StripeStandIn, tenant: string) =>
  stripe.differences(await sql.query<PaymentSums>(find, [tenant]));
