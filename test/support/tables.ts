import pg from 'pg';

/** The modules that store data, perhaps all in one database. */
export const keepers = ['order', 'inventory', 'payment', 'sales', 'webhooks'] as const;
export type Keeper = (typeof keepers)[number];
export type DatabaseUrls = Record<Keeper, string>;

/** One value for each module that stores data. */
export const ofEach = <Value>(value: (keeper: Keeper, index: number) => Value): Record<Keeper, Value> =>
  Object.fromEntries(keepers.map((it, index) => [it, value(it, index)])) as Record<Keeper, Value>;

export const allAt = (url: string): DatabaseUrls => ofEach(() => url);

export type Row = Record<string, unknown>;

/**
 * The tables of order under names that stay: queries of tests use these, so that a change of a table needs a change only
 * here.
 */
const orderFacts = {
  /** Without tombstones, which stand for orders that never existed. */
  kept: `
    SELECT tenant_id, account_id, order_id, customer_id, idempotency_key, reservation_id, status, version, currency,
      total_minor, returned_total_minor, adjustments, payment_method, (
        SELECT jsonb_agg(jsonb_build_object('line', x.line, 'cancelled', 0, 'fulfilled', 0, 'returned', 0) || x.stored ORDER BY x.line)
        FROM jsonb_array_elements(lines) WITH ORDINALITY AS x(stored, line)
      ) AS lines
    FROM orders.orders WHERE status <> 'void'`,
  /** They are announced in the order of (xid, id). */
  events: `SELECT xid, id, tenant_id, order_id, version, type, status, data, at FROM orders.events`,
  /** The position of inventory in the part of the log in which it is furthest behind. */
  followed: `
    SELECT split_part(min(position), '-', 1)::numeric::text::xid8 AS xid, split_part(min(position), '-', 2)::bigint AS id
    FROM orders.checkpoints WHERE consumer = 'stock'`,
  /** The sagas that drive the payments of orders; at rest, none is running. */
  sagas: `SELECT tenant_id, saga_id, order_id, definition, step, state, data, result FROM orders.sagas`,
};

/** The same for the tables of payment. */
const paymentFacts = {
  payments: `
    SELECT tenant_id, order_id, method, amount_minor, authorised_minor, captured_minor, refunded_minor, capturing_minor,
      refunding_minor, reversed FROM payment.payments`,
  operations: `SELECT tenant_id, operation_id, order_id, kind, amount_minor, state FROM payment.operations`,
  /** What the simulated provider says it has done. */
  ledger: `
    SELECT tenant_id, operation_id, order_id, kind, amount_minor FROM payment.simulated_ledger
    WHERE refused_for IS NULL AND decided_at <= now()`,
};

/** The same for the tables of inventory. */
const inventoryFacts = {
  products: `SELECT tenant_id, product_id, on_hand, reserved, sold FROM inventory.products`,
  /** `held` is units by product. */
  reservations: `SELECT tenant_id, reservation_id, state, held, deadline_at FROM inventory.reservations`,
  moves: `SELECT tenant_id, product_id, kind, delta FROM inventory.stock_moves`,
  /** The last version of each order that has taken effect on the stock. */
  settled: `
    SELECT tenant_id, order_id, settled_version AS version FROM inventory.reservations WHERE order_id IS NOT NULL`,
};

/** The same for the tables of sales. */
const salesFacts = {
  /** The view that is served. */
  sold: `
    SELECT tenant_id, day::text, product_id, currency, orders, ordered, cancelled, returned, ordered_minor, cancelled_minor,
      returned_minor
    FROM sales.days WHERE view = (SELECT view FROM sales.views WHERE state = 'serving')`,
};

const about = (facts: Record<string, string>, question: string): string =>
  `WITH ${Object.entries(facts)
    .map(([name, text]) => `${name} AS NOT MATERIALIZED (${text})`)
    .join(', ')} ${question}`;

