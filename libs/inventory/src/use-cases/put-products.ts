import { Injectable } from '@nestjs/common';
import type { Product } from '#contracts';
import { refuseRepeats } from '../domain/refuse-repeats.js';
import { ProductCache } from './read-product.js';

export type ProductDescription = Pick<Product, 'product_id' | 'name' | 'unit_price_minor' | 'currency'>;

export abstract class ProductCatalogue {
  /**
   * Creates or changes all of the products or none, in the order given; a product that is as described already keeps the
   * time of its last change.
   */
  abstract put(tenant: string, products: readonly ProductDescription[]): Promise<(Product & { created: boolean })[]>;
  abstract isEmpty(tenant: string): Promise<boolean>;
}

/** Describes products: their names and prices. */
@Injectable()
export class PutProducts {
  constructor(
    private readonly catalogue: ProductCatalogue,
    private readonly cache: ProductCache,
  ) {}

  async execute(tenant: string, products: readonly ProductDescription[]): Promise<(Product & { created: boolean })[]> {
    refuseRepeats(
      products.map((it) => it.product_id),
      'products',
    );
    const put = await this.catalogue.put(tenant, products);
    // A product that was just created has never been read, so no cache can hold it.
    const changed = put.filter((it) => !it.created).map((it) => it.product_id);
    if (changed.length > 0) await this.cache.forget(tenant, changed);
    return put;
  }
}
