import { setTimeout as wait } from 'node:timers/promises';
import type { CatalogueEntry, GoodsReturn, OrderStep } from './plan.js';
import { goOn, ReplayStopped, ShopUnavailable, type OrderTotals, type ShopApi } from './shop-api.js';

export interface Patience {
  /** How often a call is tried in all. */
  tries: number;
  /** The wait before the second try; it doubles with each try. */
  firstWaitMs: number;
  longestWaitMs: number;
}

/** About 45 seconds: long enough for a server to restart. */
const patience: Patience = { tries: 10, firstWaitMs: 200, longestWaitMs: 10_000 };

/** The longest `Retry-After` that is honoured. */
const longestRetryAfterMs = 60_000;

/** Repeats calls to a shop that does not answer, with the same keys, until it does or the tries are used up. */
export class PatientShopApi implements ShopApi {
  private hasAnswered = false;

  /**
   * @param url named in messages
   * @param stop ends the waiting
   * @param onWait called for each failed try that is followed by another
   */
  constructor(
    private readonly shop: ShopApi,
    private readonly url: string,
    private readonly stop: AbortSignal,
    private readonly onWait: (message: string) => void = () => undefined,
    private readonly patient: Patience = patience,
  ) {}

  putProducts(products: CatalogueEntry[]): Promise<void> {
    return this.ask(() => this.shop.putProducts(products));
  }

  adjustStock(productId: string, delta: number, reason: string, idempotencyKey: string): Promise<void> {
    return this.ask(() => this.shop.adjustStock(productId, delta, reason, idempotencyKey));
  }

  placeOrder(order: OrderStep): Promise<{ orderId: string; replayed: boolean }> {
    return this.ask(() => this.shop.placeOrder(order));
  }

  fulfilOrder(orderId: string): Promise<void> {
    return this.ask(() => this.shop.fulfilOrder(orderId));
  }

  returnGoods(orderId: string, goods: GoodsReturn, reason: string): Promise<void> {
    return this.ask(() => this.shop.returnGoods(orderId, goods, reason));
  }

  readOrder(orderId: string): Promise<OrderTotals> {
    return this.ask(() => this.shop.readOrder(orderId));
  }

  private async ask<Answer>(call: () => Promise<Answer>): Promise<Answer> {
    for (let tried = 1; ; tried += 1) {
      try {
        const answer = await call();
        this.hasAnswered = true;
        return answer;
      } catch (error) {
        if (!(error instanceof ShopUnavailable)) throw error;
        this.hasAnswered ||= error.answered;
        this.giveUpAfter(tried, error);
        await this.waitAfter(tried, error);
      }
    }
  }

  private giveUpAfter(tried: number, error: ShopUnavailable): void {
    if (!this.hasAnswered)
      throw new ReplayStopped(
        `No server answers at ${this.url} (${error.message}). ` +
          'Start one with `npm start`, or set --url to its address.',
      );
    if (tried >= this.patient.tries)
      throw new ReplayStopped(
        `The server at ${this.url} does not answer after ${tried} tries (${error.message}). ` +
          `Once it is up: ${goOn}`,
      );
  }

  private async waitAfter(tried: number, error: ShopUnavailable): Promise<void> {
    const { firstWaitMs, longestWaitMs } = this.patient;
    const backoffMs = Math.min(firstWaitMs * 2 ** (tried - 1), longestWaitMs) * (0.5 + Math.random() / 2);
    const waitMs = Math.max(backoffMs, Math.min(error.retryAfterMs ?? 0, longestRetryAfterMs));
    this.onWait(`${error.message}; trying again in ${(waitMs / 1_000).toFixed(1)} s`);
    await wait(waitMs, undefined, { signal: this.stop });
  }
}
