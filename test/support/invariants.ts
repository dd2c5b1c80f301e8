import { contradictions, type ClientLog, type KeptOrder } from './history.js';
import {
  askInventory,
  askOrder,
  askPayment,
  askSales,
  behind,
  prepared,
  underWay,
  waiting,
  type DatabaseUrls,
  type Row,
} from './tables.js';

/** A violation of an invariant, with the values that show it. */
export type Violation = { broken: string } & Row;

/** The invariants of the design, one function each. They hold at rest; those that say so hold at any moment. */

const saying = (broken: string, rows: Row[]): Violation[] => rows.map((row) => ({ broken, ...row }));

/** I1, at any moment: `0 ≤ reserved ≤ on_hand`. */
export const stockIsNeverOversold = async (urls: DatabaseUrls): Promise<Violation[]> =>
  saying(
    'I1: more is promised than there is, or less than nothing',
    await askInventory(urls, `SELECT * FROM products WHERE reserved < 0 OR reserved > on_hand`),
  );

/**
 * I2: reserved stock equals the sum of what reservations hold, a reservation holds what its order has not fulfilled
 * yet, and a reservation without an order is a hold that may still get one.
 *
 * @param graceMs how long after its deadline a hold without an order may still exist
 */
export const promisesBelongToOrders = async (urls: DatabaseUrls, graceMs = 5_000): Promise<Violation[]> => {
  const sums = await askInventory(
    urls,
    `SELECT p.product_id, p.reserved, coalesce(h.units, 0) AS held FROM products p LEFT JOIN (
      SELECT r.tenant_id, u.product_id, sum(u.units::bigint) AS units
      FROM reservations r, jsonb_each_text(r.held) AS u(product_id, units) GROUP BY 1, 2
    ) h USING (tenant_id, product_id) WHERE p.reserved <> coalesce(h.units, 0)`,
  );
  const orders = await askOrder<{ order_id: string; reservation_id: string; open: Units | null }>(
    urls,
    `SELECT k.order_id, k.reservation_id, CASE WHEN k.status <> 'cancelled' THEN (
      SELECT jsonb_object_agg(product_id, units) FROM (
        SELECT l->>'product_id' AS product_id, sum((l->>'quantity')::int - (l->>'cancelled')::int - (l->>'fulfilled')::int) AS units
        FROM jsonb_array_elements(k.lines) l GROUP BY 1
      ) u WHERE units > 0) END AS open
    FROM kept k`,
  );
  const reservations = await askInventory<Reservation>(
    urls,
    `SELECT reservation_id, state, held, now() > deadline_at + ${graceMs} * interval '1 millisecond' AS "isOverdue"
    FROM reservations`,
  );
  const reservationById = new Map(reservations.map((it) => [it.reservation_id, it]));
  const claimed = new Set(orders.map((it) => it.reservation_id));
  return [
    ...saying('I2: what is promised is not what reservations hold', sums),
    ...saying(
      'I2: what is held for an order is not what it has yet to hand over',
      orders
        .map((it) => ({ ...it, open: it.open ?? {}, held: reservationById.get(it.reservation_id)?.held }))
        .filter(({ open, held }) => !held || !sameUnits(open, held)),
    ),
    ...saying(
      'I2: stock is held for no order',
      reservations.filter(
        ({ reservation_id, state, held, isOverdue }) =>
          !claimed.has(reservation_id) && Object.keys(held).length > 0 && (state !== 'held' || isOverdue),
      ),
    ),
    ...saying(
      'I2: a reservation was claimed that no order claims',
      reservations.filter((it) => !claimed.has(it.reservation_id) && ['confirmed', 'fulfilled'].includes(it.state)),
    ),
  ];
};

type Units = Record<string, number>;

interface Reservation extends Row {
  reservation_id: string;
  state: string;
  held: Units;
  isOverdue: boolean;
}

const sameUnits = (some: Units, others: Units): boolean =>
  Object.keys(some).length === Object.keys(others).length &&
  Object.entries(some).every(([product, units]) => others[product] === units);

