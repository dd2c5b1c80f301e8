import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The encrypted personal data of orders, and the wrapped data keys of customers. */
export class PersonalData1764000000035 implements MigrationInterface {
  readonly name = 'PersonalData1764000000035';

  async up(runner: QueryRunner): Promise<void> {
    // Erasing a customer deletes their row: nothing else can decrypt what was encrypted with the key.
    await runner.query(`
      CREATE TABLE orders.customer_keys (
        tenant_id text COLLATE "C" NOT NULL,
        customer_id text COLLATE "C" NOT NULL,
        key_id uuid NOT NULL,
        -- The master key that encrypts this key; master keys are not in the database.
        master_id text COLLATE "C" NOT NULL,
        wrapped bytea NOT NULL,
        made_at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, customer_id)
      )`);
    await runner.query(`CREATE UNIQUE INDEX customer_keys_by_id ON orders.customer_keys (tenant_id, key_id)`);
    await runner.query(`
      CREATE INDEX customer_keys_by_master ON orders.customer_keys (master_id, tenant_id, customer_id)`);
    // Null without personal data, which takes no space in a row.
    await runner.query(`ALTER TABLE orders.orders ADD personal_key uuid, ADD personal bytea`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE orders.orders DROP personal, DROP personal_key`);
    await runner.query(`DROP TABLE orders.customer_keys`);
  }
}
