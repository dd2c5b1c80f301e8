import { Injectable } from '@nestjs/common';
import { SerialBatcher } from '#admission';
import { InjectSql, Sql } from '#database';
import type { NewAuditEntry } from '#security';
import type { AuditEntries } from '../use-cases/keep-audit.js';
import type { AuditTrail, NumberedEntry } from '../use-cases/read-audit.js';

interface Counted {
  entry: NewAuditEntry;
  requests: number;
}

/** The audit log in Postgres. */
@Injectable()
export class PostgresAudit implements AuditEntries, AuditTrail {
  private readonly begun = this.batcher();
  /** A batcher of its own, so that the end of an operation is recorded however many others begin. */
  private readonly ends = this.batcher();

  constructor(@InjectSql('access') private readonly sql: Sql) {}

  add(entry: NewAuditEntry, requests: number): Promise<void> {
    return this.begun.add({ entry, requests });
  }

  addEnd(entry: NewAuditEntry): Promise<void> {
    return this.ends.add({ entry, requests: 1 });
  }

  /** Batched: single inserts would wait for each other in Postgres, holding connections that key lookups need. */
  private batcher(): SerialBatcher<Counted> {
    return new SerialBatcher(
      {
        ...{ mostAtOnce: 100, mostWaiting: 1_000, longestWaitMs: 2_000 },
        tooMuch: 'More audit entries have to be written',
      },
      (items) => this.append(items),
    );
  }

  private async append(items: Counted[]): Promise<void> {
    const each = <Value>(of: (entry: NewAuditEntry) => Value): Value[] => items.map((it) => of(it.entry));
    await this.sql.query(append, [
      ...[each((it) => it.tenant), each((it) => it.account), each((it) => it.key_id), each((it) => it.is_operator)],
      ...[each((it) => it.operation), each((it) => it.target), each((it) => it.request_id), each((it) => it.status)],
      items.map((it) => it.requests),
    ]);
  }

  after(tenant: string, entryId: number, limit: number): Promise<NumberedEntry[]> {
    return this.sql.query<NumberedEntry>(after, [tenant, entryId, limit]);
  }
}

/** One batch at a time, numbered under a lock, so that no entry appears before one that has been read already. */
const append = {
  name: 'access-audit-append-all',
  text: `
    WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('access.audit', 0)))
    INSERT INTO access.audit (tenant_id, account_id, key_id, is_operator, operation, target, request_id, status, requests)
    SELECT tenant, account, key_id, is_operator, operation, target, request_id, status, requests
    FROM turn, unnest($1::text[], $2::text[], $3::uuid[], $4::boolean[], $5::text[], $6::text[], $7::text[], $8::int[],
      $9::int[]) WITH ORDINALITY
      AS item (tenant, account, key_id, is_operator, operation, target, request_id, status, requests, place)
    ORDER BY place`,
};

const after = {
  name: 'access-audit-after',
  text: `
    SELECT entry_id AS "entryId", at, tenant_id AS tenant, account_id AS account, key_id, is_operator, operation, target,
      request_id, status, requests
    FROM access.audit WHERE tenant_id = $1 AND entry_id > $2 ORDER BY entry_id LIMIT $3`,
};
