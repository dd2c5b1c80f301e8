import { Injectable } from '@nestjs/common';
import { InjectSql, Sql } from '#database';
import type { Saga, SagaMove } from '../domain/saga-moves.js';
import { longestWaitMs } from '../domain/sagas.js';
import type { MoneyMoves, StartedMove } from '../use-cases/move-money.js';
import type { SagaStates } from '../use-cases/observe-sagas.js';
import type { DeadLetter, ParkedSagas } from '../use-cases/resolve-dead-letters.js';
import { longestLeaseMs, type Sagas } from '../use-cases/run-sagas.js';

/** Sagas in Postgres, beside the orders that they change. */
@Injectable()
export class PostgresSagas implements Sagas, MoneyMoves, ParkedSagas, SagaStates {
  constructor(@InjectSql('order') private readonly sql: Sql) {}

  claim(...[leaseMs, limit, known, exceptOf]: Parameters<Sagas['claim']>): Promise<Saga[]> {
    const [names, versions] = [known.map((it) => it.definition), known.map((it) => it.version)];
    return this.sql.query<Saga>(claim, [leaseMs, limit, names, versions, exceptOf]);
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

  async untoldCaptures(tenant: string, orderIds: readonly string[]): Promise<ReadonlySet<string>> {
    const rows = await this.sql.query<{ order_id: string }>(untoldCaptures, [tenant, orderIds]);
    return new Set(rows.map((row) => row.order_id));
  }

  async capturing(tenant: string, orderIds: readonly string[]): Promise<ReadonlySet<string>> {
    const rows = await this.sql.query<{ order_id: string }>(capturing, [tenant, orderIds]);
    return new Set(rows.map((row) => row.order_id));
  }

  async start(tenant: string, started: StartedMove, ifVersions?: readonly number[]): Promise<boolean> {
    const { sagaId, orderId, definition, version, step, data } = started;
    const values = [tenant, sagaId, orderId, definition, version, step, JSON.stringify(data), ifVersions ?? null];
    return (await this.sql.query(start, values)).length > 0;
  }

  async find(tenant: string, sagaId: string): ReturnType<MoneyMoves['find']> {
    type Found = NonNullable<Awaited<ReturnType<MoneyMoves['find']>>>;
    // The caller who asked for the money is told, so it must not be lost.
    const [row] = await this.sql.readSafely(
      (sql) => sql.query<Found>(find, [tenant, sagaId]),
      (rows) => rows.length > 0,
    );
    return row;
  }

  async states(): ReturnType<SagaStates['states']> {
    const [row] = await this.sql.query<Awaited<ReturnType<SagaStates['states']>>>(states, [countedAtMost]);
    return row!;
  }

  parked(tenant: string, after: string | undefined, limit: number): Promise<DeadLetter[]> {
    return this.sql.query<DeadLetter>(parked, [tenant, after ?? null, limit]);
  }

  async retry(tenant: string, sagaId: string): Promise<boolean> {
    return (await this.sql.query(retry, [tenant, sagaId])).length > 0;
  }

  async isRunning(tenant: string, sagaId: string): Promise<boolean> {
    return (await this.find(tenant, sagaId))?.state === 'running';
  }

  async close(tenant: string, sagaId: string, note: string): Promise<boolean> {
    return (await this.sql.query(close, [tenant, sagaId, note])).length > 0;
  }
}

/**
 * A saga that waits longer than any step can, or is leased for longer than any process can lease, dates from before the
 * clock was set back. Compared with the longest possible lease, because other processes may have longer ones than this.
 */
const claim = {
  name: 'order-sagas-claim',
  text: `
    WITH left_behind AS MATERIALIZED (
      SELECT tenant_id, saga_id FROM orders.sagas
      WHERE state = 'running' AND due_at > now() + interval '${2 * longestWaitMs} ms'
      LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
    ), brought_along AS (
      UPDATE orders.sagas s SET due_at = now()
      FROM left_behind l WHERE s.tenant_id = l.tenant_id AND s.saga_id = l.saga_id
    ), due AS MATERIALIZED (
      SELECT tenant_id, saga_id FROM orders.sagas
      WHERE state = 'running' AND due_at <= now()
        AND (lease_until <= now() OR lease_until > now() + interval '${2 * longestLeaseMs} ms')
        AND ((definition, version) IN (SELECT * FROM unnest($3::text[], $4::int[]))
          OR due_at <= now() - interval '1 minute')
        AND tenant_id <> ALL ($5::text[])
      ORDER BY due_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE orders.sagas s SET epoch = s.epoch + 1, lease_until = now() + $1 * interval '1 millisecond'
    FROM due WHERE s.tenant_id = due.tenant_id AND s.saga_id = due.saga_id
    RETURNING s.tenant_id AS tenant, s.saga_id AS "sagaId", s.order_id AS "orderId", s.definition, s.version, s.step,
      s.data, s.attempts, s.round, s.epoch, coalesce(s.deadline_at <= now(), false) AS "isLate"`,
};

const move = {
  name: 'order-sagas-move',
  text: 'SELECT orders.move_sagas($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) AS saga_id',
};

const untoldCaptures = {
  name: 'order-sagas-untold-captures',
  text: `
    SELECT order_id FROM orders.events
    WHERE tenant_id = $1 AND order_id = ANY ($2::uuid[])
      AND type IN ('payment-authorised', 'payment-captured', 'payment-failed')
    GROUP BY order_id HAVING bool_and(type = 'payment-authorised')`,
};

/** Read from the index of running sagas: one by order would be as large as the orders. */
const capturing = {
  name: 'order-sagas-capturing',
  text: `
    SELECT order_id FROM orders.sagas
    WHERE state = 'running' AND tenant_id = $1 AND definition = 'capture' AND order_id = ANY ($2::uuid[])`,
};

/**
 * Conditional moves run one after another: the purchase names the last one, and a statement that had to wait for its row
 * finds another name there than in its own snapshot.
 */
const start = {
  name: 'order-sagas-start',
  text: `
    WITH next AS (
      UPDATE orders.sagas p SET data = jsonb_set(p.data, '{moving}', to_jsonb($2::uuid))
      WHERE $8::bigint[] IS NOT NULL AND p.tenant_id = $1 AND p.saga_id = $3
        AND p.data->>'moving' IS NOT DISTINCT FROM (
          SELECT s.data->>'moving' FROM orders.sagas s WHERE s.tenant_id = $1 AND s.saga_id = $3)
        AND NOT EXISTS (
          SELECT FROM orders.sagas m
          WHERE m.tenant_id = $1 AND m.saga_id = (p.data->>'moving')::uuid AND m.state <> 'ended')
        AND EXISTS (
          SELECT FROM orders.orders o WHERE o.tenant_id = $1 AND o.order_id = $3 AND o.version = ANY ($8))
      RETURNING 1
    )
    INSERT INTO orders.sagas (tenant_id, saga_id, order_id, definition, version, step, data)
    SELECT $1, $2, $3, $4, $5, $6, $7 WHERE $8 IS NULL OR EXISTS (SELECT FROM next)
    ON CONFLICT DO NOTHING RETURNING 1`,
};

const find = {
  name: 'order-sagas-find',
  text: `
    SELECT order_id AS "orderId", definition, data, state, result FROM orders.sagas
    WHERE tenant_id = $1 AND saga_id = $2`,
};

/** Sagas that do not end by themselves, as in the index sagas_parked. */
const forAPerson = `(state = 'parked' OR state = 'running' AND attempts >= 20)`;

const parked = {
  name: 'order-sagas-parked',
  text: `
    SELECT saga_id, order_id, definition AS saga, step, attempts, result, created_at, updated_at FROM orders.sagas
    WHERE tenant_id = $1 AND ${forAPerson} AND saga_id > coalesce($2::uuid, '00000000-0000-0000-0000-000000000000')
    ORDER BY saga_id LIMIT $3`,
};

const countedAtMost = 10_000;

/** Each count reads its own index, no further than to the bound. */
const states = {
  name: 'order-sagas-states',
  text: `
    SELECT
      (SELECT count(*) FROM (SELECT FROM orders.sagas WHERE state = 'running' LIMIT $1) s) AS running,
      (SELECT count(*) FROM (
        SELECT FROM orders.sagas WHERE ${forAPerson} AND state = 'running' LIMIT $1) s) AS stuck,
      (SELECT count(*) FROM (
        SELECT FROM orders.sagas WHERE ${forAPerson} AND state = 'parked' LIMIT $1) s) AS parked,
      coalesce((
        SELECT extract(epoch FROM now() - due_at) FROM orders.sagas
        WHERE state = 'running' AND due_at <= now() AND lease_until <= now() ORDER BY due_at LIMIT 1
      ), 0)::float AS overdue`,
};

/**
 * A new round is a new operation: what was refused for good stays refused under its old id. A saga that is not decided keeps
 * its id, or the operation would be done twice.
 */
const retry = {
  name: 'order-sagas-retry',
  text: `
    UPDATE orders.sagas SET state = 'running', round = round + (state = 'parked')::int, attempts = 0, epoch = epoch + 1, due_at = now(),
      lease_until = '-infinity', updated_at = now()
    WHERE tenant_id = $1 AND saga_id = $2 AND ${forAPerson} RETURNING 1`,
};

/** Not for a saga that is still being tried: the money may be moved after all. */
const close = {
  name: 'order-sagas-close',
  text: `
    UPDATE orders.sagas SET state = 'ended', epoch = epoch + 1, data = data - 'token', updated_at = now(),
      result = result || jsonb_build_object('resolved', $3::text)
    WHERE tenant_id = $1 AND saga_id = $2 AND state = 'parked' RETURNING 1`,
};
