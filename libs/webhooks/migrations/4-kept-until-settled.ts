import type { MigrationInterface, QueryRunner } from 'typeorm';
import { acceptEvents, forgetDeliveries } from './1-webhooks.js';

/**
 * The functions as they are made today, where they were made before: a message could be forgotten at the moment it was
 * accepted again, and its new deliveries stayed behind; deliveries were forgotten that were still to be sent, and an
 * attempt that was noted at that moment stayed behind.
 */
export class KeptUntilSettled1764000000046 implements MigrationInterface {
  readonly name = 'KeptUntilSettled1764000000046';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(acceptEvents);
    await runner.query(forgetDeliveries);
  }

  /** The version before works with them as well. */
  async down(): Promise<void> {}
}
