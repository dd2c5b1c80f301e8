import type { MigrationInterface, QueryRunner } from 'typeorm';
import { checkpointTables, logStart } from '#events';

/** Sales by product and day, in views: the one that is served, and one that may be being rebuilt. */
export class Sales1764000000007 implements MigrationInterface {
  readonly name = 'Sales1764000000007';

  async up(runner: QueryRunner): Promise<void> {
    for (const statement of checkpointTables('sales')) await runner.query(statement);
    await runner.query(`
      CREATE TABLE sales.views (
        view int PRIMARY KEY,
        state text COLLATE "C" NOT NULL CHECK (state IN ('building', 'serving', 'retired')),
        events bigint NOT NULL DEFAULT 0,
        until timestamptz(3),
        begun_at timestamptz(3) NOT NULL DEFAULT now(),
        serving_since timestamptz(3)
      )`);
    await runner.query(`CREATE UNIQUE INDEX one_view_a_state ON sales.views (state) WHERE state <> 'retired'`);
    await runner.query(`
      CREATE TABLE sales.days (
        tenant_id text COLLATE "C" NOT NULL,
        view int NOT NULL,
        day date NOT NULL,
        product_id text COLLATE "C" NOT NULL,
        currency text COLLATE "C" NOT NULL,
        orders bigint NOT NULL,
        ordered bigint NOT NULL,
        cancelled bigint NOT NULL,
        returned bigint NOT NULL,
        ordered_minor numeric NOT NULL,
        cancelled_minor numeric NOT NULL,
        returned_minor numeric NOT NULL,
        PRIMARY KEY (tenant_id, view, day, product_id, currency)
      ) WITH (fillfactor = 80)`);
    await runner.query(`CREATE INDEX days_by_product ON sales.days (tenant_id, view, product_id, day)`);
    await runner.query(addUp);
    await runner.query(`CREATE TABLE sales.settings (name text PRIMARY KEY, value text NOT NULL)`);
    await runner.query(`
      INSERT INTO sales.settings VALUES ('cursor_secret', gen_random_uuid()::text || gen_random_uuid()::text)`);
    await runner.query(`INSERT INTO sales.views (view, state, serving_since) VALUES (1, 'serving', now())`);
    await runner.query(logStart('sales', 'sales-1'));
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const name of ['add_up', 'acquire_parts', 'advance_parts']) await runner.query(`DROP FUNCTION sales.${name}`);
    for (const name of ['settings', 'days', 'views', 'readers', 'checkpoints'])
      await runner.query(`DROP TABLE sales.${name}`);
  }
}

/**
 * Adds to a view and moves its checkpoint, atomically. Rows arrive sorted, so that two instances that add to the same
 * products wait for each other instead of deadlocking.
 */
const addUp = `
  CREATE FUNCTION sales.add_up(
    p_consumer text, p_parts smallint[], p_epochs bigint[], p_positions text[],
    p_view int, p_events bigint, p_until timestamptz,
    p_tenants text[], p_days date[], p_products text[], p_currencies text[],
    p_orders bigint[], p_ordered bigint[], p_cancelled bigint[], p_returned bigint[],
    p_ordered_minor numeric[], p_cancelled_minor numeric[], p_returned_minor numeric[]
  ) RETURNS void LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM sales.advance_parts(p_consumer, p_parts, p_epochs, p_positions);
    UPDATE sales.views SET events = events + p_events, until = greatest(until, p_until) WHERE view = p_view;
    INSERT INTO sales.days AS d (view, tenant_id, day, product_id, currency, orders, ordered, cancelled, returned,
      ordered_minor, cancelled_minor, returned_minor)
    SELECT p_view, a.* FROM unnest(p_tenants, p_days, p_products, p_currencies, p_orders, p_ordered, p_cancelled,
      p_returned, p_ordered_minor, p_cancelled_minor, p_returned_minor) AS a
    ON CONFLICT (tenant_id, view, day, product_id, currency) DO UPDATE SET orders = d.orders + excluded.orders,
      ordered = d.ordered + excluded.ordered, cancelled = d.cancelled + excluded.cancelled,
      returned = d.returned + excluded.returned, ordered_minor = d.ordered_minor + excluded.ordered_minor,
      cancelled_minor = d.cancelled_minor + excluded.cancelled_minor,
      returned_minor = d.returned_minor + excluded.returned_minor;
  END $$`;
