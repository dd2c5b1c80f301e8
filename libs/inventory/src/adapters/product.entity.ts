import { Column, Entity, PrimaryColumn } from 'typeorm';

/** A row of the catalogue. Its stock columns are left to the functions of the schema. */
@Entity({ schema: 'inventory', name: 'products' })
export class ProductEntity {
  @PrimaryColumn({ name: 'tenant_id', type: 'text' })
  tenantId!: string;

  @PrimaryColumn({ name: 'product_id', type: 'text' })
  productId!: string;

  @Column({ type: 'text' })
  name!: string;

  @Column({ name: 'unit_price_minor', type: 'bigint' })
  unitPriceMinor!: number;

  @Column({ type: 'text' })
  currency!: string;

  @Column({ name: 'created_at', type: 'timestamptz' })
  createdAt!: Date;

  @Column({ name: 'updated_at', type: 'timestamptz' })
  updatedAt!: Date;
}
