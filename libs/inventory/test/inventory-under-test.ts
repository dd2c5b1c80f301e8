import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { Test } from '@nestjs/testing';
import { TypeOrmModule } from '@nestjs/typeorm';
import type pg from 'pg';
import type { Decision, Product, ReservationRequest, StockEffect } from '#contracts';
import { databaseFor, sqlToken, type Sql } from '#database';
import { PostgresProducts } from '../src/adapters/postgres-products.js';
import { PostgresStock } from '../src/adapters/postgres-stock.js';
import { ProductEntity } from '../src/adapters/product.entity.js';
import { inventoryDatabase } from '../src/inventory.module.js';
import { AdjustStock } from '../src/use-cases/adjust-stock.js';
import { CountStock } from '../src/use-cases/count-stock.js';
import { FinishBranches } from '../src/use-cases/finish-branches.js';
import { FindOverdueHolds } from '../src/use-cases/find-overdue-holds.js';
import { InvalidateProducts } from '../src/use-cases/invalidate-products.js';
import { PurgeRefusals } from '../src/use-cases/purge-refusals.js';
import { PutProducts } from '../src/use-cases/put-products.js';
import { ProductCache } from '../src/use-cases/read-product.js';
import { ReadStock } from '../src/use-cases/read-stock.js';
import { ReserveStock } from '../src/use-cases/reserve-stock.js';
import { SettleStock } from '../src/use-cases/settle-stock.js';

/** Stores nothing, and records which products it is asked to delete. */
class NotingCache extends ProductCache {
  readonly forgotten: string[] = [];
  isAway = false;

  read(_tenant: string, _productId: string, source: () => Promise<Product | undefined>): Promise<Product | undefined> {
    return source();
  }

  async forget(_tenant: string, productIds: readonly string[]): Promise<void> {
    if (this.isAway) throw new Error('the cache is away');
    this.forgotten.push(...productIds);
  }
}

/** One instance of inventory on a database: its own pool, the real adapters, no transport and no periodic work. */
export interface Instance {
  sql: Sql;
  catalogue: PostgresProducts;
  cache: NotingCache;
  invalidateProducts: InvalidateProducts;
  putProducts: PutProducts;
  countStock: CountStock;
  adjustStock: AdjustStock;
  readStock: ReadStock;
  reserveStock: ReserveStock;
  settleStock: SettleStock;
  findOverdueHolds: FindOverdueHolds;
  finishBranches: FinishBranches;
  purgeRefusals: PurgeRefusals;
  stop(): Promise<void>;
}

export const startInstance = async (url: string): Promise<Instance> => {
  const module = await Test.createTestingModule({
    imports: [databaseFor(inventoryDatabase(url)), TypeOrmModule.forFeature([ProductEntity], 'inventory')],
    providers: [PostgresStock, PostgresProducts],
  }).compile();
  const stock = module.get(PostgresStock);
  const catalogue = module.get(PostgresProducts);
  const cache = new NotingCache();
  const invalidateProducts = new InvalidateProducts(catalogue, cache);
  return {
    sql: module.get<Sql>(sqlToken('inventory'), { strict: false }),
    ...{ catalogue, cache, invalidateProducts },
    putProducts: new PutProducts(catalogue, invalidateProducts),
    countStock: new CountStock(stock),
    adjustStock: new AdjustStock(stock),
    readStock: new ReadStock(stock),
    reserveStock: new ReserveStock(stock),
    settleStock: new SettleStock(stock),
    findOverdueHolds: new FindOverdueHolds(stock),
    finishBranches: new FinishBranches(stock),
    purgeRefusals: new PurgeRefusals(stock),
    stop: () => module.close(),
  };
};

/** A new tenant, so that tests can share a database. */
export const newTenant = (): string => `t-${randomUUID()}`;

