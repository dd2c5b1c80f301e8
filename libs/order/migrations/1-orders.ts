import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Orders, their events, the use of idempotency keys, and the checkpoints of the consumers of the events. */
export class Orders1764000000002 implements MigrationInterface {
  readonly name = 'Orders1764000000002';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE orders.orders (
        tenant_id text COLLATE "C" NOT NULL,
        order_id uuid NOT NULL,
        account_id text COLLATE "C" NOT NULL,
        customer_id text COLLATE "C" NOT NULL,
        reference text COLLATE "C",
        status text COLLATE "C" NOT NULL,
        currency text COLLATE "C" NOT NULL,
        total_minor bigint NOT NULL CHECK (total_minor >= 0),
        returned_total_minor bigint NOT NULL DEFAULT 0 CHECK (returned_total_minor >= 0),
        -- An order is always read and written as a whole, so its lines are in its row.
        lines jsonb NOT NULL,
        adjustments jsonb NOT NULL,
        metadata jsonb NOT NULL,
        version int NOT NULL,
        reservation_id uuid NOT NULL,
        idempotency_key text COLLATE "C",
        fingerprint uuid NOT NULL,
        created_at timestamptz(3) NOT NULL,
        updated_at timestamptz(3) NOT NULL,
        -- A reservation belongs to one order id, so this key also allows only one order for each reservation. Whichever is
        -- written first decides: the order, or a tombstone in its place (status void).
        PRIMARY KEY (tenant_id, order_id)
        -- Rows of up to a page are neither compressed nor moved to TOAST: that costs more CPU than it saves bytes.
      ) WITH (toast_tuple_target = 8160)`);
    // At most one order per key, for ever: stored answers may be purged, this may not.
    await runner.query(`
      CREATE UNIQUE INDEX one_order_a_key ON orders.orders (tenant_id, account_id, idempotency_key)
      WHERE idempotency_key IS NOT NULL`);
    await runner.query(`CREATE INDEX orders_by_customer ON orders.orders (tenant_id, customer_id, order_id)`);
    await runner.query(`CREATE INDEX orders_by_status ON orders.orders (tenant_id, status, order_id)`);
    await runner.query(`
      CREATE INDEX orders_by_reference ON orders.orders (tenant_id, reference, order_id) WHERE reference IS NOT NULL`);
    // The stored refusals of keys that led to no order. These may be purged.
    await runner.query(`
      CREATE TABLE orders.refusals (
        tenant_id text COLLATE "C" NOT NULL,
        account_id text COLLATE "C" NOT NULL,
        idempotency_key text COLLATE "C" NOT NULL,
        fingerprint uuid NOT NULL,
        refusal jsonb NOT NULL,
        refused_at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, account_id, idempotency_key)
      )`);
    await runner.query(`CREATE INDEX refusals_by_age ON orders.refusals (refused_at)`);
    // The version that a keyed change led to: the answer is rebuilt from the history, and a key is never used twice.
    await runner.query(`
      CREATE TABLE orders.keyed_changes (
        tenant_id text COLLATE "C" NOT NULL,
        account_id text COLLATE "C" NOT NULL,
        operation text COLLATE "C" NOT NULL,
        idempotency_key text COLLATE "C" NOT NULL,
        fingerprint uuid NOT NULL,
        order_id uuid NOT NULL,
        version int NOT NULL,
        PRIMARY KEY (tenant_id, account_id, operation, idempotency_key)
      )`);
    // What happened to orders: their history, the outbox and the change feed in one table. Rows are only ever added. Ids are
    // assigned before the transaction commits, so readers sort by transaction first and stop below the oldest one that is
    // still running.
    await runner.query(`
      CREATE TABLE orders.events (
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        id bigint GENERATED ALWAYS AS IDENTITY,
        tenant_id text COLLATE "C" NOT NULL,
        order_id uuid NOT NULL,
        version int NOT NULL,
        reservation_id uuid NOT NULL,
        type text COLLATE "C" NOT NULL,
        status text COLLATE "C" NOT NULL,
        data jsonb NOT NULL,
        at timestamptz(3) NOT NULL,
        PRIMARY KEY (xid, id)
      )`);
    await runner.query(`CREATE UNIQUE INDEX events_by_order ON orders.events (tenant_id, order_id, version)`);
    await runner.query(`
      CREATE TABLE orders.checkpoints (
        consumer text COLLATE "C" PRIMARY KEY,
        xid xid8 NOT NULL DEFAULT '0',
        id bigint NOT NULL DEFAULT 0,
        -- The current reader, the end of its lease, and the fencing token that stops a reader whose lease has expired.
        holder uuid,
        lease_until timestamptz NOT NULL DEFAULT '-infinity',
        epoch bigint NOT NULL DEFAULT 0
      )`);
    await runner.query(`INSERT INTO orders.checkpoints (consumer) VALUES ('stock')`);
    await runner.query(`CREATE TABLE orders.settings (name text PRIMARY KEY, value text NOT NULL)`);
    await runner.query(`
      INSERT INTO orders.settings VALUES ('cursor_secret', gen_random_uuid()::text || gen_random_uuid()::text)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const name of ['settings', 'checkpoints', 'events', 'keyed_changes', 'refusals', 'orders'])
      await runner.query(`DROP TABLE orders.${name}`);
  }
}
