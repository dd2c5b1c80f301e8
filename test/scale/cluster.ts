import { SeededRandom } from '#testing';
import { arrivals, partitionOf, type Basket, type Baskets } from './baskets.js';
import { Clock, Cores, RowLocks } from './clock.js';
import type { Costs } from './costs.js';

/** How an order over several databases of inventory is decided. */
export type Protocol = 'held' | 'prepared';

export interface ClusterSettings {
  /** Databases of inventory, and as many of orders. */
  partitions: number;
  /** Of each database. */
  cores: number;
  /** Order processes for each database of orders, a core each. */
  processes: number;
  /** For each of those; each waits for its answer and asks for the next order at once. */
  callers: number;
  /**
   * `held`: every database holds its part, and what is held is given back where another one refuses. `prepared`: they are
   * asked one after the other, so that nobody waits in a circle, and keep their locks until the order is recorded.
   */
  protocol: Protocol;
  /** Whether what several order processes ask of a database goes in one call, or in a call each as today. */
  merging: boolean;
  /** Units of a product, as a share of what is asked for of it; ample where it is left out. */
  supply?: number;
  /** Sub-stocks that each product is split into, each a row of its own. */
  buckets?: number;
  /** Orders that each caller places, in the mean; the first quarter of all is not counted. */
  rounds: number;
  seed: number;
}

export interface ClusterResult {
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  /** In one call to one database of inventory. */
  ordersACall: number;
  /** The share of its cores that the busiest database of inventory uses, and the busiest one of orders. */
  inventoryUse: number;
  orderUse: number;
  nodeUse: number;
  refused: number;
  /** Refused only because of holds that were given back a moment later. */
  refusedForNothing: number;
  /** Units that were sold, of those there were; 1 is all of them. */
  sold: number;
  /** Products of which more was sold than there was: none, or the simulation is wrong. */
  oversold: number;
}

interface Order {
  basket: Basket;
  /** Its bucket of each product. */
  bucket: number;
  cameAtMs: number;
  answered: (order: Order) => void;
  /** What is held, by database, until it is known whether all of them hold. */
  heldAt: Map<number, Basket>;
  shortages: number;
  /** Others that were refused while this one held what they wanted. */
  inTheWayOf: { order: Order; row: number; units: number }[];
}

/** What a database is asked for by one batch. */
interface Part {
  orders: { order: Order; wanted: Basket }[];
  lines: number;
  rows: Set<number>;
  answered: () => void;
}

/** As `PlaceOrder` bounds its batches. */
const batchLimits = { orders: 250, lines: 5_000, lanes: 2, slowMs: 20 };

/** Units of each row of stock, and who holds some of them without being sure of the rest. */
class Stock {
  private readonly left: Float64Array;
  private readonly most: Float64Array;
  private readonly unsure = new Map<number, Map<Order, number>>();
  /** Of a refused order, by row: how much is missing still, should those in its way give back what they hold. */
  private readonly missing = new Map<Order, Map<number, number>>();
  refusedForNothing = 0;

  constructor(units: Float64Array) {
    this.left = units;
    this.most = Float64Array.from(units);
  }

  /** All of it or nothing. */
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

  /** An order that holds something is refused elsewhere: whoever it was in the way of was refused for nothing. */
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

  /** A prepared transaction is committed: another sync, and only then are its rows free. */
  finish(rows: Set<number>, done: () => void): void {
    this.cores.use(this.costs.finishMs, () =>
      this.clock.after(this.costs.commitMs, () => {
        this.locks.release(rows);
        done();
      }),
    );
  }

  /** What the relay brings later: each confirmation is a row, and touches no product. */
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
    // Reservations are written first, which nobody waits for.
    this.cores.use(cpuMs * (1 - lockedShare), () => this.locks.acquire(rows, locked));
  }
}

/** One order process: batches as `Batcher` makes them. */
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
    // After everybody who asks at this moment.
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
    // A call for each database that is asked.
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
      // Sub-stocks of a product lie side by side, in as many databases as there are.
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
        // What is prepared is rolled back with its batch; the others of the batch are asked for again without it, which
        // costs a batch more and is left out here.
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

/** What of each row there is: `supply` of what the orders of a run ask for in the mean. */
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

/** Simulates callers that place orders, until so many are answered. */
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
    // Where nothing is short, nobody stands still before the last one is answered.
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
  // What is under way is of no interest, but where stock is counted it has to come to its end.
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
