import { Injectable } from '@nestjs/common';
import type { OrderEventType } from '#contracts';
import { InjectSql, Sql } from '#database';
import { fromLog, numbersOf, positionOf, type HeldPart, type LogNumbers, type Reading } from '#events';
import { undoing } from '../domain/order.js';
import type { EventFeed, LogPage, OrderEvent, Position } from '../use-cases/read-events.js';
import type { Outbox, OutboxEvent } from '../use-cases/relay-outbox.js';

type OutboxRow = Omit<OutboxEvent, 'sequence'> & LogNumbers & { linesSoFar: number };

/** Where a page ends, whatever is told of it, and whether more may follow. */
interface LogEnd {
  endXid: string;
  endId: string;
  isFull: boolean;
}

/** A page, with the events as `orderLogEvent` says. */
interface LogRow extends LogEnd {
  /** JSON texts with commas between them; null where there are none. */
  events: string | null;
  count: number;
  bytes: number;
  lines: number;
  /** The position of the last of them. */
  last: string | null;
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
    const none = { events: null, count: 0, bytes: 0, lines: 0, last: null };
    const [page] =
      types?.length === 0
        ? (await this.sql.query<LogEnd>(logEnd, [xid, id, limit])).map((it): LogRow => ({ ...it, ...none }))
        : await this.sql.query<LogRow>(log, [
            ...[xid, id, limit, pageLines, ['placed', ...undoing]],
            types && types.map((it) => it.slice(orderPrefix.length)),
          ]);
    // One snapshot says what there is and how far that is all: what is committed a moment later lies behind it.
    if (!page) return { events: '[]', until: after, isMore: false };
    // One goes through whatever it takes, which is less than a reply may.
    if (page.bytes > pageBytes && page.count > 1) return this.log(after, Math.ceil(limit / 2), types);
    const isCut = page.lines >= pageLines;
    const until = isCut ? page.last! : positionOf({ xid: page.endXid, id: page.endId });
    return { events: `[${page.events ?? ''}]`, until, isMore: isCut || page.isFull };
  }
}

const orderPrefix = 'order.';

/**
 * At most so many lines are read at once, so that a page of large orders does not fill the memory, and a reply is at most
 * so large; one order goes through whatever it takes, which is less than a reply may.
 */
const pageLines = 20_000;
const pageBytes = 8_388_608;

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

/** An event as `orderLogEvent` says. What Postgres has as JSON stays what it is, and only what callers name is escaped. */
const logEvent = `
  '{"specversion":"1.0","id":"' || p.order_id || ':' || p.version || '","source":"/orders","type":"${orderPrefix}' || p.type
  || '","subject":"' || p.order_id || '","time":"'
  || to_char(p.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') || '","tenantid":' || to_json(p.tenant_id)
  || ',"sequence":"' || p.sequence || CASE WHEN p.traceparent IS NULL THEN '"' ELSE '","traceparent":' || to_json(p.traceparent) END
  || ',"data":{"version":' || p.version || ',"status":"' || p.status || '","currency":"' || p.currency
  || CASE WHEN p.type = ANY ($5::text[]) THEN '","order":{"customer_id":' || to_json(p.customer_id)
    || ',"reference":' || coalesce(to_json(p.reference)::text, 'null') || ',"total_minor":' || p.total_minor
    || ',"lines":' || p.lines::text || '}' ELSE '"' END
  || ',"details":' || p.data::text || '}}'`;

/**
 * Orders are looked up one by one, by whatever plan. Their lines are counted before any are read, so that a page of large
 * orders does not fill the memory. The page is one text: thousands of rows of many columns would cost their reader more
 * than they cost Postgres.
 */
const log = {
  name: 'order-log',
  text: `
    WITH page AS MATERIALIZED (${endOfPage})
    SELECT e.*, page.xid::text AS "endXid", page.id::text AS "endId", page.is_full AS "isFull"
    FROM page CROSS JOIN LATERAL (
      SELECT string_agg(event, ',' ORDER BY sequence) AS events, count(*)::int AS count,
        coalesce(sum(octet_length(event)), 0)::float8 AS bytes, coalesce(max(so_far), 0)::int AS lines, max(sequence) AS last
      FROM (
        SELECT p.sequence, p.so_far, ${logEvent} AS event
        FROM (
          SELECT e.*, o.currency, o.customer_id, o.reference, o.total_minor, o.lines, o.size,
            (lpad(e.xid::text, 20, '0') || '-' || lpad(e.id::text, 19, '0')) COLLATE "C" AS sequence,
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
        ) p
        WHERE p.so_far - p.size < $4::int
      ) s
    ) e`,
};
