import { Injectable, Logger, type OnModuleInit } from '@nestjs/common';
import { Bulkhead } from '#admission';
import { CleaveError, type OrderEventType } from '#contracts';
import { InjectSql, lacksPrivilege, Sql, type Statement } from '#database';
import { fromLog, numbersOf, positionOf, type LeasedPart, type LogNumbers, type Reading } from '#events';
import type { Condition } from '#health';
import { NoAnswer, within } from '#periodic';
import { undoing } from '../domain/order.js';
import type { EventFeed, LogPage, OrderEvent, Position } from '../use-cases/read-events.js';
import { pageLines } from '../use-cases/read-orders.js';
import type { Outbox, OutboxEvent } from '../use-cases/relay-outbox.js';
import { toldLines, withinLines } from './within-lines.js';

type OutboxRow = Omit<OutboxEvent, 'sequence'> & LogNumbers & Pick<LogRow, 'linesSoFar'>;

/** Where a page ends, whichever of its events are returned, and whether more may follow; only its first row has these. */
interface LogEnd {
  end: string;
  isFull: boolean;
  /** Where the next page ends, if that is a full one. */
  nextEnd: string | null;
}

interface LogRow extends LogEnd {
  sequence: string;
  tenant: string;
  orderId: string;
  version: number;
  type: OrderEvent['type'];
  status: OrderEvent['status'];
  /** JSON. */
  details: string;
  /** In UTC, such as `2026-11-30 12:00:00.5`. It stays a text, because it is passed on as one. */
  at: string;
  traceparent: string | null;
  currency: string;
  customerId: string;
  reference: string | null;
  totalMinor: number;
  /** JSON; null unless the event is of a type that tells the whole order. */
  lines: string | null;
  /** Lines of this event and of those before it on the page. */
  linesSoFar: number;
}

type LogRows = readonly (LogEnd | LogRow)[];

/** The events of orders, for the consumer `stock`, for other modules and for callers. */
@Injectable()
export class PostgresOutbox implements Outbox, EventFeed, OnModuleInit {
  private readonly logger = new Logger(PostgresOutbox.name);
  /** Pages of the log that were read ahead, by the request that will ask for them. */
  private readonly ahead = new Map<string, { rows: Promise<LogRows>; timer: NodeJS.Timeout }>();
  private readonly reading = new Bulkhead({
    ...{ atOnce: mostReading, mostWaiting, longestWaitMs },
    tooMuch: 'More reads of the log are waiting',
  });
  /** The transaction that events were last seen to wait for, and since when, on the monotonic clock. */
  private heldBack: { by: string; since: number; isTold: boolean } | undefined;
  /** Whether the last check could read the log. */
  private isSeen = true;

  constructor(@InjectSql('order') private readonly sql: Sql) {}

  /**
   * Refuses to start if the server counts transactions from below the log: new events would precede those already read.
   *
   * @throws Error that says what to do
   */
  async onModuleInit(): Promise<void> {
    const ahead = await this.sql.query(aheadOfServer);
    if (ahead.length > 0) throw new Error(restoredLog);
  }

  /**
   * For operators to watch: all readers of the log stop below the oldest open transaction, whoever opened it. They then find
   * nothing more to read, and cannot know that they are behind. That only degrades the module, and so does a log that does
   * not answer, for instance because an operator has locked it: another check finds out whether the database can be used.
   *
   * @throws any other error that prevents the check, such as a missing permission: then no request can be answered
   */
  async condition(): Promise<Condition> {
    let waiting: { by: string } | undefined;
    try {
      [waiting] = await within(lookedAtWithinMs, this.sql.query<{ by: string }>(waitedFor));
    } catch (error) {
      const mayPass = error instanceof CleaveError && error.code === 'unavailable' && !lacksPrivilege(error);
      if (!(error instanceof NoAnswer) && !mayPass) throw error;
      if (this.isSeen) this.logger.warn(`the log of orders cannot be queried (${error.message}), trying again`);
      this.isSeen = false;
      return { isDegraded: true, details: { log: 'cannot be queried' } };
    }
    this.isSeen = true;
    const now = performance.now();
    if (this.heldBack?.by !== waiting?.by) this.heldBack = waiting && { ...waiting, since: now, isTold: false };
    const held = this.heldBack;
    const heldBackMs = held ? Math.round(now - held.since) : 0;
    const isDegraded = heldBackMs > alarmMs;
    if (held && isDegraded && !held.isTold) {
      held.isTold = true;
      this.logger.warn(
        `events are held back by Postgres transaction ${held.by}, which is still open: until it ends, neither stock nor any ` +
          'other consumer receives new events. Find the session that has it open (docs/operations.md, "A relay that stands still").',
      );
    }
    return { isDegraded, details: { held_back_ms: heldBackMs } };
  }

