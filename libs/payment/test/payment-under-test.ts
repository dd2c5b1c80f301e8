import { randomUUID } from 'node:crypto';
import { Test } from '@nestjs/testing';
import type { PaymentRequest } from '#contracts';
import { databaseFor, sqlToken, type Sql } from '#database';
import { ManualProvider } from '../src/adapters/manual-provider.js';
import { PostgresPayments } from '../src/adapters/postgres-payments.js';
import { SimulatedProvider } from '../src/adapters/simulated-provider.js';
import { paymentDatabase } from '../src/payment.module.js';
import { HandleProviderNotice } from '../src/use-cases/handle-provider-notice.js';
import { PerformOperations, type PaymentProvider } from '../src/use-cases/perform-operations.js';

/** One instance of payment on a database: its own pool, the real adapters, no transport. */
export interface Instance {
  sql: Sql;
  payments: PostgresPayments;
  simulated: SimulatedProvider;
  performOperations: PerformOperations;
  /** The same, with another provider instead of the simulated one. */
  with(provider: PaymentProvider): PerformOperations;
  stop(): Promise<void>;
}

export const startInstance = async (url: string): Promise<Instance> => {
  const module = await Test.createTestingModule({
    imports: [databaseFor(paymentDatabase(url))],
    providers: [
      ...[PostgresPayments, ManualProvider, SimulatedProvider],
      {
        provide: HandleProviderNotice,
        inject: [PostgresPayments],
        // The simulated provider sends no webhooks.
        useFactory: (payments: PostgresPayments) =>
          new HandleProviderNotice({ receive: () => Promise.resolve(undefined) }, payments),
      },
    ],
  }).compile();
  module.useLogger(false);
  const payments = module.get(PostgresPayments);
  const simulated = module.get(SimulatedProvider);
  const performing = (provider: PaymentProvider): PerformOperations => {
    const manual = module.get(ManualProvider);
    return new PerformOperations(payments, { of: (method) => (method === 'manual' ? manual : provider) });
  };
  return {
    sql: module.get<Sql>(sqlToken('payment'), { strict: false }),
    ...{ payments, simulated },
    performOperations: performing(simulated),
    with: performing,
    stop: () => module.close(),
  };
};

/** A new tenant, so that tests can share a database. */
export const newTenant = (): string => `t-${randomUUID()}`;

type Asked<Kind> = Extract<PaymentRequest, { kind: Kind }>;

export const authorise = (order_id: string, amount_minor: number, token = 'tok_ok'): Asked<'authorise'> => ({
  ...{ operation_id: randomUUID(), order_id, kind: 'authorise', amount_minor },
  ...{ method: 'simulated', token, currency: 'GBP' },
});
export const capture = (order_id: string, amount_minor: number | null = null): Asked<'capture'> => ({
  ...{ operation_id: randomUUID(), order_id, kind: 'capture', amount_minor },
});
export const refund = (order_id: string, amount_minor: number): Asked<'refund'> => ({
  ...{ operation_id: randomUUID(), order_id, kind: 'refund', amount_minor },
});
export const reverse = (order_id: string): Asked<'reverse'> => ({
  ...{ operation_id: randomUUID(), order_id, kind: 'reverse' },
});

/** Violations of I5 among the payments of a tenant: in their sums, and compared with the ledger of the provider. */
export const brokenInvariants = ({ sql }: Instance, tenant: string): Promise<unknown[]> =>
  sql.query(
    {
      name: 'test-payment-invariants',
      text: `
        SELECT p.*, l.* FROM payment.payments p LEFT JOIN (
          SELECT order_id,
            coalesce(sum(amount_minor) FILTER (WHERE kind = 'authorise'), 0)
              - coalesce(sum(amount_minor) FILTER (WHERE kind = 'void'), 0) AS authorised,
            coalesce(sum(amount_minor) FILTER (WHERE kind = 'capture'), 0) AS captured,
            coalesce(sum(amount_minor) FILTER (WHERE kind = 'refund'), 0) AS refunded
          FROM payment.simulated_ledger WHERE tenant_id = $1 AND refused_for IS NULL GROUP BY 1
        ) l USING (order_id)
        WHERE p.tenant_id = $1 AND p.method = 'simulated' AND (
          (authorised_minor, captured_minor, refunded_minor)
            <> (coalesce(l.authorised, 0), coalesce(l.captured, 0), coalesce(l.refunded, 0))
          OR refunded_minor > captured_minor OR captured_minor > authorised_minor
          OR capturing_minor <> 0 OR refunding_minor <> 0)`,
    },
    [tenant],
  );
