import type { MigrationInterface, QueryRunner } from 'typeorm';
import { reserve, settle } from './1-products-and-stock.js';

/**
 * Replaces the functions by today's versions. Before, decisions shifted from one reservation to the next if an old refusal
 * was deleted just as it was repeated, and confirmations of stock that was still prepared were lost.
 */
export class DecidedAnew1764000000045 implements MigrationInterface {
  readonly name = 'DecidedAnew1764000000045';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(reserve);
    await runner.query(settle);
  }

  /** The previous version works with them as well. */
  async down(): Promise<void> {}
}
