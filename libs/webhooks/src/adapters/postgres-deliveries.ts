import { Injectable } from '@nestjs/common';
import {
  maxUuid,
  webhookDeliveryStatuses,
  type WebhookDeliveryDetail,
  type WebhookDeliveryDocument,
  type WebhookDeliveryStatus,
} from '#contracts';
import { InjectSql, Sql, type Statement } from '#database';
import type { Checkpoint } from '#events';
import type { Message } from '../domain/message.js';
import { longestWaitMs } from '../domain/retries.js';
import type { Messages } from '../use-cases/accept-events.js';
import type { Attempt, ClaimedDelivery, DueDeliveries } from '../use-cases/deliver-messages.js';
import type { KeptDeliveries } from '../use-cases/purge-deliveries.js';
import type { DeliveryLog } from '../use-cases/read-deliveries.js';
import type { Redeliveries } from '../use-cases/redeliver-messages.js';

/** Messages, their deliveries and every attempt, in Postgres. */
@Injectable()
export class PostgresDeliveries implements Messages, DueDeliveries, DeliveryLog, Redeliveries, KeptDeliveries {
  constructor(@InjectSql('webhooks') private readonly sql: Sql) {}

  async keep(messages: readonly Message[], checkpoint: Checkpoint): Promise<number> {
    const [row] = await this.sql.query<{ deliveries: number }>(accept, [
      ...checkpoint.values,
      messages.map((it) => it.tenant),
      messages.map((it) => it.messageId),
      messages.map((it) => it.type),
      messages.map((it) => it.at),
      messages.map((it) => it.payload),
      messages.map((it) => it.traceparent ?? null),
    ]);
    return row!.deliveries;
  }

  claim(
    leaseMs: number,
    { ofAll, ofOne, exceptions, ofTenant, tenants }: Parameters<DueDeliveries['claim']>[1],
    { masterIds, othersForMs }: Parameters<DueDeliveries['claim']>[2],
  ): Promise<ClaimedDelivery[]> {
    const given = [
      ...[leaseMs, ofAll, ofOne, [...exceptions.keys()], [...exceptions.values()]],
      ...[ofTenant, [...tenants.keys()], [...tenants.values()]],
      ...[masterIds, othersForMs],
    ];
    return this.sql.query<ClaimedDelivery>(claim, given);
  }

  async settle(delivery: ClaimedDelivery, { at, durationMs, answer, verdict }: Attempt): Promise<boolean> {
    const { tenant, deliveryId, epoch, endpointId, url } = delivery;
    const rows = await this.sql.query(settle, [
      ...[tenant, deliveryId, epoch],
      ...[verdict.status, verdict.waitMs],
      ...[at, durationMs, answer.status, answer.error, answer.snippet],
      ...[verdict.disabledFor, endpointId, url],
    ]);
    return rows.length > 0;
  }

  async putOff({ tenant, deliveryId, epoch }: ClaimedDelivery, error: string, waitMs: number): Promise<void> {
    await this.sql.query(putOff, [tenant, deliveryId, epoch, error, waitMs]);
  }

  page(
    tenant: string,
    endpointId: string,
    status: WebhookDeliveryStatus | undefined,
    before: string | undefined,
    limit: number,
  ): Promise<WebhookDeliveryDocument[]> {
    return this.sql.query<WebhookDeliveryDocument>(pages[status ?? 'all'], [
      ...[tenant, endpointId, before ?? maxUuid, limit],
    ]);
  }

  async find(tenant: string, deliveryId: string, attempts: number): Promise<WebhookDeliveryDetail | undefined> {
    const [row] = await this.sql.query<DetailRow>(find, [tenant, deliveryId, attempts]);
    if (!row) return undefined;
    const { payload, attempt_log, ...rest } = row;
    return {
      ...rest,
      payload: payload === null ? null : (JSON.parse(payload) as unknown),
      attempt_log: attempt_log.map((it) => ({ ...it, at: new Date(it.at) })),
    };
  }

  async endpointOf(tenant: string, deliveryId: string): Promise<string | undefined> {
    return (await this.sql.query<{ endpointId: string }>(endpointOf, [tenant, deliveryId]))[0]?.endpointId;
  }

