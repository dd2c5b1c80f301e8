import { CleaveError, type OrderDocument, type OrderStatus, type historyEntryTypes } from '#contracts';
import { leastUuidOfTime, uuidOfTime } from './uuid.js';

/** An order as it is stored; its document in the public API uses the same names. */
export type Order = OrderDocument;

export const noSuchOrder = (orderId: string): CleaveError =>
  new CleaveError('order-not-found', `There is no order ${orderId}.`);
type OrderLine = Order['lines'][number];

/** What happened to an order, and the version and status it led to. */
export interface HistoryEntry {
  version: number;
  type: (typeof historyEntryTypes)[number];
  status: OrderStatus;
  data: HistoryData;
  at: Date;
}

/** The data of an entry, by its type. Empty for `placed`, as the order itself says it. */
type HistoryData = {
  reason?: string;
  /** Of a hand-over: the caller's own number for it. */
  reference?: string;
  /** Of a cancellation: set if only the remaining units were cancelled, not the whole order. */
  remaining?: true;
  /** The units handed over, returned, or cancelled because they remained. */
  lines?: (LineUnits & { amount_minor?: number })[];
  /** The credit for a return, for all lines together. */
  amount_minor?: number;
  restock?: boolean;
};

interface LineUnits {
  line: number;
  product_id: string;
  quantity: number;
}

/** A change of an order: what it became, and the entry of its history. */
export interface OrderChange {
  order: Order;
  entry: Pick<HistoryEntry, 'type' | 'data'>;
}

/** Units of a product; without `line`, they are taken from its lines in their order. */
export interface Units {
  product_id: string;
  quantity: number;
  line?: number | undefined;
}

type Verb = 'cancel' | 'cancel-remaining' | 'fulfil' | 'return';

/**
 * The state machine. `mayFrom` are the statuses in which a verb is allowed, and `leadsTo` those it can lead to, depending on
 * which units remain. If the verb is `done` already and no units are named, the order is returned unchanged. Nothing remains
 * of an order because it was handed over or because the rest was cancelled: only the verb that did so counts as done.
 */
export const transitions: Record<
  Verb,
  { mayFrom: OrderStatus[]; leadsTo: OrderStatus[]; done: OrderStatus[]; whyNot: string }
> = {
  cancel: {
    mayFrom: ['pending', 'confirmed'],
    leadsTo: ['cancelled'],
    done: ['cancelled'],
    whyNot:
      'Goods that were handed over cannot be cancelled; record a return instead. To cancel what remains of the order, if anything, send `remaining`.',
  },
  'cancel-remaining': {
    mayFrom: ['pending', 'confirmed', 'partially-fulfilled'],
    leadsTo: ['cancelled', 'fulfilled', 'returned'],
    done: ['cancelled', 'fulfilled', 'returned'],
    whyNot: 'There is nothing left to hand over.',
  },
  fulfil: {
    mayFrom: ['confirmed', 'partially-fulfilled'],
    leadsTo: ['partially-fulfilled', 'fulfilled'],
    done: ['fulfilled', 'returned'],
    whyNot: 'Only what remains of a confirmed order can be handed over.',
  },
  return: {
    mayFrom: ['partially-fulfilled', 'fulfilled', 'returned'],
    leadsTo: ['partially-fulfilled', 'fulfilled', 'returned'],
    done: [],
    whyNot: 'Only goods that were handed over can be returned.',
  },
};

export const isCancelledInPart = ({ lines }: Order): boolean => lines.some((it) => it.cancelled !== undefined);

const isDone = (verb: Verb, order: Order): boolean => {
  if (!transitions[verb].done.includes(order.status)) return false;
  if (verb === 'fulfil') return !isCancelledInPart(order);
  return verb !== 'cancel-remaining' || order.status === 'cancelled' || isCancelledInPart(order);
};

const assertMay = (verb: Verb, order: Order): void => {
  const { mayFrom, whyNot } = transitions[verb];
  if (mayFrom.includes(order.status)) return;
  throw new CleaveError('illegal-transition', `The order is ${order.status}. ${whyNot}`, {
    order_status: order.status,
    allowed_from: mayFrom,
  });
};

const changed = (order: Order, at: Date, change: Partial<Order>): Order => ({
  ...order,
  ...change,
  version: order.version + 1,
  // The clocks of instances differ a little; `updated_at` never runs backwards.
  updated_at: at > order.updated_at ? at : order.updated_at,
});

/** Cancels an order that was not handed over yet. `undefined` when it is cancelled already. */
export const cancelOrder = (order: Order, reason: string | undefined, at: Date): OrderChange | undefined => {
  if (isDone('cancel', order)) return undefined;
  assertMay('cancel', order);
  return become(order, at, { type: 'cancelled', data: reason === undefined ? {} : { reason } });
};

/**
 * Cancels the units that will not be handed over any more: the whole order if none were. `undefined` if that was done
 * before. It moves no money; as with returns, a refund has to be requested.
 */
