import { Injectable } from '@nestjs/common';
import { InjectSql, Sql } from '#database';

/** What is known of an operation before Stripe is asked. */
export interface KnownOperation {
  operationId: string;
  intentId: string | null;
  /** Whether Stripe may have forgotten its idempotency key. */
  isOld: boolean;
  /** Whether the payment was reversed, so that nobody waits for the operation any more. */
  isAbandoned: boolean;
}

/** The ids of PaymentIntents, stored with the payments. */
@Injectable()
export class StripeIntents {
  constructor(@InjectSql('payment') private readonly sql: Sql) {}

  async read(tenant: string, operationIds: readonly string[]): Promise<Map<string, KnownOperation>> {
    const rows = await this.sql.query<KnownOperation>(read, [tenant, operationIds]);
    return new Map(rows.map((row) => [row.operationId, row]));
  }

  /** @param intentIds by order; an id that is stored already stays */
  async keep(tenant: string, intentIds: ReadonlyMap<string, string>): Promise<void> {
    if (intentIds.size > 0) await this.sql.query(keep, [tenant, [...intentIds.keys()], [...intentIds.values()]]);
  }

  /** The order that a PaymentIntent pays. */
  async orderOf(intentId: string): Promise<{ tenant: string; orderId: string } | undefined> {
    const [row] = await this.sql.query<{ tenant: string; orderId: string }>(orderOf, [intentId]);
    return row;
  }
}

/** Stripe keeps idempotency keys for at least 24 hours; an hour less, because clocks may differ. */
const read = {
  name: 'payment-stripe-read',
  text: `
    SELECT o.operation_id AS "operationId", p.stripe_intent_id AS "intentId", p.reversed AS "isAbandoned",
      o.at < now() - interval '23 hours' AS "isOld"
    FROM payment.operations o JOIN payment.payments p ON p.tenant_id = o.tenant_id AND p.order_id = o.order_id
    WHERE o.tenant_id = $1 AND o.operation_id = ANY ($2::uuid[])`,
};

const keep = {
  name: 'payment-stripe-keep',
  text: `
    WITH kept AS (
      SELECT p.order_id, w.intent_id
      FROM payment.payments p JOIN unnest($2::uuid[], $3::text[]) AS w(order_id, intent_id) USING (order_id)
      WHERE p.tenant_id = $1 AND p.order_id = ANY ($2::uuid[]) AND p.stripe_intent_id IS NULL AND p.method = 'stripe'
      ORDER BY p.order_id FOR NO KEY UPDATE OF p
    )
    UPDATE payment.payments p SET stripe_intent_id = kept.intent_id
    FROM kept WHERE p.tenant_id = $1 AND p.order_id = ANY ($2::uuid[]) AND p.order_id = kept.order_id`,
};

const orderOf = {
  name: 'payment-stripe-order-of',
  text: `SELECT tenant_id AS tenant, order_id AS "orderId" FROM payment.payments WHERE stripe_intent_id = $1`,
};
