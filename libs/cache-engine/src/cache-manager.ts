import { EventEmitter } from 'node:events';
import type { Cache } from 'cache-manager';
import type { Namespace } from './namespace.js';
import { longestTtlMs } from './options.js';
import { CacheUnavailable, pagesOf } from './redis-tier.js';

/** What `@nestjs/cache-manager` asks for its cache by. */
export const cacheManagerToken = 'CACHE_MANAGER';

interface WrapOptions {
  ttl?: number | ((value: unknown) => number) | undefined;
  refreshThreshold?: number | ((value: unknown) => number) | undefined;
  raw?: true | undefined;
}

/** At once: they are arguments, of which there must not be too many. */
const mostDeleted = 1_000;

/** `0` says that there is no end, whatever the namespace says. */
const endOf = (ttl: number | undefined): { ttl?: number | undefined } =>
  ttl === undefined ? {} : { ttl: ttl === 0 ? undefined : Math.min(Math.max(1, Math.round(ttl)), longestTtlMs) };

const endAfter =
  (ttl: (value: unknown) => number) =>
  (value: unknown): number => {
    const told = ttl(value);
    return told === 0 ? Number.POSITIVE_INFINITY : told;
  };

/** Whoever gets a value from cache-manager may change it. */
const copyOf = (value: unknown): unknown =>
  typeof value === 'object' && Object.isFrozen(value) ? structuredClone(value) : value;

/**
 * A namespace in the shape of cache-manager 7, for what has been written against it: Nest's `CACHE_MANAGER`, its
 * `CacheInterceptor` and whoever injects it. `wrap` is `getOrSet`: one load of all processes, and none that is late.
 *
 * While Redis is away a read is a miss and a write is not kept, as `on` tells; `del`, `mdel` and `clear` throw, because
 * what they were to forget may come back. There are no Keyv stores behind it. That `wrap` was given `undefined` is kept for
 * the `absentTtl` of the namespace, 1 for not at all as cache-manager does.
 */
export const cacheManagerOf = (namespace: Namespace<unknown>): Cache => {
  const events = new EventEmitter();
  const told = async <T>(event: string, data: object, work: () => Promise<T>): Promise<T | undefined> => {
    try {
      const value = await work();
      events.emit(event, { ...data, value });
      return value;
    } catch (error) {
      events.emit(event, { ...data, error });
      if (!(error instanceof CacheUnavailable)) throw error;
      return undefined;
    }
  };
  const get = (key: string): Promise<unknown> => told('get', { key }, async () => copyOf(await namespace.get(key)));
  const set = async (key: string, value: unknown, ttl?: number): Promise<unknown> => {
    await told('set', { key, value }, () => namespace.set(key, value, endOf(ttl)));
    return value;
  };
  const mdel = async (keys: string[]): Promise<true> => {
    for (const page of pagesOf(keys, mostDeleted)) await namespace.delete(...page);
    for (const key of keys) events.emit('del', { key });
    return true;
  };
  const expiryOf = async (key: string): Promise<number | undefined> =>
    (await told('ttl', { key }, () => namespace.find(key)))?.expiresAt ?? undefined;
  const wrap = async (key: string, load: () => unknown, ...rest: unknown[]): Promise<unknown> => {
    const [first, second] = rest as [WrapOptions['ttl'] | WrapOptions, WrapOptions['refreshThreshold']];
    const { ttl, refreshThreshold, raw } =
      typeof first === 'object' ? first : ({ ttl: first, refreshThreshold: second } satisfies WrapOptions);
    const value = await namespace.getOrSet(key, async () => load(), {
      ...(typeof ttl === 'function' ? { ttlOf: endAfter(ttl) } : endOf(ttl)),
      refreshBefore: refreshThreshold,
    });
    return raw ? { value: copyOf(value), expires: await expiryOf(key) } : copyOf(value);
  };
  const manager = {
    ...{ get, set, mdel, ttl: expiryOf, wrap, stores: [] },
    mget: async (keys: string[]) => {
      const found = await told('mget', { keys }, () => namespace.getMany(keys));
      return keys.map((key) => copyOf(found?.get(key)?.value));
    },
    mset: async (list: { key: string; value: unknown; ttl?: number }[]) => {
      await Promise.all(list.map(({ key, value, ttl }) => set(key, value, ttl)));
      events.emit('mset', { list });
      return list;
    },
    del: (key: string) => mdel([key]),
    clear: async () => {
      await namespace.clear();
      events.emit('clear');
      return true;
    },
    on: (event: string, listener: (data: unknown) => void) => events.on(event, listener),
    off: (event: string, listener: (data: unknown) => void) => events.off(event, listener),
    disconnect: async () => undefined,
    cacheId: () => namespace.name,
  };
  return manager as unknown as Cache;
};
