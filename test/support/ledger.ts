import { expect } from '@jest/globals';
import pg from 'pg';
import { eventually } from './eventually.js';
import type { Shape } from './shapes.js';

type Row = Record<string, unknown>;

/** Each gives the rows that break an invariant. */
const orderInvariants: Record<string, string> = {
  'I4: at most one order a key': `
    SELECT idempotency_key, count(*) FROM orders.orders WHERE idempotency_key IS NOT NULL
    GROUP BY tenant_id, account_id, idempotency_key HAVING count(*) > 1`,
  'I10: the history leads to the present state': `
    SELECT o.order_id, o.version, o.status, h.versions, h.last_status
    FROM orders.orders o LEFT JOIN LATERAL (
      SELECT array_agg(version ORDER BY version) AS versions, (array_agg(status ORDER BY version DESC))[1] AS last_status
      FROM orders.history h WHERE (h.tenant_id, h.order_id) = (o.tenant_id, o.order_id)
    ) h ON true
    WHERE h.versions IS DISTINCT FROM ARRAY(SELECT generate_series(1, o.version)) OR h.last_status <> o.status`,
  'I11: lines and adjustments add up to the total': `
    SELECT order_id, total_minor, lines, adjustments FROM orders.orders
    WHERE total_minor <>
      (SELECT coalesce(sum((l->>'quantity')::numeric * (l->>'unit_price_minor')::numeric), 0) FROM jsonb_array_elements(lines) l)
      + (SELECT coalesce(sum((a->>'amount_minor')::numeric), 0) FROM jsonb_array_elements(adjustments) a)`,
  'every change of an order is in the outbox, once': `
    SELECT coalesce(h.order_id, b.order_id) AS order_id, h.version, b.version AS announced
    FROM orders.history h FULL JOIN orders.outbox b USING (tenant_id, order_id, version)
    WHERE h.order_id IS NULL OR b.order_id IS NULL`,
};

const stockInvariants: Record<string, string> = {
  'I1: 0 ≤ reserved ≤ on_hand': `
    SELECT product_id, on_hand, reserved FROM inventory.products WHERE reserved < 0 OR reserved > on_hand`,
  'I2: reserved is the sum of what reservations hold': `
    SELECT p.product_id, p.reserved, h.units FROM inventory.products p LEFT JOIN (
      SELECT r.tenant_id, u.product_id, sum(u.units::bigint) AS units
      FROM inventory.reservations r, jsonb_each_text(r.held) AS u(product_id, units) GROUP BY 1, 2
    ) h USING (tenant_id, product_id)
    WHERE p.reserved <> coalesce(h.units, 0)`,
  'I7: stock moves add up': `
    SELECT p.product_id, p.on_hand, p.sold, m.delta, m.fulfilled FROM inventory.products p LEFT JOIN (
      SELECT tenant_id, product_id, sum(delta) AS delta,
             coalesce(-sum(delta) FILTER (WHERE kind = 'fulfilled'), 0) AS fulfilled
      FROM inventory.stock_moves GROUP BY 1, 2
    ) m USING (tenant_id, product_id)
    WHERE p.on_hand <> coalesce(m.delta, 0) OR p.sold <> coalesce(m.fulfilled, 0)`,
};

/** The databases behind the system, read directly. Each question has a connection of its own, so that servers may come and go. */
export class Ledger {
  constructor(private readonly shape: Pick<Shape, 'databaseUrls'>) {}

  async orders<R extends Row = Row>(text: string, values: unknown[] = []): Promise<R[]> {
    return query<R>((await this.shape.databaseUrls()).order, text, values);
  }

  async inventory<R extends Row = Row>(text: string, values: unknown[] = []): Promise<R[]> {
    return query<R>((await this.shape.databaseUrls()).inventory, text, values);
  }

  /** Makes everybody wait who writes to a table of orders; `release` lets them go on. Reading goes on meanwhile. */
  async lock(table: string): Promise<{ release: () => Promise<void> }> {
    const client = await connected((await this.shape.databaseUrls()).order);
    await client.query(
      `BEGIN; LOCK TABLE ${pg.escapeIdentifier('orders')}.${pg.escapeIdentifier(table)} IN SHARE ROW EXCLUSIVE MODE`,
    );
    return { release: () => client.end() };
  }