/** I3, at any moment: what clients were told remains true. */
export const acknowledgementsStand = async (urls: DatabaseUrls, log: ClientLog): Promise<Violation[]> => {
  const kept = await askOrder<KeptOrder>(
    urls,
    `SELECT k.order_id, k.customer_id, k.currency, k.total_minor::float8, k.version, k.lines, k.idempotency_key, ARRAY(
      SELECT e.status FROM events e WHERE (e.tenant_id, e.order_id) = (k.tenant_id, k.order_id) ORDER BY e.version
    ) AS statuses, ARRAY(
      SELECT (e.data->>'amount_minor')::float8 FROM events e
      WHERE (e.tenant_id, e.order_id) = (k.tenant_id, k.order_id) AND e.type = 'refunded'
    ) AS refunds, ARRAY(
      SELECT (e.data->>'amount_minor')::float8 FROM events e
      WHERE (e.tenant_id, e.order_id) = (k.tenant_id, k.order_id) AND e.type = 'payment-captured'
        AND k.payment_method = 'manual'
    ) AS captures FROM kept k`,
  );
  return contradictions(log, kept).map((it) => ({ ...it, broken: `I3: ${it.broken}` }));
};

/** I4, at any moment: at most one order per tenant, account and key. */
export const aKeyHasOneOrder = async (urls: DatabaseUrls): Promise<Violation[]> =>
  saying(
    'I4: a key has several orders',
    await askOrder(
      urls,
      `SELECT tenant_id, account_id, idempotency_key, array_agg(order_id) AS orders FROM kept
      WHERE idempotency_key IS NOT NULL GROUP BY 1, 2, 3 HAVING count(*) > 1`,
    ),
  );

