import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Lets the log continue on a server that counts transactions anew, such as one that a dump was restored to. */
export class LogNumbers1764000000033 implements MigrationInterface {
  readonly name = 'LogNumbers1764000000033';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(logNumber);
    await runner.query(`ALTER TABLE orders.events ALTER xid SET DEFAULT orders.log_number(pg_current_xact_id())`);
    await runner.query(continueLog);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE orders.events ALTER xid SET DEFAULT pg_current_xact_id()`);
    await runner.query(`DROP FUNCTION orders.continue_log`);
    await runner.query(`DROP FUNCTION orders.log_number`);
  }
}

/** The number in the log of a transaction of this server. The function is inlined wherever it is called. */
const logNumber = `
  CREATE FUNCTION orders.log_number(transaction xid8) RETURNS xid8
  LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN transaction`;

/**
 * Raises all numbers from now on above all that were ever given out: those in the restored data, and, by a margin that no
 * server uses up, those of the original server until the dump and after it. So all readers of the log continue from where
 * they are.
 */
const continueLog = `
  CREATE FUNCTION orders.continue_log() RETURNS xid8 LANGUAGE plpgsql AS $$
  DECLARE
    newest numeric;
    shift numeric;
  BEGIN
    -- Concurrent writers have committed their events before this lock, or wait for it and then use the new numbers. Reads of
    -- the log continue.
    LOCK TABLE orders.events IN SHARE ROW EXCLUSIVE MODE;
    SELECT max(n) INTO newest FROM (
      SELECT orders.log_number(pg_snapshot_xmax(pg_current_snapshot()))::text::numeric AS n
      UNION ALL (SELECT xid::text::numeric FROM orders.events ORDER BY xid DESC, id DESC LIMIT 1)
      UNION ALL (SELECT split_part(position, '-', 1)::numeric FROM orders.checkpoints)
    ) known;
    -- The number must also exceed those issued after the backup, even if the same backup is restored twice. So it is at least
    -- the time in seconds times 2^22: no server commits four million transactions a second.
    newest := greatest(newest, floor(extract(epoch FROM clock_timestamp())) * 2::numeric ^ 22);
    shift := newest + 2::numeric ^ 40 - pg_snapshot_xmax(pg_current_snapshot())::text::numeric;
    EXECUTE format(
      'CREATE OR REPLACE FUNCTION orders.log_number(transaction xid8) RETURNS xid8 '
      'LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (transaction::text::bigint + %s)::text::xid8',
      trunc(shift)::bigint
    );
    RETURN trunc(newest + 2::numeric ^ 40)::bigint::text::xid8;
  END $$`;
