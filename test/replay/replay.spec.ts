import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import {
  adjustStockRequest,
  fulfilOrderRequest,
  placeOrderRequest,
  putProductsRequest,
  returnOrderRequest,
} from '#contracts';
import { describePhase } from '../../scripts/replay/progress.js';
import type { Report } from '../../scripts/replay/reconcile.js';
import { replay } from '../../scripts/replay/replay.js';
import { csv } from './csv.js';
import { FakeShop } from './fake-shop.js';
import { ShopRefusal } from '../../scripts/replay/shop-api.js';

interface Answer {
  status: number;
  body: unknown;
  headers?: Record<string, string>;
}

/** The shop over HTTP. Requests must match the schemas of the contract exactly. */
const route = async (shop: FakeShop, method: string, path: string, json: unknown, key: string): Promise<Answer> => {
  const [, collection, id = '', action] = path.split('/').map(decodeURIComponent);
  switch (`${method} ${collection} ${id === 'batch' ? id : (action ?? (id && ':id'))}`) {
    case 'POST products batch': {
      const { products } = putProductsRequest.parse(json);
      await shop.putProducts(
        products.map((it) => ({ productId: it.product_id, name: it.name, unitPriceMinor: it.unit_price_minor })),
      );
      return { status: 200, body: { data: [] } };
    }
    case 'POST stock adjustments': {
      const { delta, reason } = adjustStockRequest.parse(json);
      await shop.adjustStock(id, delta, reason, key);
      return { status: 200, body: {} };
    }
    case 'POST orders ': {
      const request = placeOrderRequest.parse(json);
      if (!('lines' in request) || request.reference !== key) throw new Error('not as the replay orders');
      const lines = request.lines.map((it) => ({
        productId: it.product_id,
        quantity: it.quantity,
        unitPriceMinor: it.unit_price_minor!,
      }));
      const { orderId, replayed } = await shop.placeOrder({
        kind: 'order',
        invoice: key,
        at: undefined,
        customerId: request.customer_id,
        lines,
        roundingMinor: request.adjustments?.[0]?.amount_minor ?? 0,
        totalMinor: 0,
        shares: [],
      });
      return {
        status: 201,
        body: { order_id: orderId },
        headers: replayed ? { 'idempotent-replayed': 'true' } : {},
      };
    }
    case 'POST orders fulfil':
      fulfilOrderRequest.parse(json);
      await shop.fulfilOrder(id);
      return { status: 200, body: {} };
    case 'POST orders returns': {
      const { lines, restock, reason } = returnOrderRequest.parse(json);
      if (!restock) throw new Error('goods go back on the shelf');
      const goods = lines.map((it) => ({
        productId: it.product_id,
        line: it.line!,
        quantity: it.quantity,
        amountMinor: it.amount_minor!,
      }));
      await shop.returnGoods(id, { order: '', idempotencyKey: key, lines: goods, totalMinor: 0, shares: [] }, reason);
      return { status: 201, body: {} };
    }
    case 'GET orders :id': {
      const { totalMinor, returnedTotalMinor } = await shop.readOrder(id);
      return { status: 200, body: { total_minor: totalMinor, returned_total_minor: returnedTotalMinor } };
    }
    default:
      return { status: 404, body: { code: 'not-found' } };
  }
};

const problemOf = (error: unknown): Answer => {
  const code = error instanceof ShopRefusal ? error.code : 'invalid-request';
  const status = code === 'out-of-stock' ? 409 : 422;
  return { status, body: { type: `/problems/${code}`, title: code, status, code, detail: (error as Error).message } };
};