/** I5: the money of each order adds up and agrees with the provider's ledger, with its history and with its status. */
export const moneyAddsUp = async (urls: DatabaseUrls): Promise<Violation[]> => {
  const payments = await askPayment<Paid>(
    urls,
    `SELECT order_id, method, authorised_minor::float8 AS authorised, captured_minor::float8 AS captured,
      refunded_minor::float8 AS refunded, reversed FROM payments`,
  );
  const orders = await askOrder<Payable>(
    urls,
    `SELECT k.order_id, k.status, k.payment_method, k.total_minor::float8 AS total,
      s.state = 'ended' AS "isLed", s.result ? 'resolved' AS "isClosed",
      coalesce(h.captured, 0) AS captured, coalesce(h.refunded, 0) AS refunded, coalesce(h.reversed, 0) AS reversed
    FROM kept k LEFT JOIN sagas s ON s.tenant_id = k.tenant_id AND s.saga_id = k.order_id
    LEFT JOIN (
      SELECT tenant_id, order_id,
        sum((data->>'amount_minor')::float8) FILTER (WHERE type = 'payment-captured') AS captured,
        sum((data->>'amount_minor')::float8) FILTER (WHERE type = 'refunded') AS refunded,
        sum((data->>'amount_minor')::float8) FILTER (WHERE type = 'payment-reversed') AS reversed
      FROM events GROUP BY 1, 2
    ) h ON h.tenant_id = k.tenant_id AND h.order_id = k.order_id
    WHERE k.payment_method IS NOT NULL`,
  );
  const paymentOf = new Map(payments.map((it) => [it.order_id, it]));
  // Of a payment that waits for a person, part may be missing.
  const settled = orders
    .filter((it) => it.isLed && !it.isClosed)
    .map((order) => ({ order, payment: paymentOf.get(order.order_id) ?? nothingPaid }));
  const known = new Set(orders.map((it) => it.order_id));
  return [
    ...saying(
      'I5: more is refunded than captured, or captured than authorised',
      await askPayment(
        urls,
        `SELECT * FROM payments
        WHERE NOT (0 <= refunded_minor AND refunded_minor <= captured_minor AND captured_minor <= authorised_minor)`,
      ),
    ),
    ...saying(
      'I5: the payment is not what the ledger of the provider says',
      await askPayment(
        urls,
        `SELECT p.*, l.authorised, l.captured, l.refunded FROM payments p LEFT JOIN (${sumsOf('ledger')}) l USING (tenant_id, order_id)
        WHERE method = 'simulated' AND (authorised_minor, captured_minor, refunded_minor)
          <> (coalesce(l.authorised, 0), coalesce(l.captured, 0), coalesce(l.refunded, 0))`,
      ),
    ),
    ...saying(
      'I5: the payment is not what its operations say',
      await askPayment(
        urls,
        `SELECT p.*, o.authorised, o.captured, o.refunded, u.capturing, u.refunding FROM payments p
        LEFT JOIN (${sumsOf(`(SELECT * FROM operations WHERE state = 'succeeded') done`)}) o USING (tenant_id, order_id)
        LEFT JOIN (
          SELECT tenant_id, order_id, sum(amount_minor) FILTER (WHERE kind = 'capture') AS capturing,
            sum(amount_minor) FILTER (WHERE kind = 'refund') AS refunding
          FROM operations WHERE state = 'open' GROUP BY 1, 2
        ) u USING (tenant_id, order_id)
        WHERE (authorised_minor, captured_minor, refunded_minor, capturing_minor, refunding_minor)
          <> (coalesce(o.authorised, 0), coalesce(o.captured, 0), coalesce(o.refunded, 0),
            coalesce(u.capturing, 0), coalesce(u.refunding, 0))`,
      ),
    ),
    ...saying(
      'I5: somebody pays for an order that does not exist',
      payments.filter((it) => !known.has(it.order_id)).map((it) => ({ ...it })),
    ),
    ...saying(
      'I5: money was taken for an order that is cancelled',
      settled.filter(({ order, payment }) => order.status === 'cancelled' && payment.captured !== payment.refunded),
    ),
    ...saying(
      'I5: an order is cancelled, and its payment can still be captured',
      settled.filter(
        ({ order, payment }) => order.status === 'cancelled' && payment.captured === 0 && payment.authorised > 0,
      ),
    ),
    ...saying(
      'I5: an order is confirmed without its money',
      settled.filter(({ order: { status, payment_method, total }, payment }) => {
        if (status === 'pending' || status === 'cancelled') return false;
        return payment.authorised !== total || (payment_method !== 'manual' && payment.captured !== total);
      }),
    ),
    ...saying(
      'I5: the payment of an order is reversed that is not cancelled',
      orders.filter((it) => it.status !== 'cancelled' && paymentOf.get(it.order_id)?.reversed),
    ),
    ...saying(
      'I5: the history tells that another amount was taken',
      orders.filter((it) => it.captured !== (paymentOf.get(it.order_id) ?? nothingPaid).captured),
    ),
    ...saying(
      'I5: the history tells that another amount was given back',
      orders.filter((it) => {
        const { captured, refunded } = paymentOf.get(it.order_id) ?? nothingPaid;
        // What is reversed before it was captured is not given back.
        return it.refunded + (captured > 0 ? it.reversed : 0) !== refunded;
      }),
    ),
  ];
};

interface Paid extends Row {
  order_id: string;
  method: string | null;
  authorised: number;
  captured: number;
  refunded: number;
  reversed: boolean;
}

const nothingPaid = { authorised: 0, captured: 0, refunded: 0 };

/** An order that is paid through Cleave, and what its history says of its money. */
interface Payable extends Row {
  order_id: string;
  status: string;
  payment_method: string;
  total: number;
  isLed: boolean;
  /** By a person, who has dealt with it elsewhere. */
  isClosed: boolean;
  captured: number;
  refunded: number;
  reversed: number;
}