  read(parts: readonly LeasedPart[], limit: number): Promise<Reading<OutboxEvent>> {
    return fromLog(
      async (after, most) => {
        const { xid, id } = numbersOf(after);
        const rows = await this.safely<OutboxRow>(read, [xid, id, most, pageLines]);
        const events = rows.map((row): OutboxEvent => ({ ...row, sequence: positionOf(row) }));
        const isMore = rows.length === most || (rows.at(-1)?.linesSoFar ?? 0) >= pageLines;
        return { events, until: events.at(-1)?.sequence ?? after, isMore };
      },
      parts,
      limit,
    );
  }

  after(tenant: string, { xid, id }: Position, limit: number): Promise<OrderEvent[]> {
    return this.safely<OrderEvent>(feed, [tenant, xid, id, limit, pageLines]);
  }

  async log(after: string, limit: number, types: readonly OrderEventType[] | null): Promise<LogPage> {
    const page = await this.logRows(after, limit, types);
    // One snapshot gives both the events and the end of the page: what is committed a moment later comes after that end.
    const [end] = page;
    if (!end) return { events: [], until: after, isMore: false };
    const rows = page.filter(isEvent);
    const lines = rows.at(-1)?.linesSoFar ?? 0;
    // Postgres reads ahead while this page is being serialised.
    if (end.isFull && lines < pageLines) this.readAhead(end.end, limit, types);
    if (end.nextEnd && lines < pageLines) this.readAhead(end.nextEnd, limit, types);
    const events = withinBytes(rows.map(logEventOf), pageBytes);
    const last = rows[events.length - 1];
    const isCut = last !== undefined && (events.length < rows.length || lines >= pageLines);
    const until = isCut ? last.sequence : end.end;
    return { events, until, isMore: isCut || end.isFull };
  }

  private async logRows(...asked: Parameters<EventFeed['log']>): Promise<LogRows> {
    const key = JSON.stringify(asked);
    const ahead = this.ahead.get(key);
    const early = await ahead?.rows.catch(() => undefined);
    // The page is used only once, so that its memory can be freed.
    clearTimeout(ahead?.timer);
    this.ahead.delete(key);
    // A full page does not change; for any other page there may be more events by now.
    return early?.[0]?.isFull ? early : this.queryLog(...asked);
  }

  private readAhead(...asked: Parameters<EventFeed['log']>): void {
    const key = JSON.stringify(asked);
    if (this.ahead.has(key) || this.ahead.size >= mostAhead) return;
    const rows = this.queryLog(...asked);
    // An error is ignored here, because the request for the page reads it again.
    rows.catch(() => undefined);
    const timer = setTimeout(() => this.ahead.delete(key), aheadMs).unref();
    this.ahead.set(key, { rows, timer });
  }

  private queryLog(after: string, limit: number, types: readonly OrderEventType[] | null): Promise<LogRows> {
    const { xid, id } = numbersOf(after);
    return this.reading.inTurn(() =>
      types?.length === 0
        ? this.safely<LogEnd>(logEnd, [xid, id, limit])
        : this.safely<LogEnd | LogRow>(log, [
            ...[xid, id, limit, pageLines, ['placed', ...undoing]],
            types && types.map((it) => it.slice(orderPrefix.length)),
          ]),
    );
  }

  /** Nobody may act on an event, or store a checkpoint at it, while it could still be lost. */
  private safely<Row>(statement: Statement, values: readonly unknown[]): Promise<Row[]> {
    return this.sql.readSafely(
      (sql) => sql.query<Row>(statement, values),
      (rows) => rows.length > 0,
    );
  }
}

const isEvent = (row: LogEnd | LogRow): row is LogRow => 'sequence' in row && row.sequence !== null;

