import type { CatalogueEntry, GoodsReturn, OrderStep } from './plan.js';

/** The server as the replay uses it. Every call can be repeated: the same call with the same key takes effect once. */
export interface ShopApi {
  /** Puts products into the catalogue, as many as fit into one request. */
  putProducts(products: CatalogueEntry[]): Promise<void>;
  /** Adds units to the stock, or removes some. */
  adjustStock(productId: string, delta: number, reason: string, idempotencyKey: string): Promise<void>;
  /** Places an order under its invoice number; `replayed` if it had been placed before. */
  placeOrder(order: OrderStep): Promise<{ orderId: string; replayed: boolean }>;
  /** Marks all goods of an order as delivered; does nothing if they are already. */
  fulfilOrder(orderId: string): Promise<void>;
  /** Returns goods of an order to the stock. */
  returnGoods(orderId: string, goods: GoodsReturn, reason: string): Promise<void>;
  /** Reads the totals of an order from the server. */
  readOrder(orderId: string): Promise<OrderTotals>;
}

export interface OrderTotals {
  totalMinor: number;
  returnedTotalMinor: number;
}

/** The server refused the request with a stable code; repeating it gets the same answer. */
export class ShopRefusal extends Error {
  override readonly name = 'ShopRefusal';

  constructor(
    readonly code: string,
    detail: string,
  ) {
    super(detail);
  }
}

/** There was no answer, or one that asks to retry. Repeating the call with the same key is safe. */
export class ShopUnavailable extends Error {
  override readonly name = 'ShopUnavailable';

  /**
   * @param answered whether the server answered; false if it could not be reached
   * @param retryAfterMs how long the server asks to wait before the next try
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

/** What to do after a stop, whatever the cause. */
export const goOn = 'Run the same command again: it continues where it stopped, and nothing is placed twice.';
