import { Injectable } from '@nestjs/common';
import { InjectSql, Sql } from '#database';
import type { MoneyMoves, StartedMove } from '../use-cases/move-money.js';
import type { DeadLetter, ParkedSagas } from '../use-cases/resolve-dead-letters.js';
import type { Saga, SagaMove, Sagas } from '../use-cases/run-sagas.js';

/** Sagas in Postgres, beside the orders that they change. */
@Injectable()
export class PostgresSagas implements Sagas, MoneyMoves, ParkedSagas {
  constructor(@InjectSql('order') private readonly sql: Sql) {}

  claim(leaseMs: number, limit: number): Promise<Saga[]> {
    return this.sql.query<Saga>(claim, [leaseMs, limit]);
  }

  async move(tenant: string, moves: readonly SagaMove[]): Promise<ReadonlySet<string>> {
    const rows = await this.sql.query<{ saga_id: string }>(move, [
      tenant,
      moves.map(({ saga }) => saga.sagaId),
      moves.map(({ saga }) => saga.orderId),
      moves.map(({ saga }) => saga.epoch),
      moves.map(({ entry }) => entry?.type ?? null),
      moves.map(({ entry }) => JSON.stringify(entry?.data ?? {})),
      moves.map(({ entry }) => entry?.from ?? null),
      moves.map(({ entry }) => entry?.to ?? null),
      moves.map((it) => it.step),
      moves.map((it) => it.state),
      moves.map((it) => it.attempts),
      moves.map((it) => it.waitMs),
      moves.map((it) => JSON.stringify(it.result)),
    ]);
    return new Set(rows.map((row) => row.saga_id));
  }

  async start(tenant: string, started: StartedMove): Promise<void> {
    const { sagaId, orderId, definition, version, step, data } = started;
    await this.sql.query(start, [tenant, sagaId, orderId, definition, version, step, JSON.stringify(data)]);
  }

  async find(tenant: string, sagaId: string): ReturnType<MoneyMoves['find']> {
    const [row] = await this.sql.query<NonNullable<Awaited<ReturnType<MoneyMoves['find']>>>>(find, [tenant, sagaId]);
    return row;
  }

  parked(tenant: string, after: string | undefined, limit: number): Promise<DeadLetter[]> {
    return this.sql.query<DeadLetter>(parked, [tenant, after ?? null, limit]);
  }

  async retry(tenant: string, sagaId: string): Promise<boolean> {
    return (await this.sql.query(retry, [tenant, sagaId])).length > 0;
  }

  async close(tenant: string, sagaId: string, note: string): Promise<boolean> {
    return (await this.sql.query(close, [tenant, sagaId, note])).length > 0;
  }
}

const claim = {
  name: 'order-sagas-claim',
  text: `
    WITH due AS MATERIALIZED (
      SELECT tenant_id, saga_id FROM orders.sagas
      WHERE state = 'running' AND due_at <= now() AND lease_until <= now()
      ORDER BY due_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE orders.sagas s SET epoch = s.epoch + 1, lease_until = now() + $1 * interval '1 millisecond'
    FROM due WHERE s.tenant_id = due.tenant_id AND s.saga_id = due.saga_id
    RETURNING s.tenant_id AS tenant, s.saga_id AS "sagaId", s.order_id AS "orderId", s.definition, s.version, s.step,
      s.data, s.attempts, s.round, s.epoch, coalesce(s.deadline_at <= now(), false) AS "isLate"`,
};

/**
 * Sagas are locked before their orders, by whoever changes both. The epoch is the fence: it is compared on the locked
 * row, so that a worker that was paused past its lease changes neither the saga nor the order. So is the order's version
 * that the statement saw when it began: an order that has changed since may have an event of a later transaction already,
 * and ours would come before it in the log.
 */