const sumsOf = (operations: string): string => `
  SELECT tenant_id, order_id,
    coalesce(sum(amount_minor) FILTER (WHERE kind = 'authorise'), 0)
      - coalesce(sum(amount_minor) FILTER (WHERE kind = 'void'), 0) AS authorised,
    coalesce(sum(amount_minor) FILTER (WHERE kind = 'capture'), 0) AS captured,
    coalesce(sum(amount_minor) FILTER (WHERE kind = 'refund'), 0) AS refunded
  FROM ${operations} GROUP BY 1, 2`;

/** I6: no payment is under way for ever: it ends, or becomes a dead letter for a person. */
export const paymentsComeToAnEnd = async (urls: DatabaseUrls): Promise<Violation[]> => [
  ...saying('I6: a payment is still being led', await underWay(urls)),
  ...saying(
    'I6: an order waits for a payment that nobody leads',
    await askOrder(
      urls,
      `SELECT k.order_id FROM kept k WHERE k.status = 'pending' AND NOT EXISTS (
        SELECT FROM sagas s WHERE s.saga_id = k.order_id AND s.state <> 'ended')`,
    ),
  ),
  ...saying(
    'I6: a payment waits for a person, although nothing of its order was handed over',
    await askOrder(
      urls,
      `SELECT s.saga_id, s.step, s.result, k.status FROM sagas s JOIN kept k ON k.order_id = s.saga_id
      WHERE s.state = 'parked' AND s.step <> 'reverse' AND k.status IN ('pending', 'confirmed', 'cancelled')`,
    ),
  ),
  ...saying(
    'I6: something was asked of a provider and never settled',
    await askPayment(urls, `SELECT * FROM operations WHERE state = 'open'`),
  ),
];

/**
 * I6: no hold is stuck.
 *
 * @param mayWait whether holds may still wait for an order: not once every request has its final answer
 */
export const nothingIsStuck = async (urls: DatabaseUrls, { mayWait }: { mayWait: boolean }): Promise<Violation[]> => {
  const held = await askInventory<{ reservation_id: string }>(
    urls,
    `SELECT reservation_id, held FROM reservations WHERE state = 'held'`,
  );
  const orders = await askOrder<{ reservation_id: string; status: string }>(
    urls,
    `SELECT reservation_id, status FROM kept`,
  );
  const claimed = new Map(orders.map((it) => [it.reservation_id, it.status]));
  return [
    ...saying(
      'I6: the hold of an order was never confirmed',
      held.filter((it) => (claimed.get(it.reservation_id) ?? 'pending') !== 'pending'),
    ),
    ...saying(
      'I6: a hold waits for an order that nobody places',
      mayWait ? [] : held.filter((it) => !claimed.has(it.reservation_id)),
    ),
    ...saying(
      'I6: a reservation has ended and still holds stock',
      await askInventory(
        urls,
        `SELECT * FROM reservations WHERE state IN ('fulfilled', 'released', 'refused') AND held <> '{}'`,
      ),
    ),
  ];
};

/** I7: stock moves add up to the stock on the shelf and to what was sold. */
export const stockMovesAddUp = async (urls: DatabaseUrls): Promise<Violation[]> =>
  saying(
    'I7: stock moves do not add up',
    await askInventory(
      urls,
      `SELECT p.product_id, p.on_hand, p.sold, m.delta, m.fulfilled FROM products p LEFT JOIN (
        SELECT tenant_id, product_id, sum(delta) AS delta,
          coalesce(-sum(delta) FILTER (WHERE kind = 'fulfilled'), 0) AS fulfilled
        FROM moves GROUP BY 1, 2
      ) m USING (tenant_id, product_id)
      WHERE p.on_hand <> coalesce(m.delta, 0) OR p.sold <> coalesce(m.fulfilled, 0)`,
    ),
  );

