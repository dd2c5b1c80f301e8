import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json } from 'node:stream/consumers';
import pg from 'pg';
import { carryOut, type ShopCommands } from '../commands.js';
import { schemaFor } from '../limits/minimal-order.js';

/**
 * The least that a batch of orders over HTTP costs: the orders of limit a, as many in each statement as arrived together, in
 * one commit, behind Node's own HTTP server. There is no framework, validation, event log or replay of answers, and prices
 * are in memory. Whatever is slower cannot blame batching, HTTP or Postgres.
 */
const placing = {
  name: 'orders',
  text: `
    WITH key AS (INSERT INTO idempotency_keys SELECT * FROM unnest($1::uuid[], $2::uuid[])),
         placed AS (INSERT INTO orders
           SELECT order_id, customer_id, 'confirmed', total FROM unnest($2::uuid[], $3::text[], $4::bigint[])
             AS _ (order_id, customer_id, total)),
         line AS (INSERT INTO lines SELECT * FROM unnest($5::uuid[], $6::int[], $7::text[], $8::int[])),
         told AS (INSERT INTO outbox (order_id, event) SELECT * FROM unnest($2::uuid[], $9::jsonb[])),
         wanted AS (
           SELECT product_id, sum(quantity) AS units FROM unnest($7::text[], $8::int[]) AS _ (product_id, quantity)
           GROUP BY product_id ORDER BY product_id)
    UPDATE products SET reserved = reserved + units
    FROM wanted WHERE products.product_id = wanted.product_id AND on_hand - reserved >= units`,
};

interface Line {
  product_id: string;
  quantity: number;
}

/** As the driver sends it: with one product, or many lines. */
type Body = { customer_id: string } & (Line | { lines: Line[] });

interface Order {
  order_id: string;
  customer_id: string;
  status: 'confirmed';
  total_minor: number;
  lines: Line[];
}

const connections = 2;
const largestBatch = 256;

const prices = new Map<string, number>();
let pool: pg.Pool;
const waiting: { order: Order; placed: () => void; failed: (error: unknown) => void }[] = [];
/** The number of orders in each batch in flight. */
const inFlight: number[] = [];

/** A second batch waits until it is as large as the first one. */
const mayGo = (): boolean =>
  waiting.length > 0 && inFlight.length < connections && waiting.length >= Math.max(0, ...inFlight);

const go = async (): Promise<void> => {
  const batch = waiting.splice(0, largestBatch);
  inFlight.push(batch.length);
  const orders = batch.map((it) => it.order);
  const lines = orders.flatMap(({ order_id, lines }) => lines.map((line, at) => ({ order_id, at, ...line })));
  try {
    const { rowCount } = await pool.query({
      ...placing,
      values: [
        orders.map(() => randomUUID()),
        orders.map((it) => it.order_id),
        orders.map((it) => it.customer_id),
        orders.map((it) => it.total_minor),
        lines.map((it) => it.order_id),
        lines.map((it) => it.at),
        lines.map((it) => it.product_id),
        lines.map((it) => it.quantity),
        orders.map(({ order_id }) => JSON.stringify({ type: 'placed', order_id })),
      ],
    });
    if (rowCount !== new Set(lines.map((it) => it.product_id)).size) throw new Error('a shelf is empty');
    for (const { placed } of batch) placed();
  } catch (error) {
    for (const { failed } of batch) failed(error);
  }
  inFlight.splice(inFlight.indexOf(batch.length), 1);
  goOn();
};

const goOn = (): void => {
  while (mayGo()) void go();
};

const place = async (body: Body): Promise<Order> => {
  const lines = 'lines' in body ? body.lines : [{ product_id: body.product_id, quantity: body.quantity }];
  const total_minor = lines.reduce((sum, it) => sum + prices.get(it.product_id)! * it.quantity, 0);
  const order: Order = {
    ...{ order_id: randomUUID(), customer_id: body.customer_id, status: 'confirmed' },
    ...{ total_minor, lines },
  };
  await new Promise<void>((placed, failed) => {
    waiting.push({ order, placed, failed });
    // Requests that arrive in one turn of the event loop go into one batch.
    if (waiting.length === 1) setImmediate(goOn);
  });
  return order;
};

const fill = async ({
  products,
}: {
  products: { product_id: string; unit_price_minor: number }[];
}): Promise<object> => {
  for (const { product_id, unit_price_minor } of products) prices.set(product_id, unit_price_minor);
  await pool.query('INSERT INTO products SELECT unnest($1::text[]), 0', [products.map((it) => it.product_id)]);
  return {};
};

const stockUp = async ({ stock }: { stock: { product_id: string; on_hand: number }[] }): Promise<object> => {
  const values = [stock.map((it) => it.product_id), stock.map((it) => it.on_hand)];
  await pool.query(
    `UPDATE products SET on_hand = units FROM unnest($1::text[], $2::bigint[]) AS _ (id, units) WHERE product_id = id`,
    values,
  );
  return {};
};

const stockOf = async (productId: string): Promise<object> => {
  const { rows } = await pool.query<{ reserved: string }>('SELECT reserved FROM products WHERE product_id = $1', [
    productId,
  ]);
  return { reserved: Number(rows[0]!.reserved) };
};

const find = async (orderId: string): Promise<object | undefined> =>
  (await pool.query<object>('SELECT * FROM orders WHERE order_id = $1', [orderId])).rows[0];

/** @returns the answer; undefined if there is none */
const answerTo = async (request: IncomingMessage): Promise<object | undefined> => {
  const [, root, id] = request.url!.split('/').map(decodeURIComponent);
  if (request.method === 'GET') return root === 'stock' ? stockOf(id!) : find(id!);
  const body = await json(request);
  if (root === 'orders') return place(body as Body);
  return root === 'stock' ? stockUp(body as Parameters<typeof stockUp>[0]) : fill(body as Parameters<typeof fill>[0]);
};

const respond = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
  let status = request.url === '/orders' ? 201 : 200;
  const answer = await answerTo(request).catch((error: unknown) => {
    status = 500;
    return { error: String(error) };
  });
  const bytes = Buffer.from(JSON.stringify(answer ?? {}));
  const headers = { 'content-type': 'application/json; charset=utf-8', 'content-length': bytes.length };
  response.writeHead(answer ? status : 404, headers).end(bytes);
};

carryOut({
  listen: async ({ databaseUrl }) => {
    pool = new pg.Pool({ connectionString: databaseUrl, max: connections });
    await pool.query(schemaFor('text'));
    const server = createServer((request, response) => void respond(request, response)).listen(0, '127.0.0.1');
    await once(server, 'listening');
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  },
} satisfies ShopCommands);
