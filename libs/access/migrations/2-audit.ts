import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The audit log: who did what. Rows are only ever added. */
export class Audit1764000000035 implements MigrationInterface {
  readonly name = 'Audit1764000000035';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE access.audit (
        entry_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        tenant_id text COLLATE "C" NOT NULL,
        at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
        account_id text COLLATE "C" NOT NULL,
        key_id uuid,
        is_operator boolean NOT NULL,
        operation text COLLATE "C" NOT NULL,
        target text NOT NULL,
        request_id text NOT NULL,
        status int
      )`);
    await runner.query(`CREATE INDEX audit_by_tenant ON access.audit (tenant_id, entry_id)`);
    await runner.query(refuseChange);
    await runner.query(`
      CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON access.audit
      FOR EACH STATEMENT EXECUTE FUNCTION access.refuse_change()`);
    // It also fires for the owner, and in sessions that disable triggers, as replication does.
    await runner.query(`ALTER TABLE access.audit ENABLE ALWAYS TRIGGER audit_is_kept`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE access.audit`);
    await runner.query(`DROP FUNCTION access.refuse_change`);
  }
}

const refuseChange = `
  CREATE FUNCTION access.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    RAISE EXCEPTION 'what is in %.% is neither changed nor removed', TG_TABLE_SCHEMA, TG_TABLE_NAME
      USING ERRCODE = 'insufficient_privilege';
  END $$`;
