import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Decisions and settlements wait less long for a lock than other statements, because they hold the locks of other products
 * meanwhile. But longer than `deadlock_timeout`, so that a deadlock is still reported as such.
 */
export class LockedRows1764000000054 implements MigrationInterface {
  readonly name = 'LockedRows1764000000054';

  async up(runner: QueryRunner): Promise<void> {
    for (const name of ['reserve', 'hold', 'settle'])
      await runner.query(`ALTER FUNCTION inventory.${name} SET lock_timeout = '2s'`);
    await runner.query(lockedRows);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP FUNCTION inventory.locked_rows`);
    for (const name of ['settle', 'hold', 'reserve'])
      await runner.query(`ALTER FUNCTION inventory.${name} RESET lock_timeout`);
  }
}

/**
 * Names those of the products and reservations that somebody keeps locked, without waiting for them.
 *
 * A hot product is locked nearly always, but never for long, and a decision that waits for a locked product holds those before
 * it. So a row is named only if its holder is seen to keep it: a session that has been idle in its transaction for 2 seconds
 * or began it 10 seconds ago, or a transaction that was prepared 2 seconds ago. How long it has had the row is not known: of its
 * age, it may have spent most in the queue for the row. A session of another role is taken to keep the row if this role may not
 * see what it does. The row names its holder (`xmax`), or the list of those that share it; no system column tells which of the
 * two it is, and a list may have the number of a transaction. So only transactions that have locked or changed rows of the table
 * count. If the row was locked in a subtransaction that has ended, as by `hold`, it is not named.
 *
 * A reservation that a transaction in progress has inserted is invisible, but an insert of the same id has to wait. If the
 * whole table is locked, as while an index is created, no single reservation is, and this fails.
 */
const lockedRows = `
  CREATE FUNCTION inventory.locked_rows(
    p_tenant text, p_products text[], p_reservations uuid[], OUT products text[], OUT reservations uuid[]
  ) LANGUAGE plpgsql SET enable_seqscan = off SET lock_timeout = '20ms' AS $$
  DECLARE
    free text[];
    id uuid;
    keepers xid[];
    busy record;
    is_kept boolean;
  BEGIN
    reservations := '{}';
    products := '{}';
    IF p_reservations <> '{}' THEN LOCK TABLE inventory.reservations IN ROW EXCLUSIVE MODE; END IF;
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

    free := ARRAY(
      SELECT p.product_id FROM inventory.products p
      WHERE p.tenant_id = p_tenant AND p.product_id = ANY (p_products) FOR NO KEY UPDATE SKIP LOCKED);
    IF cardinality(free) = cardinality(p_products) THEN RETURN; END IF;

    -- A row may be locked by a subtransaction in progress; only the transaction itself is listed as prepared.
    keepers := ARRAY(
      SELECT unnest(array_agg(l.transactionid) FILTER (WHERE l.transactionid IS NOT NULL))
      FROM pg_locks l
      LEFT JOIN pg_stat_activity a ON a.pid = l.pid
      LEFT JOIN pg_prepared_xacts x ON x.transaction = l.transactionid
      WHERE l.granted
      GROUP BY l.virtualtransaction
      HAVING bool_or(l.relation = 'inventory.products'::regclass AND l.mode <> 'AccessShareLock')
        AND bool_or(CASE
          WHEN a.pid IS NULL THEN x.prepared < now() - interval '2 seconds'
          WHEN a.state IS NULL THEN true
          WHEN a.state <> 'active' AND a.state_change < now() - interval '2 seconds' THEN a.xact_start IS NOT NULL
          ELSE a.xact_start < now() - interval '10 seconds' END));
    IF keepers = '{}' THEN RETURN; END IF;

    FOR busy IN
      SELECT p.product_id, p.xmax AS holder FROM inventory.products p
      WHERE p.tenant_id = p_tenant AND p.product_id = ANY (p_products) AND NOT p.product_id = ANY (free)
    LOOP
      is_kept := busy.holder = ANY (keepers);
      BEGIN
        -- A key share is not in the way.
        is_kept := is_kept OR EXISTS (
          SELECT FROM pg_get_multixact_members(busy.holder) m WHERE m.mode <> 'keysh' AND m.xid = ANY (keepers));
      EXCEPTION WHEN internal_error OR invalid_parameter_value OR data_corrupted THEN
        NULL; -- There is no such list.
      END;
      IF is_kept THEN products := products || busy.product_id; END IF;
    END LOOP;
  END $$`;
