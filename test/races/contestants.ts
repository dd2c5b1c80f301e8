import KeyvRedis, { createClient, createCluster } from '@keyv/redis';
import { BentoCache, bentostore } from 'bentocache';
import { memoryDriver } from 'bentocache/drivers/memory';
import { redisBusDriver, redisDriver } from 'bentocache/drivers/redis';
import { createCache, type Cache } from 'cache-manager';
import { Cluster, Redis } from 'ioredis';
import { Keyv } from 'keyv';
import { CacheEngine } from '#cache-engine';

/** A namespace, in the operations that all contestants have. Times are in milliseconds. */
export interface Space {
  get(key: string): Promise<unknown>;
  set(key: string, value: unknown, ttl?: number): Promise<unknown>;
  getOrSet(key: string, load: () => Promise<unknown>, ttl?: number): Promise<unknown>;
  delete(key: string): Promise<unknown>;
  clear(): Promise<unknown>;
  /** Whether it is cached that the source has no value for the key, as distinguished from a miss. */
  knowsOfNothing(key: string): Promise<boolean>;
}

/** What one process of an application has: its own memory tier and its own connections. */
export interface Node {
  space(name: string): Space;
  stop(): Promise<unknown>;
}

export interface NodeOptions {
  /** The timeout of a call to Redis, if the race does not leave it to the contestant. */
  patienceMs?: number;
}

export interface Contestant {
  name: string;
  /** Whether its nodes notify each other of changes. */
  hears: boolean;
  /** What a source without a value returns, in the form that the cache can store. */
  nothing: undefined | null;
  open(url: string, options?: NodeOptions): Promise<Node>;
}

const spaciousBytes = 64 * 1_024 * 1_024;
/** The timeout for the clients of other caches, which wait forever by default. */
const othersPatienceMs = 1_000;

const endpointsOf = (url: string): { host: string; port: number }[] =>
  url
    .replace('redis://', '')
    .split(',')
    .map((it) => it.split(':') as [string, string])
    .map(([host, port]) => ({ host, port: Number(port) }));

const ours: Contestant = {
  name: 'ours',
  hears: true,
  nothing: undefined,
  open: async (url, { patienceMs } = {}) => {
    const redis = { url, deadlineMs: patienceMs };
    const engine = new CacheEngine({ maxBytes: spaciousBytes, redis, complain: () => undefined }).start();
    return {
      space: (name) => {
        const space = engine.namespace<unknown>(name, { jitter: 0 });
        return {
          get: (key) => space.get(key),
          set: (key, value, ttl) => space.set(key, value, { ttl }),
          getOrSet: (key, load, ttl) => space.getOrSet(key, load, { ttl }),
          delete: (key) => space.delete(key),
          clear: () => space.clear(),
          knowsOfNothing: async (key) => {
            const found = await space.find(key);
            return found !== undefined && found.value === undefined;
          },
        };
      },
      stop: async () => engine.stop(),
    };
  },
};

const bentocache: Contestant = {
  name: 'bentocache',
  hears: true,
  nothing: null,
  open: async (url, { patienceMs = othersPatienceMs } = {}) => {
    const endpoints = endpointsOf(url);
    const [first] = endpoints;
    const isCluster = endpoints.length > 1;
    const connection = isCluster
      ? // It scans for this prefix in front of its own.
        new Cluster(endpoints, { keyPrefix: '', redisOptions: { commandTimeout: patienceMs } })
      : new Redis({ ...first!, commandTimeout: patienceMs });
    // Its driver reports failed commands; errors of the connection itself can be ignored.
    connection.on('error', () => undefined);
    // The bus is a blocking subscription, so it has no timeout.
    const bus = isCluster ? new Cluster(endpoints, { lazyConnect: true }) : first!;
    const bento = new BentoCache({
      default: 'tiers',
      timeout: '200ms',
      hardTimeout: '10s',
      l2CircuitBreakerDuration: '1s',
      stores: {
        tiers: bentostore()
          .useL1Layer(memoryDriver({ maxSize: spaciousBytes, maxItems: 100_000 }))
          .useL2Layer(redisDriver({ connection }))
          .useBus(redisBusDriver({ connection: bus })),
      },
    });
    return {
      space: (name) => {
        const space = bento.namespace(name);
        return {
          get: (key) => space.get<unknown>({ key }),
          set: (key, value, ttl) => space.set({ key, value, ttl: ttl ?? null }),
          getOrSet: (key, load, ttl) => space.getOrSet<unknown>({ key, factory: load, ttl: ttl ?? null }),
          delete: (key) => space.delete({ key }),
          clear: () => space.clear(),
          knowsOfNothing: async (key) => (await space.get<unknown>({ key })) === null,
        };
      },
      stop: async () => {
        await bento.disconnectAll();
      },
    };
  },
};

const cacheManager: Contestant = {
  name: 'cache-manager',
  hears: false,
  nothing: null,
  open: async (url, { patienceMs = othersPatienceMs } = {}) => {
    const roots = endpointsOf(url).map(({ host, port }) => ({ url: `redis://${host}:${port}` }));
    const limits = {
      disableOfflineQueue: true,
      pingInterval: patienceMs / 4,
      socket: { connectTimeout: patienceMs, socketTimeout: patienceMs },
    };
    const caches: Cache[] = [];
    return {
      space: (name) => {
        const client =
          roots.length > 1
            ? createCluster({ rootNodes: roots, defaults: limits })
            : createClient({ ...roots[0]!, ...limits });
        client.on('error', () => undefined);
        const store = new KeyvRedis(client, {
          namespace: name,
          throwOnConnectError: false,
          connectionTimeout: patienceMs,
        });
        const far = new Keyv({ store, namespace: name, useKeyPrefix: false });
        far.on('error', () => undefined);
        const cache = createCache({ stores: [new Keyv({ namespace: name }), far] });
        caches.push(cache);
        return {
          get: (key) => cache.get(key),
          set: (key, value, ttl) => cache.set(key, value, ttl),
          getOrSet: (key, load, ttl) => cache.wrap(key, load, ttl),
          delete: (key) => cache.del(key),
          clear: () => cache.clear(),
          knowsOfNothing: async (key) => (await cache.get(key)) === null,
        };
      },
      stop: () => Promise.all(caches.map((it) => it.disconnect())),
    };
  },
};

export const contestants: readonly Contestant[] = [ours, bentocache, cacheManager];
