import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { OrderStatus } from '#contracts';
import type { HistoryEntry, Order } from '../domain/order.js';

@Entity({ schema: 'orders', name: 'orders' })
export class OrderEntity {
  @PrimaryColumn({ name: 'tenant_id', type: 'text' })
  tenantId!: string;

  @PrimaryColumn({ name: 'order_id', type: 'uuid' })
  orderId!: string;

  @Column({ name: 'customer_id', type: 'text' })
  customerId!: string;

  @Column({ type: 'text', nullable: true })
  reference!: string | null;

  @Column({ type: 'text' })
  status!: OrderStatus | 'void';

  @Column({ type: 'text' })
  currency!: string;

  @Column({ name: 'total_minor', type: 'bigint' })
  totalMinor!: number;

  @Column({ name: 'returned_total_minor', type: 'bigint' })
  returnedTotalMinor!: number;

  @Column({ type: 'jsonb' })
  lines!: Order['lines'];

  @Column({ type: 'jsonb' })
  adjustments!: Order['adjustments'];

  @Column({ type: 'jsonb' })
  metadata!: Order['metadata'];

  @Column({ type: 'int' })
  version!: number;

  @Column({ name: 'reservation_id', type: 'uuid' })
  reservationId!: string;

  @Column({ name: 'created_at', type: 'timestamptz' })
  createdAt!: Date;

  @Column({ name: 'updated_at', type: 'timestamptz' })
  updatedAt!: Date;
}

/** What happened to orders: their history, the outbox and the change feed at once. */
@Entity({ schema: 'orders', name: 'events' })
export class EventEntity {
  @PrimaryColumn({ name: 'tenant_id', type: 'text' })
  tenantId!: string;

  @PrimaryColumn({ name: 'order_id', type: 'uuid' })
  orderId!: string;

  @PrimaryColumn({ type: 'int' })
  version!: number;

  @Column({ type: 'text' })
  type!: HistoryEntry['type'];

  @Column({ type: 'text' })
  status!: OrderStatus;

  @Column({ type: 'jsonb' })
  data!: HistoryEntry['data'];

  @Column({ type: 'timestamptz' })
  at!: Date;
}

export const orderOf = (row: OrderEntity): Order => ({
  order_id: row.orderId,
  status: row.status as OrderStatus,
  customer_id: row.customerId,
  reference: row.reference,
  currency: row.currency,
  total_minor: Number(row.totalMinor),
  returned_total_minor: Number(row.returnedTotalMinor),
  lines: row.lines,
  adjustments: row.adjustments,
  metadata: row.metadata,
  version: row.version,
  created_at: row.createdAt,
  updated_at: row.updatedAt,
});
