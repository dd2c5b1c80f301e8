import type { MigrationInterface, QueryRunner } from 'typeorm';

/** How many requests an entry stands for: repeated refusals of a caller share one. */
export class CountedRefusals1764000000039 implements MigrationInterface {
  readonly name = 'CountedRefusals1764000000039';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE access.audit ADD COLUMN requests int NOT NULL DEFAULT 1`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE access.audit DROP COLUMN requests`);
  }
}
