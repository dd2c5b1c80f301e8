import { randomUUID } from 'node:crypto';
import { Test } from '@nestjs/testing';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { PlaceOrderRequest, ReplyOf, ReservationRequest, StockEffect, inventoryContract } from '#contracts';
import { databaseFor, sqlToken, type Sql } from '#database';
import { Orders1764000000001 } from '../migrations/1-orders.js';
import { HistoryEntity, OrderEntity } from '../src/adapters/order.entity.js';
import { PostgresOrders } from '../src/adapters/postgres-orders.js';
import { PostgresStockOutbox } from '../src/adapters/postgres-stock-outbox.js';
import { ChangeOrder } from '../src/use-cases/change-order.js';
import { PlaceOrder, type StockHolder } from '../src/use-cases/place-order.js';
import { RelayOutbox, type StockSettler } from '../src/use-cases/relay-outbox.js';

type Decision = ReplyOf<(typeof inventoryContract)['operations']['reserve']>['decisions'][number];

interface Hold {
  state: 'held' | 'confirmed' | 'fulfilled' | 'released' | 'refused';
  units: Map<string, number>;
  decision: Decision;
}

/**
 * The neighbour, with as much of its promises as order builds on: all or nothing, decisions kept under the reservation's
 * id, effects once. `interrupt` is called around every request and may fail it before or after it has taken effect.
 */
export class FakeInventory implements StockHolder, StockSettler {
  readonly onHand = new Map<string, number>();
  priceMinor = 100;
  readonly holds = new Map<string, Hold>();
  readonly effects: StockEffect[] = [];
  readonly batches: ReservationRequest[][] = [];
  readonly released: string[] = [];
  impossible: (effect: StockEffect) => boolean = () => false;
  interrupt: (call: 'reserve' | 'settle', when: 'before' | 'after') => Promise<void> | void = () => {};
  private readonly applied = new Set<string>();

  get reserved(): number {
    return [...this.holds.values()]
      .flatMap((it) => (it.state === 'held' || it.state === 'confirmed' ? [...it.units.values()] : []))
      .reduce((sum, units) => sum + units, 0);
  }

  async reserve(
    tenant: string,
    reservations: Parameters<StockHolder['reserve']>[1],
  ): ReturnType<StockHolder['reserve']> {
    await this.interrupt('reserve', 'before');
    this.batches.push([...reservations]);
    const decisions = reservations.map((it) => this.decide(`${tenant}:${it.reservation_id}`, it));
    await this.interrupt('reserve', 'after');
    const products = [...this.onHand.keys()].map((product_id) => ({
      ...{ product_id, name: `Product ${product_id}`, unit_price_minor: this.priceMinor, currency: 'GBP' },
    }));
    return { decisions, products };
  }

  private decide(
    key: string,
    { reservation_id, lines }: { reservation_id: string; lines: ReservationRequest['lines'] },
  ) {
    const kept = this.holds.get(key);
    if (kept?.state === 'released') return { reservation_id, outcome: 'released' as const };
    if (kept) return kept.decision;
    const units = new Map<string, number>();
    for (const { product_id, quantity } of lines) units.set(product_id, (units.get(product_id) ?? 0) + quantity);
    const product_ids = [...units.keys()].filter((id) => !this.onHand.has(id));
    if (product_ids.length > 0) return { reservation_id, outcome: 'unknown-product' as const, product_ids };
    const available = (id: string) =>
      this.onHand.get(id)! -
      [...this.holds.values()]
        .filter((it) => it.state === 'held' || it.state === 'confirmed')
        .reduce((sum, it) => sum + (it.units.get(id) ?? 0), 0);
    const shortages = [...units]
      .filter(([id, requested]) => requested > available(id))
      .map(([product_id, requested]) => ({ product_id, requested, available: available(product_id) }));
    const decision: Decision =
      shortages.length > 0
        ? { reservation_id, outcome: 'out-of-stock', shortages }
        : { reservation_id, outcome: 'held' };
    this.holds.set(key, { state: shortages.length > 0 ? 'refused' : 'held', units, decision });
    return decision;
  }

  async settle(tenant: string, effects: readonly StockEffect[]): Promise<readonly string[]> {
    await this.interrupt('settle', 'before');
    const impossible: string[] = [];
    for (const effect of effects) {
      if (this.applied.has(effect.effect_id)) continue;
      if (this.impossible(effect)) {
        impossible.push(effect.effect_id);
        continue;
      }
      this.applied.add(effect.effect_id);
      this.effects.push(effect);
      const key = `${tenant}:${effect.reservation_id}`;
      const hold = this.holds.get(key);
      if (effect.kind === 'release') this.releaseHold(key);
      else if (effect.kind === 'confirm' && hold?.state === 'held') hold.state = 'confirmed';
    }
    await this.interrupt('settle', 'after');
    return impossible;
  }

  async release(tenant: string, reservationId: string): Promise<void> {
    this.released.push(reservationId);
    this.releaseHold(`${tenant}:${reservationId}`);
  }

  private releaseHold(key: string): void {
    const reservation_id = key.split(':').at(-1)!;
    const decision: Decision = { reservation_id, outcome: 'released' };
    this.holds.set(key, { state: 'released', units: new Map(), decision });
  }
}

/** One instance of order on a database: its own pool, the real adapters, no transport; the relay does not run. */
export interface Instance {
  sql: Sql;
  orders: PostgresOrders;
  outbox: PostgresStockOutbox;
  stock: FakeInventory;
  settleStock: RelayOutbox;
  placeOrder: PlaceOrder;
  changeOrder: ChangeOrder;
  stop(): Promise<void>;
}

export const startInstance = async (url: string, stock = new FakeInventory()): Promise<Instance> => {
  const module = await Test.createTestingModule({
    imports: [
      databaseFor({
        ...{ name: 'order', url, schema: 'orders' },
        entities: [OrderEntity, HistoryEntity],
        migrations: [Orders1764000000001],
      }),
      TypeOrmModule.forFeature([OrderEntity, HistoryEntity], 'order'),
    ],
    providers: [PostgresOrders, PostgresStockOutbox],
  }).compile();
  module.useLogger(false);
  const orders = module.get(PostgresOrders);
  const outbox = module.get(PostgresStockOutbox);
  const settleStock = new RelayOutbox(outbox, stock);
  return {
    sql: module.get<Sql>(sqlToken('order'), { strict: false }),
    orders,
    outbox,
    stock,
    settleStock,
    placeOrder: new PlaceOrder(orders, stock, settleStock),
    changeOrder: new ChangeOrder(orders, settleStock),
    stop: () => module.close(),
  };
};

/** A tenant of its own, so that tests share a database without meeting each other. */
export const newTenant = (): string => `t-${randomUUID()}`;

export const requestOf = (units: Record<string, number>, more: Partial<PlaceOrderRequest> = {}): PlaceOrderRequest => ({
  customer_id: 'c-1',
  lines: Object.entries(units).map(([product_id, quantity]) => ({ product_id, quantity })),
  ...more,
});

/** How many orders a tenant has. */
export const ordersOf = async ({ sql }: Instance, tenant: string): Promise<number> => {
  const [row] = await sql.query<{ count: number }>(
    { name: 'test-orders', text: 'SELECT count(*) AS count FROM orders.orders WHERE tenant_id = $1' },
    [tenant],
  );
  return row!.count;
};

/** Everything that a call ended with. */
export const settled = async <T>(work: Promise<T>): Promise<T | Error> =>
  work.catch((error: unknown) => {
    if (error instanceof Error) return error;
    throw error;
  });