/** I8: each event of an order is announced once, in order, reaches the stock, and takes effect there once. */
export const eventsTakeEffectOnce = async (urls: DatabaseUrls): Promise<Violation[]> => {
  // The expected effect is calculated from the orders alone.
  const wanted = await askOrder<Move>(
    urls,
    `SELECT l->>'product_id' AS product_id, CASE e.type WHEN 'fulfilled' THEN 'fulfilled' ELSE 'returned' END AS kind,
      sum((l->>'quantity')::int * CASE e.type WHEN 'fulfilled' THEN -1 ELSE 1 END)::text AS delta
    FROM events e, jsonb_array_elements(e.data->'lines') l
    WHERE e.type = 'fulfilled' OR e.type = 'returned' AND (e.data->>'restock')::boolean
    GROUP BY 1, 2`,
  );
  const made = await askInventory<Move>(
    urls,
    `SELECT product_id, kind, sum(delta)::text AS delta FROM moves WHERE kind IN ('fulfilled', 'returned') GROUP BY 1, 2`,
  );
  const last = await askOrder<{ order_id: string; version: number }>(
    urls,
    `SELECT order_id, max(version) AS version FROM events
    WHERE type IN ('payment-authorised', 'payment-declined', 'payment-failed', 'cancelled', 'fulfilled')
      OR type = 'placed' AND status = 'confirmed' OR type = 'returned' AND (data->>'restock')::boolean GROUP BY 1`,
  );
  const settled = await askInventory<{ order_id: string; version: number }>(
    urls,
    `SELECT order_id, version FROM settled`,
  );
  const settledVersion = new Map(settled.map((it) => [it.order_id, it.version]));
  const textOf = ({ product_id, kind, delta }: Move): string => `${product_id} ${kind} ${delta}`;
  const [wantedTexts, madeTexts] = [new Set(wanted.map(textOf)), new Set(made.map(textOf))];
  return [
    ...saying('I8: an event has not been delivered', await waiting(urls)),
    ...saying(
      'I8: an event is announced twice',
      await askOrder(
        urls,
        `SELECT order_id, version FROM events GROUP BY tenant_id, order_id, version HAVING count(*) > 1`,
      ),
    ),
    ...saying(
      'I8: events of an order are announced out of order',
      await askOrder(
        urls,
        `SELECT order_id, version FROM (
          SELECT order_id, version, lag(version, 1, 0) OVER (PARTITION BY tenant_id, order_id ORDER BY xid, id) AS before
          FROM events
        ) a WHERE version <> before + 1`,
      ),
    ),
    ...saying(
      'I8: an event has had no effect on the stock',
      last.filter(({ order_id, version }) => (settledVersion.get(order_id) ?? 0) < version),
    ),
    ...saying('I8: the stock has moved by another amount than the events say', [
      ...wanted.filter((it) => !madeTexts.has(textOf(it))).map((it) => ({ ...it, side: 'events' })),
      ...made.filter((it) => !wantedTexts.has(textOf(it))).map((it) => ({ ...it, side: 'stock' })),
    ]),
  ];
};

interface Move extends Row {
  product_id: string;
  kind: string;
  delta: string;
}

