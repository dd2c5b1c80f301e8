import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * API keys. Of their secrets, only hashes are stored. A key that was revoked or rotated stays, so that what it did can be
 * traced to it.
 */
export class Keys1764000000007 implements MigrationInterface {
  readonly name = 'Keys1764000000007';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(newId);
    await runner.query(`
      CREATE TABLE access.keys (
        tenant_id text COLLATE "C" NOT NULL,
        key_id uuid NOT NULL DEFAULT access.new_id(),
        account_id text COLLATE "C" NOT NULL,
        name text NOT NULL,
        scopes text[] COLLATE "C" NOT NULL,
        -- SHA-256 of the secret.
        secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        expires_at timestamptz(3),
        revoked_at timestamptz(3),
        rotated_to uuid,
        PRIMARY KEY (tenant_id, key_id)
      )`);
    // A request contains the key, but not the tenant.
    await runner.query(`CREATE UNIQUE INDEX keys_by_id ON access.keys (key_id)`);
    await runner.query(`CREATE TABLE access.settings (name text COLLATE "C" PRIMARY KEY, value text NOT NULL)`);
    await runner.query(
      `INSERT INTO access.settings VALUES
        ('cursor_secret', replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''))`,
    );
    await runner.query(noteChange);
    await runner.query(`
      CREATE TRIGGER keys_changed AFTER UPDATE OR DELETE ON access.keys
      FOR EACH ROW EXECUTE FUNCTION access.note_change()`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE access.keys`);
    await runner.query(`DROP TABLE access.settings`);
    await runner.query(`DROP FUNCTION access.note_change`);
    await runner.query(`DROP FUNCTION access.new_id`);
  }
}

/** A UUID that begins with the time, as in version 7 (RFC 9562), so that ids sort by age. */
const newId = `
  CREATE FUNCTION access.new_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT (left(ms, 8) || '-' || right(ms, 4) || '-7' || substr(random, 16))::uuid
    FROM lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') AS ms,
      CAST(gen_random_uuid() AS text) AS random
  $$`;

/** Every process is notified, also when a person changes a key by hand. */
const noteChange = `
  CREATE FUNCTION access.note_change() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM pg_notify('cleave_keys_changed', '');
    RETURN NULL;
  END $$`;
