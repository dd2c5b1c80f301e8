import { Injectable, Logger } from '@nestjs/common';
import { CleaveError, cacheContract, product as productSchema, type Product } from '#contracts';
import type { ContractClient } from '#messaging';
import type { ProductCache } from '../use-cases/read-product.js';

/**
 * How long a product may be served after it was changed: a reader that fetched it just before the change may put it
 * back after the change forgot it.
 */
const ttlMs = 10_000;

/** With the length, because tenants and products may have colons in them. */
const keyOf = (tenant: string, productId: string): string => `product:${tenant.length}:${tenant}:${productId}`;

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
    const hit = await this.cache.call('get', { key }).catch(this.report('read'));
    if (hit?.found) {
      const parsed = productSchema.safeDecode(hit.value as never);
      if (parsed.success) return parsed.data;
    }
    const found = await source();
    if (found && hit) {
      const value = productSchema.encode(found);
      await this.cache.call('put', { key, value, ttl_ms: ttlMs }).catch(this.report('write'));
    }
    return found;
  }

  async forget(tenant: string, productIds: readonly string[]): Promise<void> {
    await this.cache.call('delete', { keys: productIds.map((id) => keyOf(tenant, id)) }).catch(this.report('forget'));
  }

  /** The cache is a help: what goes wrong with it is told to the operator, and the source answers. */
  private report(action: string): (error: unknown) => undefined {
    return (error) => {
      const reason = error instanceof CleaveError ? `${error.code}: ${error.detail}` : String(error);
      this.logger.warn(`could not ${action} products in the cache (${reason})`);
      return undefined;
    };
  }
}
