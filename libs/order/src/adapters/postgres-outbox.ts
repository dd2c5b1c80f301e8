import { Injectable } from '@nestjs/common';
import type { OrderEventType } from '#contracts';
import { InjectSql, Sql } from '#database';
import { fromLog, numbersOf, positionOf, type HeldPart, type LogNumbers, type Reading } from '#events';
import { undoing } from '../domain/order.js';
import type { EventFeed, LogPage, OrderEvent, Position } from '../use-cases/read-events.js';
import type { Outbox, OutboxEvent } from '../use-cases/relay-outbox.js';

type OutboxRow = Omit<OutboxEvent, 'sequence'> & LogNumbers & Pick<LogRow, 'linesSoFar'>;

/** Where a page ends, whatever is told of it, and whether more may follow. */
interface LogEnd {
  endXid: string;
  endId: string;
  isFull: boolean;
}

interface LogRow extends LogNumbers, LogEnd {
  tenant: string;
  orderId: string;
  version: number;
  type: OrderEvent['type'];
  status: OrderEvent['status'];
  /** JSON. */
  details: string;
  at: Date;
  traceparent: string | null;
  currency: string;
  customerId: string;
  reference: string | null;
  totalMinor: number;
  /** JSON; null where it says nothing new of the order. */
  lines: string | null;
  /** Its own and those of the events before it on the page. */
  linesSoFar: number;
}

/** The events of orders: as the consumer `stock` reads them, as other modules do, and as callers do. */
@Injectable()
export class PostgresOutbox implements Outbox, EventFeed {
  constructor(@InjectSql('order') private readonly sql: Sql) {}

  read(parts: readonly HeldPart[], limit: number): Promise<Reading<OutboxEvent>> {
    return fromLog(
      async (after, most) => {
        const { xid, id } = numbersOf(after);
        const rows = await this.sql.query<OutboxRow>(read, [xid, id, most, pageLines]);
        const events = rows.map((row): OutboxEvent => ({ ...row, sequence: positionOf(row) }));
        const isMore = rows.length === most || (rows.at(-1)?.linesSoFar ?? 0) >= pageLines;
        return { events, until: events.at(-1)?.sequence ?? after, isMore };
      },
      parts,
      limit,
    );
  }

  after(tenant: string, { xid, id }: Position, limit: number): Promise<OrderEvent[]> {
    return this.sql.query<OrderEvent>(feed, [tenant, xid, id, limit]);
  }

  async log(after: string, limit: number, types: readonly OrderEventType[] | null): Promise<LogPage> {
    const { xid, id } = numbersOf(after);
    const page =
      types?.length === 0
        ? await this.sql.query<LogEnd>(logEnd, [xid, id, limit])
        : await this.sql.query<LogEnd | LogRow>(log, [
            ...[xid, id, limit, pageLines, ['placed', ...undoing]],
            types && types.map((it) => it.slice(orderPrefix.length)),
          ]);
    // One snapshot says what there is and how far that is all: what is committed a moment later lies behind it.
    const [end] = page;
    if (!end) return { events: '[]', until: after, isMore: false };
    const rows = page.filter(isEvent);
    const events = withinBytes(rows.map(logEventOf), pageBytes);
    const last = rows[events.length - 1];
    const isCut = last !== undefined && (events.length < rows.length || last.linesSoFar >= pageLines);
    const until = isCut ? positionOf(last) : positionOf({ xid: end.endXid, id: end.endId });
    return { events: `[${events.join(',')}]`, until, isMore: isCut || end.isFull };
  }
}

const isEvent = (row: LogEnd | LogRow): row is LogRow => 'xid' in row && row.xid !== null;

/** As many from the beginning as fit; one goes through whatever it takes. */
const withinBytes = (texts: string[], most: number): string[] => {
  let bytes = 0;
  const tooMany = texts.findIndex((it, index) => (bytes += Buffer.byteLength(it)) > most && index > 0);
  return tooMany < 0 ? texts : texts.slice(0, tooMany);
};

const orderPrefix = 'order.';

/**
 * At most so many lines are read at once, so that a page of large orders does not fill the memory, and a reply is at most
 * so large; one order goes through whatever it takes, which is less than a reply may.
 */
const pageLines = 20_000;
const pageBytes = 8_388_608;

