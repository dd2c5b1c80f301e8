import { SeededRandom } from '#testing';
import { arrivals, partitionOf, type Basket, type Baskets } from './baskets.js';
import { Clock, Cores, RowLocks } from './clock.js';
import type { Costs } from './costs.js';

/** How an order that touches several databases of inventory is decided. */
export type Protocol = 'held' | 'prepared';

export interface ClusterSettings {
  /** The number of databases of inventory; there are as many of orders. */
  partitions: number;
  /** Cores of each database. */
  cores: number;
  /** Order processes per database of orders, with one core each. */
  processes: number;
  /** Callers per order process; each waits for its answer, then places its next order at once. */
  callers: number;
  /**
   * `held`: every database holds its part, and the holds are released if another one refuses. `prepared`: the databases
   * are asked one after the other, to avoid deadlocks, and keep their locks until the order is recorded.
   */
  protocol: Protocol;
  /**
   * Whether the requests of several order processes to one database are merged into one call, or sent separately as
   * today.
   */
  merging: boolean;
  /** The stock of a product, as a share of the demand for it; ample if left out. */
  supply?: number;
  /** The number of sub-stocks that each product is split into, each a row of its own. */
  buckets?: number;
  /** Orders per caller, on average; the first quarter of all is not counted. */
  rounds: number;
  seed: number;
}

export interface ClusterResult {
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  /** Orders per call to a database of inventory. */
  ordersACall: number;
  /** The CPU utilization of the busiest database of inventory, and of the busiest one of orders. */
  inventoryUse: number;
  orderUse: number;
  nodeUse: number;
  refused: number;
  /** Refused only because of holds that were released a moment later. */
  refusedForNothing: number;
  /** The share of the units that was sold. */
  sold: number;
  /** The number of products that were oversold: 0, or the simulation is wrong. */
  oversold: number;
}

interface Order {
  basket: Basket;
  /** Selects the sub-stock of each product. */
  bucket: number;
  cameAtMs: number;
  answered: (order: Order) => void;
  /** Its holds, by database, until it is known whether all databases hold. */
  heldAt: Map<number, Basket>;
  shortages: number;
  /** Other orders that were refused while this one held units that they wanted. */
  inTheWayOf: { order: Order; row: number; units: number }[];
}

/** What one batch requests from a database. */
interface Part {
  orders: { order: Order; wanted: Basket }[];
  lines: number;
  rows: Set<number>;
  answered: () => void;
}

/** The limits of batches in `PlaceOrder`. */
const batchLimits = { orders: 250, lines: 5_000, lanes: 2, slowMs: 20 };

/** The units of each row of stock, and the orders that hold some of them provisionally. */
class Stock {
  private readonly left: Float64Array;
  private readonly most: Float64Array;
  private readonly unsure = new Map<number, Map<Order, number>>();
  /** For each refused order, by row: the units that would still be missing if the holds in its way were released. */
  private readonly missing = new Map<Order, Map<number, number>>();
  refusedForNothing = 0;

  constructor(units: Float64Array) {
    this.left = units;
    this.most = Float64Array.from(units);
  }

  /** Takes all of it or nothing. */
  take(order: Order, wanted: Basket): boolean {
    const short = wanted.filter(({ product, quantity }) => this.left[product]! < quantity);
    for (const { product, quantity } of short) this.noteShortage(order, product, quantity - this.left[product]!);
    if (short.length > 0) return false;
    for (const { product, quantity } of wanted) {
      this.left[product]! -= quantity;
      const holders = this.unsure.get(product) ?? new Map<Order, number>();
      this.unsure.set(product, holders.set(order, quantity));
    }
    return true;
  }

  settle(order: Order, part: Basket): void {
    for (const { product } of part) this.unsure.get(product)?.delete(order);
  }

  giveBack(part: Basket): void {
    for (const { product, quantity } of part) this.left[product]! += quantity;
  }

  /**
   * An order that holds something was refused elsewhere, so the orders it was in the way of were refused needlessly.
   */
  wasInTheWay(order: Order): void {
    for (const { order: other, row, units } of order.inTheWayOf) {
      const missing = this.missing.get(other)?.get(row);
      if (missing === undefined) continue;
      const rows = this.missing.get(other)!;
      if (missing > units) rows.set(row, missing - units);
      else rows.delete(row);
      if (rows.size === 0) this.refusedForNothing += 1;
    }
  }

