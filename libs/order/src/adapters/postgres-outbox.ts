import { Injectable } from '@nestjs/common';
import { InjectSql, Sql } from '#database';
import type { EventFeed, OrderEvent } from '../use-cases/read-events.js';
import type { Lease, Outbox, OutboxEvent, Position } from '../use-cases/relay-outbox.js';

/** The events of orders: as the consumer `stock` reads them, and as callers do. */
@Injectable()
export class PostgresOutbox implements Outbox, EventFeed {
  constructor(@InjectSql('order') private readonly sql: Sql) {}

  async acquire(holder: string, leaseMs: number): Promise<Lease | undefined> {
    const [row] = await this.sql.query<{ epoch: string } & Position>(acquire, [holder, leaseMs]);
    return row && { epoch: row.epoch, position: { xid: row.xid, id: row.id } };
  }

  read(after: Position, limit: number): Promise<OutboxEvent[]> {
    return this.sql.query<OutboxEvent>(read, [after.xid, after.id, limit]);
  }

  after(tenant: string, { xid, id }: Position, limit: number): Promise<OrderEvent[]> {
    return this.sql.query<OrderEvent>(feed, [tenant, xid, id, limit]);
  }

  async advance(lease: Lease, to: Position): Promise<boolean> {
    const rows = await this.sql.query(advance, [lease.epoch, to.xid, to.id]);
    return rows.length > 0;
  }

  async release(holder: string): Promise<void> {
    await this.sql.query(release, [holder]);
  }
}

/** Taking over from another reader raises the epoch, so that what that one still tries to write is refused. */
const acquire = {
  name: 'order-outbox-acquire',
  text: `
    UPDATE orders.checkpoints
    SET epoch = CASE WHEN holder = $1 AND lease_until > now() THEN epoch ELSE epoch + 1 END,
        holder = $1, lease_until = now() + $2 * interval '1 millisecond'
    WHERE consumer = 'stock' AND (holder = $1 OR lease_until <= now())
    RETURNING epoch::text, xid::text, id::text`,
};

/** Ordered by the columns, not by the texts of the same names that are given back: as a text, 10 comes before 9. */
const read = {
  name: 'order-outbox-read',
  text: `
    SELECT e.xid::text, e.id::text, e.tenant_id AS tenant, e.reservation_id AS "reservationId", e.version, e.type, e.status,
      e.data
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

const advance = {
  name: 'order-outbox-advance',
  text: `
    UPDATE orders.checkpoints SET xid = $2::xid8, id = $3::bigint
    WHERE consumer = 'stock' AND epoch = $1::bigint AND lease_until > now()
    RETURNING epoch`,
};

const release = {
  name: 'order-outbox-release',
  text: `UPDATE orders.checkpoints SET lease_until = now() WHERE consumer = 'stock' AND holder = $1`,
};