/** I8, for consumers elsewhere: each event is counted once in the sales. */
export const salesAreWhatWasSold = async (urls: DatabaseUrls): Promise<Violation[]> => {
  const columns =
    'tenant_id, day, product_id, currency, orders::text, ordered::text, cancelled::text, returned::text, ' +
    'ordered_minor::text, cancelled_minor::text, returned_minor::text';
  const wanted = await askOrder(
    urls,
    `SELECT ${columns} FROM (
      SELECT e.tenant_id, (e.at AT TIME ZONE 'UTC')::date::text AS day, u.product_id, k.currency,
        count(DISTINCT e.order_id) FILTER (WHERE e.type = 'placed') AS orders,
        coalesce(sum(u.quantity) FILTER (WHERE e.type = 'placed'), 0) AS ordered,
        coalesce(sum(u.quantity) FILTER (WHERE e.type NOT IN ('placed', 'returned')), 0) AS cancelled,
        coalesce(sum(u.quantity) FILTER (WHERE e.type = 'returned'), 0) AS returned,
        coalesce(sum(u.amount_minor) FILTER (WHERE e.type = 'placed'), 0) AS ordered_minor,
        coalesce(sum(u.amount_minor) FILTER (WHERE e.type NOT IN ('placed', 'returned')), 0) AS cancelled_minor,
        coalesce(sum(u.amount_minor) FILTER (WHERE e.type = 'returned'), 0) AS returned_minor
      FROM events e JOIN kept k USING (tenant_id, order_id) CROSS JOIN LATERAL (
        SELECT l->>'product_id' AS product_id, (l->>'quantity')::numeric AS quantity,
          coalesce((l->>'amount_minor')::numeric, (l->>'quantity')::numeric * (l->>'unit_price_minor')::numeric) AS amount_minor
        FROM jsonb_array_elements(CASE
          WHEN e.type = 'returned' THEN e.data->'lines'
          -- What remained of an order, at the prices of its lines.
          WHEN e.type = 'cancelled' AND e.data ? 'lines' THEN (
            SELECT jsonb_agg(jsonb_build_object('unit_price_minor', k.lines->((c->>'line')::int - 1)->'unit_price_minor') || c)
            FROM jsonb_array_elements(e.data->'lines') c)
          ELSE k.lines END) l
      ) u
      WHERE e.type IN ('placed', 'returned', 'cancelled', 'payment-declined', 'payment-failed')
      GROUP BY 1, 2, 3, 4
    ) s`,
  );
  const counted = await askSales(urls, `SELECT ${columns} FROM sold`);
  const textOf = (it: Row): string => JSON.stringify(Object.values(it));
  const [wantedTexts, countedTexts] = [new Set(wanted.map(textOf)), new Set(counted.map(textOf))];
  return [
    ...saying('I8: a consumer of the log has not come to its end', await behind(urls)),
    ...saying('I8: the sales are not what the events say', [
      ...wanted.filter((it) => !countedTexts.has(textOf(it))).map((it) => ({ ...it, side: 'events' })),
      ...counted.filter((it) => !wantedTexts.has(textOf(it))).map((it) => ({ ...it, side: 'sales' })),
    ]),
  ];
};

/** I9: no prepared transaction at rest. */
export const nothingIsPrepared = async (urls: DatabaseUrls): Promise<Violation[]> =>
  saying('I9: a transaction is prepared and not finished', await prepared(urls));

interface Event {
  version: number;
  type: string;
  status: string;
  data: { lines?: { line: number; quantity: number; amount_minor?: number }[] };
}

interface Replayed extends Row {
  order_id: string;
  status: string;
  version: number;
  returned_total_minor: number;
  lines: { line: number; quantity: number; cancelled: number; fulfilled: number; returned: number }[];
  events: Event[] | null;
}

/** I10, at any moment: the history of an order leads to its present state, each entry following from the one before. */
export const historyLeadsToThePresent = async (urls: DatabaseUrls): Promise<Violation[]> => {
  const orders = await askOrder<Replayed>(
    urls,
    `SELECT k.order_id, k.status, k.version, k.returned_total_minor::float8, k.lines, (
      SELECT jsonb_agg(to_jsonb(e) ORDER BY e.version) FROM events e
      WHERE (e.tenant_id, e.order_id) = (k.tenant_id, k.order_id)
    ) AS events FROM kept k`,
  );
  return orders.flatMap((order) => {
    const why = replay(order);
    return why === undefined ? [] : [{ broken: `I10: ${why}`, ...order }];
  });
};

const anyStatus = ['pending', 'confirmed', 'partially-fulfilled', 'fulfilled', 'returned', 'cancelled'];

