import type { MigrationInterface, QueryRunner } from 'typeorm';
import { partFunctions } from '#events';

/**
 * Replaces the functions by today's versions. Before, the parts of a reader that was gone were not taken over for as long as
 * the clock of the database had been set back, and two readers that moved the same parts could deadlock.
 */
export class TakenOver1764000000049 implements MigrationInterface {
  readonly name = 'TakenOver1764000000049';

  async up(runner: QueryRunner): Promise<void> {
    for (const statement of partFunctions('webhooks')) await runner.query(statement);
  }

  /** The previous version works with them as well. */
  async down(): Promise<void> {}
}
