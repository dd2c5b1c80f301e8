import { Module, type DynamicModule, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
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
  CACHE_MAX_BYTES: z.coerce.number().int().min(1_048_576).default(67_108_864),
};

interface CacheOptions {
  CACHE_REDIS_URL?: string | undefined;
  CACHE_MAX_BYTES: number;
}

/** Caches what is read often: in this process, or in Redis where all instances share it. */
@Module({})
export class CacheModule implements OnModuleInit, OnApplicationShutdown {
  constructor(
    private readonly store: CacheStore,
    private readonly readiness: Readiness,
  ) {}

  static register(options: CacheOptions): DynamicModule {
    const store = options.CACHE_REDIS_URL
      ? new RedisCacheStore(options.CACHE_REDIS_URL)
      : new MemoryCacheStore(options.CACHE_MAX_BYTES);
    return {
      module: CacheModule,
      controllers: [CacheController, CacheMessages],
      providers: [Cache, { provide: CacheStore, useValue: store }],
    };
  }

  onModuleInit(): void {
    if (this.store instanceof RedisCacheStore) this.store.connect();
    this.readiness.add('cache', () => this.store.ping());
  }

  onApplicationShutdown(): void {
    if (this.store instanceof RedisCacheStore) this.store.close();
  }
}
