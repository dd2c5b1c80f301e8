import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Messages store the trace of the request that caused them. The function that the previous version calls is unchanged. */
export class MessageTraces1764000000007 implements MigrationInterface {
  readonly name = 'MessageTraces1764000000007';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE webhooks.messages ADD traceparent text COLLATE "C"`);
    await runner.query(followEvents);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(
      `DROP FUNCTION webhooks.follow_events(text, smallint[], bigint[], text[], text[], text[], text[], timestamptz[], text[], text[])`,
    );
    await runner.query(`ALTER TABLE webhooks.messages DROP traceparent`);
  }
}

/** As before, and stores the traces of the messages. */
const followEvents = `
  CREATE FUNCTION webhooks.follow_events(
    p_consumer text, p_parts smallint[], p_epochs bigint[], p_positions text[],
    p_tenants text[], p_messages text[], p_types text[], p_at timestamptz[], p_payloads text[], p_traces text[]
  ) RETURNS bigint LANGUAGE plpgsql SET enable_nestloop = on AS $$
  DECLARE
    made bigint := webhooks.follow_events(
      p_consumer, p_parts, p_epochs, p_positions, p_tenants, p_messages, p_types, p_at, p_payloads);
  BEGIN
    UPDATE webhooks.messages m SET traceparent = t.traceparent
    FROM unnest(p_tenants, p_messages, p_traces) AS t(tenant_id, message_id, traceparent)
    WHERE t.traceparent IS NOT NULL AND m.tenant_id = t.tenant_id AND m.message_id = t.message_id;
    RETURN made;
  END $$`;
