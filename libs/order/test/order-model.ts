/** Lines of distinct products. */
export interface ModelCommand {
  customerId: string;
  units: Record<string, number>;
  /** The price of a unit that the customer expects, if any. */
  priceMinor?: number;
}

/** The faults that are injected while an instance places an order. */
export const faults = [
  'reserve not asked',
  'reserve not heard',
  'record not made',
  'record not heard',
  'paused until swept',
] as const;
export type Fault = (typeof faults)[number];

type Entry =
  | { type: 'placed' | 'cancelled' }
  | { type: 'fulfilled' | 'returned'; units: Record<string, number>; restock?: boolean };

export interface ModelOrder {
  id: string | undefined;
  command: ModelCommand;
  status: string;
  lines: Map<string, { quantity: number; cancelled: number; fulfilled: number; returned: number }>;
  entries: Entry[];
  /** How many of the entries were delivered to inventory. */
  told: number;
  hold: Hold;
  priceMinor: number;
}

interface Hold {
  units: Record<string, number>;
  overdueAt: number;
  isConfirmed: boolean;
}

/** How a request to place an order ends. */
export type Placed =
  | { outcome: 'placed' | 'replayed'; order: ModelOrder }
  | {
      outcome:
        | 'out-of-stock'
        | 'out-of-stock, replayed'
        | 'unknown-product'
        | 'price-changed'
        | 'idempotency-key-reused'
        | 'unavailable';
    };

/** How a request to change an order ends. */
export type Changed = 'changed' | 'already' | 'replayed' | 'illegal-transition' | 'idempotency-key-reused';

/** Whether every unit was returned or cancelled. */
const isBack = ({ lines }: ModelOrder): boolean =>
  [...lines.values()].every((it) => it.returned + it.cancelled === it.quantity);

const isCancelledInPart = ({ lines }: ModelOrder): boolean => [...lines.values()].some((it) => it.cancelled > 0);

const same = (one: unknown, two: unknown): boolean => JSON.stringify(one) === JSON.stringify(two);

/** The expected behaviour of orders and their stock, as simple as possible. */
export class OrderModel {
  readonly onHand = new Map<string, number>();
  readonly orders: ModelOrder[] = [];
  tombstones = 0;
  priceMinor = 100;
  private now = 0;
  /** Holds without an order, by the request that they are held for. */
  private readonly orphans = new Map<string, Hold>();
  /** The requests that inventory has refused for lack of stock. */
  private readonly refused = new Set<string>();
  private readonly answers = new Map<string, { command: ModelCommand; order?: ModelOrder }>();
  private readonly changes = new Map<string, unknown>();
  /** The requests whose hold was released; their retries use another reservation. */
  private readonly givenBack = new Set<string>();
  /** Every keyed request that was made, whatever its result. */
  readonly keyed: [string, ModelCommand][] = [];
  private unkeyed = 0;

  constructor(private readonly holdMs: number) {}

  reservedOf(productId: string): number {
    const open = this.orders.map(({ hold, entries, told }) => {
      let units = hold.units[productId] ?? 0;
      for (const it of entries.slice(0, told)) {
        if (it.type === 'cancelled') units = 0;
        if (it.type === 'fulfilled') units -= it.units[productId] ?? 0;
      }
      return units;
    });
    const orphaned = [...this.orphans.values()].map((it) => it.units[productId] ?? 0);
    return [...open, ...orphaned].reduce((sum, units) => sum + units, 0);
  }

  restock(productId: string, units: number): void {
    this.onHand.set(productId, (this.onHand.get(productId) ?? 0) + units);
  }