  async again(tenant: string, deliveryId: string, failures: number): Promise<WebhookDeliveryDocument | undefined> {
    return (await this.sql.query<WebhookDeliveryDocument>(again, [tenant, deliveryId, failures]))[0];
  }

  async failedAgain(
    tenant: string,
    endpointId: string,
    since: Date,
    until: Date | undefined,
    limit: number,
  ): Promise<number> {
    return (await this.sql.query(failedAgain, [tenant, endpointId, since, until ?? null, limit])).length;
  }

  async toOne(endpointId: string, message: Message): Promise<WebhookDeliveryDocument | undefined> {
    const { tenant, messageId, type, at, payload } = message;
    const given = [tenant, endpointId, messageId, type, at, payload];
    return (await this.sql.query<WebhookDeliveryDocument>(toOne, given))[0];
  }

  async forgetDeliveries(ageMs: number, limit: number): Promise<number> {
    return (await this.sql.query<{ forgotten: number }>(forgetDeliveries, [ageMs, limit]))[0]!.forgotten;
  }

  async forgetMessages(ageMs: number, limit: number): Promise<number> {
    return (await this.sql.query<{ forgotten: number }>(forgetMessages, [ageMs, limit]))[0]!.forgotten;
  }

  async bringForward(limit: number): Promise<number> {
    return (await this.sql.query(bringForward, [limit])).length;
  }
}

type LoggedAttempt = WebhookDeliveryDetail['attempt_log'][number];
type DetailRow = WebhookDeliveryDocument & {
  payload: string | null;
  attempt_log: (Omit<LoggedAttempt, 'at'> & { at: string })[];
};

const accept = {
  name: 'webhooks-accept',
  text: 'SELECT webhooks.follow_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS deliveries',
};

/** For a recursive `waiting`: jumps in the index between endpoints with pending deliveries, however many each has. */
const endpointsWaiting = `
      (SELECT tenant_id, endpoint_id FROM webhooks.deliveries WHERE status = 'pending'
       ORDER BY tenant_id, endpoint_id LIMIT 1)
      UNION ALL
      SELECT n.tenant_id, n.endpoint_id FROM waiting w CROSS JOIN LATERAL (
        SELECT d.tenant_id, d.endpoint_id FROM webhooks.deliveries d
        WHERE d.status = 'pending' AND (d.tenant_id, d.endpoint_id) > (w.tenant_id, w.endpoint_id)
        ORDER BY d.tenant_id, d.endpoint_id LIMIT 1
      ) n`;

/** No pause and no lease lasts that long: such a time dates from before the clock was set back. */
const setBack = `now() + interval '${2 * longestWaitMs} ms'`;

/**
 * Claims no more of each endpoint, and of each tenant, than it has free slots. Deliveries that cannot be signed here are
 * left to others until they have waited. A delivery without a message, as in older versions, takes no slot.
 */