/** The first texts that fit into `most` bytes, but at least one. */
const withinBytes = (texts: string[], most: number): string[] => {
  // A UTF-16 code unit takes at most three bytes in UTF-8.
  if (texts.reduce((characters, it) => characters + it.length, 0) * 3 <= most) return texts;
  let bytes = 0;
  const tooMany = texts.findIndex((it, index) => (bytes += Buffer.byteLength(it)) > most && index > 0);
  return tooMany < 0 ? texts : texts.slice(0, tooMany);
};

const orderPrefix = 'order.';

/** The size limit of a page. A single event may exceed it; even the largest order still fits into a reply. */
const pageBytes = 8_388_608;

/** How many pages are read ahead, and how long they are kept. */
const mostAhead = 4;
const aheadMs = 2_000;

/** How many connections may read the log at once, whoever asks: the others are left to orders. */
const mostReading = 2;
/** How many other reads wait for their turn, and for how long: as long as for a connection. */
const mostWaiting = 1_000;
const longestWaitMs = 5_000;

/** Built by hand: JSON of Postgres is passed on as it is, and of the rest only names chosen by callers need escaping. */
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
    `"subject":"${orderId}","time":"${timeOf(row.at)}","tenantid":${JSON.stringify(row.tenant)},` +
    `"sequence":"${row.sequence}",${traceparent === null ? '' : `"traceparent":${JSON.stringify(traceparent)},`}` +
    `"data":{"version":${version},"status":"${status}","currency":"${currency}",${order}"details":${details}}}`
  );
};

/** RFC 3339 with milliseconds, from the text of Postgres, which omits trailing zeros. */
const timeOf = (at: string): string =>
  `${at.slice(0, 10)}T${(at.length === wholeSecond ? `${at}.` : at).slice(11).padEnd(12, '0')}Z`;
const wholeSecond = '2026-11-30 12:00:00'.length;

/** Every transaction below it has committed or never will. */
const horizon = `orders.log_number(pg_snapshot_xmin(pg_current_snapshot()))`;

/** Requests end sooner, so a transaction that is open for this long does not belong to one. */
const alarmMs = 30_000;

/** Shorter than the timeout of a readiness check. */
const lookedAtWithinMs = 1_000;

/**
 * The oldest open transaction, if an event waits for its end. Comparing with the newest event reads the end of an index;
 * asking whether any such event exists would scan the whole log while it has no statistics.
 */
const waitedFor = {
  name: 'order-log-waited-for',
  text: `
    SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS by
    WHERE (SELECT xid FROM orders.events ORDER BY xid DESC, id DESC LIMIT 1) >= ${horizon}`,
};

/** Sorted by the columns, not by the text aliases of the same names: as text, 10 comes before 9. */
const unread = `
  SELECT e.*, ${toldLines} AS size FROM orders.events e
  WHERE (e.xid, e.id) > ($1::xid8, $2::bigint) AND e.xid < ${horizon}
  ORDER BY e.xid, e.id LIMIT $3`;

const read = {
  name: 'order-outbox-read',
  text: `
    SELECT p.xid::text, p.id::text, p.tenant_id AS tenant, p.order_id AS subject, p.reservation_id AS "reservationId",
      p.version, p.type, p.status, p.data, p.traceparent, p.so_far::int AS "linesSoFar"
    FROM ${withinLines(unread, 's.xid, s.id', '$4::int')} p
    ORDER BY p.xid, p.id`,
};

/** On the server that wrote the log, the transaction of every visible event has ended, so this finds nothing. */
const aheadOfServer = {
  name: 'order-log-ahead',
  text: `
    SELECT FROM (SELECT xid FROM orders.events ORDER BY xid DESC, id DESC LIMIT 1) newest
    WHERE xid >= orders.log_number(pg_snapshot_xmax(pg_current_snapshot()))`,
};

const restoredLog =
  'The log of orders was written by another Postgres server, whose transaction ids are ahead of those of this one: the ' +
  'database was restored from a dump. No consumer would receive new events. Run `SELECT orders.continue_log()` in it, once, ' +
  'and start again (docs/operations.md).';

/**
 * Written so that only the index `events_by_tenant` has this order and these bounds: with `tenant_id = $1`, a plan made
 * while there was a single tenant would scan the log of all tenants, and would still do so once there are others.
 */
