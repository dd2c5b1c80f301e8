import { Injectable } from '@nestjs/common';
import type { OrderEventType, OrderLogEvent } from '#contracts';
import { InjectSql, Sql } from '#database';
import { fromLog, numbersOf, positionOf, type HeldPart, type LogNumbers, type Reading } from '#events';
import { undoing } from '../domain/order.js';
import type { EventFeed, LogPage, OrderEvent, Position } from '../use-cases/read-events.js';
import type { Outbox, OutboxEvent } from '../use-cases/relay-outbox.js';

type Order = NonNullable<OrderLogEvent['data']['order']>;

interface LogRow extends LogNumbers {
  tenant: string;
  orderId: string;
  version: number;
  type: OrderEvent['type'];
  status: OrderEvent['status'];
  details: OrderEvent['data'];
  at: Date;
  traceparent: string | null;
  currency: string;
  customerId: string;
  reference: string | null;
  totalMinor: number;
  /** Null where it says nothing new of the order. */
  lines: Order['lines'] | null;
  /** How many there were to choose from. */
  found: number;
}

/** The events of orders: as the consumer `stock` reads them, as other modules do, and as callers do. */
@Injectable()
export class PostgresOutbox implements Outbox, EventFeed {
  constructor(@InjectSql('order') private readonly sql: Sql) {}

  read(parts: readonly HeldPart[], limit: number): Promise<Reading<OutboxEvent>> {
    return fromLog(
      async (after, most) => {
        const { xid, id } = numbersOf(after);
        const rows = await this.sql.query<Omit<OutboxEvent, 'sequence'> & LogNumbers>(read, [xid, id, most]);
        const events = rows.map((row): OutboxEvent => ({ ...row, sequence: positionOf(row) }));
        return { events, until: events.at(-1)?.sequence ?? after, isMore: events.length === most };
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
    const [end] = await this.sql.query<LogNumbers & { found: number }>(logEnd, [xid, id, limit]);
    if (!end) return { events: [], until: after, isMore: false };
    const whole = { until: positionOf(end), isMore: end.found === limit };
    if (types?.length === 0) return { events: [], ...whole };
    const rows = await this.sql.query<LogRow>(log, [
      ...[xid, id, end.xid, end.id, pageBytes, ['placed', ...undoing]],
      types && types.map((it) => it.slice(orderPrefix.length)),
    ]);
    const last = rows.at(-1);
    const isCut = last !== undefined && rows.length < last.found;
    return { events: rows.map(logEventOf), ...(isCut ? { until: positionOf(last), isMore: true } : whole) };
  }
}

const orderPrefix = 'order.';

/** What the lines of a page may take, as they are kept; one order goes through whatever it takes. */
const pageBytes = 1_000_000;

const logEventOf = (row: LogRow): OrderLogEvent => {
  const { orderId, version, type, status, details, currency, lines, traceparent } = row;
  return {
    specversion: '1.0',
    id: `${orderId}:${version}`,
    source: '/orders',
    type: `${orderPrefix}${type}`,
    subject: orderId,
    time: row.at,
    tenantid: row.tenant,
    sequence: positionOf(row),
    ...(traceparent !== null && { traceparent }),
    data: {
      ...{ version, status, currency },
      ...(lines && {
        order: { customer_id: row.customerId, reference: row.reference, total_minor: Number(row.totalMinor), lines },
      }),
      details,
    },
  };
};

/** Ordered by the columns, not by the texts of the same names that are given back: as a text, 10 comes before 9. */
const read = {
  name: 'order-outbox-read',
  text: `
    SELECT e.xid::text, e.id::text, e.tenant_id AS tenant, e.order_id AS subject, e.reservation_id AS "reservationId",
      e.version, e.type, e.status, e.data
    FROM orders.events e
    WHERE (e.xid, e.id) > ($1::xid8, $2::bigint) AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY e.xid, e.id LIMIT $3`,
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

/** Where a page ends, whatever is told of it. */
const logEnd = {
  name: 'order-log-end',
  text: `
    SELECT xid::text, id::text, found FROM (
      SELECT xid, id, row_number() OVER (ORDER BY xid, id)::int AS found FROM orders.events
      WHERE (xid, id) > ($1::xid8, $2::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())
      ORDER BY xid, id LIMIT $3
    ) e
    ORDER BY e.xid DESC, e.id DESC LIMIT 1`,
};

/**
 * Orders are looked up one by one, by whatever plan. What they take is added up before any of their lines are read, so
 * that a page of large orders does not fill the memory.
 */
const log = {
  name: 'order-log',
  text: `
    SELECT p.xid::text, p.id::text, p.tenant_id AS tenant, p.order_id AS "orderId", p.version, p.type, p.status,
      p.data AS details, p.at, p.traceparent, p.currency, p.customer_id AS "customerId", p.reference,
      p.total_minor AS "totalMinor", CASE WHEN p.type = ANY ($6::text[]) THEN p.lines END AS lines, p.found::int
    FROM (
      SELECT e.*, o.currency, o.customer_id, o.reference, o.total_minor, o.lines, count(*) OVER () AS found,
        sum(pg_column_size(e.data) + CASE WHEN e.type = ANY ($6::text[]) THEN pg_column_size(o.lines) ELSE 0 END)
          OVER (ORDER BY e.xid, e.id) AS bytes,
        row_number() OVER (ORDER BY e.xid, e.id) AS number
      FROM (
        SELECT * FROM orders.events
        WHERE (xid, id) > ($1::xid8, $2::bigint) AND (xid, id) <= ($3::xid8, $4::bigint)
          AND ($7::text[] IS NULL OR type = ANY ($7))
        ORDER BY xid, id
      ) e
      CROSS JOIN LATERAL (
        SELECT currency, customer_id, reference, total_minor, lines FROM orders.orders
        WHERE tenant_id = e.tenant_id AND order_id = e.order_id LIMIT 1
      ) o
    ) p
    WHERE p.number = 1 OR p.bytes <= $5
    ORDER BY p.xid, p.id`,
};
