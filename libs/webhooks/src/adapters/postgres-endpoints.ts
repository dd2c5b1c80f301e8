import { Injectable } from '@nestjs/common';
import {
  maxUuid,
  nilUuid,
  type ChangeWebhookEndpointRequest,
  type CreateWebhookEndpointRequest,
  type OrderEventType,
  type WebhookEndpointDocument,
} from '#contracts';
import { InjectSql, Sql } from '#database';
import type { WantedTypes } from '../use-cases/accept-events.js';
import type { KeptSecret } from '../use-cases/keep-secrets.js';
import type { Endpoints, NewestSecret } from '../use-cases/manage-endpoints.js';
import type { KeptSecrets, SecretsOfEndpoint } from '../use-cases/rotate-secrets.js';

/** The endpoints of merchants in Postgres. */
@Injectable()
export class PostgresEndpoints implements Endpoints, WantedTypes, KeptSecrets {
  constructor(@InjectSql('webhooks') private readonly sql: Sql) {}

  async newId(): Promise<string> {
    return (await this.sql.query<{ id: string }>(newId))[0]!.id;
  }

  async register(
    tenant: string,
    endpointId: string,
    { url, types, description }: CreateWebhookEndpointRequest,
    secret: KeptSecret,
    most: number,
  ): Promise<WebhookEndpointDocument | undefined> {
    const given = [tenant, endpointId, url, types ?? null, description ?? null, JSON.stringify(secret), most];
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
    return this.sql.query<WebhookEndpointDocument>(page, [tenant, before ?? maxUuid, limit]);
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

  async secretOf(tenant: string, endpointId: string): Promise<NewestSecret | undefined> {
    return (await this.sql.query<NewestSecret>(secretOf, [tenant, endpointId]))[0];
  }

  async secretsOf(tenant: string, endpointId: string): Promise<KeptSecret[]> {
    return (await this.sql.query<{ secrets: KeptSecret[] }>(secretsOf, [tenant, endpointId]))[0]?.secrets ?? [];
  }

  async rotate(
    tenant: string,
    endpointId: string,
    secret: KeptSecret,
    overlapMs: number,
    kept: number,
    without: readonly KeptSecret[],
  ): Promise<NewestSecret | undefined> {
    const sealed = without.flatMap((it) => ('sealed' in it ? [it.sealed] : []));
    const given = [tenant, endpointId, JSON.stringify(secret), overlapMs, kept, sealed];
    return (await this.sql.query<NewestSecret>(rotate, given))[0];
  }

  async forgetEnded(): Promise<void> {
    await this.sql.query(forgetEnded);
  }

  async mastersInUse(): Promise<(string | null)[]> {
    return (await this.sql.query<{ master: string | null }>(mastersInUse)).map((row) => row.master);
  }

  under(master: string | null, after: SecretsOfEndpoint | undefined, limit: number): Promise<SecretsOfEndpoint[]> {
    const behind = [after?.tenant ?? '', after?.endpointId ?? nilUuid];
    return this.sql.query<SecretsOfEndpoint>(under, [master, ...behind, limit]);
  }

  async replace(rows: Parameters<KeptSecrets['replace']>[0]): Promise<void> {
    await this.sql.query(replace, [
      rows.map((it) => it.before.tenant),
      rows.map((it) => it.before.endpointId),
      rows.map((it) => JSON.stringify(it.before.secrets)),
      rows.map((it) => JSON.stringify(it.after.secrets)),
    ]);
  }
}

const columns = 'endpoint_id, url, types, description, enabled, disabled_reason, created_at, updated_at';

const newId = { name: 'webhooks-new-id', text: 'SELECT webhooks.new_id() AS id' };

const register = {
  name: 'webhooks-register',
  text: `
    SELECT ${columns}
    FROM webhooks.register_endpoint($1::text, $2::uuid, $3::text, $4::text[], $5::text, $6::jsonb, $7::bigint)`,
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

/** The newest secret, and until when the one before it is valid, which outlasts all earlier ones. */
const newest = `
  secrets->0 AS kept,
  CASE WHEN (secrets->1->>'until')::timestamptz > now() THEN (secrets->1->>'until')::timestamptz END AS previous_until`;

const secretOf = {
  name: 'webhooks-secret',
  text: `SELECT ${newest} FROM webhooks.endpoints WHERE tenant_id = $1 AND endpoint_id = $2`,
};

const secretsOf = {
  name: 'webhooks-secrets-of',
  text: `
    SELECT coalesce(jsonb_agg(it ORDER BY place), '[]') AS secrets
    FROM webhooks.endpoints, jsonb_array_elements(secrets) WITH ORDINALITY AS s(it, place)
    WHERE tenant_id = $1 AND endpoint_id = $2 AND (it->>'until' IS NULL OR (it->>'until')::timestamptz > now())`,
};

const rotate = {
  name: 'webhooks-rotate',
  text: `
    UPDATE webhooks.endpoints SET updated_at = now(), secrets = jsonb_build_array($3::jsonb) || coalesce((
      SELECT jsonb_agg(it.old || jsonb_build_object('until', coalesce(
        (it.old->>'until')::timestamptz, date_trunc('milliseconds', now() + $4 * interval '1 millisecond'))) ORDER BY it.place)
      FROM (
        SELECT old, place FROM jsonb_array_elements(secrets) WITH ORDINALITY AS o(old, place)
        WHERE (old->>'until' IS NULL OR (old->>'until')::timestamptz > now())
          AND NOT coalesce(old->>'sealed' = ANY ($6::text[]), false)
        ORDER BY place LIMIT $5
      ) it
    ), '[]')
    WHERE tenant_id = $1 AND endpoint_id = $2
    RETURNING ${newest}`,
};

/** Rows are locked in one order, so that concurrent statements do not deadlock. */
const forgetEnded = {
  name: 'webhooks-forget-secrets',
  text: `
    WITH held AS MATERIALIZED (
      SELECT tenant_id, endpoint_id FROM webhooks.endpoints
      WHERE EXISTS (SELECT FROM jsonb_array_elements(secrets) it WHERE (it->>'until')::timestamptz <= now())
      ORDER BY tenant_id, endpoint_id FOR NO KEY UPDATE
    )
    UPDATE webhooks.endpoints e SET secrets = (
      SELECT jsonb_agg(it ORDER BY place) FROM jsonb_array_elements(e.secrets) WITH ORDINALITY AS s(it, place)
      WHERE it->>'until' IS NULL OR (it->>'until')::timestamptz > now()
    )
    FROM held WHERE e.tenant_id = held.tenant_id AND e.endpoint_id = held.endpoint_id`,
};

const mastersInUse = {
  name: 'webhooks-masters-in-use',
  text: `SELECT DISTINCT it->>'master' AS master FROM webhooks.endpoints, jsonb_array_elements(secrets) AS s(it)`,
};

const under = {
  name: 'webhooks-secrets-under',
  text: `
    SELECT tenant_id AS tenant, endpoint_id AS "endpointId", secrets FROM webhooks.endpoints
    WHERE (tenant_id, endpoint_id) > ($2::text, $3::uuid) AND EXISTS (
      SELECT FROM jsonb_array_elements(secrets) it WHERE it->>'master' IS NOT DISTINCT FROM $1
    )
    ORDER BY tenant_id, endpoint_id LIMIT $4`,
};

const replace = {
  name: 'webhooks-replace-secrets',
  text: `
    WITH held AS MATERIALIZED (
      SELECT e.tenant_id, e.endpoint_id, n.secrets
      FROM unnest($1::text[], $2::uuid[], $3::jsonb[], $4::jsonb[]) AS n(tenant_id, endpoint_id, before, secrets)
      JOIN webhooks.endpoints e ON e.tenant_id = n.tenant_id AND e.endpoint_id = n.endpoint_id
      WHERE e.secrets = n.before
      ORDER BY e.tenant_id, e.endpoint_id
      FOR NO KEY UPDATE OF e
    )
    UPDATE webhooks.endpoints e SET secrets = held.secrets
    FROM held WHERE e.tenant_id = held.tenant_id AND e.endpoint_id = held.endpoint_id`,
};
