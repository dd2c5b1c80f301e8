import { Injectable } from '@nestjs/common';
import { maxUuid, type ApiKey, type Scope } from '#contracts';
import { InjectSql, Sql } from '#database';
import type { KnownKey } from '#security';
import type { Keys, NewKey } from '../use-cases/manage-keys.js';

/** Keys in Postgres. */
@Injectable()
export class PostgresKeys implements Keys {
  constructor(@InjectSql('access') private readonly sql: Sql) {}

  async valid(keyId: string): Promise<KnownKey | undefined> {
    const [row] = await this.sql.query<ValidRow>(valid, [keyId]);
    if (!row) return undefined;
    const { tenant, account, scopes, family, secretHash, validForMs } = row;
    return { caller: { tenant, account, scopes: new Set(scopes), keyId, keyFamily: family }, secretHash, validForMs };
  }

  async add(key: NewKey, most: number): Promise<ApiKey | undefined> {
    const { tenant, account, name, scopes, secretHash, expiresAt } = key;
    return this.sql.transaction(async (sql) => {
      await sql.query(turn, [tenant]);
      return (await sql.query<ApiKey>(add, [tenant, account, name, scopes, secretHash, expiresAt, most]))[0];
    });
  }

  page(tenant: string, before: string | undefined, limit: number): Promise<ApiKey[]> {
    return this.sql.query<ApiKey>(page, [tenant, before ?? maxUuid, limit]);
  }

  async find(tenant: string | undefined, keyId: string): Promise<ApiKey | undefined> {
    return (await this.sql.query<ApiKey>(find, [keyId, tenant ?? null]))[0];
  }

  async rotate(
    tenant: string,
    keyId: string,
    secretHash: Buffer,
    { overlapSeconds, most }: Parameters<Keys['rotate']>[3],
  ): Promise<ApiKey | undefined> {
    return (await this.sql.query<ApiKey>(rotate, [tenant, keyId, secretHash, overlapSeconds, most]))[0];
  }

  async countFamily(tenant: string, keyId: string): Promise<number> {
    return (await this.sql.query<{ count: number }>(countFamily, [tenant, keyId]))[0]!.count;
  }

  async revoke(tenant: string | undefined, keyId: string): Promise<boolean> {
    return (await this.sql.query(revoke, [keyId, tenant ?? null])).length > 0;
  }
}

interface ValidRow {
  tenant: string;
  account: string;
  scopes: Scope[];
  family: string;
  secretHash: Buffer;
  validForMs: number | null;
}

const columns = `key_id, tenant_id AS tenant, account_id AS account, name, scopes, created_at, expires_at, revoked_at,
  rotated_to`;

const valid = {
  name: 'access-valid',
  text: `
    SELECT tenant_id AS tenant, account_id AS account, scopes, coalesce(family_id, key_id) AS family,
      secret_hash AS "secretHash",
      (extract(epoch FROM expires_at - clock_timestamp()) * 1000)::float8 AS "validForMs"
    FROM access.keys
    WHERE key_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())`,
};

/** The keys of a tenant are created one at a time, so that their limit holds. */
const turn = {
  name: 'access-turn',
  text: `SELECT pg_advisory_xact_lock(hashtextextended('access.keys ' || $1, 0))`,
};

const add = {
  name: 'access-add',
  text: `
    INSERT INTO access.keys (tenant_id, account_id, name, scopes, secret_hash, expires_at)
    SELECT $1, $2, $3, $4, $5, $6
    WHERE (
      -- A key and those it was rotated from count as one.
      SELECT count(DISTINCT coalesce(family_id, key_id)) FROM access.keys
      WHERE tenant_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    ) < $7
    RETURNING ${columns}`,
};

const page = {
  name: 'access-page',
  text: `SELECT ${columns} FROM access.keys WHERE tenant_id = $1 AND key_id < $2 ORDER BY key_id DESC LIMIT $3`,
};

const find = {
  name: 'access-find',
  text: `SELECT ${columns} FROM access.keys WHERE key_id = $1 AND tenant_id = coalesce($2, tenant_id)`,
};

const validOfFamily = (family: string): string => `
  SELECT count(*)::int AS count FROM access.keys f
  WHERE f.tenant_id = $1 AND coalesce(f.family_id, f.key_id) = ${family} AND f.revoked_at IS NULL
    AND (f.expires_at IS NULL OR f.expires_at > now())`;

const countFamily = {
  name: 'access-count-family',
  text: validOfFamily('(SELECT coalesce(family_id, key_id) FROM access.keys WHERE tenant_id = $1 AND key_id = $2)'),
};

/** The row is locked before it is read, so that only one of two concurrent rotations succeeds. */
const rotate = {
  name: 'access-rotate',
  text: `
    WITH old AS (
      SELECT * FROM access.keys k
      WHERE tenant_id = $1 AND key_id = $2 AND revoked_at IS NULL AND rotated_to IS NULL
        AND (expires_at IS NULL OR expires_at > now())
        AND (${validOfFamily('coalesce(k.family_id, k.key_id)')}) < $5
      FOR UPDATE
    ), new AS (
      INSERT INTO access.keys (tenant_id, account_id, name, scopes, secret_hash, expires_at, family_id)
      SELECT tenant_id, account_id, name, scopes, $3, expires_at, coalesce(family_id, key_id) FROM old
      RETURNING *
    ), ended AS (
      UPDATE access.keys k
      SET rotated_to = new.key_id, expires_at = least(k.expires_at, now() + $4 * interval '1 second')
      FROM new WHERE k.tenant_id = $1 AND k.key_id = $2
    )
    SELECT ${columns} FROM new`,
};

const revoke = {
  name: 'access-revoke',
  text: `
    UPDATE access.keys SET revoked_at = coalesce(revoked_at, now())
    WHERE key_id = $1 AND tenant_id = coalesce($2, tenant_id)
    RETURNING 1`,
};
