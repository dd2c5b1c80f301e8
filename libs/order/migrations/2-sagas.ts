import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The payment methods of orders, and the sagas that lead their payments. */
export class Sagas1764000000004 implements MigrationInterface {
  readonly name = 'Sagas1764000000004';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE orders.orders ADD payment_method text COLLATE "C"`);
    await runner.query(`
      CREATE TABLE orders.sagas (
        tenant_id text COLLATE "C" NOT NULL,
        -- For the purchase of an order, the id of the order.
        saga_id uuid NOT NULL,
        order_id uuid NOT NULL,
        -- A saga keeps its definition and version to the end, even if there is a newer version.
        definition text COLLATE "C" NOT NULL,
        version int NOT NULL,
        step text COLLATE "C" NOT NULL,
        state text COLLATE "C" NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'ended', 'parked')),
        data jsonb NOT NULL,
        -- What was moved, why nothing was moved, or what the saga is waiting for.
        result jsonb NOT NULL DEFAULT '{}',
        attempts int NOT NULL DEFAULT 0,
        round int NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL DEFAULT now(),
        deadline_at timestamptz,
        -- A fencing token: whoever takes over the saga raises it, and writes with an older one are refused.
        epoch bigint NOT NULL DEFAULT 0,
        lease_until timestamptz NOT NULL DEFAULT '-infinity',
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        updated_at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, saga_id)
      ) WITH (fillfactor = 60)`);
    await runner.query(`CREATE INDEX sagas_due ON orders.sagas (due_at) WHERE state = 'running'`);
    await runner.query(`CREATE INDEX sagas_parked ON orders.sagas (tenant_id, saga_id)
      WHERE state = 'parked' OR state = 'running' AND attempts >= 20`);
    await runner.query(moveSagas);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP FUNCTION orders.move_sagas`);
    await runner.query(`DROP TABLE orders.sagas`);
    await runner.query(`ALTER TABLE orders.orders DROP payment_method`);
  }
}

/**
 * Moves sagas, each together with its order or neither of them; at most one per order. As in inventory, arrays are joined by
 * hash and rows are fetched by `key = ANY (array)`, at any size of the tables.
 *
 * Every writer locks sagas before their orders. The epoch is the fence: it is compared on the locked row, so that a worker
 * that was paused beyond its lease changes neither the saga nor the order. The version of the order must also be the one in
 * the statement's snapshot: an order that has changed since may already have an event of a later transaction, and ours would
 * come before it in the log.
 */
export const moveSagas = `
  CREATE FUNCTION orders.move_sagas(
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
      SELECT w.*, s.order_id, o.version AS order_version
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
      RETURNING o.order_id, o.version, o.reservation_id, o.status, o.updated_at, f.saga_id, f.entry, f.data
    ), announced AS (
      INSERT INTO orders.events (tenant_id, order_id, version, reservation_id, type, status, data, at)
      SELECT p_tenant, order_id, version, reservation_id, entry, status, data, updated_at FROM changed
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