const unreadOfTenant = `
  SELECT e.*, ${toldLines} AS size FROM orders.events e
  WHERE (e.tenant_id, e.xid, e.id) > ($1::text, $2::xid8, $3::bigint) AND e.tenant_id <= $1 AND e.xid < ${horizon}
  ORDER BY e.tenant_id, e.xid, e.id LIMIT $4`;

const feed = {
  name: 'order-feed',
  text: `
    SELECT p.xid::text, p.id::text, p.order_id AS "orderId", p.version, p.type, p.status, p.data, p.at
    FROM ${withinLines(unreadOfTenant, 's.xid, s.id', '$5::int')} p
    ORDER BY p.xid, p.id`,
};

/** In the format of `positionOf`. */
const position = (row: string): string => `lpad(${row}.xid::text, 20, '0') || '-' || lpad(${row}.id::text, 19, '0')`;

/** The position of the last event of a full page, or of the last event of the log. */
const endOfPage = `
  SELECT xid, id, is_full FROM (
    (SELECT xid, id, true AS is_full FROM orders.events
     WHERE (xid, id) > ($1::xid8, $2::bigint) AND xid < ${horizon}
     ORDER BY xid, id OFFSET $3::bigint - 1 LIMIT 1)
    UNION ALL
    (SELECT xid, id, false FROM orders.events
     WHERE (xid, id) > ($1::xid8, $2::bigint) AND xid < ${horizon}
     ORDER BY xid DESC, id DESC LIMIT 1)
  ) ends LIMIT 1`;

const logEnd = {
  name: 'order-log-end',
  text: `SELECT ${position('page')} AS "end", is_full AS "isFull", NULL AS "nextEnd" FROM (${endOfPage}) page`,
};

/**
 * Lateral, so that orders are looked up one by one under any plan. Their lines are counted before any are read, so that a
 * page of large orders does not fill the memory.
 */
const log = {
  name: 'order-log',
  text: `
    WITH page AS MATERIALIZED (${endOfPage})
    SELECT ${position('p')} AS sequence, p.tenant_id AS tenant, p.order_id AS "orderId", p.version, p.type, p.status,
      p.data::text AS details, (p.at AT TIME ZONE 'UTC')::text AS at, p.traceparent, p.currency,
      p.customer_id AS "customerId", p.reference, p.total_minor AS "totalMinor",
      CASE WHEN p.type = ANY ($5::text[]) THEN p.lines::text END AS lines, p.so_far::int AS "linesSoFar",
      CASE WHEN p.number > 1 THEN NULL ELSE ${position('page')} END AS "end",
      CASE WHEN p.number > 1 THEN NULL ELSE page.is_full END AS "isFull",
      CASE WHEN p.number = 1 AND page.is_full THEN (
        SELECT ${position('e')} FROM orders.events e
        WHERE (xid, id) > (page.xid, page.id) AND xid < ${horizon}
        ORDER BY e.xid, e.id OFFSET $3::bigint - 1 LIMIT 1
      ) END AS "nextEnd"
    FROM page LEFT JOIN LATERAL (
      SELECT * FROM (
        SELECT e.*, o.currency, o.customer_id, o.reference, o.total_minor, o.lines, o.size,
          sum(o.size) OVER log AS so_far, row_number() OVER log AS number
        FROM (
          SELECT * FROM orders.events
          WHERE (xid, id) > ($1::xid8, $2::bigint) AND (xid, id) <= (page.xid, page.id)
            AND ($6::text[] IS NULL OR type = ANY ($6))
          ORDER BY xid, id LIMIT $3::bigint
        ) e
        CROSS JOIN LATERAL (
          SELECT currency, customer_id, reference, total_minor, lines,
            CASE WHEN e.type = ANY ($5::text[]) THEN jsonb_array_length(lines)
              ELSE ${toldLines} END AS size
          FROM orders.orders WHERE tenant_id = e.tenant_id AND order_id = e.order_id LIMIT 1
        ) o
        WINDOW log AS (ORDER BY e.xid, e.id ROWS UNBOUNDED PRECEDING)
      ) s
      WHERE s.so_far - s.size < $4::int
    ) p ON true
    ORDER BY p.xid, p.id`,
};