  sold(): { share: number; oversold: number } {
    const sum = (values: Float64Array): number => values.reduce((total, it) => total + it, 0);
    return { share: 1 - sum(this.left) / sum(this.most), oversold: this.left.filter((it) => it < 0).length };
  }

  private noteShortage(order: Order, row: number, units: number): void {
    order.shortages += 1;
    const rows = this.missing.get(order) ?? new Map<number, number>();
    this.missing.set(order, rows.set(row, units));
    for (const [holder, held] of this.unsure.get(row) ?? [])
      if (holder !== order) holder.inTheWayOf.push({ order, row, units: held });
  }
}

/** One database of inventory. */
class Inventory {
  readonly cores: Cores;
  calls = 0;
  ordersAsked = 0;
  private readonly locks = new RowLocks();
  private waiting: Part[] = [];
  private lanesInUse = 0;

  constructor(
    private readonly clock: Clock,
    private readonly costs: Costs,
    private readonly stock: Stock,
    private readonly settings: ClusterSettings,
    private readonly number: number,
  ) {
    this.cores = new Cores(clock, settings.cores);
  }

  ask(part: Part): void {
    if (!this.settings.merging) return this.decide([part], () => {});
    this.waiting.push(part);
    this.next();
  }

  /** Commits a prepared transaction: this takes another sync, after which its rows are unlocked. */
  finish(rows: Set<number>, done: () => void): void {
    this.cores.use(this.costs.finishMs, () =>
      this.clock.after(this.costs.commitMs, () => {
        this.locks.release(rows);
        done();
      }),
    );
  }

  /** The confirmations, which the relay sends later; each updates one row and touches no product. */
  settle(orders: number): void {
    this.cores.use(orders * this.costs.settleMs);
  }

  release(order: Order, part: Basket): void {
    const rows = new Set(part.map((it) => it.product));
    this.locks.acquire(rows, () =>
      this.cores.use(this.costs.settleMs + part.length * this.costs.reserveLineMs, () =>
        this.clock.after(this.costs.commitMs, () => {
          this.stock.settle(order, part);
          this.stock.giveBack(part);
          this.locks.release(rows);
        }),
      ),
    );
  }

  private next(): void {
    if (this.lanesInUse >= batchLimits.lanes || this.waiting.length === 0) return;
    const parts: Part[] = [];
    for (let orders = 0, lines = 0, part = this.waiting[0]; part; part = this.waiting[0]) {
      if (
        parts.length > 0 &&
        (orders + part.orders.length > batchLimits.orders || lines + part.lines > batchLimits.lines)
      )
        break;
      orders += part.orders.length;
      lines += part.lines;
      parts.push(part);
      this.waiting.shift();
    }
    this.lanesInUse += 1;
    this.decide(parts, () => {
      this.lanesInUse -= 1;
      this.next();
    });
  }

  private decide(parts: Part[], done: () => void): void {
    const { reserveCallMs, reserveOrderMs, reserveLineMs, lockedShare, commitMs, roundTripMs } = this.costs;
    const rows = parts.length === 1 ? parts[0]!.rows : new Set(parts.flatMap((it) => [...it.rows]));
    const orders = parts.reduce((sum, it) => sum + it.orders.length, 0);
    const lines = parts.reduce((sum, it) => sum + it.lines, 0);
    this.calls += 1;
    this.ordersAsked += orders;
    const cpuMs = reserveCallMs + orders * reserveOrderMs + (lines - orders) * reserveLineMs;
    const locked = (): void =>
      this.cores.use(cpuMs * lockedShare, () => {
        for (const { order, wanted } of parts.flatMap((it) => it.orders))
          if (this.stock.take(order, wanted)) order.heldAt.set(this.number, wanted);
        this.clock.after(commitMs, () => {
          if (this.settings.protocol === 'held') this.locks.release(rows);
          done();
          for (const part of parts) this.clock.after(roundTripMs, part.answered);
        });
      });
    // Reservations are written first, and need no contended lock.
    this.cores.use(cpuMs * (1 - lockedShare), () => this.locks.acquire(rows, locked));
  }
}

/** One order process, which forms batches as `Batcher` does. */
class Process {
  readonly node: Cores;
  private readonly queue: Order[] = [];
  private lanesInUse = 0;
  private swift = 0;

  constructor(
    private readonly clock: Clock,
    private readonly costs: Costs,
    private readonly settings: ClusterSettings,
    private readonly inventories: readonly Inventory[],
    private readonly orders: Cores,
    private readonly stock: Stock,
  ) {
    this.node = new Cores(clock, 1);
  }

