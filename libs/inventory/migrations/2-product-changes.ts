import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Changes that the cache has not been told of yet: noted in the transaction of the change, deleted once it was told. */
export class ProductChanges1764000000003 implements MigrationInterface {
  readonly name = 'ProductChanges1764000000003';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE inventory.product_changes (
        change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        tenant_id text COLLATE "C" NOT NULL,
        product_id text COLLATE "C" NOT NULL,
        noted_at timestamptz NOT NULL DEFAULT now()
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE inventory.product_changes`);
  }
}