/** Written by hand: what Postgres has as JSON stays what it is, and the rest needs no escaping but for what callers name. */
const logEventOf = (row: LogRow): string => {
  const { orderId, version, type, status, details, currency, lines, traceparent } = row;
  const { customerId, reference, totalMinor } = row;
  const order =
    lines === null
      ? ''
      : `"order":{"customer_id":${JSON.stringify(customerId)},"reference":${JSON.stringify(reference)},` +
        `"total_minor":${totalMinor},"lines":${lines}},`;
  return (
    `{"specversion":"1.0","id":"${orderId}:${version}","source":"/orders","type":"${orderPrefix}${type}",` +
    `"subject":"${orderId}","time":"${row.at.toISOString()}","tenantid":${JSON.stringify(row.tenant)},` +
    `"sequence":"${positionOf(row)}",${traceparent === null ? '' : `"traceparent":${JSON.stringify(traceparent)},`}` +
    `"data":{"version":${version},"status":"${status}","currency":"${currency}",${order}"details":${details}}}`
  );
};

/** Ordered by the columns, not by the texts of the same names that are given back: as a text, 10 comes before 9. */
const read = {
  name: 'order-outbox-read',
  text: `
    SELECT p.xid::text, p.id::text, p.tenant_id AS tenant, p.order_id AS subject, p.reservation_id AS "reservationId",
      p.version, p.type, p.status, p.data, p.so_far::int AS "linesSoFar"
    FROM (
      SELECT e.*, sum(e.size) OVER (ORDER BY e.xid, e.id ROWS UNBOUNDED PRECEDING) AS so_far
      FROM (
        SELECT *, coalesce(jsonb_array_length(data->'lines'), 0) AS size FROM orders.events
        WHERE (xid, id) > ($1::xid8, $2::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY xid, id LIMIT $3
      ) e
    ) p
    WHERE p.so_far - p.size < $4::int
    ORDER BY p.xid, p.id`,
};

const feed = {
  name: 'order-feed',
  text: `
    SELECT e.xid::text, e.id::text, e.order_id AS "orderId", e.version, e.type, e.status, e.data, e.at
    FROM orders.events e
    WHERE (e.xid, e.id) > ($2::xid8, $3::bigint) AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
      AND e.tenant_id = $1
    ORDER BY e.xid, e.id LIMIT $4`,
};

/** The last of so many events, or the last one there is. */
const endOfPage = `
  SELECT xid, id, is_full FROM (
    (SELECT xid, id, true AS is_full FROM orders.events
     WHERE (xid, id) > ($1::xid8, $2::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY xid, id OFFSET $3::bigint - 1 LIMIT 1)
    UNION ALL
    (SELECT xid, id, false FROM orders.events
     WHERE (xid, id) > ($1::xid8, $2::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY xid DESC, id DESC LIMIT 1)
  ) ends LIMIT 1`;

const logEnd = {
  name: 'order-log-end',
  text: `SELECT xid::text AS "endXid", id::text AS "endId", is_full AS "isFull" FROM (${endOfPage}) page`,
};

/**
 * Orders are looked up one by one, by whatever plan. Their lines are counted before any are read, so that a page of large
 * orders does not fill the memory.
 */
const log = {
  name: 'order-log',
  text: `
    WITH page AS MATERIALIZED (${endOfPage})
    SELECT p.xid::text, p.id::text, p.tenant_id AS tenant, p.order_id AS "orderId", p.version, p.type, p.status,
      p.data::text AS details, p.at, p.traceparent, p.currency, p.customer_id AS "customerId", p.reference,
      p.total_minor AS "totalMinor", CASE WHEN p.type = ANY ($5::text[]) THEN p.lines::text END AS lines,
      p.so_far::int AS "linesSoFar", page.xid::text AS "endXid", page.id::text AS "endId", page.is_full AS "isFull"
    FROM page LEFT JOIN LATERAL (
      SELECT * FROM (
        SELECT e.*, o.currency, o.customer_id, o.reference, o.total_minor, o.lines, o.size,
          sum(o.size) OVER (ORDER BY e.xid, e.id ROWS UNBOUNDED PRECEDING) AS so_far
        FROM (
          SELECT * FROM orders.events
          WHERE (xid, id) > ($1::xid8, $2::bigint) AND (xid, id) <= (page.xid, page.id)
            AND ($6::text[] IS NULL OR type = ANY ($6))
          ORDER BY xid, id LIMIT $3::bigint
        ) e
        CROSS JOIN LATERAL (
          SELECT currency, customer_id, reference, total_minor, lines,
            CASE WHEN e.type = ANY ($5::text[]) THEN jsonb_array_length(lines)
              ELSE coalesce(jsonb_array_length(e.data->'lines'), 0) END AS size
          FROM orders.orders WHERE tenant_id = e.tenant_id AND order_id = e.order_id LIMIT 1
        ) o
      ) s
      WHERE s.so_far - s.size < $4::int
    ) p ON true
    ORDER BY p.xid, p.id`,
};