  place(order: Order): void {
    this.queue.push(order);
    // After all orders that arrive at the same moment.
    if (this.queue.length === 1) this.clock.after(0, () => this.go());
  }

  private go(): void {
    while (this.queue.length > 0 && this.lanesInUse < batchLimits.lanes && this.queue.length >= this.swift)
      this.run(this.nextBatch());
  }

  private nextBatch(): Order[] {
    let lines = 0;
    const end = this.queue.findIndex((it, index) => {
      lines += it.basket.length;
      return index >= batchLimits.orders || (index > 0 && lines > batchLimits.lines);
    });
    return this.queue.splice(0, end < 0 ? this.queue.length : end);
  }

  private run(batch: Order[]): void {
    let { length: swift } = batch;
    const letOthersGo = (): void => {
      this.swift -= swift;
      swift = 0;
      this.go();
    };
    this.lanesInUse += 1;
    this.swift += swift;
    this.clock.after(batchLimits.slowMs, letOthersGo);
    const { nodeCallMs, nodeOrderMs, nodeLineMs } = this.costs;
    const lines = batch.reduce((sum, it) => sum + it.basket.length, 0);
    const parts = this.partsOf(batch);
    // One call per database.
    const cpuMs = parts.size * nodeCallMs + batch.length * nodeOrderMs + (lines - batch.length) * nodeLineMs;
    this.node.use(cpuMs, () =>
      this.reserve(parts, () =>
        this.decide(batch, parts, () => {
          this.lanesInUse -= 1;
          letOthersGo();
          for (const it of batch) it.answered(it);
        }),
      ),
    );
  }

  private partsOf(batch: Order[]): Map<number, Part> {
    const { partitions, buckets = 1, seed } = this.settings;
    const parts = new Map<number, Part>();
    for (const order of batch) {
      const bucket = order.bucket % buckets;
      // The sub-stocks of a product are in consecutive databases, as far as there are enough.
      const databaseOf = ({ product }: Basket[number]): number =>
        (partitionOf(product, partitions, seed) + bucket) % partitions;
      for (const [number, lines] of Map.groupBy(order.basket, databaseOf)) {
        const wanted = lines.map(({ product, quantity }) => ({ product: product * buckets + bucket, quantity }));
        const part = parts.get(number) ?? { orders: [], lines: 0, rows: new Set<number>(), answered: () => {} };
        part.orders.push({ order, wanted });
        part.lines += wanted.length;
        for (const it of wanted) part.rows.add(it.product);
        parts.set(number, part);
      }
    }
    return parts;
  }

  private reserve(parts: Map<number, Part>, decided: () => void): void {
    const inOrder = [...parts].toSorted(([a], [b]) => a - b);
    const askFrom = (at: number): void => {
      const next = inOrder[at];
      if (!next) return decided();
      next[1].answered = () => askFrom(at + 1);
      this.inventories[next[0]]!.ask(next[1]);
    };
    if (this.settings.protocol === 'prepared') return askFrom(0);
    let left = inOrder.length;
    for (const [number, part] of inOrder) {
      part.answered = () => {
        if ((left -= 1) === 0) decided();
      };
      this.inventories[number]!.ask(part);
    }
  }

  private decide(batch: Order[], parts: Map<number, Part>, done: () => void): void {
    const { recordCallMs, recordOrderMs, recordLineMs, commitMs } = this.costs;
    const { protocol } = this.settings;
    const held = batch.filter((it) => it.shortages === 0);
    for (const order of batch)
      if (order.shortages > 0 && order.heldAt.size > 0) {
        this.stock.wasInTheWay(order);
        // A prepared transaction is rolled back with its batch. The other orders of the batch are requested again
        // without it; that additional batch is not simulated.
        for (const [number, part] of order.heldAt)
          if (protocol === 'held') this.inventories[number]!.release(order, part);
          else {
            this.stock.settle(order, part);
            this.stock.giveBack(part);
          }
      }
    const lines = held.reduce((sum, it) => sum + it.basket.length, 0);
    const recordMs = recordCallMs + held.length * recordOrderMs + (lines - held.length) * recordLineMs;
    this.orders.use(recordMs, () =>
      this.clock.after(commitMs, () => {
        for (const order of held) for (const part of order.heldAt.values()) this.stock.settle(order, part);
        for (const [number, part] of parts)
          this.inventories[number]!.settle(part.orders.filter((it) => it.order.shortages === 0).length);
        if (protocol === 'held') return done();
        let left = parts.size;
        for (const [number, part] of parts)
          this.inventories[number]!.finish(part.rows, () => {
            if ((left -= 1) === 0) done();
          });
      }),
    );
  }
}

