import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The log of each tenant by itself: to find the few events of one among those of all others, all of them were read. */
export class EventsByTenant1764000000050 implements MigrationInterface {
  readonly name = 'EventsByTenant1764000000050';
  /** Orders go on while it is made. */
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
