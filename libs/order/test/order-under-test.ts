import { randomUUID } from 'node:crypto';
import { Test } from '@nestjs/testing';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { Decision, PlaceOrderRequest, ReservationRequest, StockEffect } from '#contracts';
import { databaseFor, sqlToken, type Sql } from '#database';
import { Checkpoints } from '#events';
import { MasterKeys, type MasterKey } from '#security';
import { OrderEntity } from '../src/adapters/order.entity.js';
import { PostgresOrders } from '../src/adapters/postgres-orders.js';
import { PostgresOutbox } from '../src/adapters/postgres-outbox.js';
import { PostgresPersonalData } from '../src/adapters/postgres-personal-data.js';
import { PostgresSagas } from '../src/adapters/postgres-sagas.js';
import type { Order } from '../src/domain/order.js';
import { SagaDefinitions, definitions } from '../src/domain/sagas.js';
import { orderDatabase } from '../src/order.module.js';
import { ChangeOrder } from '../src/use-cases/change-order.js';
import { FinishBranches, type StockBranches } from '../src/use-cases/finish-branches.js';
import { KeepPersonalData } from '../src/use-cases/keep-personal-data.js';
import { PlaceOrder } from '../src/use-cases/place-order.js';
import { PurgeRefusals } from '../src/use-cases/purge-refusals.js';
import { RelayOutbox, type StockSettler } from '../src/use-cases/relay-outbox.js';
import {
  ReserveAndRecord,
  payWithin,
  type PlacedOrders,
  type PlacementResult,
  type StockHolder,
} from '../src/use-cases/reserve-and-record.js';
import { RotateDataKeys } from '../src/use-cases/rotate-data-keys.js';
import { RunSagas } from '../src/use-cases/run-sagas.js';
import { ExportAndErasePersonalData } from '../src/use-cases/export-and-erase-personal-data.js';
import { SweepHolds, type OverdueStock } from '../src/use-cases/sweep-holds.js';

interface Hold {
  tenant: string;
  reservationId: string;
  /** The order of the first attempt; null if a release came first. */
  orderId: string | null;
  state: 'held' | 'confirmed' | 'fulfilled' | 'released' | 'refused';
  /** Units that are still held. */
  units: Map<string, number>;
  shortages: Extract<Decision, { outcome: 'out-of-stock' }>['shortages'];
  /** The last version that was applied. */
  settled: number;
  deadlineMs: number;
}

type Reservation = Parameters<StockHolder['reserve']>[1][number];

/**
 * A fake inventory with the guarantees that order relies on: a reservation gets all of its stock or none; a decision and
 * its order are stored under the reservation id; each version of an order is applied once, in order; nothing is released
 * on its own. `interrupt` is called before and after every request takes effect, and may make it fail.
 */
export class FakeInventory implements StockHolder, StockSettler, StockBranches, OverdueStock {
  readonly onHand = new Map<string, number>();
  priceMinor = 100;
  /** Products that others keep locked. */
  readonly locked = new Set<string>();
  /** A clock that moves only when the test advances it. */
  nowMs = Date.now();
  holdMs = 600_000;
  readonly effects: StockEffect[] = [];
  readonly batches: Reservation[][] = [];
  readonly released: string[] = [];
  interrupt: (call: 'reserve' | 'settle' | 'overdue', when: 'before' | 'after') => Promise<void> | void = () => {};
  private readonly holds = new Map<string, Hold>();

  get reserved(): number {
    return this.inState().reduce((sum, it) => sum + [...it.units.values()].reduce((one, units) => one + units, 0), 0);
  }

  reservedOf(productId: string): number {
    return this.inState().reduce((sum, it) => sum + (it.units.get(productId) ?? 0), 0);
  }

  /** The reservations in a state, or all of them. */
  inState(state?: Hold['state']): Hold[] {
    return [...this.holds.values()].filter((it) => state === undefined || it.state === state);
  }

  /** Creates a hold as if it had been reserved. */
  hold(
    tenant: string,
    reservationId: string,
    units: Record<string, number> = {},
    orderId: string = randomUUID(),
  ): void {
    this.holds.set(`${tenant}:${reservationId}`, {
      ...{ tenant, reservationId, orderId, state: 'held', units: new Map(Object.entries(units)) },
      ...{ shortages: [], settled: 0, deadlineMs: this.nowMs + this.holdMs },
    });
  }

  /** Advances the clock so that everything that is held now is overdue. */
  expire(): void {
    this.nowMs += this.holdMs;
  }

  async reserve(tenant: string, reservations: readonly Reservation[]): ReturnType<StockHolder['reserve']> {
    await this.interrupt('reserve', 'before');
    this.batches.push([...reservations]);
    const decisions = reservations.map((it) => this.decide(tenant, it));
    await this.interrupt('reserve', 'after');
    const products = [...this.onHand.keys()].map((product_id) => ({
      ...{ product_id, name: `Product ${product_id}`, unit_price_minor: this.priceMinor, currency: 'GBP' },
    }));
    return { decisions, products };
  }

