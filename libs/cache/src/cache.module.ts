import { Module, type DynamicModule, type OnModuleInit } from '@nestjs/common';
import { z } from 'zod';
import { CacheEngine, CacheEngineModule } from '#cache-engine';
import { env } from '#config';
import { Readiness, type Condition } from '#health';
import { Metrics } from '#telemetry';
import { CacheController } from './cache.controller.js';
import { CacheMessages } from './cache.messages.js';
import { Cache } from './cache.js';

const bytes = 'must be a whole number of bytes, at least 4194304, so that the largest value fits';
const deadline = 'must be a whole number of milliseconds from 1 to 60000';

/** The environment variables of the cache. */
export const cacheEnvironment = {
  CACHE_REDIS_URL: env.redisUrls.optional(),
  CACHE_MAX_BYTES: z.coerce.number(bytes).int(bytes).min(4_194_304, bytes).default(67_108_864),
  /** The deadline of a call to Redis; 200 if left out. */
  CACHE_REDIS_DEADLINE_MS: z.coerce.number(deadline).int(deadline).min(1, deadline).max(60_000, deadline).optional(),
};

type CacheSettings = z.output<z.ZodObject<typeof cacheEnvironment>>;

/** Caches data that is read often: in this process, and in Redis, which all instances share. */
@Module({})
export class CacheModule implements OnModuleInit {
  constructor(
    private readonly engine: CacheEngine,
    private readonly readiness: Readiness,
  ) {}

  static register(settings: CacheSettings): DynamicModule {
    const { CACHE_REDIS_URL: url, CACHE_MAX_BYTES: maxBytes, CACHE_REDIS_DEADLINE_MS: deadlineMs } = settings;
    const redis = url === undefined ? {} : { redis: { url, deadlineMs } };
    return {
      module: CacheModule,
      imports: [
        CacheEngineModule.forRootAsync({
          inject: [Metrics],
          useFactory: (metrics: Metrics) => ({
            ...{ maxBytes, prefix: 'cleave:cache', meter: metrics.meter('cache-engine') },
            ...redis,
          }),
        }),
      ],
      controllers: [CacheController, CacheMessages],
      providers: [Cache],
    };
  }

  onModuleInit(): void {
    this.readiness.add('cache', () => this.condition());
  }

  /**
   * Without Redis the process still answers, with the values it has or with an error: other instances could do no better.
   */
  private async condition(): Promise<Condition> {
    const isReached = await this.engine.ping().then(
      () => true,
      () => false,
    );
    return { isDegraded: !isReached, details: isReached ? {} : { redis: 'cannot be reached' } };
  }
}
