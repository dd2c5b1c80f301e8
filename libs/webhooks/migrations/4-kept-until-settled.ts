import type { MigrationInterface, QueryRunner } from 'typeorm';
import { acceptEvents, forgetDeliveries } from './1-webhooks.js';

/**
 * Replaces the functions by today's versions. Before, a message could be deleted just as it was accepted again, without its
 * new deliveries; deliveries that were still to be sent were deleted; and an attempt that was stored just then stayed
 * behind.
 */
export class KeptUntilSettled1764000000046 implements MigrationInterface {
  readonly name = 'KeptUntilSettled1764000000046';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(acceptEvents);
    await runner.query(forgetDeliveries);
  }

  /** The previous version works with them as well. */
  async down(): Promise<void> {}
}
