import { Module, type DynamicModule, type OnModuleInit } from '@nestjs/common';
import { z } from 'zod';
import { env } from '#config';
import { Readiness } from '#health';
import { CacheController } from './cache.controller.js';
import { CacheMessages } from './cache.messages.js';
import { CacheStore } from './cache-store.js';
import { Cache } from './cache.js';
import { MemoryCacheStore } from './memory-cache-store.js';
import { RedisCacheStore } from './redis-cache-store.js';

/** What the cache reads from the environment. */
export const cacheEnvironment = {
  CACHE_REDIS_URL: env.redisUrl.optional(),
  CACHE_MAX_BYTES: z.coerce
    .number()
    .int()
    .min(4_194_304, 'must be at least 4194304, so that the largest value fits')
    .default(67_108_864),
};

type CacheSettings = z.output<z.ZodObject<typeof cacheEnvironment>>;

/** Caches what is read often: in this process, or in Redis where all instances share it. */
@Module({})
export class CacheModule implements OnModuleInit {
  constructor(
    private readonly store: CacheStore,
    private readonly readiness: Readiness,
  ) {}

  static register({ CACHE_REDIS_URL, CACHE_MAX_BYTES }: CacheSettings): DynamicModule {
    const openStore = (): CacheStore =>
      CACHE_REDIS_URL ? new RedisCacheStore(CACHE_REDIS_URL) : new MemoryCacheStore(CACHE_MAX_BYTES);
    return {
      module: CacheModule,
      controllers: [CacheController, CacheMessages],
      providers: [Cache, { provide: CacheStore, useFactory: openStore }],
    };
  }

  onModuleInit(): void {
    this.readiness.add('cache', () => this.store.ping());
  }
}