const claim = {
  name: 'webhooks-claim',
  text: `
    WITH RECURSIVE waiting AS (${endpointsWaiting}), sendable AS MATERIALIZED (
      SELECT e.tenant_id, d.delivery_id, e.endpoint_id, e.url, e.secrets, d.due_at
      FROM waiting w
      JOIN webhooks.endpoints e ON e.tenant_id = w.tenant_id AND e.endpoint_id = w.endpoint_id AND e.enabled
      LEFT JOIN unnest($4::uuid[], $5::int[]) AS x(endpoint_id, slots) ON x.endpoint_id = e.endpoint_id
      CROSS JOIN LATERAL (
        SELECT CASE WHEN EXISTS (
          SELECT FROM jsonb_array_elements(e.secrets) it
          WHERE it->>'master' IS NOT NULL AND it->>'master' <> ALL ($9::text[])
            AND (it->>'until' IS NULL OR (it->>'until')::timestamptz > now())
        ) THEN now() - $10 * interval '1 millisecond' ELSE now() END AS due_by
      ) k
      CROSS JOIN LATERAL (
        SELECT p.delivery_id, p.due_at FROM webhooks.deliveries p
        WHERE p.tenant_id = e.tenant_id AND p.endpoint_id = e.endpoint_id AND p.status = 'pending'
          AND p.due_at <= k.due_by AND (p.lease_until <= now() OR p.lease_until > ${setBack})
          AND (SELECT true FROM webhooks.messages m WHERE m.tenant_id = p.tenant_id AND m.message_id = p.message_id)
        ORDER BY p.due_at LIMIT coalesce(x.slots, $3) FOR NO KEY UPDATE SKIP LOCKED
      ) d
    ), due AS MATERIALIZED (
      SELECT s.* FROM (
        SELECT *, row_number() OVER (PARTITION BY tenant_id ORDER BY due_at) AS place FROM sendable
      ) s
      LEFT JOIN unnest($7::text[], $8::int[]) AS t(tenant_id, slots) ON t.tenant_id = s.tenant_id
      WHERE s.place <= coalesce(t.slots, $6)
      ORDER BY s.due_at LIMIT $2
    )
    UPDATE webhooks.deliveries d SET epoch = d.epoch + 1, lease_until = now() + $1 * interval '1 millisecond'
    FROM due JOIN webhooks.messages m ON m.tenant_id = due.tenant_id
    WHERE d.tenant_id = due.tenant_id AND d.delivery_id = due.delivery_id AND m.message_id = d.message_id
    RETURNING d.tenant_id AS tenant, d.delivery_id AS "deliveryId", d.epoch, d.attempts, d.failures,
      d.endpoint_id AS "endpointId", due.url, m.message_id AS "messageId", m.payload, m.traceparent, (
        SELECT jsonb_agg(it ORDER BY place) FROM jsonb_array_elements(due.secrets) WITH ORDINALITY AS s(it, place)
        WHERE it->>'until' IS NULL OR (it->>'until')::timestamptz > now()
      ) AS secrets`,
};

/**
 * The epoch fences off an instance that was paused beyond its lease. If the endpoint has another URL by now, it is not the
 * one that answered, so it is not disabled.
 */
const settle = {
  name: 'webhooks-settle',
  text: `
    WITH settled AS (
      UPDATE webhooks.deliveries SET status = $4, attempts = attempts + 1, failures = failures + ($9::text IS NOT NULL)::int,
        due_at = now() + $5::bigint * interval '1 millisecond', lease_until = '-infinity', last_response_status = $8, last_error = $9
      WHERE tenant_id = $1 AND delivery_id = $2 AND epoch = $3 AND status = 'pending'
      RETURNING attempts
    ), noted AS (
      INSERT INTO webhooks.attempts (tenant_id, delivery_id, attempt, at, duration_ms, response_status, error, response_snippet)
      SELECT $1, $2, attempts, $6, $7, $8, $9, $10 FROM settled
    ), disabled AS (
      UPDATE webhooks.endpoints SET enabled = false, disabled_reason = $11, updated_at = now()
      WHERE tenant_id = $1 AND endpoint_id = $12 AND url = $13 AND enabled AND $11::text IS NOT NULL
        AND EXISTS (SELECT FROM settled)
    )
    SELECT attempts FROM settled`,
};

const putOff = {
  name: 'webhooks-put-off',
  text: `
    UPDATE webhooks.deliveries
    SET due_at = now() + $5 * interval '1 millisecond', lease_until = '-infinity', last_error = $4
    WHERE tenant_id = $1 AND delivery_id = $2 AND epoch = $3 AND status = 'pending'`,
};

const columns = `
  d.delivery_id, d.endpoint_id, d.message_id, d.type, d.status, d.attempts,
  CASE WHEN d.status = 'pending' THEN d.due_at END AS next_attempt_at, d.last_response_status, d.last_error, d.created_at`;

const ofKnownEndpoint = `
  EXISTS (SELECT FROM webhooks.endpoints e WHERE e.tenant_id = d.tenant_id AND e.endpoint_id = d.endpoint_id)`;

/** The status is part of the statement, so that a rare one is found by its index. */
const pageOf = (status: WebhookDeliveryStatus | 'all'): Statement => ({
  name: `webhooks-deliveries-${status}`,
  text: `
    SELECT ${columns} FROM webhooks.deliveries d
    WHERE d.tenant_id = $1 AND d.endpoint_id = $2 AND d.delivery_id < $3 ${status === 'all' ? '' : `AND d.status = '${status}'`}
    ORDER BY d.delivery_id DESC LIMIT $4`,
});