class Memory extends Writable {
  text = '';
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

describe('npm run replay', () => {
  let folder: string;
  let file: string;
  let server: Server;
  let shop: FakeShop;
  /** Answers in place of the shop if it returns something. */
  let instead: (request: IncomingMessage) => Answer | undefined;
  let url: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'replay-'));
    file = join(folder, 'file.csv');
    await writeFile(
      file,
      csv(
        '1,é/ 1,MUG,5,2010-12-01 08:26:00,1.00,17850.0,UK',
        '1,B,CUP,3,2010-12-01 08:26:00,0.085,17850.0,UK',
        '2,B,damaged,-1,2010-12-01 08:26:00,0,,UK',
        'C3,é/ 1,MUG,-6,2010-12-02 08:26:00,1.10,17850.0,UK',
        'broken',
      ),
    );
    const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
      const body = await text(request);
      const key = String(request.headers['idempotency-key'] ?? '').replaceAll('"', '');
      const json: unknown = body === '' ? undefined : JSON.parse(body);
      const given = instead(request) ?? (await route(shop, request.method!, request.url!, json, key).catch(problemOf));
      response.writeHead(given.status, { 'content-type': 'application/json', ...given.headers });
      response.end(JSON.stringify(given.body));
    };
    server = createServer((request, response) => void answer(request, response));
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  beforeEach(() => {
    shop = new FakeShop();
    instead = () => undefined;
  });
  afterEach(() => server.closeAllConnections());
  afterAll(async () => {
    server.close();
    await rm(folder, { recursive: true });
  });

  const command = async (...args: string[]): Promise<{ code: number; out: string; err: string }> => {
    const out = new Memory();
    const err = new Memory();
    const code = await replay(args, { out, err, stop: new AbortController().signal });
    return { code, out: out.text, err: err.text };
  };
  const lastLine = (out: string): Report => JSON.parse(out.trimEnd().split('\n').at(-1)!) as Report;

  it('ends with the reconciliation as one JSON object', async () => {
    const { code, out, err } = await command(file, '--url', `${url}/`, '--json', '--concurrency', '3');
    expect(err).toContain('line 6: unreadable-line: it has 1 fields, the header has 8');
    expect(lastLine(out)).toEqual({
      lines: 5,
      orders_placed: 1,
      orders_replayed: 0,
      adjustments_recorded: 1,
      returns_recorded: 1,
      refused: {
        'return-without-sale': { lines: 1, total_minor: -110 },
        'unreadable-line': { lines: 1, total_minor: 0 },
      },
      placed_total_minor: 526,
      returned_total_minor: 550,
      refused_total_minor: -110,
      adjusted_total_minor: 0,
      file_total_minor: -134,
      currency: 'GBP',
    });
    expect(code).toBe(0);
    expect(shop.stock.get('é/ 1')).toBe(5);
    expect([...shop.orders.values()][0]!.order).toMatchObject({ customerId: '17850', roundingMinor: 1 });
    const again = await command(file, '--url', url);
    expect(again.code).toBe(0);
    expect(again.out).toMatch(/orders placed before +1\n/);
  });

  it('waits as long as Retry-After says, and continues', async () => {
    let busy = 3;
    instead = () => {
      busy -= 1;
      if (busy < 0) return undefined;
      const body = { type: '', title: '', status: 503, code: 'unavailable', detail: 'starting' };
      return { status: 503, body, headers: { 'retry-after': '0' } };
    };
    const { code, err } = await command(file, '--url', url);
    expect(code).toBe(0);
    expect(err).toMatch(/503 unavailable: starting; trying again in/);
  });

  it('reports that another server answers', async () => {
    instead = () => ({ status: 404, body: 'no such page' });
    const { code, err } = await command(file, '--url', url);
    expect(code).toBe(1);
    expect(err).toMatch(/What runs at .* answers POST \/products\/batch with: 404 .*--url/);
    instead = () => ({ status: 200, body: { hello: 'there' } });
    expect((await command(file, '--url', url)).err).toMatch(/something else than an order/);
  });

  it('tells how to start a server if none answers', async () => {
    const { code, err } = await command(file, '--url', 'http://127.0.0.1:1');
    expect(code).toBe(1);
    expect(err).toMatch(/No server answers at http:\/\/127.0.0.1:1 \(.+\)\. Start one with `npm start`/);
  });

  it('fails if an order at the server differs from the file', async () => {
    instead = (request) =>
      request.method === 'GET' ? { status: 200, body: { total_minor: 1, returned_total_minor: 0 } } : undefined;
    const { code, err, out } = await command(file, '--url', url, '--json');
    expect(code).toBe(1);
    expect(err).toMatch(/MISMATCH: order order-1 of invoice 1 comes to £0.01 at the server, to £5.26 in the file/);
    expect(lastLine(out).placed_total_minor).toBe(1);
  });

  it('prints its usage, and reports wrong arguments', async () => {
    expect(await command('--help')).toMatchObject({ code: 0, out: expect.stringContaining('Examples') });
    for (const [args, message] of [
      [[], /Name the file/],
      [[file, file], /Name one file/],
      [[file, '--concurrency', '0'], /--concurrency is 0/],
      [[file, '--speed', 'fast'], /--speed is fast/],
      [[file, '--url', 'localhost:3000'], /--url is localhost:3000/],
      [[file, '--fast'], /--fast/],
    ] as const) {
      const { code, err } = await command(...args);
      expect(err).toMatch(message);
      expect(code).toBe(2);
    }
    expect(await command(join(folder, 'none.csv'))).toMatchObject({
      code: 1,
      err: expect.stringContaining('There is no file'),
    });
  });
});

describe('progress', () => {
  it('shows the share done, the rate and the time left', () => {
    const state = { phase: 'replaying', unit: 'lines', total: 142_083, done: 71_000, orders: 2_900, elapsedMs: 2_000 };
    expect(describePhase(state)).toBe(
      'replaying 71,000 of 142,083 lines (49 %), 35,500 lines/s, 1,450 orders/s, 2 s left',
    );
    expect(describePhase({ ...state, done: state.total })).toMatch(/\(100 %\).* in 2\.0 s$/);
    expect(describePhase({ ...state, total: 0, done: 0, orders: 0 })).toMatch(/0 of 0 lines \(100 %\)/);
    expect(describePhase({ ...state, done: 10 })).toMatch(/7 h 53 min left$/);
  });
});
