import { Injectable } from '@nestjs/common';
import { Lane } from '#admission';
import { InjectSql, Sql } from '#database';
import type { NewAuditEntry } from '#security';
import type { AuditEntries } from '../use-cases/keep-audit.js';
import type { AuditTrail, NumberedEntry } from '../use-cases/read-audit.js';

/** They would wait for each other in Postgres, each with a connection that keys have to be looked up over. */
const oneByOne = (): Lane =>
  new Lane({
    ...{ atOnce: 1, mostWaiting: 1_000, longestWaitMs: 2_000 },
    tooMuch: 'More has to be written down of who does what',
  });

/** Who did what, in Postgres. */
@Injectable()
export class PostgresAudit implements AuditEntries, AuditTrail {
  private readonly lane = oneByOne();
  /** What has begun is to be seen to end, however many others begin. */
  private readonly ends = oneByOne();

  constructor(@InjectSql('access') private readonly sql: Sql) {}

  add(entry: NewAuditEntry, requests: number): Promise<void> {
    return this.append(this.lane, entry, requests);
  }

  addEnd(entry: NewAuditEntry): Promise<void> {
    return this.append(this.ends, entry, 1);
  }

  private async append(lane: Lane, entry: NewAuditEntry, requests: number): Promise<void> {
    const { tenant, account, key_id, is_operator, operation, target, request_id, status } = entry;
    const values = [tenant, account, key_id, is_operator, operation, target, request_id, status, requests];
    await lane.inTurn(() => this.sql.query(append, values));
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
    INSERT INTO access.audit (tenant_id, account_id, key_id, is_operator, operation, target, request_id, status, requests)
    SELECT $1, $2, $3::uuid, $4::boolean, $5, $6, $7, $8::int, $9::int FROM turn`,
};

const after = {
  name: 'access-audit-after',
  text: `
    SELECT entry_id AS "entryId", at, tenant_id AS tenant, account_id AS account, key_id, is_operator, operation, target,
      request_id, status, requests
    FROM access.audit WHERE tenant_id = $1 AND entry_id > $2 ORDER BY entry_id LIMIT $3`,
};
