import {
  Logger,
  Module,
  type DynamicModule,
  type FactoryProvider,
  type ModuleMetadata,
  type OnApplicationShutdown,
  type OnModuleInit,
} from '@nestjs/common';
import { CacheEngine } from './cache-engine.js';
import { cacheManagerOf, cacheManagerToken } from './cache-manager.js';
import { over, type NamespaceOptions } from './options.js';
import type { CacheEngineOptions } from './tiers.js';

interface CacheManagerOptions {
  /** Provides a namespace of this name as Nest's `CACHE_MANAGER`. */
  cacheManager?: { namespace: string } & NamespaceOptions<unknown>;
}

/**
 * For options that only the application can provide, such as a meter. They are injected, from one of `imports` unless
 * global.
 */
type CacheEngineModuleAsyncOptions = CacheManagerOptions &
  Pick<ModuleMetadata, 'imports'> &
  Pick<FactoryProvider<CacheEngineOptions>, 'inject' | 'useFactory'>;

/** Provides the CacheEngine, started with the application and stopped with it. */
@Module({})
export class CacheEngineModule implements OnModuleInit, OnApplicationShutdown {
  constructor(private readonly engine: CacheEngine) {}

  static forRoot({ cacheManager, ...options }: CacheEngineOptions & CacheManagerOptions = {}): DynamicModule {
    return this.forRootAsync({ ...(cacheManager && { cacheManager }), useFactory: () => options });
  }

  static forRootAsync({
    cacheManager,
    imports = [],
    inject = [],
    useFactory,
  }: CacheEngineModuleAsyncOptions): DynamicModule {
    const logger = new Logger(CacheEngine.name);
    const complain = (message: string): void => logger.warn(message);
    const engine = {
      provide: CacheEngine,
      inject,
      useFactory: async (...injected: unknown[]) => {
        const options = await useFactory(...injected);
        return new CacheEngine({ ...options, complain: options.complain ?? complain });
      },
    };
    const manager = {
      provide: cacheManagerToken,
      inject: [CacheEngine],
      // Like cache-manager, asks the source again when it had nothing, unless the options say otherwise.
      useFactory: (it: CacheEngine) =>
        cacheManagerOf(
          it.namespace(cacheManager!.namespace, over<NamespaceOptions<unknown>>({ absentTtl: 1 }, cacheManager!)),
        ),
    };
    const providers = cacheManager ? [engine, manager] : [engine];
    const exports = providers.map((it) => it.provide);
    return { module: CacheEngineModule, global: true, imports, providers, exports };
  }

  /** Does not wait for Redis: the application starts without it and uses it once it is there. */
  onModuleInit(): void {
    this.engine.start();
  }

  onApplicationShutdown(): void {
    this.engine.stop();
  }
}
