import { randomUUID } from 'node:crypto';
import type { Client, QueryConfig } from 'pg';
import type { LimitShape } from './commands.js';

/** The minimum for an order that is idempotent, reserves its stock and is published as an event. */
export const schemaFor = (productId: 'int' | 'text'): string => `
  CREATE TABLE products (
    product_id ${productId} PRIMARY KEY,
    on_hand bigint NOT NULL,
    reserved bigint NOT NULL DEFAULT 0 CHECK (0 <= reserved AND reserved <= on_hand)
  ) WITH (fillfactor = 60);
  CREATE TABLE idempotency_keys (key uuid PRIMARY KEY, order_id uuid NOT NULL);
  CREATE TABLE orders (
    order_id uuid PRIMARY KEY,
    customer_id text NOT NULL,
    status text NOT NULL,
    total_minor bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
  );
  CREATE TABLE lines (
    order_id uuid NOT NULL, line int NOT NULL, product_id ${productId} NOT NULL, quantity int NOT NULL,
    PRIMARY KEY (order_id, line)
  );
  CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id uuid NOT NULL, event jsonb NOT NULL)`;

const customer = 'c-1';
const quantity = 1;
const totalMinor = 250;

/** Locks the product row last, once nothing else can fail, and so for the shortest time. */
const inOneStatement = {
  name: 'order',
  text: `
    WITH key AS (INSERT INTO idempotency_keys VALUES ($1, $2)),
         placed AS (INSERT INTO orders VALUES ($2, $3, 'confirmed', $4)),
         line AS (INSERT INTO lines VALUES ($2, 1, $5, $6)),
         told AS (INSERT INTO outbox (order_id, event) VALUES ($2, $7))
    UPDATE products SET reserved = reserved + $6 WHERE product_id = $5 AND on_hand - reserved >= $6`,
};

const event = (orderId: string): string => JSON.stringify({ type: 'placed', order_id: orderId });

const outOfStock = (): Error => new Error('the shelf is empty: there is not enough stock for a benchmark');

const asStatement = async (client: Client, product: number): Promise<void> => {
  const orderId = randomUUID();
  const values = [randomUUID(), orderId, customer, totalMinor, product, quantity, event(orderId)];
  const { rowCount } = await client.query({ ...inOneStatement, values });
  // Without a transaction the rest would remain; the benchmark has ample stock, so this never happens.
  if (rowCount !== 1) throw outOfStock();
};

const steps = (orderId: string, product: number): QueryConfig[] => [
  { name: 'key', text: 'INSERT INTO idempotency_keys VALUES ($1, $2)', values: [randomUUID(), orderId] },
  {
    name: 'placed',
    text: `INSERT INTO orders VALUES ($1, $2, 'confirmed', $3)`,
    values: [orderId, customer, totalMinor],
  },
  { name: 'line', text: 'INSERT INTO lines VALUES ($1, 1, $2, $3)', values: [orderId, product, quantity] },
  { name: 'told', text: 'INSERT INTO outbox (order_id, event) VALUES ($1, $2)', values: [orderId, event(orderId)] },
  {
    name: 'stock',
    text: 'UPDATE products SET reserved = reserved + $2 WHERE product_id = $1 AND on_hand - reserved >= $2',
    values: [product, quantity],
  },
];

const asTransaction = async (client: Client, product: number): Promise<void> => {
  await client.query('BEGIN');
  for (const step of steps(randomUUID(), product)) {
    const { rowCount } = await client.query(step);
    if (rowCount !== 1) throw outOfStock();
  }
  await client.query('COMMIT');
};

export const placing: Record<LimitShape, (client: Client, product: number) => Promise<void>> = {
  statement: asStatement,
  transaction: asTransaction,
};
