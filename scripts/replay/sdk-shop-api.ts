import { problem } from '#contracts';
import { z } from 'zod';
import { currency, type CatalogueEntry, type GoodsReturn, type OrderStep } from './plan.js';
import { ReplayStopped, ShopRefusal, ShopUnavailable, type OrderTotals, type ShopApi } from './shop-api.js';

const placed = z.object({ order_id: z.string() });
const totals = z.object({ total_minor: z.int(), returned_total_minor: z.int() });

const timeoutMs = 60_000;

/** Answers that say nothing about the one request: with them, no other request would fare better. */
const hopelessStatuses = new Set([401, 403, 405, 415]);

const isTransient = (status: number, code: string): boolean =>
  status >= 500 || status === 408 || status === 429 || code === 'request-in-progress';

/** `Retry-After` is a number of seconds or a date. */
const retryAfterMs = (header: string | null): number | undefined => {
  if (header === null) return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1_000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(ms, 0);
};

/** `fetch failed` hides the reason in its cause, for a name with several addresses in the errors of its cause. */
const reasonOf = (error: unknown): string => {
  const { cause } = error as Error;
  const first = cause instanceof AggregateError ? cause.errors[0] : cause;
  return first instanceof Error ? first.message : (error as Error).message;
};

/** The shop behind the REST API. */
export class SdkShopApi implements ShopApi {
  private readonly base: string;

  /** @param url where the API begins, such as `http://127.0.0.1:3000` */
  constructor(url: string) {
    this.base = url.replace(/\/+$/, '');
  }

  async putProducts(products: CatalogueEntry[]): Promise<void> {
    await this.ask('POST', '/products/batch', {
      products: products.map(({ productId, name, unitPriceMinor }) => ({
        product_id: productId,
        name,
        unit_price_minor: unitPriceMinor,
        currency,
      })),
    });
  }

  async adjustStock(productId: string, delta: number, reason: string, idempotencyKey: string): Promise<void> {
    await this.ask('POST', `/stock/${encodeURIComponent(productId)}/adjustments`, { delta, reason }, idempotencyKey);
  }

  async placeOrder(order: OrderStep): Promise<{ orderId: string; replayed: boolean }> {
    const { json, headers } = await this.ask(
      'POST',
      '/orders',
      {
        customer_id: order.customerId,
        reference: order.invoice,
        lines: order.lines.map(({ productId, quantity, unitPriceMinor }) => ({
          product_id: productId,
          quantity,
          unit_price_minor: unitPriceMinor,
        })),
        ...(order.roundingMinor > 0 && {
          adjustments: [{ kind: 'discount', label: 'rounding', amount_minor: order.roundingMinor }],
        }),
      },
      order.invoice,
    );
    const orderId = this.understood(placed, json, 'POST /orders').order_id;
    return { orderId, replayed: headers.get('idempotent-replayed') === 'true' };
  }

  async fulfilOrder(orderId: string): Promise<void> {
    await this.ask('POST', `/orders/${orderId}/fulfil`, {});
  }

  async returnGoods(orderId: string, goods: GoodsReturn, reason: string): Promise<void> {
    const lines = goods.lines.map(({ productId, line, quantity, amountMinor }) => ({
      product_id: productId,
      line,
      quantity,
      amount_minor: amountMinor,
    }));
    await this.ask('POST', `/orders/${orderId}/returns`, { lines, restock: true, reason }, goods.idempotencyKey);
  }

  async readOrder(orderId: string): Promise<OrderTotals> {
    const { json } = await this.ask('GET', `/orders/${orderId}`);
    const { total_minor, returned_total_minor } = this.understood(totals, json, 'GET /orders/:id');
    return { totalMinor: total_minor, returnedTotalMinor: returned_total_minor };
  }

  private async ask(
    method: string,
    path: string,
    body?: unknown,
    idempotencyKey?: string,
  ): Promise<{ json: unknown; headers: Headers }> {
    const { response, text } = await this.send(method, path, body, idempotencyKey);
    const json = this.parsed(text);
    if (response.ok) return { json, headers: response.headers };
    const said = problem.safeParse(json);
    const code = said.success ? said.data.code : `http-${response.status}`;
    const faults = said.success ? (said.data.faults ?? []).map((it) => ` (${it.path}: ${it.message})`).join('') : '';
    const detail = said.success ? said.data.detail + faults : text.slice(0, 200);
    if (isTransient(response.status, code))
      throw new ShopUnavailable(
        `${method} ${path} → ${response.status} ${code}: ${detail}`,
        true,
        retryAfterMs(response.headers.get('retry-after')),
      );
    if (!said.success || code === 'not-found' || hopelessStatuses.has(response.status))
      throw this.notTheApi(`${method} ${path}`, `${response.status} ${detail}`);
    throw new ShopRefusal(code, detail);
  }

  private async send(
    method: string,
    path: string,
    body: unknown,
    idempotencyKey: string | undefined,
  ): Promise<{ response: Response; text: string }> {
    try {
      const response = await fetch(this.base + path, {
        method,
        headers: {
          accept: 'application/json',
          ...(body !== undefined && { 'content-type': 'application/json' }),
          ...(idempotencyKey !== undefined && { 'idempotency-key': idempotencyKey }),
        },
        body: body === undefined ? null : JSON.stringify(body),
        signal: AbortSignal.timeout(timeoutMs),
      });
      return { response, text: await response.text() };
    } catch (error) {
      throw new ShopUnavailable(reasonOf(error), false);
    }
  }

  private parsed(text: string): unknown {
    try {
      return JSON.parse(text);
    } catch {
      // Not JSON: the caller sees that no schema fits it.
      return undefined;
    }
  }

  private understood<Shape>(schema: z.ZodType<Shape>, json: unknown, call: string): Shape {
    const read = schema.safeParse(json);
    if (!read.success) throw this.notTheApi(call, 'something else than an order');
    return read.data;
  }

  private notTheApi(call: string, answer: string): ReplayStopped {
    return new ReplayStopped(
      `What runs at ${this.base} answers ${call} with: ${answer}. ` +
        'Check that --url names the API of Cleave, and that this caller may use it.',
    );
  }
}
