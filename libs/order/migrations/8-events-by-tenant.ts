import type { MigrationInterface, QueryRunner } from 'typeorm';

/** An index of the log by tenant: without it, finding the few events of one tenant read those of all others. */
export class EventsByTenant1764000000050 implements MigrationInterface {
  readonly name = 'EventsByTenant1764000000050';
  /** Orders can be placed while the index is built. */
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`SET lock_timeout = 0`);
    const left = await runner.query(
      `SELECT FROM pg_index WHERE indexrelid = to_regclass('orders.events_by_tenant') AND NOT indisvalid`,
    );
    if (left.length > 0) await runner.query(`DROP INDEX CONCURRENTLY orders.events_by_tenant`);
    await runner.query(
      `CREATE INDEX CONCURRENTLY IF NOT EXISTS events_by_tenant ON orders.events (tenant_id, xid, id)`,
    );
    await runner.query(`RESET lock_timeout`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP INDEX CONCURRENTLY IF EXISTS orders.events_by_tenant`);
  }
}
