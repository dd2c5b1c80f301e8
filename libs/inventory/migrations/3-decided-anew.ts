import type { MigrationInterface, QueryRunner } from 'typeorm';
import { reserve, settle } from './1-products-and-stock.js';

/**
 * The functions as they are made today, where they were made before: decisions shifted from one reservation to the next
 * when an old refusal was forgotten at the moment it was repeated, and confirmations of what was still prepared were lost.
 */
export class DecidedAnew1764000000045 implements MigrationInterface {
  readonly name = 'DecidedAnew1764000000045';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(reserve);
    await runner.query(settle);
  }

  /** The version before works with them as well. */
  async down(): Promise<void> {}
}