/** Asks about the facts of order: `kept`, `events`, `followed`, `sagas`. */
export const askOrder = <R extends Row = Row>(urls: DatabaseUrls, question: string): Promise<R[]> =>
  query<R>(urls.order, about(orderFacts, question));

/** Asks about the facts of payment: `payments`, `operations`, `ledger`. */
export const askPayment = <R extends Row = Row>(urls: DatabaseUrls, question: string): Promise<R[]> =>
  query<R>(urls.payment, about(paymentFacts, question));

/** Asks about the facts of inventory: `products`, `reservations`, `moves`, `settled`. */
export const askInventory = <R extends Row = Row>(urls: DatabaseUrls, question: string): Promise<R[]> =>
  query<R>(urls.inventory, about(inventoryFacts, question));

/** Asks about the facts of sales: `sold`. */
export const askSales = <R extends Row = Row>(urls: DatabaseUrls, question: string): Promise<R[]> =>
  query<R>(urls.sales, about(salesFacts, question));

/** The payments that are still under way. */
export const underWay = (urls: DatabaseUrls): Promise<Row[]> =>
  askOrder(urls, `SELECT saga_id, step, result FROM sagas WHERE state = 'running' ORDER BY saga_id`);

/** Transactions that are prepared and not finished. */
export const prepared = (urls: DatabaseUrls): Promise<Row[]> =>
  query(urls.inventory, `SELECT gid FROM pg_prepared_xacts WHERE database = current_database()`);

/** The events that have been announced but have not reached the stock yet. */
export const waiting = (urls: DatabaseUrls): Promise<Row[]> =>
  askOrder(
    urls,
    `SELECT e.order_id, e.version FROM events e, followed f WHERE (e.xid, e.id) > (f.xid, f.id) ORDER BY e.xid, e.id`,
  );

/**
 * The part of the log to which the events of an order belong. It is repeated here because checkpoints depend on it, so it
 * must never change, and because the lib that defines it would load Nest and NATS into every test file.
 */
const partOf = (orderId: string): number => {
  let hash = 0x811c9dc5;
  for (const character of orderId) hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193);
  return ((hash ^ (hash >>> 16)) >>> 0) % 8;
};

/** The consumers elsewhere that have not reached the last event in a part of the log of orders. */
export const behind = async (urls: DatabaseUrls): Promise<Row[]> => {
  const ends = await askOrder<{ order_id: string; position: string }>(
    urls,
    `SELECT order_id, max(lpad(xid::text, 20, '0') || '-' || lpad(id::text, 19, '0')) AS position FROM events GROUP BY 1`,
  );
  const last = new Map<number, string>();
  for (const { order_id, position } of ends) {
    const part = partOf(order_id);
    if (position > (last.get(part) ?? '')) last.set(part, position);
  }
  const come = await Promise.all(
    (['sales', 'webhooks'] as const).map((schema) =>
      query<{ consumer: string; part: number; position: string }>(
        urls[schema],
        `SELECT consumer, part, position FROM ${schema}.checkpoints`,
      ),
    ),
  );
  return come.flat().filter((it) => it.position < (last.get(it.part) ?? ''));
};

/** Counts of everything that is stored. Stock that was reserved and released again does not count. */
export const footprint = async (urls: DatabaseUrls): Promise<Row> => {
  const [orders] = await askOrder(
    urls,
    `SELECT (SELECT count(*) FROM kept) AS orders, (SELECT count(*) FROM events) AS events,
      (SELECT count(*) FROM orders.refusals) AS refusals,
      (SELECT count(*) FROM orders.keyed_changes) AS keyed_changes,
      (SELECT sum(version) FROM kept) AS versions`,
  );
  const [stock] = await askInventory(
    urls,
    `SELECT count(*) AS products, sum(on_hand) AS on_hand, sum(reserved) AS reserved, sum(sold) AS sold,
      (SELECT max(updated_at) FROM inventory.products) AS described_at,
      (SELECT count(*) FROM moves) AS moves, (SELECT count(*) FROM reservations WHERE state <> 'released') AS reservations
    FROM products`,
  );
  return { ...orders, ...stock };
};

