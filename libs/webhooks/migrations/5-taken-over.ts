import type { MigrationInterface, QueryRunner } from 'typeorm';
import { partFunctions } from '#events';

/**
 * The functions as they are made today, where they were made before: parts whose reader was gone were not taken over for as
 * long as the clock of the database had been set back since, and two readers who moved the same parts could deadlock.
 */
export class TakenOver1764000000049 implements MigrationInterface {
  readonly name = 'TakenOver1764000000049';

  async up(runner: QueryRunner): Promise<void> {
    for (const statement of partFunctions('webhooks')) await runner.query(statement);
  }

  /** The version before works with them as well. */
  async down(): Promise<void> {}
}
