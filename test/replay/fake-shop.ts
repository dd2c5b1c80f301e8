import type { CatalogueEntry, GoodsReturn, OrderStep } from '../../scripts/replay/plan.js';
import { ShopRefusal, ShopUnavailable, type OrderTotals, type ShopApi } from '../../scripts/replay/shop-api.js';

interface KeptOrder {
  order: OrderStep;
  fulfilled: boolean;
  returned: number[];
  returnedTotalMinor: number;
}

/** A shop in memory with the guarantees of the API: idempotency keys, stock, and returns of fulfilled lines only. */
export class FakeShop implements ShopApi {
  readonly products = new Map<string, CatalogueEntry>();
  readonly stock = new Map<string, number>();
  readonly orders = new Map<string, KeptOrder>();
  private readonly requests = new Map<string, string>();
  private calls = 0;

  /** Invoices that it refuses to place. */
  refusedInvoices = new Set<string>();
  /** Called before and after each call takes effect; may throw. */
  onCall: (call: number, when: 'before' | 'after') => void = () => undefined;

  putProducts(products: CatalogueEntry[]): Promise<void> {
    return this.answer(() => {
      for (const product of products) this.products.set(product.productId, { ...product });
    });
  }

  adjustStock(productId: string, delta: number, reason: string, idempotencyKey: string): Promise<void> {
    return this.answer(() => {
      if (!this.products.has(productId)) throw new ShopRefusal('product-not-found', productId);
      if (this.isRepeated('adjustment', idempotencyKey, { productId, delta, reason })) return;
      const onHand = (this.stock.get(productId) ?? 0) + delta;
      if (onHand < 0) throw new ShopRefusal('stock-below-reserved', productId);
      this.stock.set(productId, onHand);
    });
  }

  placeOrder(order: OrderStep): Promise<{ orderId: string; replayed: boolean }> {
    return this.answer(() => {
      const orderId = `order-${order.invoice}`;
      if (this.refusedInvoices.has(order.invoice)) throw new ShopRefusal('invalid-request', 'not this one');
      if (this.isRepeated('order', order.invoice, order)) return { orderId, replayed: true };
      const wanted = new Map<string, number>();
      for (const line of order.lines) wanted.set(line.productId, (wanted.get(line.productId) ?? 0) + line.quantity);
      for (const [productId, units] of wanted)
        if ((this.stock.get(productId) ?? 0) < units) throw new ShopRefusal('out-of-stock', productId);
      for (const [productId, units] of wanted) this.stock.set(productId, this.stock.get(productId)! - units);
      this.orders.set(orderId, { order, fulfilled: false, returned: order.lines.map(() => 0), returnedTotalMinor: 0 });
      return { orderId, replayed: false };
    });
  }

  fulfilOrder(orderId: string): Promise<void> {
    return this.answer(() => {
      this.kept(orderId).fulfilled = true;
    });
  }

  returnGoods(orderId: string, goods: GoodsReturn, reason: string): Promise<void> {
    return this.answer(() => {
      const kept = this.kept(orderId);
      if (this.isRepeated('return', goods.idempotencyKey, { orderId, goods, reason })) return;
      if (!kept.fulfilled) throw new ShopRefusal('illegal-transition', 'not handed over');
      for (const { line, productId, quantity } of goods.lines) {
        const sold = kept.order.lines[line - 1];
        if (sold?.productId !== productId || kept.returned[line - 1]! + quantity > sold.quantity)
          throw new ShopRefusal('illegal-transition', 'more than was handed over');
        kept.returned[line - 1]! += quantity;
        this.stock.set(productId, this.stock.get(productId)! + quantity);
      }
      kept.returnedTotalMinor += goods.lines.reduce((total, line) => total + line.amountMinor, 0);
    });
  }

  readOrder(orderId: string): Promise<OrderTotals> {
    return this.answer(() => {
      const { order, returnedTotalMinor } = this.kept(orderId);
      const lines = order.lines.reduce((total, line) => total + line.quantity * line.unitPriceMinor, 0);
      return { totalMinor: lines - order.roundingMinor, returnedTotalMinor };
    });
  }

  /** The whole state, independent of the order in which it came about. */
  snapshot(): unknown {
    const sorted = (map: Map<string, unknown>): unknown[] => [...map].sort(([a], [b]) => (a < b ? -1 : 1));
    return structuredClone([this.products, this.stock, this.orders].map(sorted));
  }

  private kept(orderId: string): KeptOrder {
    const kept = this.orders.get(orderId);
    if (kept === undefined) throw new ShopRefusal('order-not-found', orderId);
    return kept;
  }

  private isRepeated(kind: string, key: string, request: unknown): boolean {
    const before = this.requests.get(`${kind} ${key}`);
    const now = JSON.stringify(request);
    if (before !== undefined && before !== now) throw new ShopRefusal('idempotency-key-reused', key);
    this.requests.set(`${kind} ${key}`, now);
    return before !== undefined;
  }

  private async answer<Answer>(effect: () => Answer): Promise<Answer> {
    const call = (this.calls += 1);
    // Answers arrive in a different order than calls.
    for (let turns = (call * 7) % 5; turns > 0; turns -= 1) await Promise.resolve();
    this.onCall(call, 'before');
    const answer = effect();
    this.onCall(call, 'after');
    return answer;
  }
}

/** Fails every call from one on: before it takes effect, or after, so that only its answer is lost. */
export const dyingAt =
  (at: number, when: 'before' | 'after'): FakeShop['onCall'] =>
  (call, moment) => {
    if (call > at || (call === at && moment === when)) throw new ShopUnavailable('the line went dead', false);
  };
