/** A cache in two tiers, this process and Redis, that keeps its word under races; to be used alone as well. */
export { CacheEngine } from './cache-engine.js';
export { CacheEngineModule } from './cache-engine.module.js';
export { cacheManagerOf } from './cache-manager.js';
export { jsonCodec, textCodec, type Codec } from './codec.js';
export {
  longestKeyBytes,
  longestLeaseMs,
  longestTtlMs,
  type Found,
  type KeepOptions,
  type Leased,
  type Load,
  type LoadOptions,
  type Namespace,
  type NamespaceOptions,
  type Written,
} from './namespace.js';
export { CacheUnavailable, type RedisOptions } from './redis-tier.js';
export type { CacheStatistics } from './statistics.js';
export type { CacheEngineOptions } from './tiers.js';
