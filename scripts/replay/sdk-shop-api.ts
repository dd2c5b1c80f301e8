import { problem } from '#contracts';
import {
  adjustStock,
  createClient,
  createConfig,
  fulfilOrder,
  getOrder,
  placeOrder,
  putProducts,
  returnGoods,
  type Client,
} from '#sdk';
import { z } from 'zod';
import { currency, type CatalogueEntry, type GoodsReturn, type OrderStep } from './plan.js';
import { ReplayStopped, ShopRefusal, ShopUnavailable, type OrderTotals, type ShopApi } from './shop-api.js';

/** What is looked at in an order; the types of the SDK promise it, but another server may answer. */
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

/** What a function of the SDK resolves with; without a response there was none. */
interface Answer {
  data?: unknown;
  error?: unknown;
  response?: Response;
}

/** The shop behind the REST API. */
export class SdkShopApi implements ShopApi {
  private readonly client: Client;

  /** @param url where the API begins, such as `http://127.0.0.1:3000` */
  constructor(private readonly url: string) {
    this.client = createClient(createConfig({ baseUrl: url.replace(/\/+$/, ''), fetch: fetchInTime }));
  }

  async putProducts(products: CatalogueEntry[]): Promise<void> {
    const body = {
      products: products.map(({ productId, name, unitPriceMinor }) => ({
        product_id: productId,
        name,
        unit_price_minor: unitPriceMinor,
        currency,
      })),
    };
    await this.ask('POST /products/batch', putProducts({ client: this.client, body }));
  }

  async adjustStock(productId: string, delta: number, reason: string, idempotencyKey: string): Promise<void> {
    const call = adjustStock({
      client: this.client,
      path: { product_id: productId },
      headers: { 'Idempotency-Key': idempotencyKey },
      body: { delta, reason },
    });
    await this.ask(`POST /stock/${productId}/adjustments`, call);
  }

  async placeOrder(order: OrderStep): Promise<{ orderId: string; replayed: boolean }> {
    const placing = placeOrder({
      client: this.client,
      headers: { 'Idempotency-Key': order.invoice },
      body: {
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
    });
    const { data, response } = await this.ask('POST /orders', placing);
    const orderId = this.understood(placed, data, 'POST /orders').order_id;
    return { orderId, replayed: response.headers.get('idempotent-replayed') === 'true' };
  }

  async fulfilOrder(orderId: string): Promise<void> {
    const call = fulfilOrder({ client: this.client, path: { id: orderId }, body: {} });
    await this.ask(`POST /orders/${orderId}/fulfil`, call);
  }

  async returnGoods(orderId: string, goods: GoodsReturn, reason: string): Promise<void> {
    const lines = goods.lines.map(({ productId, line, quantity, amountMinor }) => ({
      product_id: productId,
      line,
      quantity,
      amount_minor: amountMinor,
    }));
    const call = returnGoods({
      client: this.client,
      path: { id: orderId },
      headers: { 'Idempotency-Key': goods.idempotencyKey },
      body: { lines, restock: true, reason },
    });
    await this.ask(`POST /orders/${orderId}/returns`, call);
  }

  async readOrder(orderId: string): Promise<OrderTotals> {
    const { data } = await this.ask('GET /orders/:id', getOrder({ client: this.client, path: { id: orderId } }));
    const { total_minor, returned_total_minor } = this.understood(totals, data, 'GET /orders/:id');
    return { totalMinor: total_minor, returnedTotalMinor: returned_total_minor };
  }

  /** @param call how it is named to a person: `POST /orders` */
  private async ask(call: string, sending: Promise<Answer>): Promise<{ data: unknown; response: Response }> {
    const { data, error, response } = await sending.catch((failure: unknown): Answer => ({ error: failure }));
    if (!response) throw new ShopUnavailable(reasonOf(error), false);
    if (response.ok) return { data, response };
    const said = problem.safeParse(error);
    const code = said.success ? said.data.code : `http-${response.status}`;
    const faults = said.success ? (said.data.faults ?? []).map((it) => ` (${it.path}: ${it.message})`).join('') : '';
    const detail = said.success ? said.data.detail + faults : String(error).slice(0, 200);
    if (isTransient(response.status, code))
      throw new ShopUnavailable(
        `${call} → ${response.status} ${code}: ${detail}`,
        true,
        retryAfterMs(response.headers.get('retry-after')),
      );
    if (!said.success || code === 'not-found' || hopelessStatuses.has(response.status))
      throw this.notTheApi(call, `${response.status} ${detail}`);
    throw new ShopRefusal(code, detail);
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

const fetchInTime: typeof fetch = (input, init) => fetch(input, { ...init, signal: AbortSignal.timeout(timeoutMs) });