  /** Rolls back what a service that was killed has left running in Postgres. */
  async endSessionsOf(service: string): Promise<void> {
    await this.orders(
      `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name = $1`,
      [`cleave-${service}`],
    );
  }

  /** Resolves once everything that became of orders has reached the stock. */
  async quiet(): Promise<void> {
    await eventually(async () => {
      const waiting = await this.orders(`
        SELECT o.order_id, o.version FROM orders.outbox o, orders.checkpoints c
        WHERE c.consumer = 'stock' AND (o.xid, o.id) > (c.xid, c.id)`);
      expect(waiting).toEqual([]);
    });
  }

  /** All that has been kept, counted, once it is quiet: equal before and after a request that was refused as a whole. */
  async footprint(): Promise<Row> {
    await this.quiet();
    const [orders] = await this.orders(`
      SELECT (SELECT count(*) FROM orders.orders) AS orders, (SELECT count(*) FROM orders.history) AS history,
        (SELECT count(*) FROM orders.outbox) AS outbox, (SELECT count(*) FROM orders.responses) AS responses,
        (SELECT sum(version) FROM orders.orders) AS versions`);
    const [stock] = await this.inventory(`
      SELECT count(*) AS products, sum(on_hand) AS on_hand, sum(reserved) AS reserved, sum(sold) AS sold,
        max(updated_at) AS described_at,
        (SELECT count(*) FROM inventory.stock_moves) AS moves,
        (SELECT count(*) FROM inventory.reservations) AS reservations
      FROM inventory.products`);
    return { ...orders, ...stock };
  }

  /** Runs something that must leave no trace. */
  async unchangedBy(work: () => Promise<unknown>): Promise<void> {
    const before = await this.footprint();
    await work();
    expect(await this.footprint()).toEqual(before);
  }

  /** Holds the invariants of the design against the data. */
  async expectInvariants(): Promise<void> {
    await this.quiet();
    const broken: Record<string, Row[]> = {};
    for (const [name, text] of Object.entries(orderInvariants)) broken[name] = await this.orders(text);
    for (const [name, text] of Object.entries(stockInvariants)) broken[name] = await this.inventory(text);
    expect(Object.fromEntries(Object.entries(broken).filter(([, rows]) => rows.length > 0))).toEqual({});
    await this.expectHoldsToBelongToOrders();
  }

  /** I2: what a reservation holds is what its order has not handed over yet; what belongs to no order is not confirmed. */
  private async expectHoldsToBelongToOrders(): Promise<void> {
    const orders = await this.orders<{ reservation_id: string; open: Record<string, number> | null }>(`
      SELECT o.reservation_id, CASE WHEN o.status = 'cancelled' THEN NULL ELSE (
        SELECT jsonb_object_agg(product_id, units) FROM (
          SELECT l->>'product_id' AS product_id, sum((l->>'quantity')::int - (l->>'fulfilled')::int) AS units
          FROM jsonb_array_elements(o.lines) l GROUP BY 1
        ) u WHERE units > 0) END AS open
      FROM orders.orders o`);
    const reservations = await this.inventory<{ reservation_id: string; held: Record<string, number>; state: string }>(
      `SELECT reservation_id, held, state FROM inventory.reservations`,
    );
    const openOf = new Map(orders.map((it) => [it.reservation_id, it.open ?? {}]));
    const heldBy = new Map(reservations.map((it) => [it.reservation_id, it]));
    const ofOrders = orders.map((it) => ({ id: it.reservation_id, held: heldBy.get(it.reservation_id)?.held }));
    expect(ofOrders).toEqual(orders.map((it) => ({ id: it.reservation_id, held: it.open ?? {} })));
    const unclaimed = reservations.filter((it) => !openOf.has(it.reservation_id));
    expect(unclaimed.filter((it) => !['held', 'released', 'refused'].includes(it.state))).toEqual([]);
  }
}

const query = async <R extends Row>(url: string, text: string, values: unknown[]): Promise<R[]> => {
  const client = await connected(url);
  try {
    return (await client.query<R>(text, values)).rows;
  } finally {
    await client.end();
  }
};

const connected = async (url: string): Promise<pg.Client> => {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000, query_timeout: 30_000 });
  await client.connect();
  return client;
};
