import { Injectable } from '@nestjs/common';
import type {
  ChangeWebhookEndpointRequest,
  CreateWebhookEndpointRequest,
  OrderEventType,
  WebhookEndpointDocument,
  WebhookSecretDocument,
} from '#contracts';
import { InjectSql, Sql } from '#database';
import type { WantedTypes } from '../use-cases/accept-events.js';
import type { Endpoints } from '../use-cases/manage-endpoints.js';

/** The endpoints of merchants in Postgres. */
@Injectable()
export class PostgresEndpoints implements Endpoints, WantedTypes {
  constructor(@InjectSql('webhooks') private readonly sql: Sql) {}

  async register(
    tenant: string,
    { url, types, description }: CreateWebhookEndpointRequest,
    secret: string,
    most: number,
  ): Promise<WebhookEndpointDocument | undefined> {
    const given = [tenant, url, types ?? null, description ?? null, secret, most];
    return (await this.sql.query<WebhookEndpointDocument>(register, given))[0];
  }

  async wanted(): Promise<ReadonlySet<OrderEventType> | null> {
    const rows = await this.sql.query<{ types: OrderEventType[] | null }>(wanted);
    return rows.some((it) => it.types === null) ? null : new Set(rows.flatMap((it) => it.types!));
  }

  async find(tenant: string, endpointId: string): Promise<WebhookEndpointDocument | undefined> {
    return (await this.sql.query<WebhookEndpointDocument>(find, [tenant, endpointId]))[0];
  }

  page(tenant: string, before: string | undefined, limit: number): Promise<WebhookEndpointDocument[]> {
    return this.sql.query<WebhookEndpointDocument>(page, [tenant, before ?? lastId, limit]);
  }

  async change(
    tenant: string,
    endpointId: string,
    { url, types, description, enabled }: ChangeWebhookEndpointRequest,
  ): Promise<WebhookEndpointDocument | undefined> {
    const [row] = await this.sql.query<WebhookEndpointDocument>(change, [
      ...[tenant, endpointId],
      url ?? null,
      ...[types !== undefined, types ?? null],
      ...[description !== undefined, description ?? null],
      enabled ?? null,
    ]);
    return row;
  }

  async forget(tenant: string, endpointId: string): Promise<boolean> {
    return (await this.sql.query(forget, [tenant, endpointId])).length > 0;
  }

  async secretOf(tenant: string, endpointId: string): Promise<WebhookSecretDocument | undefined> {
    return (await this.sql.query<WebhookSecretDocument>(secretOf, [tenant, endpointId]))[0];
  }

  async rotate(
    tenant: string,
    endpointId: string,
    secret: string,
    overlapMs: number,
    kept: number,
  ): Promise<WebhookSecretDocument | undefined> {
    const given = [tenant, endpointId, secret, overlapMs, kept];
    return (await this.sql.query<WebhookSecretDocument>(rotate, given))[0];
  }
}

/** Behind every id that there is. */
export const lastId = 'ffffffff-ffff-ffff-ffff-ffffffffffff';

const columns = 'endpoint_id, url, types, description, enabled, disabled_reason, created_at, updated_at';

const register = {
  name: 'webhooks-register',
  text: `SELECT ${columns} FROM webhooks.register_endpoint($1, $2, $3, $4, $5, $6)`,
};

const wanted = {
  name: 'webhooks-wanted',
  text: 'SELECT DISTINCT types FROM webhooks.endpoints WHERE enabled',
};

const find = {
  name: 'webhooks-endpoint',
  text: `SELECT ${columns} FROM webhooks.endpoints WHERE tenant_id = $1 AND endpoint_id = $2`,
};

const page = {
  name: 'webhooks-endpoints',
  text: `
    SELECT ${columns} FROM webhooks.endpoints WHERE tenant_id = $1 AND endpoint_id < $2
    ORDER BY endpoint_id DESC LIMIT $3`,
};

const change = {
  name: 'webhooks-change',
  text: `
    UPDATE webhooks.endpoints SET url = coalesce($3, url),
      types = CASE WHEN $4 THEN $5::text[] ELSE types END,
      description = CASE WHEN $6 THEN $7 ELSE description END,
      enabled = coalesce($8, enabled),
      disabled_reason = CASE WHEN $8 THEN NULL ELSE disabled_reason END,
      updated_at = now()
    WHERE tenant_id = $1 AND endpoint_id = $2
    RETURNING ${columns}`,
};

const forget = {
  name: 'webhooks-forget',
  text: `DELETE FROM webhooks.endpoints WHERE tenant_id = $1 AND endpoint_id = $2 RETURNING 1`,
};

/** The newest, and until when the one before is good, which is good for longer than those before it. */
const newest = `
  secrets->0->>'secret' AS secret,
  CASE WHEN (secrets->1->>'until')::timestamptz > now() THEN (secrets->1->>'until')::timestamptz END AS previous_until`;

const secretOf = {
  name: 'webhooks-secret',
  text: `SELECT ${newest} FROM webhooks.endpoints WHERE tenant_id = $1 AND endpoint_id = $2`,
};

const rotate = {
  name: 'webhooks-rotate',
  text: `
    UPDATE webhooks.endpoints SET updated_at = now(), secrets = jsonb_build_array(jsonb_build_object('secret', $3::text)) || (
      SELECT jsonb_agg(jsonb_build_object('secret', it.secret, 'until',
        coalesce(it.until, date_trunc('milliseconds', now() + $4 * interval '1 millisecond'))) ORDER BY it.place)
      FROM (
        SELECT old->>'secret' AS secret, (old->>'until')::timestamptz AS until, place
        FROM jsonb_array_elements(secrets) WITH ORDINALITY AS o(old, place)
        WHERE old->>'until' IS NULL OR (old->>'until')::timestamptz > now()
        ORDER BY place LIMIT $5
      ) it
    )
    WHERE tenant_id = $1 AND endpoint_id = $2
    RETURNING ${newest}`,
};
