import type { MigrationInterface, QueryRunner } from 'typeorm';
import { begin } from './1-payments.js';

/**
 * The function as it is made today, where it was made before: a capture of all there is that had to wait set aside what it
 * would take, found nothing left when its turn came, and was told as done. What it set aside was there for neither a capture
 * nor a reversal from then on: it is counted anew, from what is under way.
 */
export class NothingAside1764000000050 implements MigrationInterface {
  readonly name = 'NothingAside1764000000050';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(begin);
    // A statement of its own: what is counted below has to be as it is once whoever had a payment is done with it.
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

  /** The version before works with it as well. */
  async down(): Promise<void> {}
}
