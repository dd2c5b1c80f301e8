import { Inject, Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import type { Repository } from 'typeorm';
import { CleaveError, limits } from '#contracts';
import { arrayOf, InjectSql, Sql, type Queries, type Statement } from '#database';
import { currentTrace } from '#telemetry';
import { leastOrderIdAt, type HistoryEntry, type Order, type OrderChange } from '../domain/order.js';
import type { ChangeableOrders, KeyedChange, ReadableOrders } from '../use-cases/change-order.js';
import { branchLivesMs, type BranchDecisions } from '../use-cases/finish-branches.js';
import type { KeptRefusals } from '../use-cases/purge-refusals.js';
import { pageLines, type OrderFilter, type OrderReader } from '../use-cases/read-orders.js';
import {
  payWithin,
  type KeyedRefusal,
  type OrderRecord,
  type PlacedOrders,
  type SealedByOrder,
  type StoredAnswer,
  type StoredRefusal,
} from '../use-cases/reserve-and-record.js';
import type { HeldFor, VoidOrders } from '../use-cases/sweep-holds.js';
import { OrderEntity, orderOf, storedLines, type OrderRow } from './order.entity.js';
import { toldLines, withinLines } from './within-lines.js';

/**
 * Orders in Postgres. The statements of the hot path are prepared, take arrays, and are one transaction each; reads that are
 * composed from the conditions of a request go through TypeORM.
 */
@Injectable()
export class PostgresOrders
  implements PlacedOrders, ChangeableOrders, OrderReader, KeptRefusals, VoidOrders, BranchDecisions
{
  /** Whether the last batch met an order or a key that was there: somebody may use the same keys again and again. */
  private expectsConflicts = false;

  constructor(
    @InjectRepository(OrderEntity, 'order') private readonly orders: Repository<OrderEntity>,
    @InjectSql('order') private readonly sql: Sql,
    @Inject(payWithin) private readonly payWithinMs: number,
  ) {}

  async find(tenantId: string, orderId: string): Promise<Order | undefined> {
    return orderIn(this.sql, tenantId, orderId);
  }

  async page(tenantId: string, filter: OrderFilter, before: string | undefined, limit: number): Promise<Order[]> {
    const { customerId, status, reference, createdFrom, createdBefore } = filter;
    const values: unknown[] = [tenantId, limit, pageLines];
    const asked = (condition: string, value: unknown): string =>
      value === undefined ? '' : ` AND o.${condition} $${values.push(value)}`;
    const conditions = [
      status === undefined ? ` AND o.status <> 'void'` : asked('status =', status),
      asked('customer_id =', customerId),
      asked('reference =', reference),
      // Every index of orders ends with the id, which contains the time, so that it bounds the scan of any of them.
      asked('order_id >=', createdFrom && leastOrderIdAt(createdFrom)),
      asked('order_id <', createdBefore && leastOrderIdAt(createdBefore)),
      asked('order_id <', before),
    ];
    // Not prepared, so that it is planned for the given conditions.
    const rows = await this.orders.query<OrderRow[]>(pageOf(conditions.join('')), values);
    return rows.map(orderOf);
  }

  async history(tenantId: string, orderId: string, after = 0, limit?: number): Promise<HistoryEntry[]> {
    return historyIn(this.sql, tenantId, orderId, after, limit);
  }

  async byId(tenantId: string, orderIds: readonly string[]): Promise<ReadonlyMap<string, Order | 'void'>> {
    return this.sql.readSafely(
      (sql) => ordersIn(sql, tenantId, orderIds),
      (found) => found.size > 0,
    );
  }

  readSafely<T>(work: (orders: ReadableOrders) => Promise<T>, isTold: (read: T) => boolean): Promise<T> {
    return this.sql.readSafely(
      (sql) =>
        work({
          find: (tenant, orderId) => orderIn(sql, tenant, orderId),
          history: (tenant, orderId, after) => historyIn(sql, tenant, orderId, after),
          versionOf: async (tenant, { account, operation, idempotencyKey }) => {
            const key = [tenant, account, operation, idempotencyKey];
            const [row] = await sql.query<{ fingerprint: string; version: number }>(versionOf, key);
            return row;
          },
        }),
      isTold,
    );
  }

  async answersOf(
    tenant: string,
    requests: Parameters<PlacedOrders['answersOf']>[1],
  ): Promise<(StoredAnswer | undefined)[]> {
    const keys = [tenant, requests.map((it) => it.account), requests.map((it) => it.idempotencyKey)];
    const { rows, orders } = await this.sql.readSafely(
      async (sql) => {
        const found = await sql.query<AnswerRow>(answersOf, keys);
        const orderIds = found.flatMap((row) => row.order_id ?? []);
        return { rows: found, orders: orderIds.length === 0 ? noOrders : await ordersIn(sql, tenant, orderIds) };
      },
      (found) => found.rows.length > 0,
    );
    const answers: (StoredAnswer | undefined)[] = requests.map(() => undefined);
    for (const { position, order_id, fingerprint, refusal } of rows) {
      const at = position - 1;
      const own = requests[at]!.fingerprint;
      if (answers[at]?.fingerprint === own && fingerprint !== own) continue;
      answers[at] = refusal ? { fingerprint, refusal } : { fingerprint, order: orders.get(order_id!) as Order };
    }
    return answers;
  }

  async record(
    tenant: string,
    records: readonly OrderRecord[],
    sealed?: SealedByOrder,
    branchId?: string,
  ): Promise<ReadonlySet<string>> {
    const values = [
      tenant,
      arrayOf.uuid(records.map(({ order }) => order.order_id)),
      arrayOf.text(records.map((it) => it.account)),
      arrayOf.text(records.map(({ order }) => order.customer_id)),
      arrayOf.text(records.map(({ order }) => order.reference)),
      arrayOf.text(records.map(({ order }) => order.status)),
      arrayOf.text(records.map(({ order }) => order.currency)),
      arrayOf.bigint(records.map(({ order }) => order.total_minor)),
      arrayOf.jsonb(records.map(({ order }) => storedLines(order))),
      arrayOf.jsonb(records.map(({ order }) => JSON.stringify(order.adjustments))),
      arrayOf.jsonb(records.map(({ order }) => JSON.stringify(order.metadata))),
      arrayOf.uuid(records.map((it) => it.reservationId)),
      arrayOf.text(records.map((it) => it.idempotencyKey)),
      arrayOf.uuid(records.map((it) => it.fingerprint)),
      arrayOf.timestamptz(records.map(({ order }) => order.created_at)),
      arrayOf.text(records.map(({ order }) => order.payment_method)),
      arrayOf.jsonb(records.map(({ saga }) => (saga ? JSON.stringify(saga) : null))),
      this.payWithinMs,
      branchId ?? null,
      tracesOf(records),
      ...(sealed
        ? [
            records.map(({ order }) => sealed.get(order.order_id)?.keyId ?? null),
            records.map(({ order }) => sealed.get(order.order_id)?.sealed ?? null),
          ]
        : []),
    ];
    const { unique, any } = sealed ? recordWithPersonal : record;
    const recordIn = async (sql: Queries, statement: Statement) => {
      const [row] = await sql.query<{ some: string[] | null }>(statement, values);
      return new Set(row!.some ?? records.map(({ order }) => order.order_id));
    };
    try {
      // An insert of no rows does not wait for the standby, so the standby is checked as for a read.
      if (records.length === 0) return await this.sql.readSafely((sql) => recordIn(sql, any));
      if (this.expectsConflicts || records.some((it) => it.isRepeat)) {
        const recorded = await recordIn(this.sql, any);
        this.expectsConflicts = recorded.size < records.length;
        return recorded;
      }
      return await recordIn(this.sql, unique).catch((error: unknown) => {
        if (!violates(error, 'orders_pkey') && !violates(error, 'one_order_a_key')) throw error;
        this.expectsConflicts = true;
        return recordIn(this.sql, any);
      });
    } catch (error) {
      // The branch was aborted; or it is so old that an abort may have been forgotten, and the constraint rejects `late`.
      if (!violates(error, 'branch_decisions_pkey') && !violates(error, 'branch_decisions_outcome_check')) throw error;
      throw new CleaveError(
        'unavailable',
        'Placing the order took too long, and the stock held for it was released. Try again.',
      );
    }
  }

  async keepRefusals<Kept extends KeyedRefusal>(tenant: string, refusals: readonly Kept[]): Promise<Kept[]> {
    const rows = await this.sql.query<{ account_id: string; idempotency_key: string }>(keepRefusals, [
      tenant,
      refusals.map((it) => it.account),
      refusals.map((it) => it.idempotencyKey),
      refusals.map((it) => it.fingerprint),
      refusals.map(({ refusal: { code, detail, extensions } }) => JSON.stringify({ code, detail, extensions })),
    ]);
    const stored = new Set(rows.map((row) => JSON.stringify([row.account_id, row.idempotency_key])));
    return refusals.filter((it) => stored.has(JSON.stringify([it.account, it.idempotencyKey])));
  }

  async forget(ageMs: number, limit: number): Promise<number> {
    const rows = await this.sql.query(forgetRefusals, [ageMs, limit]);
    return rows.length;
  }

  async save(
    tenant: string,
    before: Order,
    { order, entry }: OrderChange,
    keyed: KeyedChange | undefined,
  ): Promise<boolean> {
    const saving = this.sql.query<{ saved: boolean }>(save, [
      tenant,
      order.order_id,
      before.version,
      order.status,
      order.returned_total_minor,
      storedLines(order),
      order.updated_at,
      entry.type,
      JSON.stringify(entry.data),
      keyed?.account ?? null,
      keyed?.operation ?? null,
      keyed?.idempotencyKey ?? null,
      keyed?.fingerprint ?? null,
      currentTrace() ?? null,
    ]);
    try {
      const [row] = await saving;
      return row!.saved;
    } catch (error) {
      // Another request has used the key: the whole change was rolled back, and the next try finds the stored answer.
      if (violates(error, 'keyed_changes_pkey')) return false;
      throw error;
    }
  }

  async keepKey(tenant: string, found: Order, keyed: KeyedChange): Promise<boolean> {
    const { account, operation, idempotencyKey, fingerprint } = keyed;
    const values = [tenant, account, operation, idempotencyKey, fingerprint, found.order_id, found.version];
    return (await this.sql.query(keepKey, values)).length > 0;
  }

  async declareVoid(tenant: string, holds: readonly HeldFor[]): Promise<ReadonlySet<string>> {
    const orderIds = holds.map((it) => it.order_id);
    const known = await statusOf(this.sql, tenant, orderIds);
    // One by one: a transaction that takes a single id cannot deadlock.
    for (const { order_id, reservation_id } of holds)
      if (!known.has(order_id)) await this.sql.query(declareVoid, [tenant, order_id, reservation_id]);
    // A separate statement, so that it sees the orders that the tombstones conflicted with.
    const decided = await this.sql.readSafely((sql) => statusOf(sql, tenant, orderIds));
    return new Set(orderIds.filter((it) => decided.get(it) === 'void'));
  }

  async decide(branchId: string): Promise<'commit' | 'abort'> {
    // The row is always written, so that the commit itself waits for the standby.
    const [row] = await this.sql.query<{ outcome: 'commit' | 'abort' }>(decide, [branchId]);
    return row!.outcome;
  }

  async forgetDecisions(ageMs: number, except: readonly string[]): Promise<void> {
    await this.sql.query(forgetDecisions, [ageMs, except]);
  }
}

interface AnswerRow {
  position: number;
  order_id: string | null;
  fingerprint: string;
  refusal: StoredRefusal | null;
}

const noOrders: ReadonlyMap<string, Order | 'void'> = new Map();

const ordersIn = async (
  sql: Queries,
  tenant: string,
  orderIds: readonly string[],
): Promise<ReadonlyMap<string, Order | 'void'>> => {
  const rows = await sql.query<OrderRow>(byId, [tenant, orderIds]);
  return new Map(rows.map((row) => [row.orderId, row.status === 'void' ? 'void' : orderOf(row)]));
};

const orderIn = async (sql: Queries, tenant: string, orderId: string): Promise<Order | undefined> => {
  const order = (await ordersIn(sql, tenant, [orderId])).get(orderId);
  return order === 'void' ? undefined : order;
};

const statusOf = async (
  sql: Queries,
  tenant: string,
  orderIds: readonly string[],
): Promise<ReadonlyMap<string, string>> => {
  const rows = await sql.query<{ order_id: string; status: string }>(statuses, [tenant, orderIds]);
  return new Map(rows.map((row) => [row.order_id, row.status]));
};

const historyIn = (
  sql: Queries,
  tenant: string,
  orderId: string,
  after: number,
  limit: number = limits.page,
): Promise<HistoryEntry[]> => sql.query<HistoryEntry>(historyPage, [tenant, orderId, after, limit, pageLines]);

const entriesAfter = `
  SELECT e.version, e.type, e.status, e.data, e.at, ${toldLines} AS size
  FROM orders.events e WHERE e.tenant_id = $1 AND e.order_id = $2 AND e.version > $3 ORDER BY e.version LIMIT $4`;

const historyPage = {
  name: 'order-history-page',
  text: `
    SELECT p.version, p.type, p.status, p.data, p.at
    FROM ${withinLines(entriesAfter, 's.version', '$5::int')} p ORDER BY p.version`,
};

/** The columns of an `OrderRow`. */
export const orderColumns = `
  o.order_id AS "orderId", o.status, o.customer_id AS "customerId", o.reference, o.currency,
  o.total_minor AS "totalMinor", o.returned_total_minor AS "returnedTotalMinor", o.lines, o.adjustments, o.metadata,
  o.payment_method AS "paymentMethod", o.version, o.created_at AS "createdAt", o.updated_at AS "updatedAt"`;

/** Tombstones are no orders, so the conditions must exclude them. */
const pageOf = (conditions: string): string => {
  const rows = `
    SELECT ${orderColumns}, jsonb_array_length(o.lines) AS size FROM orders.orders o
    WHERE o.tenant_id = $1${conditions}
    ORDER BY o.order_id DESC LIMIT $2`;
  return `SELECT p.* FROM ${withinLines(rows, 's."orderId" DESC', '$3')} p ORDER BY p."orderId" DESC`;
};

const byId = {
  name: 'order-by-id',
  text: `SELECT ${orderColumns} FROM orders.orders o WHERE o.tenant_id = $1 AND o.order_id = ANY ($2)`,
};

/**
 * Lateral and limited, so that each key is looked up in the index under any plan. A key has both if it was used for two
 * commands at the same time: then the order comes last.
 */
const answersOf = {
  name: 'order-answers-of',
  text: `
    SELECT k.position::int, a.order_id, a.fingerprint, a.refusal
    FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k(account_id, idempotency_key, position)
    CROSS JOIN LATERAL (
      SELECT o.order_id, o.fingerprint, NULL::jsonb AS refusal FROM orders.orders o
      WHERE o.tenant_id = $1 AND o.account_id = k.account_id AND o.idempotency_key = k.idempotency_key
      UNION ALL
      SELECT NULL, r.fingerprint, r.refusal FROM orders.refusals r
      WHERE r.tenant_id = $1 AND r.account_id = k.account_id AND r.idempotency_key = k.idempotency_key
      LIMIT 2
    ) a
    ORDER BY a.order_id NULLS FIRST`,
};

/** Trace contexts by order id, as JSON; null if no order of the batch is traced. */
const tracesOf = (records: readonly OrderRecord[]): string | null => {
  const traced = records.filter((it) => it.traceparent !== undefined);
  return traced.length === 0
    ? null
    : JSON.stringify(Object.fromEntries(traced.map((it) => [it.order.order_id, it.traceparent])));
};

/** SQL: when a UUID of version 7 (RFC 9562) was made. */
const madeAt = (id: string): string =>
  `to_timestamp(('x' || translate(left(${id}::text, 13), '-', ''))::bit(48)::bigint / 1000.0)`;

/**
 * Rows are inserted in the order of their keys, so that two batches that share keys wait for each other instead of
 * deadlocking. Refusals are looked up by a correlated subquery, so that no plan reads all of them.
 */
const recording = (name: string, isPersonal: boolean): Record<'unique' | 'any', Statement> => {
  const columns = isPersonal ? ', personal_key, personal' : '';
  const text = (conflicts: string): string => `
    WITH wanted AS (
      SELECT * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
        $9::jsonb[], $10::jsonb[], $11::jsonb[], $12::uuid[], $13::text[], $14::uuid[], $15::timestamptz[], $16::text[],
        $17::jsonb[]${isPersonal ? ', $21::uuid[], $22::bytea[]' : ''})
        AS w(order_id, account_id, customer_id, reference, status, currency, total_minor, lines, adjustments, metadata,
             reservation_id, idempotency_key, fingerprint, at, payment_method, saga${columns})
    ), recorded AS (
      INSERT INTO orders.orders (tenant_id, order_id, account_id, customer_id, reference, status, currency, total_minor,
        lines, adjustments, metadata, payment_method, version, reservation_id, idempotency_key, fingerprint, created_at,
        updated_at${columns})
      SELECT $1, order_id, account_id, customer_id, reference, status, currency, total_minor, lines, adjustments,
        metadata, payment_method, 1, reservation_id, idempotency_key, fingerprint, at, at${columns}
      FROM wanted w
      WHERE (
        SELECT r.fingerprint FROM orders.refusals r
        WHERE r.tenant_id = $1 AND r.account_id = w.account_id AND r.idempotency_key = w.idempotency_key
      ) IS NULL
      ORDER BY account_id COLLATE "C", idempotency_key COLLATE "C", order_id
      ${conflicts}
      RETURNING order_id, status, reservation_id, created_at, payment_method
    ), announced AS (
      INSERT INTO orders.events (tenant_id, order_id, version, reservation_id, type, status, data, at, traceparent)
      SELECT $1, order_id, 1, reservation_id, 'placed', status, '{}', created_at, $20::jsonb ->> order_id::text
      FROM recorded
    ), begun AS (
      INSERT INTO orders.sagas (tenant_id, saga_id, order_id, definition, version, step, data, deadline_at)
      SELECT $1, r.order_id, r.order_id, w.saga->>'definition', (w.saga->>'version')::int, w.saga->>'step',
        w.saga->'data', now() + $18::bigint * interval '1 millisecond'
      FROM recorded r JOIN wanted w USING (order_id) WHERE r.payment_method IS NOT NULL
    ), decided AS (
      INSERT INTO orders.branch_decisions (branch_id, outcome)
      SELECT $19::uuid, CASE WHEN ${madeAt('$19')} < now() - interval '${branchLivesMs} ms' THEN 'late' ELSE 'commit' END
      WHERE $19::uuid IS NOT NULL
    )
    SELECT CASE WHEN count(*) < cardinality($2::uuid[]) THEN coalesce(array_agg(order_id), '{}') END AS some FROM recorded`;
  return {
    // Fails if an order or a key is there already. Orders are rarely repeated, and not looking first saves a tenth.
    unique: { name, text: text('') },
    any: { name: `${name} any`, text: text('ON CONFLICT DO NOTHING') },
  };
};

const record = recording('order-record', false);
/** For batches with personal data; other batches do not carry the parameters for it. */
const recordWithPersonal = recording('order-record-personal', true);

const keepRefusals = {
  name: 'order-keep-refusals',
  text: `
    INSERT INTO orders.refusals (tenant_id, account_id, idempotency_key, fingerprint, refusal)
    SELECT $1, account_id, idempotency_key, fingerprint, refusal
    FROM unnest($2::text[], $3::text[], $4::uuid[], $5::jsonb[]) AS r(account_id, idempotency_key, fingerprint, refusal)
    ORDER BY account_id COLLATE "C", idempotency_key COLLATE "C"
    ON CONFLICT DO NOTHING RETURNING account_id, idempotency_key`,
};

const forgetRefusals = {
  name: 'order-forget-refusals',
  text: `
    DELETE FROM orders.refusals WHERE (tenant_id, account_id, idempotency_key) IN (
      SELECT tenant_id, account_id, idempotency_key FROM orders.refusals
      WHERE refused_at < now() - $1::bigint * interval '1 millisecond'
      ORDER BY refused_at LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    RETURNING 1`,
};

const versionOf = {
  name: 'order-version-of',
  text: `
    SELECT fingerprint, version FROM orders.keyed_changes
    WHERE tenant_id = $1 AND account_id = $2 AND operation = $3 AND idempotency_key = $4`,
};

/**
 * Cancelling an order reverses its purchase, whatever step that has reached. The saga is locked before the order, as in
 * `move_sagas`, and its epoch is raised to fence off the process that leads it.
 */
const save = {
  name: 'order-save',
  text: `
    WITH fenced AS MATERIALIZED (
      SELECT 1 FROM orders.sagas WHERE tenant_id = $1 AND saga_id = $2 AND $4 = 'cancelled' FOR NO KEY UPDATE
    ), changed AS (
      UPDATE orders.orders SET status = $4, returned_total_minor = $5, lines = $6, updated_at = $7, version = version + 1
      WHERE tenant_id = $1 AND order_id = $2 AND version = $3 AND (SELECT count(*) FROM fenced) >= 0
      RETURNING order_id, version, status, reservation_id, updated_at
    ), reversing AS (
      UPDATE orders.sagas SET step = 'reverse', state = 'running', attempts = 0, epoch = epoch + 1, due_at = now(),
        lease_until = '-infinity', updated_at = now(), data = data - 'token'
      WHERE tenant_id = $1 AND saga_id = $2 AND $4 = 'cancelled' AND EXISTS (SELECT FROM changed)
    ), answered AS (
      INSERT INTO orders.keyed_changes (tenant_id, account_id, operation, idempotency_key, fingerprint, order_id, version)
      SELECT $1, $10, $11, $12, $13, order_id, version FROM changed WHERE $12::text IS NOT NULL
    ), announced AS (
      INSERT INTO orders.events (tenant_id, order_id, version, reservation_id, type, status, data, at, traceparent)
      SELECT $1, order_id, version, reservation_id, $8, status, $9, updated_at, $14 FROM changed
    )
    SELECT EXISTS (SELECT FROM changed) AS saved`,
};

const keepKey = {
  name: 'order-keep-key',
  text: `
    INSERT INTO orders.keyed_changes (tenant_id, account_id, operation, idempotency_key, fingerprint, order_id, version)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING 1`,
};

/** Uses the primary key that Record writes: whichever of the two commits first decides. */
const declareVoid = {
  name: 'order-void',
  text: `
    INSERT INTO orders.orders (tenant_id, order_id, account_id, customer_id, status, currency, total_minor, lines,
      adjustments, metadata, version, reservation_id, fingerprint, created_at, updated_at)
    VALUES ($1, $2, '', '', 'void', '', 0, '[]', '[]', '{}', 0, $3, $3, now(), now())
    ON CONFLICT DO NOTHING`,
};

const statuses = {
  name: 'order-status-of',
  text: `SELECT order_id, status FROM orders.orders WHERE tenant_id = $1 AND order_id = ANY ($2::uuid[])`,
};

/** The first decision stands. */
const decide = {
  name: 'order-branch-decide',
  text: `
    INSERT INTO orders.branch_decisions AS d (branch_id, outcome) VALUES ($1, 'abort')
    ON CONFLICT (branch_id) DO UPDATE SET outcome = d.outcome RETURNING outcome`,
};

const forgetDecisions = {
  name: 'order-branch-forget',
  text: `
    DELETE FROM orders.branch_decisions
    WHERE decided_at < now() - $1::bigint * interval '1 millisecond' AND branch_id <> ALL ($2::uuid[])`,
};

const violates = (error: unknown, constraint: string): boolean =>
  error instanceof Error && 'constraint' in error && error.constraint === constraint;