  place(key: string | null, command: ModelCommand, fault?: Fault): Placed {
    const slot = key === null ? `unkeyed ${(this.unkeyed += 1)}` : JSON.stringify([key, command]);
    if (key !== null) this.keyed.push([key, command]);
    const stored = key === null ? undefined : this.answers.get(key);
    const replay = (): Placed | undefined => {
      if (!stored) return undefined;
      if (!same(stored.command, command)) return { outcome: 'idempotency-key-reused' };
      return stored.order ? { outcome: 'replayed', order: stored.order } : { outcome: 'out-of-stock, replayed' };
    };
    // After an outage, the refusal of another command is no answer: it does not say whether an order was recorded.
    const cutOff = (): Placed =>
      (stored && (stored.order || same(stored.command, command)) && replay()) || { outcome: 'unavailable' };
    if (fault === 'reserve not asked') return cutOff();

    const recorded = stored?.order && same(stored.command, command);
    // The released reservation is tried first; a new one is requested unless that answer is lost or the key has one.
    if (this.givenBack.has(slot) && fault === 'reserve not heard') return cutOff();
    if (this.givenBack.has(slot) && stored) return replay()!;
    // If an earlier attempt holds the stock, that one may have recorded the order.
    const isOwn = !this.orphans.has(slot);
    const decision = recorded && !this.isRepriced(command) ? 'held' : this.decide(slot, command);
    if (fault === 'reserve not heard') return cutOff();
    if (decision === 'unknown-product') return replay() ?? { outcome: decision };
    if (decision === 'price-changed') {
      // No order will be recorded on the hold of an earlier try.
      if (this.orphans.has(slot)) this.giveBack(slot);
      return replay() ?? { outcome: decision };
    }
    if (decision === 'out-of-stock') {
      if (key !== null && !stored) this.answers.set(key, { command });
      return replay() ?? { outcome: decision };
    }
    // If the order itself has released the hold, the key has an answer already, and nothing is recorded.
    const isReleased =
      recorded && stored.order!.entries.slice(0, stored.order!.told).some((it) => it.type === 'cancelled');
    if (isReleased) return replay()!;
    if (fault === 'record not made') return cutOff();
    if (fault === 'paused until swept') {
      this.expire();
      this.sweep();
      if (!stored) this.decide(slot, command);
    }
    if (stored) {
      if (fault !== 'record not heard' && this.orphans.has(slot)) this.giveBack(slot);
      return fault === 'record not heard' ? cutOff() : replay()!;
    }
    const order = this.record(key, command, this.orphans.get(slot)!);
    this.orphans.delete(slot);
    return { outcome: fault !== 'record not heard' || isOwn ? 'placed' : 'replayed', order };
  }

  private isRepriced({ priceMinor }: ModelCommand): boolean {
    return priceMinor !== undefined && priceMinor !== this.priceMinor;
  }

  private decide(slot: string, command: ModelCommand): 'held' | 'out-of-stock' | 'unknown-product' | 'price-changed' {
    const { units } = command;
    if (this.refused.has(slot)) return 'out-of-stock';
    if (this.isRepriced(command)) return 'price-changed';
    if (this.orphans.has(slot)) return 'held';
    if (Object.keys(units).some((id) => !this.onHand.has(id))) return 'unknown-product';
    if (Object.entries(units).some(([id, quantity]) => quantity > this.onHand.get(id)! - this.reservedOf(id))) {
      this.refused.add(slot);
      return 'out-of-stock';
    }
    this.orphans.set(slot, { units, overdueAt: this.now + this.holdMs, isConfirmed: false });
    return 'held';
  }

  private giveBack(slot: string): void {
    this.orphans.delete(slot);
    this.givenBack.add(slot);
    this.tombstones += 1;
  }

  private record(key: string | null, command: ModelCommand, hold: Hold): ModelOrder {
    const lines = Object.entries(command.units).map(
      ([id, quantity]) => [id, { quantity, cancelled: 0, fulfilled: 0, returned: 0 }] as const,
    );
    const order: ModelOrder = {
      ...{ id: undefined, command, status: 'confirmed', lines: new Map(lines) },
      ...{ entries: [{ type: 'placed' }], told: 0, hold, priceMinor: this.priceMinor },
    };
    this.orders.push(order);
    if (key !== null) this.answers.set(key, { command, order });
    return order;
  }

  cancel(order: ModelOrder): Changed {
    if (order.status === 'cancelled') return 'already';
    if (order.status !== 'confirmed') return 'illegal-transition';
    order.status = 'cancelled';
    order.entries.push({ type: 'cancelled' });
    return 'changed';
  }