export const cancelRemaining = (order: Order, reason: string | undefined, at: Date): OrderChange | undefined => {
  if (isDone('cancel-remaining', order)) return undefined;
  assertMay('cancel-remaining', order);
  if (order.status !== 'partially-fulfilled') return cancelOrder(order, reason, at);
  const lines = allRemaining(order).map(unitsOf);
  const data = { remaining: true as const, lines, ...(reason !== undefined && { reason }) };
  return become(order, at, { type: 'cancelled', data });
};

const remaining = (line: OrderLine): number => line.quantity - (line.cancelled ?? 0) - line.fulfilled;

const allRemaining = ({ lines }: Order) =>
  lines.map((line) => ({ line, quantity: remaining(line) })).filter((it) => it.quantity > 0);

/** Hands units over: those given, or all that remain. `undefined` when nothing remains and nothing was named. */
export const fulfilOrder = (
  order: Order,
  units: readonly Units[] | undefined,
  at: Date,
  reference?: string,
): OrderChange | undefined => {
  if (!units && isDone('fulfil', order)) return undefined;
  assertMay('fulfil', order);
  const taken = units ? takeUnits(order, units, remaining, 'remain to be handed over') : allRemaining(order);
  const data = { lines: taken.map(unitsOf), ...(reference !== undefined && { reference }) };
  return become(order, at, { type: 'fulfilled', data });
};

export interface ReturnCommand {
  lines: readonly (Units & { amount_minor?: number | undefined })[];
  restock: boolean;
  reason: string;
}

/** Takes units back that were handed over, and credits them. */
export const returnGoods = (order: Order, command: ReturnCommand, at: Date): OrderChange => {
  assertMay('return', order);
  const back = (line: OrderLine): number => line.fulfilled - line.returned;
  const taken = takeUnits(order, command.lines, back, 'were handed over and not returned yet');
  const creditedMinor = taken.reduce((sum, it) => sum + it.creditMinor, 0);
  refuseMoreThanPaid(order, creditedMinor);
  if (!Number.isSafeInteger(order.returned_total_minor + creditedMinor))
    throw new CleaveError('invalid-request', 'The returns add up to an amount that is too large to be stored.', {
      faults: [{ path: 'lines', message: 'the amounts are too large' }],
    });
  return become(order, at, {
    type: 'returned',
    data: {
      lines: taken.map((it) => ({ ...unitsOf(it), amount_minor: it.creditMinor })),
      amount_minor: creditedMinor,
      restock: command.restock,
      reason: command.reason,
    },
  });
};

/** We do not know what was paid elsewhere: the credit for it is the shop's own decision. */
const refuseMoreThanPaid = (
  { payment_method, total_minor, returned_total_minor }: Order,
  creditedMinor: number,
): void => {
  const leftMinor = Math.max(0, total_minor - returned_total_minor);
  if (payment_method === null || creditedMinor <= leftMinor) return;
  throw new CleaveError(
    'credit-exceeds-total',
    `The return would credit ${creditedMinor}, but only ${leftMinor} of what was paid for the order can still be credited. Set amount_minor for its lines.`,
    { at_most_minor: leftMinor },
  );
};

/** The only place where an entry changes an order: when it is decided, and when the history is replayed. */
const become = (order: Order, at: Date, entry: OrderChange['entry']): OrderChange => ({
  order: changed(order, at, effectOf(order, entry)),
  entry,
});

const effectOf = (order: Order, { type, data }: OrderChange['entry']): Partial<Order> => {
  switch (type) {
    case 'placed':
      return {};
    case 'payment-authorised':
      return { status: 'confirmed' };
    case 'payment-captured':
    case 'payment-reversed':
    case 'refunded':
      return {};
    case 'payment-declined':
    case 'payment-failed':
      return { status: 'cancelled' };
    case 'cancelled': {
      if (!data.lines) return { status: 'cancelled' };
      const lines = withUnits(order, data.lines, 'cancelled');
      return { lines, status: lines.every(isBack) ? 'returned' : 'fulfilled' };
    }
    case 'fulfilled': {
      const lines = withUnits(order, data.lines!, 'fulfilled');
      const done = lines.every((line) => remaining(line) === 0);
      return { lines, status: done ? 'fulfilled' : 'partially-fulfilled' };
    }
    case 'returned': {
      const lines = withUnits(order, data.lines!, 'returned');
      return {
        lines,
        returned_total_minor: order.returned_total_minor + data.amount_minor!,
        status: lines.every(isBack) ? 'returned' : order.status,
      };
    }
  }
};

/** Whether the customer has no unit of the line, and will get none. */
const isBack = (line: OrderLine): boolean => line.returned === line.quantity - (line.cancelled ?? 0);

/** The order that a history leads to, starting from the order as it was placed. */
export const replay = (placed: Order, entries: readonly Pick<HistoryEntry, 'type' | 'data' | 'at'>[]): Order =>
  entries.reduce((order, entry) => (entry.type === 'placed' ? order : become(order, entry.at, entry).order), placed);

