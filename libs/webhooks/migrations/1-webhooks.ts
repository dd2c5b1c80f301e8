import type { MigrationInterface, QueryRunner } from 'typeorm';
import { checkpointTables, logStart } from '#events';

/**
 * The endpoints of merchants, the messages they get, and the results of sending them.
 *
 * A message is stored once and delivered to each endpoint separately. Deliveries and their attempts outlive an endpoint that
 * was deleted until they are purged, but are not shown any more.
 */
export class Webhooks1764000000006 implements MigrationInterface {
  readonly name = 'Webhooks1764000000006';

  async up(runner: QueryRunner): Promise<void> {
    for (const statement of checkpointTables('webhooks')) await runner.query(statement);
    await runner.query(logStart('webhooks', 'webhooks'));
    await runner.query(newId);
    await runner.query(`
      CREATE TABLE webhooks.endpoints (
        tenant_id text COLLATE "C" NOT NULL,
        endpoint_id uuid NOT NULL DEFAULT webhooks.new_id(),
        url text NOT NULL,
        -- Null for all types.
        types text[] COLLATE "C",
        description text,
        enabled boolean NOT NULL DEFAULT true,
        disabled_reason text,
        -- Newest first: [{secret, until}]. All but the first expire.
        secrets jsonb NOT NULL,
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        updated_at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, endpoint_id)
      )`);
    await runner.query(`
      CREATE TABLE webhooks.messages (
        tenant_id text COLLATE "C" NOT NULL,
        message_id text COLLATE "C" NOT NULL,
        type text COLLATE "C" NOT NULL,
        -- The signed bytes; as text, because jsonb would not keep them exactly.
        payload text NOT NULL,
        at timestamptz(3) NOT NULL,
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, message_id)
      )`);
    await runner.query(`CREATE INDEX messages_by_age ON webhooks.messages (created_at)`);
    await runner.query(`
      CREATE TABLE webhooks.deliveries (
        tenant_id text COLLATE "C" NOT NULL,
        delivery_id uuid NOT NULL DEFAULT webhooks.new_id(),
        endpoint_id uuid NOT NULL,
        message_id text COLLATE "C" NOT NULL,
        type text COLLATE "C" NOT NULL,
        status text COLLATE "C" NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
        -- All attempts, and failures since the delivery was last (re)started, which is its position in the retry schedule.
        attempts int NOT NULL DEFAULT 0,
        failures int NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL DEFAULT now(),
        -- A fencing token: whoever sends the delivery raises it, and writes with an older one are refused.
        epoch bigint NOT NULL DEFAULT 0,
        lease_until timestamptz NOT NULL DEFAULT '-infinity',
        last_response_status int,
        last_error text,
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, delivery_id)
      ) WITH (fillfactor = 70)`);
    await runner.query(`
      CREATE UNIQUE INDEX one_delivery_an_endpoint ON webhooks.deliveries (tenant_id, message_id, endpoint_id)`);
    await runner.query(`
      CREATE INDEX deliveries_due ON webhooks.deliveries (tenant_id, endpoint_id, due_at) WHERE status = 'pending'`);
    await runner.query(`
      CREATE INDEX deliveries_failed ON webhooks.deliveries (tenant_id, endpoint_id, delivery_id)
      WHERE status = 'failed'`);
    await runner.query(`
      CREATE INDEX deliveries_by_endpoint ON webhooks.deliveries (tenant_id, endpoint_id, delivery_id)`);
    await runner.query(`CREATE INDEX deliveries_by_age ON webhooks.deliveries (created_at)`);
    await runner.query(`
      CREATE TABLE webhooks.attempts (
        tenant_id text COLLATE "C" NOT NULL,
        delivery_id uuid NOT NULL,
        attempt int NOT NULL,
        at timestamptz(3) NOT NULL,
        duration_ms int NOT NULL,
        response_status int,
        error text,
        response_snippet text,
        PRIMARY KEY (tenant_id, delivery_id, attempt)
      )`);
    await runner.query(`CREATE TABLE webhooks.settings (name text PRIMARY KEY, value text NOT NULL)`);
    await runner.query(`
      INSERT INTO webhooks.settings VALUES ('cursor_secret', gen_random_uuid()::text || gen_random_uuid()::text)`);
    await runner.query(registerEndpoint);
    await runner.query(acceptEvents);
    await runner.query(followEvents);
    await runner.query(forgetDeliveries);
    await runner.query(forgetMessages);
  }

  async down(runner: QueryRunner): Promise<void> {
    const functions = ['forget_messages', 'forget_deliveries', 'follow_events', 'accept_events', 'register_endpoint'];
    for (const name of [...functions, 'acquire_parts', 'advance_parts'])
      await runner.query(`DROP FUNCTION webhooks.${name}`);
    for (const name of ['settings', 'attempts', 'deliveries', 'messages', 'endpoints', 'readers', 'checkpoints'])
      await runner.query(`DROP TABLE webhooks.${name}`);
    await runner.query(`DROP FUNCTION webhooks.new_id`);
  }
}

/** A UUID that begins with the time, as in version 7 (RFC 9562), so that ids sort by age. */
const newId = `
  CREATE FUNCTION webhooks.new_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT (left(ms, 8) || '-' || right(ms, 4) || '-7' || substr(random, 16))::uuid
    FROM lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') AS ms,
      CAST(gen_random_uuid() AS text) AS random
  $$`;

