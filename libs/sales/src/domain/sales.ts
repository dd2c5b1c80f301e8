import type { OrderEventType, OrderLogEvent, StockOutlook } from '#contracts';

/** What events add to the sales of a product on a day. Nothing is ever subtracted. */
export interface Delta {
  tenant: string;
  /** In UTC, such as 2026-11-30. */
  day: string;
  productId: string;
  currency: string;
  orders: number;
  ordered: number;
  cancelled: number;
  returned: number;
  orderedMinor: Whole;
  cancelledMinor: Whole;
  returnedMinor: Whole;
}

/** A number as long as it is safe, which is cheap, and a bigint beyond, so that it is always exact. Never negative. */
type Whole = number | bigint;

type Lines = NonNullable<OrderLogEvent['data']['order']>['lines'];

/** The details of `order.returned`. */
interface Returned {
  lines: { product_id: string; quantity: number; amount_minor: number }[];
}

/** The events that change what is sold. */
export const salesTypes: OrderEventType[] = [
  'order.placed',
  'order.cancelled',
  'order.payment-declined',
  'order.payment-failed',
  'order.returned',
];

/** Sums of events by tenant, day, product and currency. */
export class Sums {
  private readonly byKey = new Map<string, Delta>();
  /** Many events fall on few days. */
  private readonly days = new Map<number, string>();

  add(events: readonly OrderLogEvent[]): this {
    for (const event of events) {
      const number = Math.floor(event.time.getTime() / dayMs);
      const day = this.days.get(number) ?? dayOf(event.time);
      this.days.set(number, day);
      add(event, (productId) => this.of(event.tenantid, day, event.data.currency, productId));
    }
    return this;
  }

  /** Sorted by tenant, day, product and currency, so that all writers lock rows in the same order. */
  deltas(): Delta[] {
    return [...this.byKey].sort(([one], [other]) => (one < other ? -1 : 1)).map(([, sum]) => sum);
  }

  private of(tenant: string, day: string, currency: string, productId: string): Delta {
    // No id contains NUL, which sorts before every other character.
    const key = `${tenant}\0${day}\0${productId}\0${currency}`;
    let sum = this.byKey.get(key);
    if (!sum) {
      const none = { orders: 0, ordered: 0, cancelled: 0, returned: 0 };
      sum = { tenant, day, productId, currency, ...none, orderedMinor: 0, cancelledMinor: 0, returnedMinor: 0 };
      this.byKey.set(key, sum);
    }
    return sum;
  }
}

const add = (event: OrderLogEvent, of: (productId: string) => Delta): void => {
  const { order, details } = event.data;
  switch (event.type) {
    case 'order.placed':
      for (const { product_id, quantity, unit_price_minor } of order!.lines) {
        const sum = of(product_id);
        sum.ordered += quantity;
        sum.orderedMinor = plus(sum.orderedMinor, times(quantity, unit_price_minor));
      }
      for (const productId of productsOf(order!.lines)) of(productId).orders += 1;
      break;
    case 'order.cancelled':
    case 'order.payment-declined':
    case 'order.payment-failed':
      for (const { product_id, quantity, unit_price_minor } of cancelledLines(order!.lines, details)) {
        const sum = of(product_id);
        sum.cancelled += quantity;
        sum.cancelledMinor = plus(sum.cancelledMinor, times(quantity, unit_price_minor));
      }
      break;
    case 'order.returned':
      for (const { product_id, quantity, amount_minor } of (details as unknown as Returned).lines) {
        const sum = of(product_id);
        sum.returned += quantity;
        sum.returnedMinor = plus(sum.returnedMinor, amount_minor);
      }
      break;
    case 'order.payment-authorised':
    case 'order.payment-captured':
    case 'order.payment-reversed':
    case 'order.refunded':
    case 'order.fulfilled':
      break;
  }
};

/** If part of the order was fulfilled, the lines that the event names; otherwise all of them. */
const cancelledLines = (lines: Lines, details: { lines?: { line: number; quantity: number }[] }): Lines =>
  details.lines?.map(({ line, quantity }) => ({ ...lines[line - 1]!, quantity })) ?? lines;

const plus = (one: Whole, other: Whole): Whole => {
  if (typeof one === 'number' && typeof other === 'number') {
    const sum = one + other;
    if (sum <= Number.MAX_SAFE_INTEGER) return sum;
  }
  return BigInt(one) + BigInt(other);
};

const times = (one: number, other: number): Whole => {
  const product = one * other;
  return product <= Number.MAX_SAFE_INTEGER ? product : BigInt(one) * BigInt(other);
};

const productsOf = (lines: Lines): Set<string> => new Set(lines.map((it) => it.product_id));

const dayMs = 86_400_000;

const dayOf = (at: Date): string => at.toISOString().slice(0, 10);

/** The whole days before today that the estimate is based on: the first and the last one. */
export const windowBefore = (now: Date, days: number): { from: string; to: string } => ({
  from: dayOf(new Date(now.getTime() - days * dayMs)),
  to: dayOf(new Date(now.getTime() - dayMs)),
});

/** When the available stock will be sold, at the rate of the window, in which each day counts the same. */
export const outlookOf = (
  productId: string,
  available: number,
  sold: number,
  windowDays: number,
  now: Date,
): StockOutlook => {
  const perDay = Math.max(0, sold) / windowDays;
  const daysLeft = perDay > 0 ? available / perDay : null;
  const lastsUntil = daysLeft === null ? Number.POSITIVE_INFINITY : now.getTime() + daysLeft * dayMs;
  return {
    product_id: productId,
    available,
    window_days: windowDays,
    sold,
    sold_per_day: perDay,
    days_left: daysLeft,
    // Beyond the year 9999, the answer is never.
    out_of_stock_on: lastsUntil < Date.UTC(10_000, 0) ? dayOf(new Date(lastsUntil)) : null,
  };
};