const pages = Object.fromEntries(
  ([...webhookDeliveryStatuses, 'all'] as const).map((status) => [status, pageOf(status)]),
) as Record<WebhookDeliveryStatus | 'all', Statement>;

const find = {
  name: 'webhooks-delivery',
  text: `
    SELECT ${columns},
      (SELECT m.payload FROM webhooks.messages m WHERE m.tenant_id = d.tenant_id AND m.message_id = d.message_id) AS payload,
      coalesce((
        SELECT jsonb_agg(jsonb_build_object('at', a.at, 'duration_ms', a.duration_ms, 'response_status', a.response_status,
          'error', a.error, 'response_snippet', a.response_snippet) ORDER BY a.attempt DESC)
        FROM (
          SELECT * FROM webhooks.attempts a WHERE a.tenant_id = d.tenant_id AND a.delivery_id = d.delivery_id
          ORDER BY a.attempt DESC LIMIT $3
        ) a
      ), '[]') AS attempt_log
    FROM webhooks.deliveries d WHERE d.tenant_id = $1 AND d.delivery_id = $2 AND ${ofKnownEndpoint}`,
};

const endpointOf = {
  name: 'webhooks-endpoint-of',
  text: `
    SELECT d.endpoint_id AS "endpointId" FROM webhooks.deliveries d
    WHERE d.tenant_id = $1 AND d.delivery_id = $2 AND ${ofKnownEndpoint}`,
};

/** A delivery that is being sent stays with the instance that sends it. */
const again = {
  name: 'webhooks-redeliver',
  text: `
    UPDATE webhooks.deliveries d SET status = 'pending',
      failures = CASE WHEN d.status = 'pending' THEN d.failures ELSE $3 END,
      due_at = CASE WHEN d.status = 'pending' THEN least(d.due_at, now()) ELSE now() END
    WHERE d.tenant_id = $1 AND d.delivery_id = $2 AND ${ofKnownEndpoint}
    RETURNING ${columns}`,
};

const failedAgain = {
  name: 'webhooks-redeliver-failed',
  text: `
    WITH failed AS MATERIALIZED (
      SELECT delivery_id FROM webhooks.deliveries
      WHERE tenant_id = $1 AND endpoint_id = $2 AND status = 'failed' AND created_at >= $3
        AND created_at < coalesce($4::timestamptz, 'infinity')
      ORDER BY delivery_id LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE webhooks.deliveries d SET status = 'pending', failures = 0, due_at = now()
    FROM failed WHERE d.tenant_id = $1 AND d.delivery_id = failed.delivery_id
    RETURNING 1`,
};

const toOne = {
  name: 'webhooks-test',
  text: `
    WITH wanted AS (
      SELECT tenant_id, endpoint_id FROM webhooks.endpoints WHERE tenant_id = $1 AND endpoint_id = $2
    ), kept AS (
      INSERT INTO webhooks.messages (tenant_id, message_id, type, payload, at)
      SELECT tenant_id, $3, $4, $6, $5 FROM wanted
    )
    INSERT INTO webhooks.deliveries AS d (tenant_id, endpoint_id, message_id, type)
    SELECT tenant_id, endpoint_id, $3, $4 FROM wanted
    RETURNING ${columns}`,
};

const forgetDeliveries = {
  name: 'webhooks-forget-deliveries',
  text: 'SELECT webhooks.forget_deliveries($1, $2) AS forgotten',
};

const forgetMessages = {
  name: 'webhooks-forget-messages',
  text: 'SELECT webhooks.forget_messages($1, $2) AS forgotten',
};

const bringForward = {
  name: 'webhooks-bring-forward',
  text: `
    WITH RECURSIVE waiting AS (${endpointsWaiting}), late AS MATERIALIZED (
      SELECT d.* FROM waiting w CROSS JOIN LATERAL (
        SELECT tenant_id, delivery_id FROM webhooks.deliveries
        WHERE tenant_id = w.tenant_id AND endpoint_id = w.endpoint_id AND status = 'pending' AND due_at > ${setBack}
        ORDER BY due_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
      ) d LIMIT $1
    )
    UPDATE webhooks.deliveries d SET due_at = now() FROM late
    WHERE d.tenant_id = late.tenant_id AND d.delivery_id = late.delivery_id
    RETURNING d.delivery_id`,
};
