import { Injectable } from '@nestjs/common';
import { limits, type PaymentDocument, type PaymentMethod, type PaymentRequest } from '#contracts';
import { InjectSql, Sql } from '#database';
import type { BegunOperation, Open, Payments, SettledOperation } from '../use-cases/perform-operations.js';
import type { PaymentReader } from '../use-cases/read-payment.js';

/** Payments in Postgres: every change is one call of a function of the `payment` schema. */
@Injectable()
export class PostgresPayments implements Payments, PaymentReader {
  constructor(@InjectSql('payment') private readonly sql: Sql) {}

  async begin(tenant: string, requests: readonly PaymentRequest[]): Promise<BegunOperation[]> {
    const authorisations = requests.map((it) => (it.kind === 'authorise' ? it : undefined));
    const rows = await this.sql.query<Omit<BegunOperation, 'amountMinor'> & { amount_minor: number }>(begin, [
      tenant,
      requests.map((it) => it.operation_id),
      requests.map((it) => it.order_id),
      requests.map((it) => it.kind),
      requests.map((it) => ('amount_minor' in it ? it.amount_minor : null)),
      authorisations.map((it) => it?.method ?? null),
      authorisations.map((it) => it?.token ?? null),
      authorisations.map((it) => it?.currency ?? null),
    ]);
    return rows.map(({ amount_minor, ...row }) => ({ ...row, amountMinor: amount_minor }));
  }

  underWay(tenant: string, orderIds: readonly string[]): Promise<Open[]> {
    return this.sql.query<Open>(underWay, [tenant, orderIds]);
  }

  async settle(tenant: string, operations: readonly SettledOperation[]): Promise<void> {
    await this.sql.query(settle, [
      tenant,
      operations.map((it) => it.operationId),
      operations.map((it) => it.orderId),
      operations.map(({ outcome }) => outcome.outcome),
      operations.map(({ outcome }) => (outcome.outcome === 'refused' ? outcome.reason : null)),
    ]);
  }

  async find(tenant: string, orderId: string): ReturnType<PaymentReader['find']> {
    const [row] = await this.sql.query<PaymentRow>(find, [tenant, orderId]);
    if (!row) return undefined;
    return {
      ...row,
      operations: row.operations.map((it) => ({ ...it, at: new Date(it.at) })),
    };
  }
}

type PaymentRow = Omit<PaymentDocument, 'operations' | 'customer_action'> & {
  method: PaymentMethod;
  operations: (Omit<PaymentDocument['operations'][number], 'at'> & { at: string })[];
};

const begin = { name: 'payment-begin', text: 'SELECT * FROM payment.begin($1, $2, $3, $4, $5, $6, $7, $8)' };
const underWay = {
  name: 'payment-under-way',
  text: `
    SELECT o.operation_id AS "operationId", o.order_id AS "orderId", o.kind, o.amount_minor AS "amountMinor", p.method,
      p.currency, p.token
    FROM payment.operations o JOIN payment.payments p ON p.tenant_id = o.tenant_id AND p.order_id = o.order_id
    WHERE o.tenant_id = $1 AND o.order_id = ANY ($2::uuid[]) AND o.state = 'open'`,
};
const settle = { name: 'payment-settle', text: 'SELECT payment.settle($1, $2, $3, $4, $5)' };

/** A payment that was reversed before it was authorised has no method, and is not shown: nobody was asked to pay. */
const find = {
  name: 'payment-find',
  text: `
    SELECT p.order_id, p.method, p.currency, p.amount_minor, p.authorised_minor, p.captured_minor, p.refunded_minor,
      p.reversed, p.created_at, p.updated_at,
      coalesce((
        SELECT jsonb_agg(jsonb_build_object('operation_id', o.operation_id, 'kind', o.kind, 'amount_minor', o.amount_minor,
          'state', o.state, 'reason', o.reason, 'at', o.at) ORDER BY o.at, o.operation_id)
        FROM (
          SELECT * FROM payment.operations WHERE tenant_id = p.tenant_id AND order_id = p.order_id
          ORDER BY state = 'refused', state = 'succeeded', at DESC, operation_id DESC LIMIT ${limits.paymentOperations}
        ) o
      ), '[]') AS operations
    FROM payment.payments p WHERE p.tenant_id = $1 AND p.order_id = $2 AND p.method IS NOT NULL`,
};
