import { Injectable, Logger } from '@nestjs/common';
import { z } from 'zod';
import { CleaveError, cacheContract, product, type Product } from '#contracts';
import type { ContractClient } from '#messaging';
import type { ProductCache } from '../use-cases/read-product.js';

const productSchema = z.compile(product);
const namespace = 'products';
/** How long reading a product from the database may take; a later result is not cached. */
const leaseMs = 2_000;
/**
 * How long an entry is served. With the lease, the time an answer travels and the difference of clocks, this keeps what is
 * promised: at most ten seconds old, whatever fails.
 */
const ttlMs = 7_000;

/** Contains the length, because tenants and product ids may contain colons. */
const keyOf = (tenant: string, productId: string): string => `${tenant.length}:${tenant}:${productId}`;

/** Products in the cache module, wherever that runs. */
@Injectable()
export class MessagingProductCache implements ProductCache {
  private readonly logger = new Logger(MessagingProductCache.name);

  constructor(private readonly cache: ContractClient<typeof cacheContract>) {}

  async read(
    tenant: string,
    productId: string,
    source: () => Promise<Product | undefined>,
  ): Promise<Product | undefined> {
    const key = keyOf(tenant, productId);
    const leased = await this.cache.call('lease', { key, namespace, lease_ms: leaseMs }).catch(this.report('read'));
    if (leased?.found) {
      const parsed = productSchema.safeDecode(leased.value as never);
      if (parsed.success) return parsed.data;
    }
    const found = await source();
    if (!found || !leased || leased.found || leased.lease === null) return found;
    const put = { key, namespace, value: productSchema.encode(found), ttl_ms: ttlMs, lease: leased.lease };
    await this.cache.call('put', put).catch((error: unknown) => {
      // The product was changed while we read it, so the cache does not accept what we read.
      if (!(error instanceof CleaveError && error.code === 'precondition-failed')) this.report('write')(error);
    });
    return found;
  }

  async forget(tenant: string, productIds: readonly string[]): Promise<void> {
    await this.cache.call('delete', { keys: productIds.map((id) => keyOf(tenant, id)), namespace });
  }

  /** The cache is only an optimisation: its failures are logged for the operator, and the source answers. */
  private report(action: string): (error: unknown) => undefined {
    return (error) => {
      const reason = error instanceof CleaveError ? `${error.code}: ${error.detail}` : String(error);
      this.logger.warn(`could not ${action} products in the cache (${reason})`);
      return undefined;
    };
  }
}
