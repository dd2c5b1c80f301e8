import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Which keys have replaced each other, so that they count as one: the family of a key is the id of the first key in its
 * chain of rotations, and null for that key itself.
 */
export class KeyFamilies1764000000037 implements MigrationInterface {
  readonly name = 'KeyFamilies1764000000037';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE access.keys ADD COLUMN family_id uuid`);
    await runner.query(`
      WITH RECURSIVE line AS (
        SELECT k.key_id, k.rotated_to, k.key_id AS family_id FROM access.keys k
        WHERE k.rotated_to IS NOT NULL AND NOT EXISTS (SELECT FROM access.keys b WHERE b.rotated_to = k.key_id)
        UNION ALL
        SELECT k.key_id, k.rotated_to, l.family_id FROM line l JOIN access.keys k ON k.key_id = l.rotated_to
      )
      UPDATE access.keys k SET family_id = l.family_id FROM line l WHERE l.key_id = k.key_id AND k.key_id <> l.family_id`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE access.keys DROP COLUMN family_id`);
  }
}
