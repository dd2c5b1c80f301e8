import { Injectable, Logger } from '@nestjs/common';
import type { Product } from '#contracts';
import { refuseRepeats } from '../domain/refuse-repeats.js';
import { InvalidateProducts } from './invalidate-products.js';

export type ProductDescription = Pick<Product, 'product_id' | 'name' | 'unit_price_minor' | 'currency'>;

/** A product after it was put; `change_id` is the noted change, or null if nothing changed. */
export type PutProduct = Product & { created: boolean; change_id: string | null };

export abstract class ProductCatalogue {
  /**
   * Creates or changes all of the products or none, in the order given; a product that is as described already keeps the
   * time of its last change.
   */
  abstract put(tenant: string, products: readonly ProductDescription[]): Promise<PutProduct[]>;
  abstract isEmpty(tenant: string): Promise<boolean>;
}

/** Describes products: their names and prices. */
@Injectable()
export class PutProducts {
  private readonly logger = new Logger(PutProducts.name);

  constructor(
    private readonly catalogue: ProductCatalogue,
    private readonly invalidateProducts: InvalidateProducts,
  ) {}

  async execute(tenant: string, products: readonly ProductDescription[]): Promise<(Product & { created: boolean })[]> {
    refuseRepeats(
      products.map((it) => it.product_id),
      'products',
    );
    const put = await this.catalogue.put(tenant, products);
    const changes = put.flatMap(({ change_id, product_id }) =>
      change_id === null ? [] : [{ change_id, product_id, tenant_id: tenant }],
    );
    // Before the answer, so that callers read their own changes. If it fails, it is repeated in the background.
    await this.invalidateProducts.forget(changes).catch((error: unknown) => {
      this.logger.debug(`changed products could not be removed from the cache yet (${String(error)})`);
    });
    return put.map(({ change_id: _, ...product }) => product);
  }
}