const move = {
  name: 'order-sagas-move',
  text: `
    WITH wanted AS (
      SELECT * FROM unnest($2::uuid[], $4::bigint[], $5::text[], $6::jsonb[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::int[], $12::bigint[], $13::jsonb[])
        AS w(saga_id, epoch, entry, data, from_status, to_status, step, state, attempts, wait_ms, result)
    ), fenced AS MATERIALIZED (
      SELECT w.*, s.order_id, o.version AS order_version
      FROM orders.sagas s
      JOIN wanted w ON w.saga_id = s.saga_id AND w.epoch = s.epoch
      JOIN orders.orders o ON o.tenant_id = s.tenant_id AND o.order_id = s.order_id
      WHERE s.tenant_id = $1 AND s.saga_id = ANY ($2::uuid[]) AND s.state = 'running'
        AND o.tenant_id = $1 AND o.order_id = ANY ($3::uuid[])
      ORDER BY s.saga_id FOR NO KEY UPDATE OF s
    ), locked AS MATERIALIZED (
      SELECT f.* FROM orders.orders o JOIN fenced f ON f.order_id = o.order_id
      WHERE o.tenant_id = $1 AND o.order_id = ANY ($3::uuid[]) AND f.entry IS NOT NULL
        AND o.version = f.order_version AND (f.from_status IS NULL OR o.status = f.from_status)
      ORDER BY o.order_id FOR NO KEY UPDATE OF o
    ), changed AS (
      UPDATE orders.orders o SET status = coalesce(f.to_status, o.status), version = o.version + 1,
        updated_at = greatest(o.updated_at, now())
      FROM locked f
      WHERE o.tenant_id = $1 AND o.order_id = ANY ($3::uuid[]) AND o.order_id = f.order_id
      RETURNING o.order_id, o.version, o.reservation_id, o.status, o.updated_at, f.saga_id, f.entry, f.data
    ), announced AS (
      INSERT INTO orders.events (tenant_id, order_id, version, reservation_id, type, status, data, at)
      SELECT $1, order_id, version, reservation_id, entry, status, data, updated_at FROM changed
    )
    UPDATE orders.sagas s SET step = f.step, state = f.state, attempts = f.attempts, result = f.result,
      -- What stands for the means of payment is needed for nothing else.
      data = CASE WHEN f.step = 'authorise' AND f.state = 'running' THEN s.data ELSE s.data - 'token' END,
      due_at = CASE WHEN f.wait_ms > 0 THEN now() + f.wait_ms * interval '1 millisecond' ELSE s.due_at END,
      lease_until = CASE WHEN f.state = 'running' AND f.wait_ms = 0 THEN s.lease_until ELSE '-infinity' END,
      updated_at = now()
    FROM fenced f
    WHERE s.tenant_id = $1 AND s.saga_id = ANY ($2::uuid[]) AND s.saga_id = f.saga_id
      AND (f.entry IS NULL OR EXISTS (SELECT FROM changed c WHERE c.saga_id = f.saga_id))
    RETURNING s.saga_id`,
};

const start = {
  name: 'order-sagas-start',
  text: `
    INSERT INTO orders.sagas (tenant_id, saga_id, order_id, definition, version, step, data)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`,
};

const find = {
  name: 'order-sagas-find',
  text: `
    SELECT order_id AS "orderId", definition, data, state, result FROM orders.sagas
    WHERE tenant_id = $1 AND saga_id = $2`,
};

const parked = {
  name: 'order-sagas-parked',
  text: `
    SELECT saga_id, order_id, definition AS saga, step, attempts, result, created_at, updated_at FROM orders.sagas
    WHERE tenant_id = $1 AND (state = 'parked' OR state = 'running' AND attempts >= 20) AND saga_id > coalesce($2::uuid, '00000000-0000-0000-0000-000000000000')
    ORDER BY saga_id LIMIT $3`,
};

/**
 * A new round is a new operation: what was refused for good stays refused under its old name. What is not decided keeps
 * its name, or it would be done twice.
 */
const retry = {
  name: 'order-sagas-retry',
  text: `
    UPDATE orders.sagas SET state = 'running', round = round + (state = 'parked')::int, attempts = 0, epoch = epoch + 1, due_at = now(),
      lease_until = '-infinity', updated_at = now()
    WHERE tenant_id = $1 AND saga_id = $2 AND (state = 'parked' OR state = 'running' AND attempts >= 20) RETURNING 1`,
};

/** Not what is still being tried: the money may be moved after all. */
const close = {
  name: 'order-sagas-close',
  text: `
    UPDATE orders.sagas SET state = 'ended', epoch = epoch + 1, data = data - 'token', updated_at = now(),
      result = result || jsonb_build_object('resolved', $3::text)
    WHERE tenant_id = $1 AND saga_id = $2 AND state = 'parked' RETURNING 1`,
};