const ordersOf = ({ partitions, processes, callers, rounds }: ClusterSettings): number =>
  partitions * processes * callers * rounds;

/** The units of each row: the share `supply` of the average demand of a run. */
const stockFor = (baskets: Baskets, { supply, buckets = 1, ...settings }: ClusterSettings): Stock => {
  const orders = ordersOf(settings);
  const units = new Float64Array(baskets.products * buckets);
  if (supply === undefined) return new Stock(units.fill(1e12));
  for (const basket of baskets.orders)
    for (const { product, quantity } of basket)
      for (let bucket = 0; bucket < buckets; bucket += 1)
        units[product * buckets + bucket]! += (quantity * supply * orders) / baskets.orders.length / buckets;
  return new Stock(units.map(Math.round));
};

const quantile = (sorted: readonly number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;

/** Simulates callers that place orders, until enough orders are answered. */
export const simulate = (baskets: Baskets, settings: ClusterSettings, costs: Costs): ClusterResult => {
  const clock = new Clock();
  const random = new SeededRandom(settings.seed);
  const next = arrivals(baskets, random);
  const stock = stockFor(baskets, settings);
  const inventories = Array.from(
    { length: settings.partitions },
    (_, number) => new Inventory(clock, costs, stock, settings, number),
  );
  const orderDatabases = inventories.map(() => new Cores(clock, settings.cores));
  const processes = orderDatabases.flatMap((orders) =>
    Array.from({ length: settings.processes }, () => new Process(clock, costs, settings, inventories, orders, stock)),
  );

  const orders = ordersOf(settings);
  const isScarce = settings.supply !== undefined;
  const took: number[] = [];
  let begun = 0;
  let answered = 0;
  let refused = 0;
  let countedFromMs = 0;
  let countedUntilMs = 0;
  const placeAt = (process: Process): void => {
    // With ample stock, callers go on until the last counted order is answered.
    if (isScarce ? begun >= orders : answered >= orders) return;
    begun += 1;
    process.place({
      ...{ basket: next(), bucket: random.integer(0, 2 ** 20), cameAtMs: clock.nowMs },
      ...{ heldAt: new Map(), shortages: 0, inTheWayOf: [] },
      answered: (order) => {
        answered += 1;
        if (order.shortages > 0) refused += 1;
        if (answered === Math.floor(orders / 4)) {
          countedFromMs = clock.nowMs;
          for (const it of machines) it.busyMs = 0;
        }
        if (answered > orders / 4 && answered <= orders) {
          took.push(clock.nowMs - order.cameAtMs);
          countedUntilMs = clock.nowMs;
        }
        placeAt(process);
      },
    });
  };
  const inventoryCores = inventories.map((it) => it.cores);
  const nodes = processes.map((it) => it.node);
  const machines = [...inventoryCores, ...orderDatabases, ...nodes];
  for (const process of processes) for (let caller = 0; caller < settings.callers; caller += 1) placeAt(process);
  while (answered < orders) clock.run(clock.nowMs + 1);
  const countedMs = countedUntilMs - countedFromMs;
  const busiest = (all: readonly Cores[], cores: number): number =>
    Math.min(1, Math.max(...all.map((it) => it.busyMs)) / (countedMs * cores));
  const uses = {
    inventoryUse: busiest(inventoryCores, settings.cores),
    orderUse: busiest(orderDatabases, settings.cores),
    nodeUse: busiest(nodes, 1),
  };
  // Orders in flight do not matter, except that they have to finish before stock is counted.
  if (isScarce) clock.run();
  const sorted = took.toSorted((a, b) => a - b);
  const { share, oversold } = stock.sold();
  const sumOf = (value: (it: Inventory) => number): number => inventories.reduce((sum, it) => sum + value(it), 0);
  return {
    perSecond: (took.length / countedMs) * 1_000,
    p50Ms: quantile(sorted, 0.5),
    p99Ms: quantile(sorted, 0.99),
    ordersACall: sumOf((it) => it.ordersAsked) / sumOf((it) => it.calls),
    ...uses,
    refused: refused / orders,
    refusedForNothing: stock.refusedForNothing / orders,
    sold: share,
    oversold,
  };
};
