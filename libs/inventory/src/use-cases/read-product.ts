import { Injectable } from '@nestjs/common';
import { CleaveError, type Product } from '#contracts';

export abstract class ProductReader {
  abstract find(tenant: string, productId: string): Promise<Product | undefined>;
}

/** Caches products that are read often. It is never the source of truth: if it fails, `read` still answers. */
export abstract class ProductCache {
  /** The cached product, which is at most ten seconds old, or else what the source returns. */
  abstract read(
    tenant: string,
    productId: string,
    source: () => Promise<Product | undefined>,
  ): Promise<Product | undefined>;
  /** Removes all versions from the cache, and keeps reads in progress from storing one. To be repeated if it fails. */
  abstract forget(tenant: string, productIds: readonly string[]): Promise<void>;
}

/** Reads one product, through the cache. */
@Injectable()
export class ReadProduct {
  constructor(
    private readonly products: ProductReader,
    private readonly cache: ProductCache,
  ) {}

  async execute(tenant: string, productId: string): Promise<Product> {
    const product = await this.cache.read(tenant, productId, () => this.products.find(tenant, productId));
    if (product) return product;
    throw new CleaveError('product-not-found', `There is no product ${productId}.`, { product_ids: [productId] });
  }
}
