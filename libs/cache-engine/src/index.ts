/** A cache in two tiers, this process and Redis, that keeps its promise about stale values under races. Usable without the rest of Cleave. */
export { CacheEngine } from './cache-engine.js';
export { CacheEngineModule } from './cache-engine.module.js';
export { cacheManagerOf } from './cache-manager.js';
export { jsonCodec, textCodec, type Codec } from './codec.js';
export { CacheLoadTimeout, CacheUnavailable } from './errors.js';
export type { Found } from './keyspace.js';
export type { Load } from './loading.js';
export { anyVersion, type ExpectedVersion, type Leased, type Namespace, type Written } from './namespace.js';
export {
  longestKeyBytes,
  longestLeaseMs,
  longestTtlMs,
  type KeepOptions,
  type LoadOptions,
  type NamespaceOptions,
} from './options.js';
export type { RedisOptions } from './redis-tier.js';
export type { CacheStatistics } from './statistics.js';
export type { CacheEngineOptions } from './tiers.js';
