import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { createKeyv } from '@keyv/redis';
import { createCache, type Cache } from 'cache-manager';
import { RedisProxy, redisOrSkip, startRedis, until, type RedisServer } from '#testing';
import { CacheEngine, CacheUnavailable, cacheManagerOf } from '../src/index.js';

const describeRedis = await redisOrSkip(describe);

const events = ['get', 'mget', 'set', 'mset', 'del', 'mdel', 'ttl', 'clear'];

/** What a call results in: its answer, and the last event that it emits. */
const outcomeOf = async (cache: Cache, work: (cache: Cache) => Promise<unknown>): Promise<object> => {
  let told: unknown[] = [];
  const listeners = events.map((event) => {
    const listener = (data: unknown): void => {
      const { store: _, ...rest } = (data ?? {}) as { store?: string };
      told = [event, rest];
    };
    cache.on(event as 'set', listener);
    return [event, listener] as const;
  });
  const answer = await work(cache);
  for (const [event, listener] of listeners) cache.off(event as 'set', listener);
  return { answer, told };
};

const picture = Buffer.from([0, 1, 255, 254]);

class Page {
  readonly bytes = picture;
  readonly text = ':a';
}

describeRedis('a namespace with the interface of cache-manager', () => {
  let redis: RedisServer;
  let engine: CacheEngine;
  let theirs: Cache;
  let names = 0;
  const ours = (): Cache => cacheManagerOf(engine.namespace(`n${(names += 1)}`, { absentTtl: 1, jitter: 0 }));
  /**
   * Works in a namespace of its own; once more in another one if this process stood still and lost Redis, because reads are
   * misses then.
   */
  const withOurs = async <T>(work: (cache: Cache) => Promise<T>): Promise<T> => {
    for (;;) {
      const cache = ours();
      let isAway = false;
      const note = (told: unknown): void => {
        isAway ||= (told as { error?: unknown } | undefined)?.error instanceof CacheUnavailable;
      };
      for (const event of events) cache.on(event as 'get', note);
      const result = await work(cache);
      if (!isAway) return result;
    }
  };
  beforeAll(async () => {
    redis = await startRedis();
    engine = new CacheEngine({ redis: { url: redis.url, deadlineMs: 5_000 } }).start();
    await until(() => engine.isL1Used);
    theirs = createCache({ stores: [createKeyv(redis.url)] });
  });
  afterAll(async () => {
    engine?.stop();
    await theirs?.disconnect();
    await redis?.stop();
  });

  it.each([
    ['a text', 'a'],
    ['a text that begins like bytes', ':base64:AAECAw=='],
    ['texts that begin with a colon', [':', '::', '::base64:AAE=', { ':a': ':b' }]],
    ['what only looks like bytes', { type: 'Buffer', data: ['a', 'b'], id: 7 }],
    ['what looks like bytes in JSON', [{ a: { type: 'Buffer', data: [1, 2] } }]],
    ['what looks like bytes in a text', { type: 'Buffer', data: 'base64:AAE=', id: 7 }],
    ['a number', 1.5],
    ['null', null],
    ['undefined', undefined],
    ['bytes', picture],
    ['an empty buffer', Buffer.alloc(0)],
    ['an object', { a: [1, { b: null }], c: undefined }],
    ['bytes in an object', { page: { pictures: [picture, picture] } }],
    ['a property named __proto__', JSON.parse('{"__proto__":{"a":1}}') as object],
    ['an object of a class', new Page()],
    ['a date', new Date(0)],
  ])('returns %s as cache-manager does', async (_, value) => {
    const kept = async (cache: Cache): Promise<unknown> => {
      await cache.set('k', 'before');
      const returned = await cache.set('k', value);
      await cache.mset([
        { key: 'l', value },
        { key: 'm', value: 'm', ttl: 60_000 },
      ]);
      return [returned, await cache.get('k'), await cache.mget(['l', 'm', 'k', 'none'])];
    };
    const mine = await withOurs(kept);
    expect(mine).toStrictEqual(await kept(theirs));
  });

  it.each([
    ['a read', (cache: Cache) => cache.get('k')],
    ['a read of a missing key', (cache: Cache) => cache.get('none')],
    ['many reads', (cache: Cache) => cache.mget(['k', 'none'])],
    ['a write', (cache: Cache) => cache.set('k', { v: 2 })],
    ['many writes', (cache: Cache) => cache.mset([{ key: 'k', value: 3 }])],
    ['a load', (cache: Cache) => cache.wrap('new', () => picture)],
    ['a load of a cached key', (cache: Cache) => cache.wrap('k', () => 2)],
    ['a raw load of a cached key', (cache: Cache) => cache.wrap('k', () => 2, { raw: true })],
    ['a read of the time to live', (cache: Cache) => cache.ttl('k')],
    ['a read of the time to live of a missing key', (cache: Cache) => cache.ttl('none')],
    ['a deletion', (cache: Cache) => cache.del('k')],
    ['many deletions', (cache: Cache) => cache.mdel(['k', 'none'])],
    ['clearing', (cache: Cache) => cache.clear()],
  ])('returns the result and emits the event of %s as cache-manager does', async (_, work) => {
    const outcome = async (cache: Cache): Promise<object> => {
      await cache.set('k', { v: 1 });
      return outcomeOf(cache, work);
    };
    const mine = await withOurs(outcome);
    expect(mine).toEqual(await outcome(theirs));
  });

  it.each([
    ['lists', '[', ']'],
    ['objects', '{"a":', '}'],
  ])('returns all %s that it accepts, however deep', async (_, begin, end) => {
    const cache = cacheManagerOf(engine.namespace('deep'));
    const isAccepted = async (levels: number): Promise<boolean> => {
      const value = JSON.parse(`${begin.repeat(levels)}1${end.repeat(levels)}`) as unknown;
      try {
        await cache.set('k', value);
      } catch (error) {
        expect(error).toBeInstanceOf(RangeError);
        return false;
      }
      expect(JSON.stringify(await cache.get('k'))).toBe(JSON.stringify(value));
      return true;
    };
    let levels = 0;
    while (await isAccepted(levels)) levels += 250;
    expect(levels).toBeGreaterThan(500);
  });

  it('finds all of 3,000 keys, with a deadline for each page', async () => {
    const keys = Array.from({ length: 3_000 }, (_, at) => `k ${at}`);
    await engine.namespace('many').setMany(keys.map((key) => [key, key] as const));
    const proxy = await RedisProxy.start(redis.port);
    const deadlineMs = 1_000;
    const other = new CacheEngine({ maxBytes: 1, redis: { url: proxy.url, deadlineMs } }).start();
    try {
      await until(() => other.isL1Used);
      // Each page is answered in time, but all six together would not be.
      proxy.delayMs = 250;
      const startedAt = performance.now();
      expect(await cacheManagerOf(other.namespace('many')).mget(keys)).toEqual(keys);
      expect(performance.now() - startedAt).toBeGreaterThan(deadlineMs);
    } finally {
      other.stop();
      await proxy.stop();
    }
  });

  it('treats a time to live of null as undefined, because JavaScript callers may pass it', async () => {
    const none = null as unknown as undefined;
    for (const cache of [ours(), theirs]) {
      await cache.set('null', 1, none);
      expect(await cache.wrap('wrapped', () => 2, none)).toBe(2);
      expect([await cache.ttl('null'), await cache.ttl('wrapped')]).toEqual([undefined, undefined]);
      await cache.wrap('told', () => 3, { ttl: () => none as unknown as number });
      await sleep(20);
      expect(await cache.get('told')).toBe(3);
    }
  });

  it('wraps bytes, and passes them to the ttl function', async () => {
    for (const cache of [ours(), theirs]) {
      const asked: unknown[] = [];
      const ttl = (value: unknown): number => asked.push(value) * 60_000;
      for (let at = 0; at < 2; at += 1) expect(await cache.wrap('bytes', () => picture, { ttl })).toEqual(picture);
      expect(asked).toEqual([picture]);
    }
  });

  it.each([
    ['a refresh in the background', () => 2],
    ['a refresh that fails', () => Promise.reject(new Error('no source'))],
  ])('emits the event of %s as cache-manager does', async (_, load) => {
    const told = async (cache: Cache): Promise<unknown> => {
      const refreshed: unknown[] = [];
      cache.on('refresh', (data) => refreshed.push(data));
      await cache.set('refreshed', 1, 60_000);
      const value = await cache.wrap<unknown>('refreshed', load, 60_000, 100_000);
      await until(() => refreshed.length > 0 || value !== 1);
      return [value, refreshed];
    };
    expect(await withOurs(told)).toEqual(await told(theirs));
  });

  it('tells of a refresh once, even if a listener throws', async () => {
    const complaints: string[] = [];
    const alone = new CacheEngine({ complain: (message) => complaints.push(message) }).start();
    try {
      const cache = cacheManagerOf(alone.namespace('refreshed'));
      const told: unknown[] = [];
      cache.on('refresh', (data) => {
        told.push(data);
        throw new Error('the listener failed');
      });
      await cache.set('k', 1, 60_000);
      expect(await cache.wrap('k', () => 2, 60_000, 100_000)).toBe(1);
      await until(() => complaints.length > 0);
      expect(told).toEqual([{ key: 'k', value: 2 }]);
      expect(complaints).toEqual(['Error: the listener failed']);
    } finally {
      alone.stop();
    }
  });

  it('passes the value to the ttl function as the source returned it', async () => {
    for (const cache of [ours(), theirs]) {
      const load = () => ({ until: new Date(Date.now() + 60_000) });
      await cache.wrap('dated', load, (it) => it.until.getTime() - Date.now());
      // By the clock of Redis, which is known only up to half a round trip.
      expect(await cache.ttl('dated')).toBeLessThan(Date.now() + 61_000);
    }
  });
});