  cancelRemaining(order: ModelOrder): Changed {
    if (order.status === 'fulfilled' || order.status === 'returned')
      return isCancelledInPart(order) ? 'already' : 'illegal-transition';
    if (order.status !== 'partially-fulfilled') return this.cancel(order);
    for (const line of order.lines.values()) line.cancelled = line.quantity - line.fulfilled;
    order.status = isBack(order) ? 'returned' : 'fulfilled';
    order.entries.push({ type: 'cancelled' });
    return 'changed';
  }

  /** @param units the units to hand over; all that remain if it is undefined */
  fulfil(order: ModelOrder, units: Record<string, number> | undefined, key: string | null): Changed {
    return this.once('fulfil', key, [this.orders.indexOf(order), units], () => {
      if (!units && ['fulfilled', 'returned'].includes(order.status))
        return isCancelledInPart(order) ? 'illegal-transition' : 'already';
      if (!['confirmed', 'partially-fulfilled'].includes(order.status)) return 'illegal-transition';
      const left = [...order.lines].map(([id, line]) => [id, line.quantity - line.fulfilled] as const);
      const taken = units ?? Object.fromEntries(left.filter(([, quantity]) => quantity > 0));
      const isTooMuch = Object.entries(taken).some(([id, quantity]) => quantity > (new Map(left).get(id) ?? 0));
      if (isTooMuch) return 'illegal-transition';
      for (const [id, quantity] of Object.entries(taken)) order.lines.get(id)!.fulfilled += quantity;
      const isDone = [...order.lines.values()].every((it) => it.fulfilled === it.quantity);
      order.status = isDone ? 'fulfilled' : 'partially-fulfilled';
      order.entries.push({ type: 'fulfilled', units: taken });
      return 'changed';
    });
  }

  return(order: ModelOrder, units: Record<string, number>, restock: boolean, key: string): Changed {
    return this.once('return', key, [this.orders.indexOf(order), units, restock], () => {
      if (!['partially-fulfilled', 'fulfilled', 'returned'].includes(order.status)) return 'illegal-transition';
      for (const [id, quantity] of Object.entries(units)) {
        const line = order.lines.get(id);
        if (!line || quantity > line.fulfilled - line.returned) return 'illegal-transition';
      }
      for (const [id, quantity] of Object.entries(units)) order.lines.get(id)!.returned += quantity;
      if (isBack(order)) order.status = 'returned';
      order.entries.push({ type: 'returned', units, restock });
      return 'changed';
    });
  }

  /** A change that was made or unnecessary stores its key; a refused one does not. */
  private once(operation: string, key: string | null, request: unknown, change: () => Changed): Changed {
    const earlier = key === null ? undefined : this.changes.get(`${operation} ${key}`);
    if (earlier) return same(earlier, request) ? 'replayed' : 'idempotency-key-reused';
    const outcome = change();
    if (outcome !== 'illegal-transition' && key !== null) this.changes.set(`${operation} ${key}`, request);
    return outcome;
  }

  /** Delivers every entry to inventory. */
  tell(): void {
    for (const order of this.orders) {
      for (const entry of order.entries.slice(order.told)) {
        if (entry.type === 'fulfilled')
          for (const [id, quantity] of Object.entries(entry.units)) this.restock(id, -quantity);
        if (entry.type === 'returned' && entry.restock)
          for (const [id, quantity] of Object.entries(entry.units)) this.restock(id, quantity);
      }
      order.told = order.entries.length;
      order.hold.isConfirmed = true;
    }
  }

  expire(): void {
    this.now += this.holdMs;
  }

  sweep(): { released: number; confirmed: number } {
    const swept = { released: 0, confirmed: 0 };
    for (const [slot, { overdueAt }] of this.orphans) {
      if (overdueAt > this.now) continue;
      this.giveBack(slot);
      swept.released += 1;
    }
    for (const { hold } of this.orders) {
      if (hold.isConfirmed || hold.overdueAt > this.now) continue;
      hold.isConfirmed = true;
      swept.confirmed += 1;
    }
    return swept;
  }
}
