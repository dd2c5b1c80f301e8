import type { MigrationInterface, QueryRunner } from 'typeorm';

/** How orders are paid, and the sagas that lead their payments. */
export class Sagas1764000000004 implements MigrationInterface {
  readonly name = 'Sagas1764000000004';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE orders.orders ADD payment_method text COLLATE "C"`);
    await runner.query(`
      CREATE TABLE orders.sagas (
        tenant_id text COLLATE "C" NOT NULL,
        -- The order's own id, of its purchase.
        saga_id uuid NOT NULL,
        order_id uuid NOT NULL,
        -- What it goes by to its end, whatever newer versions there are.
        definition text COLLATE "C" NOT NULL,
        version int NOT NULL,
        step text COLLATE "C" NOT NULL,
        state text COLLATE "C" NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'ended', 'parked')),
        data jsonb NOT NULL,
        -- What was moved, why nothing was, or what it waits for.
        result jsonb NOT NULL DEFAULT '{}',
        attempts int NOT NULL DEFAULT 0,
        round int NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL DEFAULT now(),
        deadline_at timestamptz,
        -- Whoever works on it raises the epoch; a write of somebody who did so before is refused.
        epoch bigint NOT NULL DEFAULT 0,
        lease_until timestamptz NOT NULL DEFAULT '-infinity',
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        updated_at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, saga_id)
      ) WITH (fillfactor = 60)`);
    await runner.query(`CREATE INDEX sagas_due ON orders.sagas (due_at) WHERE state = 'running'`);
    await runner.query(`CREATE INDEX sagas_parked ON orders.sagas (tenant_id, saga_id)
      WHERE state = 'parked' OR state = 'running' AND attempts >= 20`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE orders.sagas`);
    await runner.query(`ALTER TABLE orders.orders DROP payment_method`);
  }
}
