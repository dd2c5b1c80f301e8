import type { MigrationInterface, QueryRunner } from 'typeorm';
import { partFunctions } from '#events';

/**
 * Updates the functions of existing databases. Before, the parts of a lost reader were not taken over for as long as the
 * clock of the database had been set back, and two readers that moved the same parts could deadlock.
 */
export class TakenOver1764000000048 implements MigrationInterface {
  readonly name = 'TakenOver1764000000048';

  async up(runner: QueryRunner): Promise<void> {
    for (const statement of partFunctions('sales')) await runner.query(statement);
  }

  /** The previous version works with these functions as well. */
  async down(): Promise<void> {}
}
