import { expect } from '@jest/globals';
import type { z } from 'zod';
import type {
  cacheEntryWritten,
  cacheStatistics,
  deadLetterPage,
  eventPage,
  moneyMove,
  order,
  orderHistory,
  orderPage,
  payment,
  problem,
  product,
  productBatch,
  productPage,
  salesPage,
  salesViews,
  stock,
  stockBatch,
  stockPage,
  stockOutlook,
} from '#contracts';
import { fresh } from './fresh.js';

export type Order = z.input<typeof order>;
export type OrderPage = z.input<typeof orderPage>;
export type EventPage = z.input<typeof eventPage>;
export type History = z.input<typeof orderHistory>;
export type Payment = z.input<typeof payment>;
export type MoneyMove = z.input<typeof moneyMove>;
export type DeadLetterPage = z.input<typeof deadLetterPage>;
export type Product = z.input<typeof product>;
export type ProductPage = z.input<typeof productPage>;
export type ProductBatch = z.input<typeof productBatch>;
export type Stock = z.input<typeof stock>;
export type StockBatch = z.input<typeof stockBatch>;
export type StockPage = z.input<typeof stockPage>;
export type CacheEntryWritten = z.input<typeof cacheEntryWritten>;
export type CacheStatistics = z.input<typeof cacheStatistics>;
export type SalesPage = z.input<typeof salesPage>;
export type SalesViews = z.input<typeof salesViews>;
export type StockOutlook = z.input<typeof stockOutlook>;
export type Problem = z.input<typeof problem>;

export interface Answer<Body = unknown> {
  status: number;
  headers: Headers;
  text: string;
  /** The text parsed as JSON; undefined if it is not JSON. */
  body: Body;
}

export interface Sent {
  /** Encoded as JSON. */
  body?: unknown;
  /** Sent unchanged, instead of `body`. */
  raw?: string | Uint8Array;
  key?: string;
  headers?: Record<string, string>;
}

const answerWithinMs = 60_000;

const contentOf = ({ body, raw }: Sent): string | Uint8Array | undefined =>
  raw ?? (body === undefined ? undefined : JSON.stringify(body));

/** The system as a caller sees it. */
export class Api {
  constructor(readonly baseUrl: string) {}

  async send<Body = unknown>(method: string, path: string, sent: Sent = {}): Promise<Answer<Body>> {
    const content = contentOf(sent);
    const response = await fetch(this.baseUrl + path, {
      method,
      headers: {
        ...(content !== undefined && { 'content-type': 'application/json' }),
        ...(sent.key !== undefined && { 'idempotency-key': `"${sent.key}"` }),
        ...sent.headers,
      },
      ...(content !== undefined && { body: content as string }),
      signal: AbortSignal.timeout(answerWithinMs),
    });
    const text = await response.text();
    const isJson = /^application\/(?:problem\+)?json/.test(response.headers.get('content-type') ?? '');
    return {
      status: response.status,
      headers: response.headers,
      text,
      body: (isJson && text !== '' ? JSON.parse(text) : undefined) as Body,
    };
  }

  get<Body = unknown>(path: string): Promise<Answer<Body>> {
    return this.send<Body>('GET', path);
  }

  place(body: unknown, key?: string, path = '/orders'): Promise<Answer<Order>> {
    return this.send<Order>('POST', path, { body, ...(key !== undefined && { key }) });
  }

  /** Places an order that has to succeed. */
  async placed(body: unknown, key?: string): Promise<Order> {
    return ok(await this.place(body, key), 201);
  }

  async order(orderId: string): Promise<Order> {
    return ok(await this.get<Order>(`/orders/${orderId}`));
  }

  /** The whole history, page by page. */
  async history(orderId: string): Promise<History['data']> {
    const entries: History['data'] = [];
    for (let cursor: string | null = ''; cursor !== null;) {
      const page: History = await this.historyPage(orderId, cursor === '' ? {} : { cursor });
      entries.push(...page.data);
      cursor = page.next_cursor;
    }
    return entries;
  }

  async historyPage(orderId: string, query: { limit?: string; cursor?: string }): Promise<History> {
    const asked = new URLSearchParams(query).toString();
    return ok(await this.get<History>(`/orders/${orderId}/history${asked && `?${asked}`}`));
  }

  fulfil(orderId: string, body?: unknown, sent: Sent = {}): Promise<Answer<Order>> {
    return this.send<Order>('POST', `/orders/${orderId}/fulfil`, { ...(body !== undefined && { body }), ...sent });
  }

  cancel(orderId: string, body?: unknown, sent: Sent = {}): Promise<Answer<Order>> {
    return this.send<Order>('POST', `/orders/${orderId}/cancel`, { ...(body !== undefined && { body }), ...sent });
  }

  refund(orderId: string, body: unknown, sent: Sent = { key: fresh('refund') }): Promise<Answer<MoneyMove>> {
    return this.send<MoneyMove>('POST', `/orders/${orderId}/refunds`, { body, ...sent });
  }

  capture(orderId: string, body: unknown = {}, sent: Sent = { key: fresh('capture') }): Promise<Answer<MoneyMove>> {
    return this.send<MoneyMove>('POST', `/orders/${orderId}/captures`, { body, ...sent });
  }

  async payment(orderId: string): Promise<Payment> {
    return ok(await this.get<Payment>(`/orders/${orderId}/payment`));
  }

  return(orderId: string, body: unknown, sent: Sent = { key: fresh('return') }): Promise<Answer<Order>> {
    return this.send<Order>('POST', `/orders/${orderId}/returns`, { body, ...sent });
  }

  /** A product for one test, with stock. @returns its id */
  async product({
    id = fresh('p'),
    name = 'A thing',
    price = 250,
    currency = 'GBP',
    onHand = 100,
  }: { id?: string; name?: string; price?: number; currency?: string; onHand?: number } = {}): Promise<string> {
    const body = { name, unit_price_minor: price, currency };
    ok(await this.send('PUT', `/products/${encodeURIComponent(id)}`, { body }), 201);
    if (onHand > 0) ok(await this.send('PUT', `/stock/${encodeURIComponent(id)}`, { body: { on_hand: onHand } }));
    return id;
  }

  async stock(productId: string): Promise<Stock> {
    return ok(await this.get<Stock>(`/stock/${encodeURIComponent(productId)}`));
  }
}

/** The body of an answer with the expected status; any other status fails the test and shows the answer. */
export const ok = <Body>({ status, text, body }: Answer<Body>, expected = 200): Body => {
  if (status !== expected) throw new Error(`answered ${status} instead of ${expected}: ${text.slice(0, 2_000)}`);
  return body;
};

/**
 * Checks that a request was refused, for example with `'409 out-of-stock'`, and that the problem document is complete.
 *
 * @param paths the paths of its faults, each once and all of them, in any order
 */
export const refused = (answer: Answer, expected: string, paths?: string[]): Problem => {
  const [status, code] = expected.split(' ') as [string, string];
  const body = answer.body as Problem | undefined;
  // In one object, so that a failure shows the whole answer.
  expect({ status: answer.status, ...body }).toMatchObject({
    status: Number(status),
    code,
    type: `/problems/${code}`,
    title: expect.stringMatching(/\S/),
    detail: expect.stringMatching(/\S/),
    ...(paths && { faults: expect.anything() }),
  });
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json(?:;|$)/);
  if (paths) expect([...new Set(body?.faults?.map(({ path }) => path))].sort()).toEqual(paths.toSorted());
  for (const fault of body?.faults ?? []) expect(fault.message).toMatch(/\S/);
  return body as Problem;
};
