import type { CatalogueEntry, GoodsReturn, OrderStep } from './plan.js';

/** What the replay asks of the server. Every call may be repeated: the same call with the same key takes effect once. */
export interface ShopApi {
  /** Puts products into the catalogue, as many as fit into one request. */
  putProducts(products: CatalogueEntry[]): Promise<void>;
  /** Adds to what lies on the shelf, or takes from it. */
  adjustStock(productId: string, delta: number, reason: string, idempotencyKey: string): Promise<void>;
  /** Places an order under its invoice number; `replayed` when it had been placed before. */
  placeOrder(order: OrderStep): Promise<{ orderId: string; replayed: boolean }>;
  /** Hands all goods of an order over; one that has been handed over stays as it is. */
  fulfilOrder(orderId: string): Promise<void>;
  /** Takes goods of an order back onto the shelf. */
  returnGoods(orderId: string, goods: GoodsReturn, reason: string): Promise<void>;
  /** What the server says an order comes to. */
  readOrder(orderId: string): Promise<OrderTotals>;
}

export interface OrderTotals {
  totalMinor: number;
  returnedTotalMinor: number;
}

/** The server understood and refuses, under a stable code. Asking again gets the same answer. */
export class ShopRefusal extends Error {
  override readonly name = 'ShopRefusal';

  constructor(
    readonly code: string,
    detail: string,
  ) {
    super(detail);
  }
}

/** No answer, or one that says to try later. Asking again with the same key is safe. */
export class ShopUnavailable extends Error {
  override readonly name = 'ShopUnavailable';

  /**
   * @param answered whether the server said so itself; false when it could not be reached
   * @param retryAfterMs what the server asks to wait before the next try
   */
  constructor(
    message: string,
    readonly answered: boolean,
    readonly retryAfterMs?: number,
  ) {
    super(message);
  }
}

/** The replay cannot go on. The message says what to do next. */
export class ReplayStopped extends Error {
  override readonly name = 'ReplayStopped';
}

/** How a person gets on after a stop, whatever stopped it. */
export const goOn = 'Run the same command again: it continues where it stopped, and nothing is placed twice.';