/** Expires the leases of a killed relay, instead of waiting until they expire. */
export const lapseLeases = async (urls: DatabaseUrls): Promise<void> => {
  // Locked rows belong to a live process.
  await query(
    urls.order,
    `UPDATE orders.sagas SET lease_until = now() WHERE ctid = ANY (ARRAY (
      SELECT ctid FROM orders.sagas WHERE lease_until > now() FOR NO KEY UPDATE SKIP LOCKED))`,
  );
  const readers = { orders: urls.order, sales: urls.sales, webhooks: urls.webhooks };
  for (const [schema, url] of Object.entries(readers)) {
    await query(url, `UPDATE ${schema}.readers SET seen_until = now()`);
    // In the order in which consumers lock them.
    await query(
      url,
      `WITH locked AS (SELECT consumer, part FROM ${schema}.checkpoints ORDER BY consumer, part FOR NO KEY UPDATE)
      UPDATE ${schema}.checkpoints c SET lease_until = now() FROM locked l
      WHERE c.consumer = l.consumer AND c.part = l.part`,
    );
  }
  await query(
    urls.webhooks,
    `UPDATE webhooks.deliveries SET lease_until = now() WHERE ctid = ANY (ARRAY (
      SELECT ctid FROM webhooks.deliveries WHERE lease_until > now() FOR NO KEY UPDATE SKIP LOCKED))`,
  );
};

/** Expires the hold of an order that does not exist, instead of waiting until it expires. */
export const lapseHold = async (urls: DatabaseUrls, productId: string): Promise<void> => {
  await query(
    urls.inventory,
    `UPDATE inventory.reservations SET deadline_at = now() WHERE state = 'held' AND held ? $1`,
    [productId],
  );
};

/** How long a connection waits for another query: opening one costs several times as much as most queries. */
const keptMs = 500;
/** The connections that wait, by the URL of their database, each with the timer that ends it. */
const kept = new Map<string, Map<pg.Client, NodeJS.Timeout>>();

const keptFor = (url: string): Map<pg.Client, NodeJS.Timeout> => {
  const clients = kept.get(url) ?? new Map<pg.Client, NodeJS.Timeout>();
  kept.set(url, clients);
  return clients;
};

const newFor = async (url: string): Promise<pg.Client> => {
  const client = await connected(url);
  // The server may end it while it waits.
  client.on('error', () => keptFor(url).delete(client));
  return client;
};

const keep = (url: string, client: pg.Client): void => {
  const end = (): void => {
    if (keptFor(url).delete(client)) client.end().catch(() => undefined);
  };
  keptFor(url).set(client, setTimeout(end, keptMs));
};

const take = (url: string): pg.Client | undefined => {
  for (const [client, timer] of keptFor(url)) {
    clearTimeout(timer);
    keptFor(url).delete(client);
    return client;
  }
  return undefined;
};

/** Servers come and go: if a connection was lost while it waited, the query is sent over a new one. */
export const query = async <R extends Row>(url: string, text: string, values: unknown[] = []): Promise<R[]> => {
  const waiting = take(url);
  const client = waiting ?? (await newFor(url));
  try {
    const { rows } = await client.query<R>(text, values);
    keep(url, client);
    return rows;
  } catch (error) {
    client.end().catch(() => undefined);
    const { severity, message } = error as Partial<pg.DatabaseError> & Error;
    if (waiting === undefined || severity === 'ERROR' || message === 'Query read timeout') throw error;
    return query(url, text, values);
  }
};

export const connected = async (url: string): Promise<pg.Client> => {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000, query_timeout: 60_000 });
  await client.connect();
  return client;
};
