import { Injectable } from '@nestjs/common';
import { WokenWork } from '#periodic';
import { ProductCache } from './read-product.js';

/** A product that was changed, as it was noted in the transaction of the change. */
export interface ProductChange {
  change_id: string;
  tenant_id: string;
  product_id: string;
}

export abstract class ProductChanges {
  /** What is noted and not settled yet, oldest first. What is a minute old is settled: nothing is kept for so long. */
  abstract pending(limit: number): Promise<ProductChange[]>;
  abstract settle(changes: readonly ProductChange[]): Promise<void>;
}

/** What the cache takes in one request. */
const batchSize = 1_000;

/**
 * Has the cache forget products that were changed. What is to be forgotten is noted with the change, so that it is
 * forgotten whatever is killed in between; each instance does it, which is more than once and does no harm.
 */
@Injectable()
export class ForgetProducts extends WokenWork {
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

  /** Forgets what others have left. */
  async execute(): Promise<boolean> {
    const changes = await this.changes.pending(batchSize);
    await this.forget(changes);
    return changes.length === batchSize;
  }

  /** @throws whatever keeps the cache from it: they are forgotten by `execute` then */
  async forget(changes: readonly ProductChange[]): Promise<void> {
    if (changes.length === 0) return;
    for (const [tenant, ofTenant] of Map.groupBy(changes, (it) => it.tenant_id))
      await this.cache.forget(tenant, [...new Set(ofTenant.map((it) => it.product_id))]);
    await this.changes.settle(changes);
  }
}
