import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Leaves room for the confirmation of every hold in its page. A confirmed row is a few bytes longer than a held one, and all
 * holds of a page are usually confirmed at once, so the page must be filled to less than a half: at 60 %, a third of the
 * confirmations moved to another page and added an entry to the index, which is the largest of inventory.
 */
export class ConfirmedInPlace1764000000053 implements MigrationInterface {
  readonly name = 'ConfirmedInPlace1764000000053';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE inventory.reservations SET (fillfactor = 48)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE inventory.reservations SET (fillfactor = 60)`);
  }
}
