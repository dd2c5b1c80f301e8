import type { MoneyMove, Order } from './api.js';
import type { Attempt } from './load.js';

/** What a client was told about an order that it changed. */
export interface ChangeAttempt {
  orderId: string;
  /** As in `Attempt`. */
  outcome?: number | string;
  /** The order in the acknowledgement. */
  order?: Order;
}

/** What a client was told about a refund that it asked for. */
export interface RefundAttempt {
  key: string;
  orderId: string;
  amountMinor: number;
  outcome?: number | string;
  text?: string;
  move?: MoneyMove;
}

/** What a client was told about a capture that it asked for; without an amount, of all that could be captured. */
export type CaptureAttempt = Omit<RefundAttempt, 'amountMinor'> & { amountMinor: number | null };

/** What clients remember. A repeated request is listed once for each time it was sent. */
export interface ClientLog {
  placements: readonly Attempt[];
  changes?: readonly ChangeAttempt[];
  refunds?: readonly RefundAttempt[];
  captures?: readonly CaptureAttempt[];
}

/** An order as it is stored. */
export type KeptOrder = Pick<Order, 'order_id' | 'customer_id' | 'currency' | 'total_minor' | 'version' | 'lines'> & {
  idempotency_key: string | null;
  /** The status at each version. */
  statuses: string[];
  /** The amounts that were refunded, except because of a cancellation. */
  refunds: number[];
  /** The amounts that were captured because somebody asked for it, not at once. */
  captures: number[];
};

/** A contradiction between what is stored and what a client was told. */
export type Contradiction = { broken: string } & Record<string, unknown>;

type Told = 'acknowledged' | 'refused' | 'without effect' | 'anything';

const codeOf = (text: string | undefined): string | undefined => {
  try {
    return (JSON.parse(text ?? '') as { code?: string }).code;
  } catch {
    return undefined;
  }
};

/** What a client may conclude from an answer, or from the lack of one. */
const toldBy = ({ outcome, text }: Attempt): Told => {
  if (outcome === 201) return 'acknowledged';
  if (outcome === 'ECONNREFUSED') return 'without effect';
  if (typeof outcome !== 'number' || outcome >= 500)
    return text?.includes('has had no effect') ? 'without effect' : 'anything';
  const code = codeOf(text);
  if (code === 'out-of-stock') return 'refused';
  return code === 'request-in-progress' ? 'anything' : 'without effect';
};

/** What never changes about an order. */
const essence = (order: Pick<Order, 'customer_id' | 'currency' | 'total_minor' | 'lines'>): string =>
  JSON.stringify([
    order.customer_id,
    order.currency,
    order.total_minor,
    order.lines.map((it) => [it.line, it.product_id, it.name, it.quantity, it.unit_price_minor]),
  ]);

const aboutAcknowledged = (told: Order, kept: KeptOrder | undefined): Contradiction[] => {
  const { order_id, version, status } = told;
  if (!kept) return [{ broken: 'an acknowledged order is gone', order_id }];
  const found: Contradiction[] = [];
  if (essence(kept) !== essence(told))
    found.push({ broken: 'an acknowledged order has become another one', told, kept });
  if (kept.statuses[version - 1] !== status)
    found.push({ broken: 'an acknowledged change is gone', order_id, version, status, statuses: kept.statuses });
  return found;
};

const aboutKey = (key: string, attempts: readonly Attempt[], kept: readonly KeptOrder[]): Contradiction[] => {
  const told = Map.groupBy(attempts, toldBy);
  const acknowledged = [...new Set(told.get('acknowledged')?.map((it) => it.order!.order_id))];
  const orders = kept.map((it) => it.order_id);
  const found: Contradiction[] = [];
  if (orders.length > 1) found.push({ broken: 'a key has several orders', key, orders });
  if (acknowledged.length > 1) found.push({ broken: 'a key was answered with several orders', key, acknowledged });
  if (acknowledged.some((it) => !orders.includes(it)))
    found.push({ broken: 'an acknowledged order is not kept under its key', key, acknowledged, orders });
  if (told.has('refused') && (acknowledged.length > 0 || orders.length > 0))
    found.push({ broken: 'what was refused has an order', key, acknowledged, orders });
  if (orders.length > 0 && !told.has('acknowledged') && !told.has('anything'))
    found.push({ broken: 'what had no effect has an order', key, orders });
  return found;
};

/** In words, what is wrong with moves of a kind. */
const wrong = {
  refund: {
    gone: 'an acknowledged refund is gone',
    unasked: 'money was given back that nobody asked for, or that was refused',
  },
  capture: {
    gone: 'an acknowledged capture is gone',
    unasked: 'money was captured that nobody asked for, or although that was refused',
  },
};

const aboutMoves = (
  kind: keyof typeof wrong,
  orderId: string,
  attempts: readonly CaptureAttempt[],
  made: readonly number[],
): Contradiction[] => {
  const left = [...made];
  const open: (number | null)[] = [];
  const found: Contradiction[] = [];
  for (const [key, tries] of Map.groupBy(attempts, (it) => it.key)) {
    const { amountMinor } = tries[0]!;
    const told = tries.find((it) => it.move?.status === 'succeeded')?.move;
    if (told) {
      const at = left.indexOf(amountMinor ?? told.amount_minor!);
      if (at < 0) found.push({ broken: wrong[kind].gone, orderId, key, amountMinor, made });
      else left.splice(at, 1);
    } else if (!tries.some((it) => codeOf(it.text) === 'payment-refused')) {
      open.push(amountMinor);
    }
  }
  // The remaining ones were requested by a client that did not learn the outcome.
  for (const amountMinor of left) {
    const at = open.includes(amountMinor) ? open.indexOf(amountMinor) : open.indexOf(null);
    if (at < 0) found.push({ broken: wrong[kind].unasked, orderId, amountMinor });
    else open.splice(at, 1);
  }
  return found;
};

/**
 * Compares what clients were told with what is stored: an acknowledged order exists, with the same lines and total and
 * with every status it was answered with; a key has at most one order; a refused request has none; a refund or capture
 * was made once, and none that was refused or never requested. A request without an answer, or with an answer that promises
 * nothing, may have had either outcome.
 */
export const contradictions = (log: ClientLog, kept: readonly KeptOrder[]): Contradiction[] => {
  const orderById = new Map(kept.map((it) => [it.order_id, it]));
  const ordersByKey = Map.groupBy(kept, (it) => it.idempotency_key);
  const changed = (log.changes ?? []).flatMap((it) => it.order ?? []);
  const placed = log.placements.flatMap((it) => (it.outcome === 201 && it.order ? [it.order] : []));
  return [
    ...[...placed, ...changed].flatMap((told) => aboutAcknowledged(told, orderById.get(told.order_id))),
    ...[...Map.groupBy(log.placements, (it) => it.key)].flatMap(([key, attempts]) =>
      aboutKey(key, attempts, ordersByKey.get(key) ?? []),
    ),
    ...[...Map.groupBy(log.refunds ?? [], (it) => it.orderId)].flatMap(([orderId, attempts]) =>
      aboutMoves('refund', orderId, attempts, orderById.get(orderId)?.refunds ?? []),
    ),
    ...[...Map.groupBy(log.captures ?? [], (it) => it.orderId)].flatMap(([orderId, attempts]) =>
      aboutMoves('capture', orderId, attempts, orderById.get(orderId)?.captures ?? []),
    ),
  ];
};