/** Registers an endpoint, unless the tenant has as many as it may; registrations of a tenant wait for each other. */
const registerEndpoint = `
  CREATE FUNCTION webhooks.register_endpoint(
    p_tenant text, p_url text, p_types text[], p_description text, p_secret text, p_most bigint
  ) RETURNS SETOF webhooks.endpoints LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('webhooks.endpoints ' || p_tenant, 0));
    IF (SELECT count(*) FROM webhooks.endpoints WHERE tenant_id = p_tenant) >= p_most THEN
      RETURN;
    END IF;
    RETURN QUERY
    INSERT INTO webhooks.endpoints (tenant_id, url, types, description, secrets)
    VALUES (p_tenant, p_url, p_types, p_description, jsonb_build_array(jsonb_build_object('secret', p_secret)))
    RETURNING *;
  END $$`;

/**
 * Stores the messages that an enabled endpoint wants, and a delivery for each that does: once, however often they are
 * accepted. A message that exists is made new again, so that no purge that cannot see its new deliveries deletes it.
 */
export const acceptEvents = `
  CREATE OR REPLACE FUNCTION webhooks.accept_events(
    p_tenants text[], p_messages text[], p_types text[], p_at timestamptz[], p_payloads text[]
  ) RETURNS bigint LANGUAGE sql SET enable_nestloop = off SET enable_seqscan = off AS $$
    WITH wanted AS MATERIALIZED (
      SELECT w.*, e.endpoint_id
      FROM unnest(p_tenants, p_messages, p_types, p_at, p_payloads) AS w(tenant_id, message_id, type, at, payload)
      JOIN webhooks.endpoints e ON e.tenant_id = w.tenant_id
      WHERE e.tenant_id = ANY (p_tenants) AND e.enabled AND (e.types IS NULL OR w.type = ANY (e.types))
    ), kept AS (
      INSERT INTO webhooks.messages (tenant_id, message_id, type, payload, at)
      SELECT DISTINCT ON (tenant_id, message_id) tenant_id, message_id, type, payload, at FROM wanted
      ORDER BY tenant_id, message_id
      ON CONFLICT (tenant_id, message_id) DO UPDATE SET created_at = now()
    ), made AS (
      INSERT INTO webhooks.deliveries (tenant_id, endpoint_id, message_id, type)
      SELECT tenant_id, endpoint_id, message_id, type FROM wanted
      ORDER BY tenant_id, message_id, endpoint_id
      ON CONFLICT DO NOTHING
      RETURNING 1
    )
    SELECT count(*) FROM made
  $$`;

/** Accepts events and advances the checkpoint of their reader: both or neither. */
const followEvents = `
  CREATE FUNCTION webhooks.follow_events(
    p_consumer text, p_parts smallint[], p_epochs bigint[], p_positions text[],
    p_tenants text[], p_messages text[], p_types text[], p_at timestamptz[], p_payloads text[]
  ) RETURNS bigint LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM webhooks.advance_parts(p_consumer, p_parts, p_epochs, p_positions);
    RETURN webhooks.accept_events(p_tenants, p_messages, p_types, p_at, p_payloads);
  END $$`;

/** Few rows of tables that may be large, so that each is fetched by its key. */
const byKey = 'SET enable_hashjoin = off SET enable_mergejoin = off';

/**
 * A pending delivery is kept until it is settled, unless it has been due for all of that time, for instance because its
 * endpoint is disabled or deleted, or is twice that old. A delivery that is being sent is kept.
 */
export const forgetDeliveries = `
  CREATE OR REPLACE FUNCTION webhooks.forget_deliveries(p_age_ms bigint, p_limit bigint) RETURNS bigint LANGUAGE plpgsql ${byKey} AS $$
  DECLARE
    tenants text[];
    ids uuid[];
  BEGIN
    WITH old AS MATERIALIZED (
      SELECT tenant_id, delivery_id FROM webhooks.deliveries
      WHERE created_at < now() - p_age_ms * interval '1 millisecond' AND lease_until < now() AND (
        status <> 'pending' OR due_at < now() - p_age_ms * interval '1 millisecond'
        OR created_at < now() - 2 * p_age_ms * interval '1 millisecond'
      )
      ORDER BY created_at LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), forgotten AS (
      DELETE FROM webhooks.deliveries d USING old
      WHERE d.tenant_id = old.tenant_id AND d.delivery_id = old.delivery_id
      RETURNING d.tenant_id, d.delivery_id
    )
    SELECT array_agg(tenant_id), array_agg(delivery_id) INTO tenants, ids FROM forgotten;
    -- A separate statement, so that it sees attempts that were stored before the delivery was locked.
    DELETE FROM webhooks.attempts a USING unnest(tenants, ids) AS f(tenant_id, delivery_id)
    WHERE a.tenant_id = f.tenant_id AND a.delivery_id = f.delivery_id;
    RETURN coalesce(cardinality(ids), 0);
  END $$`;

/** Deletes only messages without deliveries: a late repeat has younger ones, to endpoints that were added meanwhile. */
const forgetMessages = `
  CREATE FUNCTION webhooks.forget_messages(p_age_ms bigint, p_limit bigint) RETURNS bigint LANGUAGE sql ${byKey} AS $$
    WITH old AS MATERIALIZED (
      SELECT tenant_id, message_id FROM webhooks.messages m
      WHERE created_at < now() - p_age_ms * interval '1 millisecond' AND NOT EXISTS (
        SELECT FROM webhooks.deliveries d WHERE d.tenant_id = m.tenant_id AND d.message_id = m.message_id
      )
      ORDER BY created_at LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), messages AS (
      DELETE FROM webhooks.messages m USING old WHERE m.tenant_id = old.tenant_id AND m.message_id = old.message_id
      RETURNING 1
    )
    SELECT count(*) FROM messages
  $$`;
