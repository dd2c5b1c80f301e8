import { EventEmitter } from 'node:events';
import type { Cache } from 'cache-manager';
import { CacheUnavailable } from './errors.js';
import type { Namespace } from './namespace.js';
import { longestTtlMs } from './options.js';
import { pagesOf } from './pages.js';

/** The injection token of the cache in `@nestjs/cache-manager`. */
export const cacheManagerToken = 'CACHE_MANAGER';

interface WrapOptions {
  ttl?: number | ((value: unknown) => number) | undefined;
  refreshThreshold?: number | ((value: unknown) => number) | undefined;
  raw?: true | undefined;
}

/** How many keys are deleted with one call: they are passed as arguments, of which there must not be too many. */
const mostDeleted = 1_000;

/** A `ttl` of `0` means no expiry, whatever the namespace's default is. */
const endOf = (ttl: number | null | undefined): { ttl?: number | undefined } => {
  if (ttl === undefined || ttl === null) return {};
  return { ttl: ttl === 0 ? Number.POSITIVE_INFINITY : Math.min(Math.max(1, Math.round(ttl)), longestTtlMs) };
};

const endAfter = (told: number | null | undefined): number | undefined =>
  told === 0 ? Number.POSITIVE_INFINITY : (told ?? undefined);

const bytesMark = ':base64:';

/**
 * The value as JSON represents it, with Buffers as strings like those of Keyv. Other strings that begin with a colon get
 * one more.
 */
const packed = (value: unknown): unknown => {
  const text = JSON.stringify(value, function (this: Record<string, unknown>, name, it: unknown) {
    // The Buffer itself; `it` is already what `Buffer.toJSON` returned.
    const held = this[name];
    if (Buffer.isBuffer(held)) return `${bytesMark}${held.toString('base64')}`;
    return typeof it === 'string' && it.startsWith(':') ? `:${it}` : it;
  }) as string | undefined;
  return text === undefined ? value : JSON.parse(text);
};

/** A copy, which the caller may change. */
const unpacked = (value: unknown): unknown => {
  if (typeof value === 'string') {
    if (value.startsWith(bytesMark)) return Buffer.from(value.slice(bytesMark.length), 'base64');
    return value.startsWith(':') ? value.slice(1) : value;
  }
  if (typeof value !== 'object' || value === null) return value;
  // Loops, because callbacks would take more of the stack: what JSON.stringify could write can then be read.
  if (Array.isArray(value)) {
    const items: unknown[] = [];
    for (const it of value) items.push(unpacked(it));
    return items;
  }
  const members: [string, unknown][] = Object.entries(value);
  for (const member of members) member[1] = unpacked(member[1]);
  return Object.fromEntries(members);
};

/**
 * A namespace with the interface of cache-manager 7, for code written against it: Nest's `CACHE_MANAGER`, its
 * `CacheInterceptor` and everything that injects it. `wrap` is `getOrSet`: a single flight across all processes, and no
 * late load is stored.
 *
 * While Redis is unavailable, a read is a miss and a write is dropped, which `on` reports; `del`, `mdel` and `clear` throw,
 * because what they should delete may come back. There are no Keyv stores. If the function of `wrap` returns `undefined`,
 * that is cached for the `absentTtl` of the namespace; 1 practically turns this off, as in cache-manager. Values written to
 * the namespace directly must be encoded like Keyv's: a string that begins with a colon gets one more.
 */
