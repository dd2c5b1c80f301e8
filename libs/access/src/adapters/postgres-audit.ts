import { Injectable } from '@nestjs/common';
import type { AuditEntry } from '#contracts';
import { InjectSql, Sql } from '#database';
import { AuditLog } from '#security';
import type { AuditTrail, NumberedEntry } from '../use-cases/read-audit.js';

/** Who did what, in Postgres. */
@Injectable()
export class PostgresAudit extends AuditLog implements AuditTrail {
  constructor(@InjectSql('access') private readonly sql: Sql) {
    super();
  }

  async append(entry: Omit<AuditEntry, 'at'>): Promise<void> {
    const { tenant, account, key_id, is_operator, operation, target, request_id, status } = entry;
    await this.sql.query(append, [tenant, account, key_id, is_operator, operation, target, request_id, status]);
  }

  after(tenant: string, entryId: number, limit: number): Promise<NumberedEntry[]> {
    return this.sql.query<NumberedEntry>(after, [tenant, entryId, limit]);
  }
}

/** One after the other, each numbered in its turn, so that none appears in front of one that was read. They are few. */
const append = {
  name: 'access-audit-append',
  text: `
    WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('access.audit', 0)))
    INSERT INTO access.audit (tenant_id, account_id, key_id, is_operator, operation, target, request_id, status)
    SELECT $1, $2, $3::uuid, $4::boolean, $5, $6, $7, $8::int FROM turn`,
};

const after = {
  name: 'access-audit-after',
  text: `
    SELECT entry_id AS "entryId", at, tenant_id AS tenant, account_id AS account, key_id, is_operator, operation, target,
      request_id, status
    FROM access.audit WHERE tenant_id = $1 AND entry_id > $2 ORDER BY entry_id LIMIT $3`,
};
