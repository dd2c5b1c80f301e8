import type { MigrationInterface, QueryRunner } from 'typeorm';
import { begin } from './1-payments.js';

/**
 * Replaces the function by today's version. Before, a capture of the whole rest that had to wait reserved its amount, found
 * nothing left when its turn came, and was reported as done. The reserved amount was then available to neither captures nor
 * reversals: it is recomputed from the operations in progress.
 */
export class NothingAside1764000000050 implements MigrationInterface {
  readonly name = 'NothingAside1764000000050';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(begin);
    // A separate statement, so that the sums below are computed after concurrent writers have released the rows.
    const held = (await runner.query(`
      SELECT tenant_id, order_id FROM payment.payments WHERE capturing_minor > 0
      ORDER BY tenant_id, order_id FOR NO KEY UPDATE`)) as { tenant_id: string; order_id: string }[];
    await runner.query(
      `UPDATE payment.payments p SET capturing_minor = (
        SELECT coalesce(sum(o.amount_minor), 0) FROM payment.operations o
        WHERE o.tenant_id = p.tenant_id AND o.order_id = p.order_id AND o.kind = 'capture' AND o.state = 'open'
      )
      FROM unnest($1::text[], $2::uuid[]) AS held(tenant_id, order_id)
      WHERE p.tenant_id = held.tenant_id AND p.order_id = held.order_id`,
      [held.map((it) => it.tenant_id), held.map((it) => it.order_id)],
    );
  }

  /** The previous version works with it as well. */
  async down(): Promise<void> {}
}