const verbs: Record<string, { from: string[]; to?: string; counter?: 'cancelled' | 'fulfilled' | 'returned' }> = {
  'payment-authorised': { from: ['pending'], to: 'confirmed' },
  'payment-declined': { from: ['pending'], to: 'cancelled' },
  'payment-failed': { from: ['confirmed'], to: 'cancelled' },
  'payment-captured': { from: anyStatus },
  'payment-reversed': { from: ['cancelled'] },
  refunded: { from: anyStatus },
  cancelled: { from: ['pending', 'confirmed'], to: 'cancelled' },
  'cancelled in part': { from: ['partially-fulfilled'], counter: 'cancelled' },
  fulfilled: { from: ['confirmed', 'partially-fulfilled'], counter: 'fulfilled' },
  returned: { from: ['partially-fulfilled', 'fulfilled', 'returned'], counter: 'returned' },
};

/** The state machine again, written independently of the one it checks. @returns what is wrong */
const replay = ({ status, version, returned_total_minor, lines, events }: Replayed): string | undefined => {
  const state = new Map(
    lines.map((it) => [it.line, { quantity: it.quantity, cancelled: 0, fulfilled: 0, returned: 0 }]),
  );
  const all = (counter: 'fulfilled' | 'returned'): boolean =>
    [...state.values()].every((it) => it[counter] === it.quantity - it.cancelled);
  let reached = '';
  let creditedMinor = 0;
  let isReversed = false;
  for (const [index, event] of (events ?? []).entries()) {
    if (event.version !== index + 1) return `the history has no entry ${index + 1}`;
    if (index === 0) {
      if (event.type !== 'placed' || !['pending', 'confirmed'].includes(event.status)) return 'it begins in the middle';
      reached = event.status;
      continue;
    }
    const verb = verbs[event.type === 'cancelled' && event.data.lines ? 'cancelled in part' : event.type];
    if (!verb?.from.includes(reached)) return `entry ${event.version} is not possible for an order that is ${reached}`;
    if (isReversed && event.type === 'payment-captured')
      return `entry ${event.version} takes money after it was returned`;
    isReversed ||= event.type === 'payment-reversed';
    for (const { line, quantity, amount_minor = 0 } of event.data.lines ?? []) {
      const units = state.get(line);
      if (!units || !verb.counter) return `entry ${event.version} is about a line that it cannot be about`;
      units[verb.counter] += quantity;
      if (event.type === 'returned') creditedMinor += amount_minor;
      if (units.fulfilled + units.cancelled > units.quantity || units.returned > units.fulfilled)
        return `entry ${event.version} is about more units than there are`;
    }
    if (verb.to !== undefined) reached = verb.to;
    else if (event.type === 'fulfilled') reached = all('fulfilled') ? 'fulfilled' : 'partially-fulfilled';
    else if (event.type === 'returned' && all('returned')) reached = 'returned';
    else if (event.type === 'cancelled') {
      if (!all('fulfilled')) return `entry ${event.version} leaves units that nobody will hand over`;
      reached = all('returned') ? 'returned' : 'fulfilled';
    }
    if (event.status !== reached) return `entry ${event.version} says ${event.status} where it leads to ${reached}`;
  }
  if (version !== (events ?? []).length) return 'the order has another version than its history';
  if (status !== reached) return `the history leads to ${reached}`;
  if (returned_total_minor !== creditedMinor) return `the history credits ${creditedMinor}`;
  const differs = lines.find((it) => {
    const { cancelled, fulfilled, returned } = state.get(it.line)!;
    return it.cancelled !== cancelled || it.fulfilled !== fulfilled || it.returned !== returned;
  });
  return differs && `the history leads to other units of line ${differs.line}`;
};

/** I11, at any moment: lines and adjustments add up to the total. */
export const totalsAddUp = async (urls: DatabaseUrls): Promise<Violation[]> =>
  saying(
    'I11: lines and adjustments do not add up to the total',
    await askOrder(
      urls,
      `SELECT order_id, total_minor, lines, adjustments FROM kept WHERE total_minor <>
        (SELECT coalesce(sum((l->>'quantity')::numeric * (l->>'unit_price_minor')::numeric), 0) FROM jsonb_array_elements(lines) l)
        + (SELECT coalesce(sum((a->>'amount_minor')::numeric), 0) FROM jsonb_array_elements(adjustments) a)`,
    ),
  );