  private decide(tenant: string, { reservation_id, order_id, lines, items_total }: Reservation): Decision {
    const locked = lines.map((it) => it.product_id).filter((id) => this.locked.has(id));
    if (locked.length > 0) return { outcome: 'locked', product_ids: locked };
    const kept = this.holds.get(`${tenant}:${reservation_id}`);
    if (kept?.state === 'released') return { outcome: 'released', order_id: kept.orderId };
    if (kept?.state === 'refused') return { outcome: 'out-of-stock', shortages: kept.shortages };
    const items_total_minor = lines.reduce((sum, it) => sum + it.quantity * this.priceMinor, 0);
    if (items_total && (items_total_minor < items_total.at_least || items_total_minor > items_total.at_most))
      return { outcome: 'total-outside', items_total_minor, ...(kept && { order_id: kept.orderId! }) };
    if (kept) return { outcome: 'held', order_id: kept.orderId! };
    const units = summed(lines);
    const product_ids = [...units.keys()].filter((id) => !this.onHand.has(id));
    if (product_ids.length > 0) return { outcome: 'unknown-product', product_ids };
    const available = (id: string) => this.onHand.get(id)! - this.reservedOf(id);
    const shortages = [...units]
      .filter(([id, requested]) => requested > available(id))
      .map(([product_id, requested]) => ({ product_id, requested, available: available(product_id) }));
    this.hold(tenant, reservation_id, Object.fromEntries(units), order_id);
    if (shortages.length === 0) return { outcome: 'held', order_id };
    const refused = { state: 'refused' as const, units: new Map<string, number>(), shortages };
    Object.assign(this.holds.get(`${tenant}:${reservation_id}`)!, refused);
    return { outcome: 'out-of-stock', shortages };
  }

  async settle(tenant: string, effects: readonly StockEffect[]): ReturnType<StockSettler['settle']> {
    await this.interrupt('settle', 'before');
    const impossible = effects.filter((it) => this.apply(tenant, it) === 'impossible');
    await this.interrupt('settle', 'after');
    return impossible.map(({ reservation_id, version }) => ({ reservation_id, version }));
  }

  async release(tenant: string, reservationId: string): Promise<void> {
    this.released.push(reservationId);
    this.apply(tenant, { reservation_id: reservationId, version: 1, kind: 'release' });
  }

  private apply(tenant: string, effect: StockEffect): 'applied' | 'repeated' | 'impossible' {
    const { reservation_id, version, kind } = effect;
    const key = `${tenant}:${reservation_id}`;
    if (kind === 'release' && !this.holds.has(key)) {
      this.hold(tenant, reservation_id);
      this.holds.get(key)!.orderId = null;
    }
    const hold = this.holds.get(key);
    if (!hold) return 'impossible';
    if (version <= hold.settled) return 'repeated';
    const units = summed(effect.lines ?? []);
    switch (kind) {
      case 'confirm':
        if (hold.state === 'held') hold.state = 'confirmed';
        break;
      case 'release':
        hold.units.clear();
        hold.state = 'released';
        break;
      case 'fulfil':
        if ([...units].some(([id, quantity]) => quantity > (hold.units.get(id) ?? 0))) return 'impossible';
        for (const [id, quantity] of units) {
          hold.units.set(id, hold.units.get(id)! - quantity);
          this.onHand.set(id, (this.onHand.get(id) ?? 0) - quantity);
        }
        if ([...hold.units.values()].every((quantity) => quantity === 0)) hold.state = 'fulfilled';
        break;
      case 'restock':
        if ([...units.keys()].some((id) => !this.onHand.has(id))) return 'impossible';
        for (const [id, quantity] of units) this.onHand.set(id, this.onHand.get(id)! + quantity);
        break;
    }
    hold.settled = version;
    this.effects.push(effect);
    return 'applied';
  }

  finish(): Promise<void> {
    return Promise.reject(new Error('nothing is prepared here'));
  }

  inDoubt(): ReturnType<StockBranches['inDoubt']> {
    return Promise.resolve([]);
  }

  async overdue(...[after, , limit]: Parameters<OverdueStock['overdue']>): ReturnType<OverdueStock['overdue']> {
    await this.interrupt('overdue', 'before');
    const looked_at = new Date(this.nowMs);
    const holds = this.inState('held')
      .filter((it) => it.deadlineMs <= this.nowMs && (after === null || it.deadlineMs > after.getTime() - 60_000))
      .slice(0, limit)
      .map(({ tenant, reservationId, orderId }) => ({
        ...{ tenant_id: tenant, reservation_id: reservationId, order_id: orderId! },
      }));
    await this.interrupt('overdue', 'after');
    return { holds, looked_at };
  }
}

const summed = (lines: Pick<ReservationRequest['lines'][number], 'product_id' | 'quantity'>[]): Map<string, number> => {
  const units = new Map<string, number>();
  for (const { product_id, quantity } of lines) units.set(product_id, (units.get(product_id) ?? 0) + quantity);
  return units;
};

