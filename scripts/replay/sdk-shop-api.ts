import { Cleave, CleaveApiError } from '#sdk';
import { z } from 'zod';
import { currency, type CatalogueEntry, type GoodsReturn, type OrderStep } from './plan.js';
import { ReplayStopped, ShopRefusal, ShopUnavailable, type OrderTotals, type ShopApi } from './shop-api.js';

/** The fields of an order that are used. Validated, because the server may be another one than the SDK expects. */
const placed = z.object({ order_id: z.string() });
const totals = z.object({ total_minor: z.int(), returned_total_minor: z.int() });

const timeoutMs = 60_000;

/** Statuses with which no other request would fare better. */
const hopelessStatuses = new Set([401, 403, 405, 415]);

const isTransient = (status: number, code: string): boolean =>
  status >= 500 || status === 408 || status === 429 || code === 'request-in-progress';

/** `Retry-After` is a number of seconds or a date. */
const retryAfterMs = (header: string | null): number | undefined => {
  if (header === null) return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1_000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(ms, 0);
};

/** The shop behind the REST API. */
export class SdkShopApi implements ShopApi {
  private readonly cleave: Cleave;

  /** @param url where the API begins, such as `http://127.0.0.1:3000` */
  constructor(private readonly url: string) {
    // Without retries: the replay reports every failure and repeats it by itself.
    this.cleave = new Cleave({ baseUrl: url, timeoutMs, retries: 0 });
  }

  async putProducts(products: CatalogueEntry[]): Promise<void> {
    const entries = products.map(({ productId, name, unitPriceMinor }) => ({
      product_id: productId,
      name,
      unit_price_minor: unitPriceMinor,
      currency,
    }));
    await this.ask('POST /products/batch', this.cleave.products.putMany({ products: entries }));
  }

  async adjustStock(productId: string, delta: number, reason: string, idempotencyKey: string): Promise<void> {
    const adjusting = this.cleave.stock.adjust(productId, { delta, reason }, { idempotencyKey });
    await this.ask(`POST /stock/${productId}/adjustments`, adjusting);
  }

  async placeOrder(order: OrderStep): Promise<{ orderId: string; replayed: boolean }> {
    let replayed = false;
    const placing = this.cleave.orders.place(
      {
        customer_id: order.customerId,
        reference: order.invoice,
        lines: order.lines.map(({ productId, quantity, unitPriceMinor }) => ({
          product_id: productId,
          quantity,
          unit_price_minor: unitPriceMinor,
        })),
        ...(order.roundingMinor > 0 && {
          adjustments: [{ kind: 'discount' as const, label: 'rounding', amount_minor: order.roundingMinor }],
        }),
      },
      {
        idempotencyKey: order.invoice,
        onResponse: ({ headers }) => (replayed = headers.get('idempotent-replayed') === 'true'),
      },
    );
    const answer = await this.ask('POST /orders', placing);
    return { orderId: this.understood(placed, answer, 'POST /orders').order_id, replayed };
  }

  async fulfilOrder(orderId: string): Promise<void> {
    await this.ask(`POST /orders/${orderId}/fulfil`, this.cleave.orders.fulfil(orderId, {}));
  }

  async returnGoods(orderId: string, goods: GoodsReturn, reason: string): Promise<void> {
    const lines = goods.lines.map(({ productId, line, quantity, amountMinor }) => ({
      product_id: productId,
      line,
      quantity,
      amount_minor: amountMinor,
    }));
    const { idempotencyKey } = goods;
    const returning = this.cleave.orders.returnGoods(orderId, { lines, restock: true, reason }, { idempotencyKey });
    await this.ask(`POST /orders/${orderId}/returns`, returning);
  }

  async readOrder(orderId: string): Promise<OrderTotals> {
    const answer = await this.ask('GET /orders/:id', this.cleave.orders.get(orderId));
    const { total_minor, returned_total_minor } = this.understood(totals, answer, 'GET /orders/:id');
    return { totalMinor: total_minor, returnedTotalMinor: returned_total_minor };
  }

  /** @param call its name in messages: `POST /orders` */
  private async ask(call: string, sending: Promise<unknown>): Promise<unknown> {
    try {
      return await sending;
    } catch (error) {
      throw error instanceof CleaveApiError ? this.told(call, error) : error;
    }
  }

  private told(call: string, { code, status, headers, faults, detail: said }: CleaveApiError): Error {
    if (status === undefined) return new ShopUnavailable(said, false);
    const detail = said + faults.map((it) => ` (${it.path}: ${it.message})`).join('');
    if (isTransient(status, code)) {
      const text = `${call} → ${status} ${code}: ${detail}`;
      return new ShopUnavailable(text, true, retryAfterMs(headers.get('retry-after')));
    }
    if (code.startsWith('http-') || code === 'not-found' || hopelessStatuses.has(status))
      return this.notTheApi(call, `${status} ${detail}`);
    return new ShopRefusal(code, detail);
  }

  private understood<Shape>(schema: z.ZodType<Shape>, data: unknown, call: string): Shape {
    const read = schema.safeParse(data);
    if (!read.success) throw this.notTheApi(call, 'something else than an order');
    return read.data;
  }

  private notTheApi(call: string, answer: string): ReplayStopped {
    return new ReplayStopped(
      `What runs at ${this.url} answers ${call} with: ${answer}. ` +
        'Check that --url names the API of Cleave, and that this caller may use it.',
    );
  }
}
