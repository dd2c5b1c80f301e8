import { Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { In, LessThan, type Repository } from 'typeorm';
import { order as orderSchema } from '#contracts';
import { InjectSql, Sql } from '#database';
import type { Order, OrderChange, StockConsequence } from '../domain/order.js';
import type { ChangeableOrders, KeyedChange } from '../use-cases/change-order.js';
import type { KeyedRequest, PlacedOrders, Placement, StoredAnswer, StoredRefusal } from '../use-cases/place-order.js';
import type { HistoryEntry, OrderFilter, OrderReader } from '../use-cases/read-orders.js';
import { HistoryEntity, OrderEntity, orderOf } from './order.entity.js';

/** Orders in Postgres: reads through TypeORM, writes as prepared statements over arrays, each its own transaction. */
@Injectable()
export class PostgresOrders implements PlacedOrders, ChangeableOrders, OrderReader {
  constructor(
    @InjectRepository(OrderEntity, 'order') private readonly orders: Repository<OrderEntity>,
    @InjectRepository(HistoryEntity, 'order') private readonly entries: Repository<HistoryEntity>,
    @InjectSql('order') private readonly sql: Sql,
  ) {}

  async find(tenantId: string, orderId: string): Promise<Order | undefined> {
    const row = await this.orders.findOneBy({ tenantId, orderId });
    return row ? orderOf(row) : undefined;
  }

  async page(tenantId: string, filter: OrderFilter, before: string | undefined, limit: number): Promise<Order[]> {
    const rows = await this.orders.find({
      where: {
        tenantId,
        ...(filter.customerId !== undefined && { customerId: filter.customerId }),
        ...(filter.status !== undefined && { status: filter.status }),
        ...(filter.reference !== undefined && { reference: filter.reference }),
        ...(before !== undefined && { orderId: LessThan(before) }),
      },
      order: { orderId: 'DESC' },
      take: limit,
    });
    return rows.map(orderOf);
  }

  async history(tenantId: string, orderId: string): Promise<HistoryEntry[]> {
    const rows = await this.entries.find({ where: { tenantId, orderId }, order: { version: 'ASC' } });
    return rows.map(({ version, type, status, data, at }) => ({ version, type, status, data, at }));
  }

  async byReservation(tenantId: string, reservationIds: readonly string[]): Promise<ReadonlyMap<string, Order>> {
    const rows = await this.orders.findBy({ tenantId, reservationId: In([...reservationIds]) });
    return new Map(rows.map((row) => [row.reservationId, orderOf(row)]));
  }

  async answersOf(tenant: string, requests: readonly KeyedRequest[]): Promise<(StoredAnswer | undefined)[]> {
    const rows = await this.sql.query<{
      position: number;
      order_id: string | null;
      fingerprint: string;
      refusal: StoredRefusal | null;
    }>(answersOf, [tenant, requests.map((it) => it.account), requests.map((it) => it.idempotencyKey)]);
    const orderIds = rows.flatMap((row) => row.order_id ?? []);
    const orders =
      orderIds.length === 0 ? [] : (await this.orders.findBy({ tenantId: tenant, orderId: In(orderIds) })).map(orderOf);
    const orderById = new Map(orders.map((it) => [it.order_id, it]));
    const answers: (StoredAnswer | undefined)[] = requests.map(() => undefined);
    for (const { position, order_id, fingerprint, refusal } of rows)
      answers[position - 1] = refusal ? { fingerprint, refusal } : { fingerprint, order: orderById.get(order_id!)! };
    return answers;
  }

  async record(tenant: string, placements: readonly Placement[]): Promise<ReadonlySet<string>> {
    const rows = await this.sql.query<{ order_id: string }>(record, [
      tenant,
      placements.map(({ order }) => order.order_id),
      placements.map((it) => it.account),
      placements.map(({ order }) => order.customer_id),
      placements.map(({ order }) => order.reference),
      placements.map(({ order }) => order.status),
      placements.map(({ order }) => order.currency),
      placements.map(({ order }) => order.total_minor),
      placements.map(({ order }) => JSON.stringify(order.lines)),
      placements.map(({ order }) => JSON.stringify(order.adjustments)),
      placements.map(({ order }) => JSON.stringify(order.metadata)),
      placements.map((it) => it.reservationId),
      placements.map((it) => it.idempotencyKey),
      placements.map((it) => it.fingerprint),
      placements.map(({ order }) => order.created_at),
      JSON.stringify(confirmation),
    ]);
    return new Set(rows.map((row) => row.order_id));
  }

  async keepRefusals(
    tenant: string,
    refusals: readonly (KeyedRequest & { fingerprint: string; refusal: StoredRefusal })[],
  ): Promise<void> {
    await this.sql.query(keepRefusals, [
      tenant,
      refusals.map((it) => it.account),
      refusals.map((it) => it.idempotencyKey),
      refusals.map((it) => it.fingerprint),
      refusals.map((it) => JSON.stringify(it.refusal)),
    ]);
  }

  async answerTo(
    tenant: string,
    { account, operation, idempotencyKey }: Omit<KeyedChange, 'fingerprint'>,
  ): Promise<{ fingerprint: string; order: Order } | undefined> {
    const [row] = await this.sql.query<{ fingerprint: string; body: unknown }>(answerTo, [
      tenant,
      account,
      operation,
      idempotencyKey,
    ]);
    return row && { fingerprint: row.fingerprint, order: orderSchema.decode(row.body as never) };
  }

  async save(
    tenant: string,
    before: Order,
    { order, entry, consequences }: OrderChange,
    keyed: KeyedChange | undefined,
  ): Promise<boolean> {
    const saving = this.sql.query<{ saved: boolean }>(save, [
      tenant,
      order.order_id,
      before.version,
      order.status,
      order.returned_total_minor,
      JSON.stringify(order.lines),
      order.updated_at,
      entry.type,
      JSON.stringify(entry.data),
      JSON.stringify(consequences),
      keyed?.account ?? null,
      keyed?.operation ?? null,
      keyed?.idempotencyKey ?? null,
      keyed?.fingerprint ?? null,
      keyed ? JSON.stringify(orderSchema.encode(order)) : null,
    ]);
    try {
      const [row] = await saving;
      return row!.saved;
    } catch (error) {
      // Another request took the key: the whole change was rolled back, and its answer is there for the next try.
      if (isKeyTaken(error)) return false;
      throw error;
    }
  }
}

const confirmation: StockConsequence[] = [{ kind: 'confirm', lines: [] }];

/**
 * Lateral, so that every key is looked up in the index, even by a plan that was made while the tables were empty. Where
 * a key has both, the order goes for more than the refusal.
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
      SELECT NULL, r.fingerprint, r.body FROM orders.responses r
      WHERE r.tenant_id = $1 AND r.account_id = k.account_id AND r.operation = 'place'
        AND r.idempotency_key = k.idempotency_key
      LIMIT 2
    ) a
    ORDER BY a.order_id NULLS FIRST`,
};

/** Rows go in sorted by key, so that two batches that share keys wait for each other instead of deadlocking. */
const record = {
  name: 'order-record',
  text: `
    WITH wanted AS (
      SELECT * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
        $9::jsonb[], $10::jsonb[], $11::jsonb[], $12::uuid[], $13::text[], $14::text[], $15::timestamptz[])
        AS w(order_id, account_id, customer_id, reference, status, currency, total_minor, lines, adjustments, metadata,
             reservation_id, idempotency_key, fingerprint, at)
    ), recorded AS (
      INSERT INTO orders.orders (tenant_id, order_id, account_id, customer_id, reference, status, currency, total_minor,
        lines, adjustments, metadata, version, reservation_id, idempotency_key, fingerprint, created_at, updated_at)
      SELECT $1, order_id, account_id, customer_id, reference, status, currency, total_minor, lines, adjustments,
        metadata, 1, reservation_id, idempotency_key, fingerprint, at, at
      FROM wanted ORDER BY account_id COLLATE "C", idempotency_key COLLATE "C", reservation_id
      ON CONFLICT DO NOTHING
      RETURNING order_id, status, reservation_id, created_at
    ), entered AS (
      INSERT INTO orders.history (tenant_id, order_id, version, type, status, data, at)
      SELECT $1, order_id, 1, 'placed', status, '{}', created_at FROM recorded
    ), announced AS (
      INSERT INTO orders.outbox (tenant_id, order_id, version, reservation_id, type, data, consequences, at)
      SELECT $1, order_id, 1, reservation_id, 'placed', '{}', $16::jsonb, created_at FROM recorded
    )
    SELECT order_id FROM recorded`,
};

const keepRefusals = {
  name: 'order-keep-refusals',
  text: `
    INSERT INTO orders.responses (tenant_id, account_id, operation, idempotency_key, fingerprint, body)
    SELECT $1, account_id, 'place', idempotency_key, fingerprint, body
    FROM unnest($2::text[], $3::text[], $4::text[], $5::jsonb[]) AS r(account_id, idempotency_key, fingerprint, body)
    ORDER BY account_id COLLATE "C", idempotency_key COLLATE "C"
    ON CONFLICT DO NOTHING`,
};

const answerTo = {
  name: 'order-answer-to',
  text: `
    SELECT fingerprint, body FROM orders.responses
    WHERE tenant_id = $1 AND account_id = $2 AND operation = $3 AND idempotency_key = $4`,
};

const save = {
  name: 'order-save',
  text: `
    WITH changed AS (
      UPDATE orders.orders SET status = $4, returned_total_minor = $5, lines = $6, updated_at = $7, version = version + 1
      WHERE tenant_id = $1 AND order_id = $2 AND version = $3
      RETURNING order_id, version, status, reservation_id, updated_at
    ), answered AS (
      INSERT INTO orders.responses (tenant_id, account_id, operation, idempotency_key, fingerprint, body)
      SELECT $1, $11, $12, $13, $14, $15 FROM changed WHERE $13::text IS NOT NULL
    ), entered AS (
      INSERT INTO orders.history (tenant_id, order_id, version, type, status, data, at)
      SELECT $1, order_id, version, $8, status, $9, updated_at FROM changed
    ), announced AS (
      INSERT INTO orders.outbox (tenant_id, order_id, version, reservation_id, type, data, consequences, at)
      SELECT $1, order_id, version, reservation_id, $8, $9, $10, updated_at FROM changed
    )
    SELECT EXISTS (SELECT FROM changed) AS saved`,
};

const isKeyTaken = (error: unknown): boolean =>
  error instanceof Error && 'constraint' in error && error.constraint === 'responses_pkey';
