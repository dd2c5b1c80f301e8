/** A cache in two tiers, this process and Redis, that keeps its word under races; to be used alone as well. */
export { CacheEngine } from './cache-engine.js';
export { CacheEngineModule } from './cache-engine.module.js';
export { cacheManagerOf } from './cache-manager.js';
export { jsonCodec, textCodec, type Codec } from './codec.js';
export { longestLeaseMs, type Found, type Leased, type Load, type Namespace, type Written } from './namespace.js';
export { longestKeyBytes, longestTtlMs, type KeepOptions, type LoadOptions, type NamespaceOptions } from './options.js';
export { CacheUnavailable, type RedisOptions } from './redis-tier.js';
export type { CacheStatistics } from './statistics.js';
export type { CacheEngineOptions } from './tiers.js';
