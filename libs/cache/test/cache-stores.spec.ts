import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { freePort, redisOrSkip, startRedis, type RedisServer } from '#testing';
import type { CacheStore } from '../src/cache-store.js';
import { Cache } from '../src/cache.js';
import { MemoryCacheStore } from '../src/memory-cache-store.js';
import { RedisCacheStore } from '../src/redis-cache-store.js';

Logger.overrideLogger(false);

const newKey = (): string => `ключ ${randomUUID()}`;

/** What every store does. */
const keepsValues = (store: () => CacheStore): void => {
  it('gives back any JSON value as it was put, a null apart from a miss', async () => {
    const cache = new Cache(store());
    for (const value of [
      null,
      false,
      0,
      '',
      '\u0000 "ünï🦊"',
      [],
      {},
      { a: [1.5, { b: null }] },
      'x'.repeat(100_000),
    ]) {
      const key = newKey();
      expect(await cache.get('callers', key)).toBeUndefined();
      const written = await cache.put('callers', key, value);
      expect(written).toEqual({ key, version: expect.any(String), expires_at: null });
      expect(await cache.get('callers', key)).toEqual({ value });
    }
  });

  it('keeps the last of several writes, each with a version of its own', async () => {
    const cache = new Cache(store());
    const key = newKey();
    const versions = [];
    for (const value of [1, 2, 2]) versions.push((await cache.put('callers', key, value)).version);
    expect(new Set(versions).size).toBe(3);
    expect(await store().get(`callers:${key}`)).toMatchObject({ json: '2', version: versions[2] });
  });

  it('forgets the keys it is told, and is not troubled by those it does not know', async () => {
    const cache = new Cache(store());
    const keys = [newKey(), newKey(), newKey()];
    for (const key of keys) await cache.put('callers', key, key);
    await cache.delete('callers', [keys[0]!, newKey(), keys[2]!]);
    expect(await Promise.all(keys.map((key) => cache.get('callers', key)))).toEqual([
      undefined,
      { value: keys[1] },
      undefined,
    ]);
  });

  it('keeps what callers write apart from what modules keep', async () => {
    const cache = new Cache(store());
    const key = newKey();
    await cache.put('modules', key, 'ours');
    await cache.put('callers', key, 'theirs');
    await cache.delete('callers', [key]);
    expect(await cache.get('modules', key)).toEqual({ value: 'ours' });
    expect(await cache.get('callers', key)).toBeUndefined();
  });

  it('forgets a value when its time is over, and not because of a time it had before', async () => {
    const cache = new Cache(store());
    const [brief, renewed] = [newKey(), newKey()];
    const before = Date.now();
    const { expires_at } = await cache.put('callers', brief, 1, 80);
    expect(expires_at!.getTime()).toBeGreaterThanOrEqual(before + 80);
    await cache.put('callers', renewed, 1, 80);
    await cache.put('callers', renewed, 2);
    while (await cache.get('callers', brief)) await setTimeout(10);
    expect(Date.now()).toBeGreaterThanOrEqual(before + 80);
    expect(await cache.get('callers', renewed)).toEqual({ value: 2 });
  });
};

describe('the store in memory', () => {
  afterEach(() => {
    jest.restoreAllMocks();
  });

  const store = new MemoryCacheStore(10_000_000);
  keepsValues(() => store);

  it('stays within its bytes: the value that was not read for longest goes first', async () => {
    const small = new MemoryCacheStore(100_000);
    const entry = { json: JSON.stringify('x'.repeat(998)), version: 'v', expiresAtMs: null };
    await small.put('read', entry);
    for (let number = 0; number < 1_000; number += 1) {
      await small.put(`key-${number}`, entry);
      expect(await small.get('read')).toBeDefined();
    }
    const left = await Promise.all(Array.from({ length: 1_000 }, (_, number) => small.get(`key-${number}`)));
    const kept = left.filter((it) => it !== undefined).length;
    expect(kept).toBeGreaterThan(30);
    expect(kept * 2_000).toBeLessThanOrEqual(100_000);
    expect(left.slice(-kept).every((it) => it !== undefined)).toBe(true);
  });

  it('does not keep what is larger than all its room, nor the value that it should have replaced', async () => {
    const small = new MemoryCacheStore(10_000);
    await small.put('key', { json: '1', version: 'v1', expiresAtMs: null });
    await small.put('key', { json: JSON.stringify('x'.repeat(10_000)), version: 'v2', expiresAtMs: null });
    expect(await small.get('key')).toBeUndefined();
  });

  it('forgets by the clock on the wall', async () => {
    const cache = new Cache(store);
    const key = newKey();
    const start = Date.now();
    const now = jest.spyOn(Date, 'now').mockReturnValue(start);
    await cache.put('callers', key, 1, 60_000);
    now.mockReturnValue(start + 59_999);
    expect(await cache.get('callers', key)).toEqual({ value: 1 });
    now.mockReturnValue(start + 60_000);
    expect(await cache.get('callers', key)).toBeUndefined();
  });
});

const describeWithRedis = await redisOrSkip(describe);

describeWithRedis('the store in Redis', () => {
  let server: RedisServer;
  let store: RedisCacheStore;

  beforeAll(async () => {
    server = await startRedis();
    store = new RedisCacheStore(server.url);
    store.onModuleInit();
    await untilUp(store);
  });

  afterAll(async () => {
    store?.onApplicationShutdown();
    await server?.stop();
  });

  keepsValues(() => store);

  it('is shared by the instances on one Redis', async () => {
    const other = new RedisCacheStore(server.url);
    other.onModuleInit();
    await untilUp(other);
    const key = newKey();
    await new Cache(store).put('callers', key, 'seen');
    expect(await new Cache(other).get('callers', key)).toEqual({ value: 'seen' });
    other.onApplicationShutdown();
  });

  it('says unavailable while Redis is away or hangs, and serves again once it is back', async () => {
    const port = await freePort();
    const own = new RedisCacheStore(`redis://127.0.0.1:${port}`);
    const cache = new Cache(own);
    const refusesEverything = async () => {
      const calls = [
        cache.get('callers', 'k'),
        cache.put('callers', 'k', 1),
        cache.delete('callers', ['k']),
        own.ping(),
      ];
      const results = await Promise.allSettled(calls);
      for (const it of results) expect(it).toMatchObject({ status: 'rejected', reason: { code: 'unavailable' } });
    };
    own.onModuleInit();
    await refusesEverything();

    let redis = await startRedis({ port });
    await untilUp(own);
    await cache.put('callers', 'k', 1);

    process.kill(redis.pid, 'SIGSTOP');
    await refusesEverything();
    process.kill(redis.pid, 'SIGCONT');
    await untilUp(own);
    await cache.put('callers', 'k', 2);
    expect(await cache.get('callers', 'k')).toEqual({ value: 2 });

    await redis.stop();
    await refusesEverything();
    redis = await startRedis({ port });
    await untilUp(own);
    expect(await cache.get('callers', 'k')).toBeUndefined();
    own.onApplicationShutdown();
    await redis.stop();
  });

  it('can be closed without ever having met its Redis', async () => {
    const own = new RedisCacheStore(`redis://127.0.0.1:${await freePort()}`);
    own.onModuleInit();
    own.onApplicationShutdown();
    await expect(own.ping()).rejects.toMatchObject({ code: 'unavailable' });
  });
});

const untilUp = async (store: CacheStore): Promise<void> => {
  for (;;) {
    const up = await store.ping().then(
      () => true,
      () => false,
    );
    if (up) return;
    await setTimeout(20);
  }
};
