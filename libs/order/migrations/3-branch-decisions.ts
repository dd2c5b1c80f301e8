import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The decisions of two-phase commits: the first to insert the row of a branch decides. */
export class BranchDecisions1764000000005 implements MigrationInterface {
  readonly name = 'BranchDecisions1764000000005';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE orders.branch_decisions (
        branch_id uuid PRIMARY KEY,
        outcome text COLLATE "C" NOT NULL CHECK (outcome IN ('commit', 'abort')),
        decided_at timestamptz NOT NULL DEFAULT now()
      )`);
    await runner.query(`CREATE INDEX branch_decisions_by_age ON orders.branch_decisions (decided_at)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE orders.branch_decisions`);
  }
}
