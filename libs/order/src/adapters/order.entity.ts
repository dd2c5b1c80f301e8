import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { OrderStatus, PaymentMethod } from '#contracts';
import type { Order } from '../domain/order.js';

type OrderLine = Order['lines'][number];

/** A line without its number and without zeros: halves the row of an order with many lines, and the cost of writing it. */
type StoredLine = Omit<OrderLine, 'line' | 'fulfilled' | 'returned'> & Partial<OrderLine>;

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
  lines!: StoredLine[];

  @Column({ type: 'jsonb' })
  adjustments!: Order['adjustments'];

  @Column({ type: 'jsonb' })
  metadata!: Order['metadata'];

  @Column({ name: 'payment_method', type: 'text', nullable: true })
  paymentMethod!: PaymentMethod | null;

  @Column({ type: 'int' })
  version!: number;

  @Column({ name: 'reservation_id', type: 'uuid' })
  reservationId!: string;

  @Column({ name: 'created_at', type: 'timestamptz' })
  createdAt!: Date;

  @Column({ name: 'updated_at', type: 'timestamptz' })
  updatedAt!: Date;
}

/** The lines of an order as JSON, for their column. */
export const storedLines = ({ lines }: Order): string =>
  JSON.stringify(
    lines.map(({ product_id, name, quantity, unit_price_minor, fulfilled, returned, cancelled }): StoredLine => ({
      ...{ product_id, name, quantity, unit_price_minor },
      ...(fulfilled > 0 && { fulfilled }),
      ...(returned > 0 && { returned }),
      ...(cancelled !== undefined && { cancelled }),
    })),
  );

/** The columns that are read of an order. */
export type OrderRow = Omit<OrderEntity, 'tenantId' | 'reservationId'>;

export const orderOf = (row: OrderRow): Order => ({
  order_id: row.orderId,
  status: row.status as OrderStatus,
  customer_id: row.customerId,
  reference: row.reference,
  currency: row.currency,
  total_minor: Number(row.totalMinor),
  returned_total_minor: Number(row.returnedTotalMinor),
  lines: row.lines.map((it, index) => ({
    line: index + 1,
    product_id: it.product_id,
    name: it.name,
    quantity: it.quantity,
    unit_price_minor: it.unit_price_minor,
    fulfilled: it.fulfilled ?? 0,
    returned: it.returned ?? 0,
    ...(it.cancelled !== undefined && { cancelled: it.cancelled }),
  })),
  adjustments: row.adjustments,
  metadata: row.metadata,
  payment_method: row.paymentMethod,
  version: row.version,
  created_at: row.createdAt,
  updated_at: row.updatedAt,
});
