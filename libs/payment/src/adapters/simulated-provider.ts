import { Injectable, Logger } from '@nestjs/common';
import { InjectSql, Sql } from '#database';
import { HandleProviderNotice } from '../use-cases/handle-provider-notice.js';
import type { PaymentProvider, ProviderOutcome, ProviderRequest } from '../use-cases/perform-operations.js';

/**
 * A provider that moves no money and keeps a durable ledger of its own, for trying out and for testing. The token of the
 * authorisation decides what it does, and may contain several of these words:
 * - `declined`: it refuses to authorise,
 * - `capture_refused`: it authorises and refuses to capture,
 * - `slow`: it decides on everything two seconds after it was asked,
 * - `lost`: it does what it is asked and does not answer the first time,
 * - `notified_before`: it reports what it has decided, twice, before it answers,
 * - `notified_after`: it answers that it has not decided, and reports the decision twice afterwards, the second time after
 *   it has reported the next operation.
 */
@Injectable()
export class SimulatedProvider implements PaymentProvider {
  private readonly logger = new Logger(SimulatedProvider.name);

  constructor(
    @InjectSql('payment') private readonly sql: Sql,
    private readonly handleProviderNotice: HandleProviderNotice,
  ) {}

  async perform(tenant: string, requests: readonly ProviderRequest[]): Promise<ProviderOutcome[]> {
    const ids = requests.map((it) => it.operationId);
    const added = await this.sql.query<{ operation_id: string }>(enter, [
      tenant,
      ids,
      requests.map((it) => it.orderId),
      requests.map((it) => it.kind),
      requests.map((it) => it.amountMinor),
      requests.map((it) => (it.kind === 'authorise' ? it.token : null)),
    ]);
    const isNew = new Set(added.map((it) => it.operation_id));
    const rows = await this.sql.query<{
      operation_id: string;
      refused_for: string | null;
      decided: boolean;
      token: string | null;
    }>(look, [tenant, ids]);
    const byId = new Map(rows.map((row) => [row.operation_id, row]));
    return Promise.all(
      requests.map(async ({ operationId, orderId }): Promise<ProviderOutcome> => {
        const { refused_for, decided, token } = byId.get(operationId)!;
        const isFirst = isNew.has(operationId);
        const undecided: ProviderOutcome = { outcome: 'open', reason: 'the provider has not decided yet' };
        if (token?.includes('lost') && isFirst) return { outcome: 'open', reason: 'the answer was lost' };
        if (!decided) return undecided;
        const outcome: ProviderOutcome =
          refused_for === null ? { outcome: 'succeeded' } : { outcome: 'refused', reason: refused_for };
        const notify = () => this.notify(tenant, orderId, operationId, outcome);
        if (token?.includes('notified_before') && isFirst) await Promise.all([notify(), notify()]);
        if (!token?.includes('notified_after') || !isFirst) return outcome;
        for (const afterMs of notifiedAfterMs) setTimeout(() => void notify(), afterMs).unref();
        return undecided;
      }),
    );
  }

  private async notify(tenant: string, orderId: string, operationId: string, outcome: ProviderOutcome): Promise<void> {
    const unknown: ProviderOutcome = { outcome: 'open', reason: 'another operation' };
    const outcomeOf = (operation: { operationId: string }) =>
      operation.operationId === operationId ? outcome : unknown;
    try {
      await this.handleProviderNotice.settle({ method: 'simulated', tenant, orderId, outcomeOf });
    } catch (error) {
      // As with any provider, a report that failed shows when the operation is asked for again.
      this.logger.warn(`the outcome of ${operationId} could not be reported (${String(error)})`);
    }
  }
}

/** The second report comes after the next operation was asked for. */
const notifiedAfterMs = [30, 1_500];

/** Later operations of an order use the token of its authorisation. */
const enter = {
  name: 'payment-simulated-enter',
  text: `
    WITH wanted AS (
      SELECT w.operation_id, w.order_id, w.kind, w.amount, coalesce(w.token, (
        SELECT max(l.token) FROM payment.simulated_ledger l WHERE l.tenant_id = $1 AND l.order_id = w.order_id
      )) AS token
      FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::text[])
        AS w(operation_id, order_id, kind, amount, token)
    )
    INSERT INTO payment.simulated_ledger
      (tenant_id, operation_id, order_id, kind, amount_minor, token, refused_for, decided_at)
    SELECT $1, operation_id, order_id, kind, amount, token,
      CASE
        WHEN kind = 'authorise' AND token LIKE '%declined%' THEN 'card-declined'
        WHEN kind = 'capture' AND token LIKE '%capture_refused%' THEN 'card-expired'
      END,
      now() + CASE WHEN token LIKE '%slow%' THEN interval '2 seconds' ELSE interval '0' END
    FROM wanted ORDER BY operation_id
    ON CONFLICT DO NOTHING
    RETURNING operation_id`,
};

const look = {
  name: 'payment-simulated-look',
  text: `
    SELECT operation_id, refused_for, decided_at <= now() AS decided, token
    FROM payment.simulated_ledger WHERE tenant_id = $1 AND operation_id = ANY ($2::uuid[])`,
};
