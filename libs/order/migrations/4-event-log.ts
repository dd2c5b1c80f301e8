import type { MigrationInterface, QueryRunner } from 'typeorm';
import { checkpointTables } from '#events';
import { moveSagas } from './2-sagas.js';

/** The log of orders gets many readers, each of which reads it in parts, and its events carry the trace of their request. */
export class EventLog1764000000006 implements MigrationInterface {
  readonly name = 'EventLog1764000000006';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE orders.checkpoints RENAME TO whole_checkpoints`);
    for (const statement of checkpointTables('orders')) await runner.query(statement);
    await runner.query(`
      INSERT INTO orders.checkpoints (consumer, part, position)
      SELECT consumer, part, lpad(xid::text, 20, '0') || '-' || lpad(id::text, 19, '0')
      FROM orders.whole_checkpoints, generate_series(0, 7) AS part`);
    await runner.query(`DROP TABLE orders.whole_checkpoints`);
    await runner.query(`ALTER TABLE orders.events ADD traceparent text COLLATE "C"`);
    await runner.query(moveTracedSagas);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP FUNCTION orders.move_sagas`);
    await runner.query(moveSagas);
    await runner.query(`ALTER TABLE orders.events DROP traceparent`);
    await runner.query(`ALTER TABLE orders.checkpoints RENAME TO part_checkpoints`);
    await runner.query(`
      CREATE TABLE orders.checkpoints (
        consumer text COLLATE "C" PRIMARY KEY,
        xid xid8 NOT NULL DEFAULT '0',
        id bigint NOT NULL DEFAULT 0,
        holder uuid,
        lease_until timestamptz NOT NULL DEFAULT '-infinity',
        epoch bigint NOT NULL DEFAULT 0
      )`);
    // Starts at the lowest position of the parts: inventory recognises events that it has seen already.
    await runner.query(`
      INSERT INTO orders.checkpoints (consumer, xid, id)
      SELECT consumer, (split_part(min(position), '-', 1)::numeric)::text::xid8, split_part(min(position), '-', 2)::bigint
      FROM orders.part_checkpoints WHERE consumer = 'stock' GROUP BY consumer`);
    await runner.query(`DROP FUNCTION orders.acquire_parts`);
    await runner.query(`DROP FUNCTION orders.advance_parts`);
    await runner.query(`DROP TABLE orders.part_checkpoints, orders.readers`);
  }
}

/** As before, but with the trace. */
const moveTracedSagas = `
  CREATE OR REPLACE FUNCTION orders.move_sagas(
    p_tenant text, p_sagas uuid[], p_orders uuid[], p_epochs bigint[],
    -- The history entry of the order (null: none), the status it requires (null: any) and the status it leads to.
    p_entries text[], p_data jsonb[], p_from text[], p_to text[],
    p_steps text[], p_states text[], p_attempts int[], p_waits bigint[], p_results jsonb[]
  ) RETURNS SETOF uuid LANGUAGE plpgsql SET enable_nestloop = off SET enable_seqscan = off AS $$
  BEGIN
    RETURN QUERY
    WITH wanted AS (
      SELECT * FROM unnest(p_sagas, p_epochs, p_entries, p_data, p_from, p_to, p_steps,
        p_states, p_attempts, p_waits, p_results)
        AS w(saga_id, epoch, entry, data, from_status, to_status, step, state, attempts, wait_ms, result)
    ), fenced AS MATERIALIZED (
      SELECT w.*, s.order_id, o.version AS order_version, s.data->>'traceparent' AS traceparent
      FROM orders.sagas s
      JOIN wanted w ON w.saga_id = s.saga_id AND w.epoch = s.epoch
      JOIN orders.orders o ON o.tenant_id = s.tenant_id AND o.order_id = s.order_id
      WHERE s.tenant_id = p_tenant AND s.saga_id = ANY (p_sagas) AND s.state = 'running'
        AND o.tenant_id = p_tenant AND o.order_id = ANY (p_orders)
      ORDER BY s.saga_id FOR NO KEY UPDATE OF s
    ), locked AS MATERIALIZED (
      SELECT f.* FROM orders.orders o JOIN fenced f ON f.order_id = o.order_id
      WHERE o.tenant_id = p_tenant AND o.order_id = ANY (p_orders) AND f.entry IS NOT NULL
        AND o.version = f.order_version AND (f.from_status IS NULL OR o.status = f.from_status)
      ORDER BY o.order_id FOR NO KEY UPDATE OF o
    ), changed AS (
      UPDATE orders.orders o SET status = coalesce(f.to_status, o.status), version = o.version + 1,
        updated_at = greatest(o.updated_at, now())
      FROM locked f
      WHERE o.tenant_id = p_tenant AND o.order_id = ANY (p_orders) AND o.order_id = f.order_id
      RETURNING o.order_id, o.version, o.reservation_id, o.status, o.updated_at, f.saga_id, f.entry, f.data, f.traceparent
    ), announced AS (
      INSERT INTO orders.events (tenant_id, order_id, version, reservation_id, type, status, data, at, traceparent)
      SELECT p_tenant, order_id, version, reservation_id, entry, status, data, updated_at, traceparent FROM changed
    )
    UPDATE orders.sagas s SET step = f.step, state = f.state, attempts = f.attempts, result = f.result,
      -- The payment token is needed for the authorisation only.
      data = CASE WHEN f.step = 'authorise' AND f.state = 'running' THEN s.data ELSE s.data - 'token' END,
      due_at = CASE WHEN f.wait_ms > 0 THEN now() + f.wait_ms * interval '1 millisecond' ELSE s.due_at END,
      lease_until = CASE WHEN f.state = 'running' AND f.wait_ms = 0 THEN s.lease_until ELSE '-infinity' END,
      updated_at = now()
    FROM fenced f
    WHERE s.tenant_id = p_tenant AND s.saga_id = ANY (p_sagas) AND s.saga_id = f.saga_id
      AND (f.entry IS NULL OR EXISTS (SELECT FROM changed c WHERE c.saga_id = f.saga_id))
    RETURNING s.saga_id;
  END $$`;
