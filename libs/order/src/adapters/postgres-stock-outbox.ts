import { Injectable } from '@nestjs/common';
import type { StockEffect } from '#contracts';
import { InjectSql, Sql } from '#database';
import type { StockConsequence } from '../domain/order.js';
import type { Lease, OutboxRow, Position, StockOutbox } from '../use-cases/relay-outbox.js';

/** The outbox table as the consumer `stock` reads it. */
@Injectable()
export class PostgresStockOutbox implements StockOutbox {
  constructor(@InjectSql('order') private readonly sql: Sql) {}

  async acquire(holder: string, leaseMs: number): Promise<Lease | undefined> {
    const [row] = await this.sql.query<{ epoch: string } & Position>(acquire, [holder, leaseMs]);
    return row && { epoch: row.epoch, position: { xid: row.xid, id: row.id } };
  }

  async read(after: Position, limit: number): Promise<OutboxRow[]> {
    const rows = await this.sql.query<
      Position & {
        tenant_id: string;
        order_id: string;
        version: number;
        reservation_id: string;
        consequences: StockConsequence[];
      }
    >(read, [after.xid, after.id, limit]);
    return rows.map((row) => ({
      xid: row.xid,
      id: row.id,
      tenant: row.tenant_id,
      effects: row.consequences.map(({ kind, lines }, index): StockEffect => ({
        effect_id: `${row.order_id}:${row.version}:${index}`,
        reservation_id: row.reservation_id,
        kind,
        lines: lines.map(({ product_id, quantity }) => ({ product_id, quantity })),
      })),
    }));
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
    SELECT o.xid::text, o.id::text, o.tenant_id, o.order_id, o.version, o.reservation_id, o.consequences
    FROM orders.outbox o
    WHERE (o.xid, o.id) > ($1::xid8, $2::bigint) AND o.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY o.xid, o.id LIMIT $3`,
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
