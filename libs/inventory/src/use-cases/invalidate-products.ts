import { Injectable } from '@nestjs/common';
import { BackgroundWorker } from '#periodic';
import { ProductCache } from './read-product.js';

/** A changed product, noted in the transaction of the change. */
export interface ProductChange {
  change_id: string;
  tenant_id: string;
  product_id: string;
}

export abstract class ProductChanges {
  /** The noted changes that are not settled, oldest first. Those older than any cache entry (a minute) count as settled. */
  abstract pending(limit: number): Promise<ProductChange[]>;
  abstract settle(changes: readonly ProductChange[]): Promise<void>;
}

/** How many keys the cache deletes in one request. */
const batchSize = 1_000;

/**
 * Deletes changed products from the cache. Each change is noted in its own transaction, so the product is deleted whatever
 * is killed in between. Every instance does so, because deleting more than once does no harm.
 */
@Injectable()
export class InvalidateProducts extends BackgroundWorker {
  constructor(
    private readonly changes: ProductChanges,
    private readonly cache: ProductCache,
  ) {
    super({
      pollMs: 1_000,
      failing: 'cannot remove changed products from the cache, trying again until it works',
      working: 'changed products are being removed from the cache again',
    });
  }

  /** Deletes what other instances have left. */
  async execute(): Promise<boolean> {
    const changes = await this.changes.pending(batchSize);
    await this.forget(changes);
    return changes.length === batchSize;
  }

  /** @throws the error of the cache or the database; `execute` deletes the products then */
  async forget(changes: readonly ProductChange[]): Promise<void> {
    if (changes.length === 0) return;
    for (const [tenant, ofTenant] of Map.groupBy(changes, (it) => it.tenant_id))
      await this.cache.forget(tenant, [...new Set(ofTenant.map((it) => it.product_id))]);
    await this.changes.settle(changes);
  }
}
