import { randomBytes } from 'node:crypto';
import { CleaveError, type OrderDocument, type OrderStatus } from '#contracts';
import { uuidOf } from './uuid.js';

/** An order as it is kept. Its document is the same, in the words of the public API. */
export type Order = OrderDocument;
type OrderLine = Order['lines'][number];

/** What a change of an order means for the stock held for it. */
export interface StockConsequence {
  kind: 'confirm' | 'release' | 'fulfil' | 'restock';
  lines: { product_id: string; quantity: number }[];
}

export type HistoryEntryType = 'placed' | 'cancelled' | 'fulfilled' | 'returned';

/** A change of an order: what it became, the entry of its history, and what it means for the stock. */
export interface OrderChange {
  order: Order;
  entry: { type: HistoryEntryType; data: Record<string, unknown> };
  consequences: StockConsequence[];
}

/** Which units of which line: `line` may be left out where the product says enough. */
export interface Units {
  product_id: string;
  quantity: number;
  line?: number | undefined;
}

type Verb = 'cancel' | 'fulfil' | 'return';

/** The state machine: from which status each verb may be used. Where it leads follows from the units concerned. */
const mayFrom: Record<Verb, readonly OrderStatus[]> = {
  cancel: ['pending', 'confirmed'],
  fulfil: ['confirmed', 'partially-fulfilled'],
  return: ['partially-fulfilled', 'fulfilled', 'returned'],
};

const whyNot: Record<Verb, string> = {
  cancel: 'Goods that were handed over cannot be cancelled; take them back with a return.',
  fulfil: 'Only a confirmed order can be handed over.',
  return: 'Only what was handed over can come back.',
};

const assertMay = (verb: Verb, order: Order): void => {
  if (mayFrom[verb].includes(order.status)) return;
  throw new CleaveError('illegal-transition', `The order is ${order.status}. ${whyNot[verb]}`, {
    order_status: order.status,
    allowed_from: mayFrom[verb],
  });
};

const changed = (order: Order, at: Date, change: Partial<Order>): Order => ({
  ...order,
  ...change,
  version: order.version + 1,
  // Clocks of several instances differ a little; an order's own time never runs backwards.
  updated_at: at > order.updated_at ? at : order.updated_at,
});

/** Cancels an order that was not handed over yet. `undefined` when it is cancelled already. */
export const cancelOrder = (order: Order, reason: string | undefined, at: Date): OrderChange | undefined => {
  if (order.status === 'cancelled') return undefined;
  assertMay('cancel', order);
  return {
    order: changed(order, at, { status: 'cancelled' }),
    entry: { type: 'cancelled', data: reason === undefined ? {} : { reason } },
    consequences: [{ kind: 'release', lines: [] }],
  };
};

/** Hands units over: those given, or all that remain. `undefined` when nothing remains and nothing was named. */
export const fulfilOrder = (order: Order, units: readonly Units[] | undefined, at: Date): OrderChange | undefined => {
  if (!units && (order.status === 'fulfilled' || order.status === 'returned')) return undefined;
  assertMay('fulfil', order);
  const remaining = (line: OrderLine): number => line.quantity - line.fulfilled;
  const taken = units
    ? takeUnits(order, units, remaining, 'remain to be handed over')
    : order.lines.map((line) => ({ line, quantity: remaining(line) })).filter((it) => it.quantity > 0);
  const lines = withUnits(order, taken, 'fulfilled');
  const done = lines.every((line) => line.fulfilled === line.quantity);
  return {
    order: changed(order, at, { lines, status: done ? 'fulfilled' : 'partially-fulfilled' }),
    entry: { type: 'fulfilled', data: { lines: taken.map(unitsOf) } },
    consequences: [{ kind: 'fulfil', lines: taken.map(unitsOf) }],
  };
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
  const lines = withUnits(order, taken, 'returned');
  const creditedMinor = taken.reduce((sum, it) => sum + it.creditMinor, 0);
  const returnedTotalMinor = order.returned_total_minor + creditedMinor;
  if (!Number.isSafeInteger(returnedTotalMinor))
    throw new CleaveError('invalid-request', 'The amounts of the returns add up to more than can be kept.', {
      faults: [{ path: 'lines', message: 'the amounts are too large' }],
    });
  const all = lines.every((line) => line.returned === line.quantity);
  return {
    order: changed(order, at, {
      lines,
      returned_total_minor: returnedTotalMinor,
      status: all ? 'returned' : order.status,
    }),
    entry: {
      type: 'returned',
      data: {
        lines: taken.map((it) => ({ ...unitsOf(it), amount_minor: it.creditMinor })),
        amount_minor: creditedMinor,
        restock: command.restock,
        reason: command.reason,
      },
    },
    consequences: command.restock ? [{ kind: 'restock', lines: taken.map(unitsOf) }] : [],
  };
};

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

/**
 * Finds the lines that the units are taken from: the line named, or the lines of the product in their order.
 * An amount given for units that lie on several lines is shared out in proportion; the last line takes the rest.
 */
const takeUnits = (
  order: Order,
  wanted: ReturnCommand['lines'],
  free: (line: OrderLine) => number,
  meaning: string,
): TakenUnits[] => {
  const left = new Map(order.lines.map((line) => [line, free(line)]));
  return wanted.flatMap((units, index) => {
    const candidates = order.lines.filter(
      (line) => line.product_id === units.product_id && (units.line === undefined || units.line === line.line),
    );
    const available = candidates.reduce((sum, line) => sum + left.get(line)!, 0);
    if (available < units.quantity)
      throw new CleaveError(
        'illegal-transition',
        `${available} units of ${units.product_id} ${meaning}, not ${units.quantity}.`,
        { order_status: order.status, faults: [{ path: `lines.${index}.quantity`, message: `at most ${available}` }] },
      );
    const taken: TakenUnits[] = [];
    let open = units.quantity;
    let openMinor = units.amount_minor;
    for (const line of candidates) {
      const quantity = Math.min(open, left.get(line)!);
      if (quantity === 0) continue;
      const creditMinor =
        openMinor === undefined
          ? quantity * line.unit_price_minor
          : Number((BigInt(openMinor) * BigInt(quantity)) / BigInt(open));
      taken.push({ line, quantity, creditMinor });
      left.set(line, left.get(line)! - quantity);
      open -= quantity;
      if (openMinor !== undefined) openMinor -= creditMinor;
    }
    return taken;
  });
};

const withUnits = (
  order: Order,
  taken: readonly Pick<TakenUnits, 'line' | 'quantity'>[],
  counter: 'fulfilled' | 'returned',
): OrderLine[] =>
  order.lines.map((line) => ({
    ...line,
    [counter]: line[counter] + taken.reduce((sum, it) => sum + (it.line === line ? it.quantity : 0), 0),
  }));

/**
 * A new order id: a UUID of version 7 (RFC 9562), so that ids sort by the millisecond they were made in and the other
 * 74 bits cannot be guessed.
 */
export const newOrderId = (now: number): string => {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(now, 0, 6);
  return uuidOf(bytes, 7);
};
