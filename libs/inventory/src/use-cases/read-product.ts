import { Injectable } from '@nestjs/common';
import { CleaveError, type Product } from '#contracts';

export abstract class ProductReader {
  abstract find(tenant: string, productId: string): Promise<Product | undefined>;
}

/** Keeps products that are read often. It is a help, never a source: whatever happens to it, `read` answers. */
export abstract class ProductCache {
  /** What was kept, no older than ten seconds, or what the source says. */
  abstract read(
    tenant: string,
    productId: string,
    source: () => Promise<Product | undefined>,
  ): Promise<Product | undefined>;
  /** None of them is kept as it was, nor by who is just reading it. It may fail, and is to be repeated then. */
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