/** The effect of a history entry on the stock that is held for the order. Confirming the order makes its hold permanent. */
export const stockEffectOf = ({
  type,
  status,
  data,
}: Pick<HistoryEntry, 'type' | 'status' | 'data'>):
  { kind: 'confirm' | 'release' | 'fulfil' | 'restock'; lines?: LineUnits[] } | undefined => {
  switch (type) {
    case 'placed':
      return status === 'pending' ? undefined : { kind: 'confirm' };
    case 'payment-authorised':
      return { kind: 'confirm' };
    case 'payment-captured':
    case 'payment-reversed':
    case 'refunded':
      return undefined;
    case 'payment-declined':
    case 'payment-failed':
    case 'cancelled':
      return { kind: 'release' };
    case 'fulfilled':
      return { kind: 'fulfil', lines: data.lines! };
    case 'returned':
      return data.restock ? { kind: 'restock', lines: data.lines! } : undefined;
  }
};

/** The types of entries that undo everything of an order that was not handed over. */
export const undoing = [
  'payment-declined',
  'payment-failed',
  'cancelled',
] as const satisfies readonly HistoryEntry['type'][];

interface TakenUnits {
  line: OrderLine;
  quantity: number;
  creditMinor: number;
}

const unitsOf = ({ line, quantity }: Pick<TakenUnits, 'line' | 'quantity'>) => ({
  line: line.line,
  product_id: line.product_id,
  quantity,
});

/** The lines of one product, in their order, and what is left of them. */
interface Shelf {
  lines: OrderLine[];
  left: number;
  /** Index of the first line that may have units left. */
  from: number;
}

/**
 * Finds the lines that the units are taken from: the named line, or the lines of the product in their order. An amount for
 * units on several lines is divided in proportion; the last line takes the rest.
 *
 * There may be many units and many lines, so there is no loop over all of the one within a loop over the other.
 */
const takeUnits = (
  order: Order,
  wanted: ReturnCommand['lines'],
  free: (line: OrderLine) => number,
  meaning: string,
): TakenUnits[] => {
  const left = order.lines.map(free);
  const leftOf = ({ line }: OrderLine): number => left[line - 1]!;
  const shelves = new Map<string, Shelf>();
  for (const [product, lines] of Map.groupBy(order.lines, (it) => it.product_id))
    shelves.set(product, { lines, left: lines.reduce((sum, line) => sum + leftOf(line), 0), from: 0 });
  return wanted.flatMap((units, index) => {
    const shelf = shelves.get(units.product_id) ?? { lines: [], left: 0, from: 0 };
    const named = units.line === undefined ? undefined : order.lines[units.line - 1];
    const ofNamed = named?.product_id === units.product_id ? leftOf(named) : 0;
    const available = units.line === undefined ? shelf.left : ofNamed;
    if (available < units.quantity)
      throw new CleaveError(
        'illegal-transition',
        `${units.quantity} units of ${units.product_id} were requested, but only ${available} ${meaning}.`,
        { order_status: order.status, faults: [{ path: `lines.${index}.quantity`, message: `at most ${available}` }] },
      );
    const taken: TakenUnits[] = [];
    let open = units.quantity;
    let openMinor = units.amount_minor;
    while (open > 0) {
      const line = named ?? shelf.lines[shelf.from]!;
      const quantity = Math.min(open, leftOf(line));
      if (quantity > 0) {
        const creditMinor =
          openMinor === undefined
            ? quantity * line.unit_price_minor
            : Number((BigInt(openMinor) * BigInt(quantity)) / BigInt(open));
        taken.push({ line, quantity, creditMinor });
        left[line.line - 1]! -= quantity;
        shelf.left -= quantity;
        open -= quantity;
        if (openMinor !== undefined) openMinor -= creditMinor;
      }
      if (!named && leftOf(line) === 0) shelf.from += 1;
    }
    return taken;
  });
};

const withUnits = (
  order: Order,
  taken: readonly Pick<LineUnits, 'line' | 'quantity'>[],
  counter: 'cancelled' | 'fulfilled' | 'returned',
): OrderLine[] => {
  const units = new Map<number, number>();
  for (const { line, quantity } of taken) units.set(line, (units.get(line) ?? 0) + quantity);
  return order.lines.map((line) => {
    const more = units.get(line.line);
    return more === undefined ? line : { ...line, [counter]: (line[counter] ?? 0) + more };
  });
};

/**
 * A new order id: a UUID of version 7 (RFC 9562), so that ids sort by the millisecond they were made in and the other
 * 74 bits cannot be guessed.
 */
export const newOrderId = (now: number): string => uuidOfTime(now);

/** When an order id was made. The order counts as placed at that moment, so that ids and times sort alike. */
export const placedAtOf = (orderId: string): Date =>
  new Date(Number.parseInt(orderId.slice(0, 8) + orderId.slice(9, 13), 16));

/** Orders placed before a moment have lesser ids, and all others do not; no id is as old as the epoch. */
export const leastOrderIdAt = (at: Date): string => leastUuidOfTime(Math.max(0, at.getTime()));
