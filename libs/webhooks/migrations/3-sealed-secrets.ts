import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Secrets may be encrypted: `{master, sealed, until}`, besides `{secret, until}` as before. The previous version cannot read
 * these: it leaves their deliveries to this one, and the constraint keeps it from replacing them with null.
 */
export class SealedSecrets1764000000044 implements MigrationInterface {
  readonly name = 'SealedSecrets1764000000044';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(registerEndpoint);
    await runner.query(`
      ALTER TABLE webhooks.endpoints ADD CONSTRAINT secrets_are_kept
      CHECK (NOT jsonb_path_exists(secrets, '$[*] ? (@.secret == null)')) NOT VALID`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE webhooks.endpoints DROP CONSTRAINT secrets_are_kept`);
    await runner.query(`DROP FUNCTION webhooks.register_endpoint(text, uuid, text, text[], text, jsonb, bigint)`);
  }
}

/** As before, but with a given id, because the secret is bound to it. */
const registerEndpoint = `
  CREATE FUNCTION webhooks.register_endpoint(
    p_tenant text, p_endpoint uuid, p_url text, p_types text[], p_description text, p_secret jsonb, p_most bigint
  ) RETURNS SETOF webhooks.endpoints LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('webhooks.endpoints ' || p_tenant, 0));
    IF (SELECT count(*) FROM webhooks.endpoints WHERE tenant_id = p_tenant) >= p_most THEN
      RETURN;
    END IF;
    RETURN QUERY
    INSERT INTO webhooks.endpoints (tenant_id, endpoint_id, url, types, description, secrets)
    VALUES (p_tenant, p_endpoint, p_url, p_types, p_description, jsonb_build_array(p_secret))
    RETURNING *;
  END $$`;