export const cacheManagerOf = (namespace: Namespace<unknown>): Cache => {
  const events = new EventEmitter();
  /** @returns `undefined` if Redis is unavailable, after emitting the error */
  const unlessAway = async <T>(event: string, data: object, work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await work();
    } catch (error) {
      events.emit(event, { ...data, error });
      if (!(error instanceof CacheUnavailable)) throw error;
      return undefined;
    }
  };
  const forget = async (event: string, data: object, keys: string[]): Promise<true> => {
    try {
      for (const page of pagesOf(keys, mostDeleted)) await namespace.delete(...page);
    } catch (error) {
      events.emit(event, { ...data, error });
      throw error;
    }
    events.emit(event, data);
    return true;
  };
  const get = async (key: string): Promise<unknown> => {
    const value = unpacked(await unlessAway('get', { key }, () => namespace.get(key)));
    if (value !== undefined) events.emit('get', { key, value });
    return value;
  };
  /** Emits no event. */
  const expiresAt = async (key: string): Promise<number | undefined> => {
    try {
      return (await namespace.find(key))?.expiresAt ?? undefined;
    } catch (error) {
      if (!(error instanceof CacheUnavailable)) throw error;
      return undefined;
    }
  };
  const ttl = async (key: string): Promise<number | undefined> => {
    const found = await unlessAway('ttl', { key }, () => namespace.find(key));
    if (found?.value === undefined) return undefined;
    const expires = found.expiresAt ?? undefined;
    events.emit('ttl', { key, value: { value: unpacked(found.value), expires } });
    return expires;
  };
  const set = async (key: string, value: unknown, ttlMs?: number): Promise<unknown> => {
    const written = await unlessAway('set', { key, value }, () => namespace.set(key, packed(value), endOf(ttlMs)));
    if (written) events.emit('set', { key, value });
    return value;
  };
  const wrap = async (key: string, load: () => unknown, ...rest: unknown[]): Promise<unknown> => {
    const [first, second] = rest as [WrapOptions['ttl'] | WrapOptions, WrapOptions['refreshThreshold']];
    const {
      ttl: lasts,
      refreshThreshold,
      raw,
    } = typeof first === 'object' && first ? first : ({ ttl: first, refreshThreshold: second } satisfies WrapOptions);
    const loaded: unknown[] = [];
    /** What the caller got: from then on, a load is a refresh in the background. */
    const answered: unknown[] = [];
    const loadAndTell = async (): Promise<unknown> => {
      let stored: unknown;
      try {
        const it = await load();
        loaded.push(it);
        stored = packed(it);
      } catch (error) {
        if (answered.length > 0) events.emit('refresh', { key, value: unpacked(answered[0]), error });
        throw error;
      }
      // Not above: what a listener throws is not a failure of the source.
      if (answered.length > 0) events.emit('refresh', { key, value: loaded[0] });
      return stored;
    };
    const value = await namespace.getOrSet(key, loadAndTell, {
      // Called with the value as the source returned it, which may contain what JSON cannot represent.
      ...(typeof lasts === 'function' ? { ttlOf: () => endAfter(lasts(loaded[0])) } : endOf(lasts)),
      refreshBefore: typeof refreshThreshold === 'function' ? (it) => refreshThreshold(unpacked(it)) : refreshThreshold,
    });
    answered.push(value);
    for (const it of loaded) events.emit('set', { key, value: it });
    return raw ? { value: unpacked(value), expires: await expiresAt(key) } : unpacked(value);
  };
  const manager = {
    ...{ get, set, ttl, wrap, stores: [] },
    mget: async (keys: string[]) => {
      // Read one by one, because in a cluster one key may be unavailable and others not; page by page, so that each page
      // has its own time.
      const reads: PromiseSettledResult<unknown>[] = [];
      for (const page of pagesOf(keys))
        reads.push(...(await Promise.allSettled(page.map((key) => namespace.get(key)))));
      const values = reads.map((it) => (it.status === 'fulfilled' ? unpacked(it.value) : undefined));
      const failures = reads.flatMap((it) => (it.status === 'rejected' ? [it.reason as Error] : []));
      // An invalid call takes precedence over an unavailable key.
      const failure = failures.find((it) => !(it instanceof CacheUnavailable)) ?? failures[0];
      if (failure) await unlessAway('mget', { keys }, () => Promise.reject(failure));
      else events.emit('mget', { keys, values });
      return values;
    },
    mset: async (list: { key: string; value: unknown; ttl?: number }[]) => {
      const values = list.map((it) => [it.key, packed(it.value), endOf(it.ttl)] as const);
      if (await unlessAway('mset', { list }, () => namespace.setMany(values))) events.emit('mset', { list });
      return list;
    },
    del: (key: string) => forget('del', { key }, [key]),
    mdel: (keys: string[]) => forget('mdel', { keys }, keys),
    clear: async () => {
      try {
        await namespace.clear();
      } catch (error) {
        events.emit('clear', error);
        throw error;
      }
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
