import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Decisions wait less long for a lock than other statements, because they hold the locks of other products meanwhile. But
 * longer than `deadlock_timeout`, so that a deadlock is still reported as such.
 */
export class LockedRows1764000000054 implements MigrationInterface {
  readonly name = 'LockedRows1764000000054';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER FUNCTION inventory.reserve SET lock_timeout = '2s'`);
    await runner.query(`ALTER FUNCTION inventory.hold SET lock_timeout = '2s'`);
    await runner.query(lockedRows);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP FUNCTION inventory.locked_rows`);
    await runner.query(`ALTER FUNCTION inventory.hold RESET lock_timeout`);
    await runner.query(`ALTER FUNCTION inventory.reserve RESET lock_timeout`);
  }
}

/**
 * Names those of the products and reservations that somebody keeps locked, without waiting for them.
 *
 * A hot product is locked nearly always, but never for long, and a decision that waits for a locked product holds those before
 * it. Such rows are not kept: their holder began within the last second, or waits for a lock itself and will give up soon. The
 * row names its holder (`xmax`), unless several share it. When another role's transaction began is not visible to everyone;
 * then it counts as long ago. The row, its holder and its session are not read at the same moment, so they are read twice: only
 * a row that has the same holder both times is named.
 *
 * A reservation that a transaction in progress has inserted is invisible, but an insert of the same id has to wait.
 */
const lockedRows = `
  CREATE FUNCTION inventory.locked_rows(
    p_tenant text, p_products text[], p_reservations uuid[], OUT products text[], OUT reservations uuid[]
  ) LANGUAGE plpgsql SET enable_seqscan = off SET lock_timeout = '20ms' AS $$
  DECLARE
    free text[];
    holders text[];
    id uuid;
  BEGIN
    reservations := '{}';
    FOREACH id IN ARRAY p_reservations LOOP
      BEGIN
        INSERT INTO inventory.reservations (tenant_id, reservation_id, state, held, deadline_at)
        VALUES (p_tenant, id, 'released', '{}', now());
        RAISE EXCEPTION 'it is free' USING ERRCODE = 'CL003';
      EXCEPTION
        WHEN lock_not_available THEN reservations := reservations || id;
        WHEN unique_violation OR SQLSTATE 'CL003' THEN NULL;
      END;
    END LOOP;

    products := p_products;
    FOR round IN 1..2 LOOP
      PERFORM pg_stat_clear_snapshot();
      free := ARRAY(
        SELECT p.product_id FROM inventory.products p
        WHERE p.tenant_id = p_tenant AND p.product_id = ANY (products) FOR NO KEY UPDATE SKIP LOCKED);
      SELECT coalesce(array_agg(p.product_id), '{}'), coalesce(array_agg(p.product_id || ' ' || p.xmax), '{}')
      INTO products, holders
      FROM inventory.products p
      WHERE p.tenant_id = p_tenant AND p.product_id = ANY (products) AND NOT p.product_id = ANY (free)
        AND (round = 1 OR p.product_id || ' ' || p.xmax = ANY (holders))
        AND NOT EXISTS (
          SELECT FROM pg_locks h
          -- A row may be locked by a subtransaction; only the transaction itself is listed as prepared.
          JOIN pg_locks t ON t.virtualtransaction = h.virtualtransaction AND t.locktype = 'transactionid' AND t.granted
          LEFT JOIN pg_stat_activity a ON a.pid = h.pid
          LEFT JOIN pg_prepared_xacts x ON x.transaction = t.transactionid
          WHERE h.locktype = 'transactionid' AND h.granted AND h.transactionid = p.xmax
            AND coalesce(a.xact_start, x.prepared) > now() - CASE
              WHEN EXISTS (SELECT FROM pg_locks w WHERE w.pid = h.pid AND NOT w.granted) THEN interval '5 seconds'
              ELSE interval '1 second' END);
    END LOOP;
  END $$`;