/** Puts products at 100 GBP minor units each, with that many units on hand. */
export const stocked = async (at: Instance, tenant: string, onHand: Record<string, number>): Promise<void> => {
  const products = Object.entries(onHand);
  const described = { unit_price_minor: 100, currency: 'GBP' };
  await at.putProducts.execute(
    tenant,
    products.map(([product_id]) => ({ product_id, name: `Product ${product_id}`, ...described })),
  );
  await at.countStock.execute(
    tenant,
    products.map(([product_id, on_hand]) => ({ product_id, on_hand })),
  );
};

/** Long enough for a hold not to become overdue during a test. */
export const longHoldMs = 600_000;

/** A reservation of units by product, for an order of its own. */
export const reservation = (
  units: Record<string, number>,
  more: Partial<ReservationRequest> = {},
): ReservationRequest => ({
  reservation_id: randomUUID(),
  order_id: randomUUID(),
  lines: linesOf(units),
  ...more,
});

/** The effect that a version of the order has on its reservation. */
export const effect = (
  reservationId: string,
  version: number,
  kind: StockEffect['kind'],
  units?: Record<string, number>,
): StockEffect => ({
  ...{ reservation_id: reservationId, version, kind },
  ...(units && { lines: linesOf(units) }),
});

const linesOf = (units: Record<string, number>): { product_id: string; quantity: number }[] =>
  Object.entries(units).map(([product_id, quantity]) => ({ product_id, quantity }));

/** How a reply names an impossible effect. */
export const nameOf = ({ reservation_id, version }: StockEffect): Pick<StockEffect, 'reservation_id' | 'version'> => ({
  ...{ reservation_id, version },
});

export const decide = async (
  at: Instance,
  tenant: string,
  reservations: ReservationRequest[],
  hold_ms = longHoldMs,
): Promise<Decision[]> => (await at.reserveStock.execute(tenant, { reservations, hold_ms })).decisions;

export const outcomes = async (...args: Parameters<typeof decide>): Promise<string[]> =>
  (await decide(...args)).map((it) => it.outcome);

/** Fills the table of reservations, two to a page, so that rows that are added afterwards are in another part of it. */
export const fillOnePart = async (at: Instance): Promise<void> => {
  await at.sql.query(filling);
};

const filling = {
  name: 'test-fill-reservations',
  text: `
    INSERT INTO inventory.reservations (tenant_id, reservation_id, state, held, shortages, deadline_at)
    SELECT 'others', gen_random_uuid(), 'released', '{}', to_jsonb(repeat('x', 1800)), now()
    FROM generate_series(1, 20000)`,
};

/** The products of a tenant that violate I1 (which the database enforces too), I2 or I7. */
export const brokenInvariants = (at: Instance, tenant: string): Promise<unknown[]> =>
  at.sql.query(invariants, [tenant]);

const invariants = {
  name: 'test-invariants',
  text: `
    SELECT p.product_id, p.on_hand, p.reserved, p.sold, h.held, m.moved, m.fulfilled
    FROM inventory.products p
    LEFT JOIN LATERAL (
      SELECT coalesce(sum((r.held ->> p.product_id)::bigint), 0) AS held FROM inventory.reservations r
      WHERE r.tenant_id = p.tenant_id AND r.state IN ('held', 'confirmed')
    ) h ON true
    LEFT JOIN LATERAL (
      SELECT coalesce(sum(s.delta), 0) AS moved, coalesce(-sum(s.delta) FILTER (WHERE s.kind = 'fulfilled'), 0) AS fulfilled
      FROM inventory.stock_moves s WHERE s.tenant_id = p.tenant_id AND s.product_id = p.product_id
    ) m ON true
    WHERE p.tenant_id = $1
      AND (NOT (0 <= p.reserved AND p.reserved <= p.on_hand)
           OR p.reserved <> h.held OR p.on_hand <> m.moved OR p.sold <> m.fulfilled)`,
};

/** Resolves once that many sessions wait for locks in the database of the watcher, which must not be in a transaction. */
export const untilBlocked = async (watcher: pg.Client, count: number): Promise<void> => {
  const blocked = `SELECT count(*)::int AS count FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'`;
  while ((await watcher.query<{ count: number }>(blocked)).rows[0]!.count < count) await setTimeout(10);
};