/** One instance of the order module: its own connection pool, the real adapters, no transport, no background work. */
export interface Instance {
  sql: Sql;
  orders: PostgresOrders;
  outbox: PostgresOutbox;
  checkpoints: Checkpoints;
  stock: FakeInventory;
  relay: RelayOutbox;
  placeOrder: PlaceOrder;
  changeOrder: ChangeOrder;
  sweepHolds: SweepHolds;
  purgeRefusals: PurgeRefusals;
  personalData: KeepPersonalData;
  customers: ExportAndErasePersonalData;
  rotateDataKeys: RotateDataKeys;
  keys: PostgresPersonalData;
  /** Switches to another inventory, and to other orders if they are given. */
  use(stock: FakeInventory, orders?: PlacedOrders): void;
  stop(): Promise<void>;
}

export const startInstance = async (
  url: string,
  stock = new FakeInventory(),
  sagasKnown = new SagaDefinitions(definitions),
  masterKeys: readonly MasterKey[] = [],
): Promise<Instance> => {
  const module = await Test.createTestingModule({
    imports: [databaseFor(orderDatabase(url)), TypeOrmModule.forFeature([OrderEntity], 'order')],
    providers: [
      ...[PostgresOrders, PostgresOutbox, PostgresPersonalData, PostgresSagas],
      { provide: payWithin, useValue: 60_000 },
    ],
  }).compile();
  module.useLogger(false);
  const orders = module.get(PostgresOrders);
  const outbox = module.get(PostgresOutbox);
  const keys = module.get(PostgresPersonalData);
  const masters = new MasterKeys(masterKeys);
  const personalData = new KeepPersonalData(keys, masters);
  const checkpoints = new Checkpoints(module.get<Sql>(sqlToken('order'), { strict: false }), 'orders');
  const of = (stock: FakeInventory, placed: PlacedOrders = orders) => {
    const relay = new RelayOutbox(checkpoints, outbox, stock);
    const payment = { perform: () => Promise.reject(new Error('nobody is paid here')) };
    const sagas = new RunSagas(module.get(PostgresSagas), payment, relay, sagasKnown, 15_000);
    const branches = new FinishBranches(orders, stock, 1_000);
    return {
      ...{ stock, relay },
      placeOrder: new PlaceOrder(new ReserveAndRecord(placed, stock, relay, sagas, branches, personalData, 'flexible')),
      changeOrder: new ChangeOrder(orders, relay),
      sweepHolds: new SweepHolds(stock, orders, stock, 1),
    };
  };
  const instance: Instance = {
    sql: module.get<Sql>(sqlToken('order'), { strict: false }),
    ...{ orders, outbox, checkpoints },
    ...of(stock),
    purgeRefusals: new PurgeRefusals(orders),
    personalData,
    customers: new ExportAndErasePersonalData(keys, personalData, { of: () => Promise.resolve(undefined) }),
    rotateDataKeys: new RotateDataKeys(keys, masters),
    keys,
    use: (other, placed) => void Object.assign(instance, of(other, placed)),
    stop: () => module.close(),
  };
  return instance;
};

/** The real orders with some calls replaced. */
export const proxied = (orders: PostgresOrders, replaced: Partial<PlacedOrders>): PlacedOrders => ({
  answersOf: orders.answersOf.bind(orders),
  record: orders.record.bind(orders),
  byId: orders.byId.bind(orders),
  keepRefusals: (tenant, refusals) => orders.keepRefusals(tenant, refusals),
  declareVoid: orders.declareVoid.bind(orders),
  ...replaced,
});

/** A new tenant, so that tests can share a database. */
export const newTenant = (): string => `t-${randomUUID()}`;

export const requestOf = (units: Record<string, number>, more: Partial<PlaceOrderRequest> = {}): PlaceOrderRequest => ({
  customer_id: 'c-1',
  lines: Object.entries(units).map(([product_id, quantity]) => ({ product_id, quantity })),
  ...more,
});

/** How many orders a tenant has. */
export const ordersOf = async ({ sql }: Instance, tenant: string): Promise<number> => {
  const [row] = await sql.query<{ count: number }>(
    {
      name: 'test-orders',
      text: `SELECT count(*) AS count FROM orders.orders WHERE tenant_id = $1 AND status <> 'void'`,
    },
    [tenant],
  );
  return row!.count;
};

/** The order ids of a tenant that are taken by tombstones. */
export const tombstonesOf = async ({ sql }: Instance, tenant: string): Promise<string[]> => {
  const rows = await sql.query<{ order_id: string }>(
    {
      name: 'test-tombstones',
      text: `SELECT order_id FROM orders.orders WHERE tenant_id = $1 AND status = 'void' ORDER BY order_id`,
    },
    [tenant],
  );
  return rows.map((it) => it.order_id);
};

/** The order that was placed; fails if there is none. */
export const orderIn = (result: PlacementResult | Error): Order => {
  if (result instanceof Error) throw result;
  if ('refusal' in result) throw result.refusal;
  return result.order;
};

/** The result of a call, or the error that it failed with. */
export const settled = async <T>(work: Promise<T>): Promise<T | Error> =>
  work.catch((error: unknown) => {
    if (error instanceof Error) return error;
    throw error;
  });
