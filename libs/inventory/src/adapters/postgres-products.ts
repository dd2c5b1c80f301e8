import { Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { MoreThan, type Repository } from 'typeorm';
import type { Product } from '#contracts';
import { InjectSql, Sql } from '#database';
import type { ProductChange, ProductChanges } from '../use-cases/invalidate-products.js';
import type { ProductList } from '../use-cases/list-products.js';
import type { ProductCatalogue, ProductDescription, PutProduct } from '../use-cases/put-products.js';
import type { ProductReader } from '../use-cases/read-product.js';
import { ProductEntity } from './product.entity.js';

const productOf = (row: ProductEntity): Product => ({
  product_id: row.productId,
  name: row.name,
  unit_price_minor: Number(row.unitPriceMinor),
  currency: row.currency,
  created_at: row.createdAt,
  updated_at: row.updatedAt,
});

/** The catalogue in Postgres. */
@Injectable()
export class PostgresProducts implements ProductReader, ProductList, ProductCatalogue, ProductChanges {
  constructor(
    @InjectRepository(ProductEntity, 'inventory') private readonly products: Repository<ProductEntity>,
    @InjectSql('inventory') private readonly sql: Sql,
  ) {}

  async find(tenantId: string, productId: string): Promise<Product | undefined> {
    const [product] = await this.sql.query<Product>(find, [tenantId, productId]);
    return product;
  }

  async page(tenantId: string, after: string | undefined, limit: number): Promise<Product[]> {
    const rows = await this.products.find({
      where: { tenantId, ...(after !== undefined && { productId: MoreThan(after) }) },
      order: { productId: 'ASC' },
      take: limit,
    });
    return rows.map(productOf);
  }

  async isEmpty(tenantId: string): Promise<boolean> {
    return !(await this.products.existsBy({ tenantId }));
  }

  async put(tenant: string, products: readonly ProductDescription[]): Promise<PutProduct[]> {
    const written = await this.sql.query<PutProduct>(put, [
      tenant,
      products.map((it) => it.product_id),
      products.map((it) => it.name),
      products.map((it) => it.unit_price_minor),
      products.map((it) => it.currency),
    ]);
    const byId = new Map(written.map((it) => [it.product_id, it]));
    return products.map((it) => byId.get(it.product_id)!);
  }

  pending(limit: number): Promise<ProductChange[]> {
    return this.sql.query<ProductChange>(pending, [limit]);
  }

  async settle(changes: readonly ProductChange[]): Promise<void> {
    await this.sql.query(settle, [changes.map((it) => it.change_id)]);
  }
}

const find = {
  name: 'inventory-find-product',
  text: `
    SELECT product_id, name, unit_price_minor, currency, created_at, updated_at FROM inventory.products
    WHERE tenant_id = $1 AND product_id = $2`,
};

/**
 * Rows are written in the order of their ids, as by every writer of products, so that two batches cannot deadlock. A product
 * that was just created was never read, so no cache can hold it. A product that is put again, unchanged, within a
 * millisecond of its last change is noted too: one deletion too many does no harm, one too few would.
 */
const put = {
  name: 'inventory-put-products',
  text: `
    WITH written AS (
      INSERT INTO inventory.products AS p (tenant_id, product_id, name, unit_price_minor, currency)
      SELECT $1, product_id, name, unit_price_minor, currency
      FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[]) AS w(product_id, name, unit_price_minor, currency)
      ORDER BY product_id COLLATE "C"
      ON CONFLICT (tenant_id, product_id) DO UPDATE
      SET name = excluded.name, unit_price_minor = excluded.unit_price_minor, currency = excluded.currency,
          updated_at = CASE WHEN (p.name, p.unit_price_minor, p.currency)
                              = (excluded.name, excluded.unit_price_minor, excluded.currency)
                            THEN p.updated_at ELSE now() END
      RETURNING p.product_id, p.name, p.unit_price_minor, p.currency, p.created_at, p.updated_at, xmax = 0 AS created
    ), noted AS (
      INSERT INTO inventory.product_changes (tenant_id, product_id)
      SELECT $1, product_id FROM written WHERE NOT created AND updated_at = now()::timestamptz(3)
      RETURNING change_id, product_id
    )
    SELECT written.*, change_id FROM written LEFT JOIN noted USING (product_id)`,
};

const pending = {
  name: 'inventory-pending-product-changes',
  text: `
    WITH settled AS (
      DELETE FROM inventory.product_changes WHERE change_id IN (
        SELECT change_id FROM inventory.product_changes WHERE noted_at < now() - interval '1 minute'
        FOR UPDATE SKIP LOCKED)
    )
    SELECT change_id, tenant_id, product_id FROM inventory.product_changes
    WHERE noted_at >= now() - interval '1 minute' ORDER BY change_id LIMIT $1`,
};

/** A change that another instance is about to delete is left to that one. */
const settle = {
  name: 'inventory-settle-product-changes',
  text: `
    DELETE FROM inventory.product_changes WHERE change_id IN (
      SELECT change_id FROM inventory.product_changes WHERE change_id = ANY ($1::bigint[]) FOR UPDATE SKIP LOCKED)`,
};
