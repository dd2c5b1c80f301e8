import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { createClient } from '@redis/client';
import { BrokenCircuitError } from 'cockatiel';
import {
  RedisProxy,
  freePort,
  redisOrSkip,
  startRedis,
  startRedisCluster,
  until,
  type RedisCluster,
  type RedisServer,
} from '#testing';
import { CacheEngine, CacheUnavailable, anyVersion, cacheManagerOf, textCodec, type Namespace } from '../src/index.js';

const describeRedis = await redisOrSkip(describe);

const open: CacheEngine[] = [];
afterEach(() => {
  for (const engine of open.splice(0)) engine.stop();
});

/** A separate process as far as the cache is concerned. */
const nodeOf = async (
  url: string,
  limits: { deadlineMs?: number; silenceMs?: number } = {},
  maxBytes = 67_108_864,
): Promise<CacheEngine> => {
  const redis = { deadlineMs: 5_000, silenceMs: 5_000, ...limits, url };
  const engine = new CacheEngine({ maxBytes, redis, complain: () => undefined }).start();
  open.push(engine);
  await until(() => engine.isL1Used);
  await until(() =>
    engine.ping().then(
      () => true,
      () => false,
    ),
  );
  return engine;
};

/**
 * Waits until changes made at `here` are known at `there`. Redis sends notifications in order, so that is the case once the
 * second of two changes is seen: the first may have been read before its notification arrived.
 */
const toldAll = async (here: Namespace<unknown>, there: Namespace<unknown>): Promise<void> => {
  for (const value of [1, 2]) {
    await here.set('fence', value);
    await until(async () => {
      const found = await there.find('fence');
      return found?.value === value && found.tier === 'l1';
    });
  }
};

/**
 * For two seconds, each connection ends soon after it was made.
 *
 * @returns how many connections were made per second
 */
const cutOff = async ({ url }: RedisServer): Promise<number> => {
  const client = await createClient({ url }).connect();
  const connected = async (): Promise<number> =>
    Number(/total_connections_received:(\d+)/.exec(await client.info('stats'))![1]);
  const [before, startedAt] = [await connected(), performance.now()];
  const elapsedMs = (): number => performance.now() - startedAt;
  while (elapsedMs() < 2_000) {
    await client.sendCommand(['CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes']);
    await sleep(5);
  }
  const perSecond = ((await connected()) - before) / (elapsedMs() / 1_000);
  client.destroy();
  return perSecond;
};

/** Waits until this process serves the key. */
const warm = (space: Namespace<unknown>, key: string): Promise<void> =>
  until(async () => (await space.find(key).catch(() => undefined))?.tier === 'l1');

describeRedis('caches of several processes over one Redis', () => {
  let redis: RedisServer;
  let name: string;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis?.stop());
  beforeEach(() => {
    name = randomUUID();
  });

  const two = async (): Promise<[Namespace<unknown>, Namespace<unknown>]> => [
    (await nodeOf(redis.url)).namespace(name, { jitter: 0 }),
    (await nodeOf(redis.url)).namespace(name, { jitter: 0 }),
  ];

  /** One process with a direct connection to Redis, and one whose connection can be disturbed. */
  const throughProxy = async (
    limits: Parameters<typeof nodeOf>[1],
    work: (nodes: {
      proxy: RedisProxy;
      engine: CacheEngine;
      here: Namespace<unknown>;
      there: Namespace<unknown>;
    }) => Promise<void>,
  ): Promise<void> => {
    const here = (await nodeOf(redis.url)).namespace<unknown>(name);
    const proxy = await RedisProxy.start(redis.port);
    try {
      const engine = await nodeOf(proxy.url, limits);
      await work({ proxy, engine, here, there: engine.namespace<unknown>(name) });
    } finally {
      await proxy.stop();
    }
  };

  it.each([
    ['written', (space: Namespace<unknown>) => space.set('k', 2)],
    ['deleted', (space: Namespace<unknown>) => space.delete('k')],
    ['invalidated by tag', (space: Namespace<unknown>) => space.invalidateTags('t')],
    ['cleared', (space: Namespace<unknown>) => space.clear()],
  ])('sees that another process has %s an entry', async (_, change) => {
    const [here, there] = await two();
    await here.set('k', 1, { tags: ['t'] });
    await warm(there, 'k');
    await change(here);
    const now = await here.get('k');
    expect(now).not.toBe(1);
    await until(async () => (await there.get('k')) === now);
  });

  it('writes many entries in few calls to Redis, even if some are large', async () => {
    const [here, there] = await two();
    const large = 'x'.repeat(400_000);
    const values = Array.from({ length: 300 }, (_, at) => [`k${at}`, at % 100 === 0 ? large + at : at] as const);
    const people = await createClient({ url: redis.url }).connect();
    try {
      await people.configResetStat();
      await here.setMany([...values.map(([key]) => [key, 'before'] as const), ...values]);
      const stats = await people.info('commandstats');
      const calls = (of: string): number => Number(new RegExp(`cmdstat_${of}:calls=(\\d+)`).exec(stats)?.[1]);
      // The calls with 128 keys or a megabyte each, and those that notify about the tag.
      expect(calls('evalsha')).toBeLessThan(10);
      // Only the last value of a key given twice is written; the limit leaves room to write the version of the namespace.
      expect(calls('set')).toBeLessThan(2 * values.length);
      const found = await there.getMany(values.map(([key]) => key));
      expect(values.filter(([key, value]) => found.get(key)?.value !== value)).toEqual([]);
    } finally {
      people.destroy();
    }
  });

  it('reads the keys that many callers ask for at once page by page, each key once', async () => {
    const [here] = await two();
    const keys = Array.from({ length: 1_300 }, (_, at) => `k${at}`);
    await here.setMany(keys.map((key) => [key, key] as const));
    // It keeps no values.
    const there = (await nodeOf(redis.url, {}, 1)).namespace<unknown>(name);
    await there.get('first');
    const people = await createClient({ url: redis.url }).connect();
    try {
      await people.configResetStat();
      const asked = keys.flatMap((key) => [key, key]);
      expect(await Promise.all(asked.map((key) => there.get(key)))).toEqual(asked);
      expect(await people.info('commandstats')).toContain('cmdstat_mget:calls=3,');
    } finally {
      people.destroy();
    }
  });

  it('handles 25,000 keys or tags in one call', async () => {
    const [here, there] = await two();
    const all = Array.from({ length: 25_000 }, (_, at) => `k${at}`);
    await here.invalidateTags(...all);
    // As many tags in the first page as in all others together.
    const tagsOf = (at: number): string[] => Array.from({ length: at < 500 ? 50 : 1 }, (_, tag) => `${at} ${tag}`);
    const written = await here.setMany(all.map((key, at) => [key, key, { tags: tagsOf(at) }]));
    expect(written).toHaveLength(all.length);
    const found = await there.getMany(all);
    expect(all.filter((key) => found.get(key)?.value !== key)).toEqual([]);
  });

  it('isolates a key that fails in Redis from others that are loaded at the same time', async () => {
    const engine = await nodeOf(redis.url);
    const here = engine.namespace<string>(name);
    const there = (await nodeOf(redis.url)).namespace<string>(name);
    const people = await createClient({ url: redis.url }).connect();
    try {
      const keys = ['a', 'odd', 'b'];
      const lease = `cache:l:{${name}:odd}`;
      const spoilt = Promise.withResolvers<void>();
      const load = (key: string) =>
        here.getOrSet(key, async () => {
          // Another client puts a list where the lease was, so the script that fills the keys fails for this one.
          if (key === 'odd') {
            await people.del(lease);
            await people.lPush(lease, 'odd');
            spoilt.resolve();
          }
          await spoilt.promise;
          return `loaded ${key}`;
        });
      expect(await Promise.all(keys.map(load))).toEqual(keys.map((it) => `loaded ${it}`));
      expect(await Promise.all(keys.map((it) => there.get(it)))).toEqual(['loaded a', undefined, 'loaded b']);
      expect(engine.statistics.unavailable).toBeGreaterThan(0);
    } finally {
      people.destroy();
    }
  });

  it('handles entries and tags that other clients delete, expire, flush or overwrite in Redis', async () => {
    const [here, there] = await two();
    const people = await createClient({ url: redis.url }).connect();
    try {
      await here.set('k', 1);
      await warm(there, 'k');
      const [stored] = await people.keys(`*${name}:k*`);
      await people.del(stored!);
      await until(async () => (await there.find('k')) === undefined);
      await here.set('k', 1);
      await warm(there, 'k');
      await people.pExpire(stored!, 1);
      await until(async () => (await there.find('k')) === undefined);
      await here.set('k', 2);
      await warm(there, 'k');
      await toldAll(there, here);
      await warm(here, 'k');
      await people.flushAll();
      for (const space of [here, there]) await until(async () => (await space.find('k')) === undefined);
      await expect(there.getOrSet('k', () => Promise.reject(new Error('away')))).rejects.toThrow('away');
      // Anything that is not an entry of ours, or cannot be decoded, counts as a miss and is overwritten.
      const none = ['', 'x1|y', '+v|||0|notatag|\n{'];
      for (const tags of ['notjson', '[1]', '[["",1]]', '[["t"]]', '[["\\ud800","v"]]'])
        none.push(`+v|||0|${''.padEnd(9, 'z')}|${tags}\n1`);
      for (const garbage of none) {
        await people.set(stored!, garbage);
        expect(await here.compareAndSet('k', null, 4)).toMatchObject({ isWritten: true });
        await people.set(stored!, garbage);
        expect(await here.getOrSet('k', () => 5)).toBe(5);
        expect(await here.compareAndSet('k', (await here.find('k'))!.version, 6)).toMatchObject({ isWritten: true });
      }
      // If Redis loses a tag, all values kept under it are lost too, even if the tag is created again.
      await here.set('k', 3, { tags: ['t'] });
      await warm(there, 'k');
      await people.del((await people.keys(`*:t:*${name}:t*`))[0]!);
      await until(async () => (await there.find('k')) === undefined);
      await here.set('other', 1, { tags: ['t'] });
      expect(await there.find('k')).toBeUndefined();
    } finally {
      people.destroy();
    }
  });

  it('replaces entries, leases and tags of another type or without an end, which other clients wrote to Redis', async () => {
    const space = (await nodeOf(redis.url)).namespace<unknown>(name, { jitter: 0, tags: ['t'] });
    const people = await createClient({ url: redis.url }).connect();
    const [entry, lease, tag] = [`cache:e:{${name}:k}`, `cache:l:{${name}:k}`, `cache:t:{${name}:t}`];
    const lists = async (key: string): Promise<void> => {
      await people.del(key);
      await people.lPush(key, 'x');
    };
    try {
      await lists(entry);
      expect(await space.getOrSet('k', () => 1)).toBe(1);
      await warm(space, 'k');
      await lists(entry);
      expect(await space.compareAndSet('k', null, 2)).toMatchObject({ isWritten: true });

      const leaves: (() => Promise<unknown>)[] = [
        () => lists(lease),
        () => people.set(lease, 'of someone else'),
        // As if the clock of Redis had been set back by an hour.
        () => people.set(lease, 'of someone else', { expiration: { type: 'PX', value: 3_600_000 } }),
      ];
      for (const leave of leaves) {
        await space.delete('k');
        await leave();
        expect(await space.findOrLease('k', 60_000)).toEqual({ lease: expect.any(String) });
        expect(await space.findOrLease('k', 60_000)).toEqual({ lease: null });
      }

      const breaks = ['x', '1e300', '-1e300', 'nan', ''].map((text) => () => people.set(tag, text));
      for (const breakTag of [() => lists(tag), ...breaks]) {
        await breakTag();
        // Until it is notified, this process writes under the version that it knows.
        await until(async () => {
          await space.set('k', 3);
          return (await space.find('k')) !== undefined;
        });
        await space.invalidateTags('t');
        expect(await space.find('k')).toBeUndefined();
        await breakTag();
        await space.invalidateTags('t');
      }
    } finally {
      people.destroy();
    }
  });

  it('deletes after a clear the entries from before it, and none written since', async () => {
    await throughProxy({}, async ({ proxy, here, there }) => {
      const people = await createClient({ url: redis.url }).connect();
      try {
        const old = Array.from({ length: 1_200 }, (_, at) => [`old ${at}`, at] as const);
        await there.setMany([...old, ['lock', 0], ['again', 0]]);
        await people.set(`cache:e:{${name}:old odd}`, 'x'.repeat(1_000));
        await people.lPush(`cache:e:{${name}:old list}`, 'odd');
        await warm(here, 'again');
        proxy.holdBack('SCAN');
        await there.clear();
        await until(() => proxy.holdsBack);
        await until(async () => (await here.get('again')) === undefined);
        expect(await here.compareAndSet('lock', null, 1)).toMatchObject({ isWritten: true });
        const leased = await here.findOrLease('leased', 60_000);
        expect(await here.getOrSet('again', () => 2)).toBe(2);
        proxy.thaw();
        await until(async () => (await people.keys(`cache:e:{${name}:old *`)).length === 0);
        expect(await here.compareAndSet('lock', null, 3)).toMatchObject({ isWritten: false });
        expect([await there.get('lock'), await there.get('again')]).toEqual([1, 2]);
        expect(await here.fillLeased('leased', (leased as { lease: string }).lease, 4)).toBeDefined();
      } finally {
        people.destroy();
      }
    });
  });

  it('deletes entries that are written and cleared again while an earlier clear is still deleting', async () => {
    await throughProxy({}, async ({ proxy, here, there }) => {
      const people = await createClient({ url: redis.url }).connect();
      try {
        // This makes all keys fit into the page that is held back.
        await people.flushAll();
        await there.set('k', 1);
        await warm(here, 'k');
        proxy.holdBack('SCAN');
        await there.clear();
        await until(() => proxy.holdsBack);
        await until(async () => (await here.get('k')) === undefined);
        await here.set('late', 1);
        const clearing = there.clear();
        await until(async () => (await here.get('late')) === undefined);
        proxy.thaw();
        await clearing;
        await until(async () => (await people.keys(`cache:e:{${name}:*`)).length === 0);
      } finally {
        people.destroy();
      }
    });
  });

  it('reports that cleared entries could not be deleted from Redis, and retries', async () => {
    const proxy = await RedisProxy.start(redis.port);
    const people = await createClient({ url: redis.url }).connect();
    const complaints: string[] = [];
    const complain = (message: string) => complaints.push(message);
    const engine = new CacheEngine({ redis: { url: proxy.url, deadlineMs: 300 }, complain }).start();
    open.push(engine);
    try {
      const space = engine.namespace<number>(name);
      await until(() =>
        space.set('k', 1).then(
          () => true,
          () => false,
        ),
      );
      proxy.holdBack('SCAN');
      await space.clear();
      await until(() => complaints.some((it) => it.includes(`{${name}:* could not be deleted from Redis yet`)));
      expect(await people.exists(`cache:e:{${name}:k}`)).toBe(1);
      proxy.thaw();
      await until(async () => (await people.exists(`cache:e:{${name}:k}`)) === 0);
    } finally {
      people.destroy();
      await proxy.stop();
    }
  });

  it('deletes any number of keys page by page', async () => {
    const engine = await nodeOf(redis.url, { deadlineMs: 1_000 });
    const cache = cacheManagerOf(engine.namespace<unknown>(name));
    const keys = Array.from({ length: 200_000 }, (_, at) => `k ${at}`);
    await cache.set(keys.at(-1)!, 1);
    expect(await cache.mdel(keys)).toBe(true);
    expect(await cache.get(keys.at(-1)!)).toBeUndefined();
    const people = await createClient({ url: redis.url }).connect();
    try {
      await people.configResetStat();
      await engine.namespace(name).delete(...keys.slice(0, 5_000));
      expect(/cmdstat_unlink:calls=(\d+)/.exec(await people.info('commandstats'))?.[1]).toBe('10');
    } finally {
      people.destroy();
    }
  });

  it('deletes cleared counters, but not those that were incremented since or belong to other namespaces', async () => {
    const [here, there] = await two();
    const people = await createClient({ url: redis.url }).connect();
    try {
      const kept = new Set([`${name}*`, `${name}:`]);
      const engine = await nodeOf(redis.url);
      for (const other of kept) await engine.namespace(other).increment('n');
      for (let round = 0; round < 10; round += 1) {
        await Promise.all(Array.from({ length: 100 }, (_, at) => here.increment(`n${at}`)));
        await here.clear();
      }
      expect(await here.increment('n0', 5)).toBe(5);
      await until(async () => (await people.keys(`cache:n:{${name}:*`)).length === 1);
      expect(await there.increment('n0')).toBe(6);
      for (const other of kept) expect(await engine.namespace(other).increment('n')).toBe(2);
    } finally {
      people.destroy();
    }
  });

  it('extends the versions of tags and namespaces in Redis while their entries are used', async () => {
    const day = 24 * 3_600_000;
    const [here] = await two();
    const people = await createClient({ url: redis.url }).connect();
    try {
      await here.set('k', 1, { tags: ['t'] });
      const [ofTag, ofNamespace] = [`cache:t:{${name}:t}`, `cache:t:{${name}:}`];
      expect(await people.pExpire(ofTag, 100 * day)).toBe(1);
      expect(await people.pExpire(ofNamespace, 300 * day)).toBe(1);
      const there = (await nodeOf(redis.url)).namespace<unknown>(name);
      expect(await there.get('k')).toBe(1);
      expect(await people.pTTL(ofTag)).toBeGreaterThan(364 * day);
      // Not on every read.
      expect(await people.pTTL(ofNamespace)).toBeLessThanOrEqual(300 * day);
      await people.pExpire(ofNamespace, 100 * day);
      await until(async () => {
        await there.set('other', 1);
        return (await people.pTTL(ofNamespace)) > 364 * day;
      });
    } finally {
      people.destroy();
    }
  });

  it('reads the versions of tags and namespaces from Redis once a week, even if it knows them', async () => {
    const people = await createClient({ url: redis.url }).connect();
    jest.useFakeTimers({
      doNotFake: ['Date', 'performance', 'hrtime', 'nextTick', 'queueMicrotask', 'setImmediate', 'setTimeout'],
    });
    try {
      // The timers of the heartbeats are faked, so the silence that is allowed must outlast the test.
      const engine = await nodeOf(redis.url, { silenceMs: 600_000 });
      const space = engine.namespace<unknown>(name);
      await space.set('k', 1, { tags: ['t'] });
      await warm(space, 'k');
      const asked = async (): Promise<number> => {
        await people.configResetStat();
        await until(async () => (await space.find('k'))?.tier === 'l1');
        return Number(/cmdstat_evalsha:calls=(\d+)/.exec(await people.info('commandstats'))?.[1] ?? 0);
      };
      expect(await asked()).toBe(0);
      jest.advanceTimersByTime(7 * 24 * 3_600_000);
      expect(await asked()).toBe(2);
      expect(await asked()).toBe(0);
    } finally {
      jest.useRealTimers();
      people.destroy();
    }
  });

  it('loads once for concurrent reads in several processes', async () => {
    const [here, there] = await two();
    let asked = 0;
    const answer = Promise.withResolvers<void>();
    const load = async (): Promise<number> => {
      asked += 1;
      await answer.promise;
      return 1;
    };
    const asking = [here, there, here, there].map((it) => it.getOrSet('k', load));
    await until(() => asked > 0);
    await sleep(100);
    answer.resolve();
    expect(await Promise.all(asking)).toEqual([1, 1, 1, 1]);
    expect(asked).toBe(1);
  });

  it('takes over the load of a process that has stopped, whose late value is not kept', async () => {
    const [here, there] = await two();
    const late = Promise.withResolvers<number>();
    let asked = 0;
    const dying = here.getOrSet('k', () => {
      asked += 1;
      return late.promise;
    });
    await until(() => asked > 0);
    // It no longer renews its lease, which is all that others notice.
    open[0]!.stop();
    expect(await there.getOrSet('k', () => 2)).toBe(2);
    late.resolve(1);
    expect(await dying).toBe(1);
    expect(await there.get('k')).toBe(2);
  });

  it('takes over the load of a process that is cut off from Redis, and rejects its late value', async () => {
    await throughProxy({}, async ({ proxy, engine, here, there }) => {
      const late = Promise.withResolvers<number>();
      let asked = 0;
      const cutOff = there.getOrSet('k', () => {
        asked += 1;
        return late.promise;
      });
      await until(() => asked > 0);
      proxy.freeze();
      expect(await here.getOrSet('k', () => 2)).toBe(2);
      late.resolve(1);
      // It has not been notified of anything when it sends the value that it has loaded.
      await sleep(100);
      proxy.thaw();
      expect(await cutOff).toBe(1);
      expect(engine.statistics.fillsRefused).toBe(1);
      expect(await here.get('k')).toBe(2);
      expect((await here.compareAndSet('k', null, 3)).isWritten).toBe(false);
      await until(async () => (await there.get('k')) === 2);
    });
  });

  it('gives no later caller what was being loaded when another process deleted the key, though nothing was kept there', async () => {
    const silenceMs = 1_500;
    const here = (await nodeOf(redis.url)).namespace<unknown>(name);
    const there = (await nodeOf(redis.url, { silenceMs })).namespace<unknown>(name);
    // Redis reports what is new as changed.
    await toldAll(here, there);
    const late = Promise.withResolvers<number>();
    const load = jest.fn(() => late.promise);
    const first = there.getOrSet('k', load);
    await until(() => load.mock.calls.length > 0);
    // Others join it for as long as nothing has happened, however long it takes.
    await sleep(2 * silenceMs);
    const joined = there.getOrSet('k', load);
    await here.delete('k');
    await sleep(silenceMs + 50);
    const later = there.getOrSet('k', () => 2);
    expect(await Promise.race([later, sleep(30_000, undefined, { ref: false })])).toBe(2);
    late.resolve(1);
    expect([await first, await joined]).toEqual([1, 1]);
    expect(load).toHaveBeenCalledTimes(1);
    expect(await there.get('k')).toBe(2);
  });

  it('gives no later caller what was being loaded when it was invalidated unheard', async () => {
    const silenceMs = 400;
    await throughProxy({ silenceMs, deadlineMs: 200 }, async ({ proxy, here, there }) => {
      const late = Promise.withResolvers<number>();
      const load = jest.fn(() => late.promise);
      // Redis reports what is new as changed.
      await there.set('other', 1, { tags: ['t'] });
      await toldAll(here, there);
      const first = there.getOrSet('k', load, { tags: ['t'] });
      await until(() => load.mock.calls.length > 0);
      proxy.freeze();
      await here.invalidateTags('t');
      await sleep(silenceMs + 50);
      const later = there.getOrSet('k', () => 2, { tags: ['t'] });
      expect(await Promise.race([later, sleep(30_000, undefined, { ref: false })])).toBe(2);
      proxy.thaw();
      late.resolve(1);
      expect(await first).toBe(1);
    });
  });

  it('does not keep a value in the process that was invalidated while it was read from Redis', async () => {
    await throughProxy({}, async ({ proxy, engine, here, there }) => {
      await here.set('k', 1);
      await there.get('other');
      proxy.holdBack('MGET');
      const reading = there.get('k');
      const refused = engine.statistics.l1.promotionsRefused;
      await sleep(50);
      await here.set('k', 2);
      await sleep(200);
      proxy.thaw();
      // It was requested before the other value was written.
      expect([1, 2]).toContain(await reading);
      expect(engine.statistics.l1.promotionsRefused).toBe(refused + 1);
      expect(await there.get('k')).toBe(2);
    });
  });

  it.each([
    ['cleared', (space: Namespace<unknown>) => space.clear()],
    ['invalidated by tag', (space: Namespace<unknown>) => space.invalidateTags('t')],
  ])(
    'lets one process win a compareAndSet, even before the other is notified that entries were %s',
    async (_, change) => {
      await throughProxy({}, async ({ proxy, here, there }) => {
        await there.set('k', 1, { tags: ['t'] });
        await warm(there, 'k');
        // Notifications come over the same connection.
        proxy.holdBack('TIME');
        await until(() => proxy.holdsBack);
        await change(here);
        expect(await there.get('k')).toBe(1);
        const lock = (space: Namespace<unknown>) => space.compareAndSet('lock', null, 1, { tags: ['t'] });
        expect(await lock(there)).toMatchObject({ isWritten: true });
        expect(await lock(here)).toMatchObject({ isWritten: false });
        proxy.thaw();
      });
    },
  );

  interface Seen {
    old: string;
    written: string;
  }
  it.each([
    [
      'deletes a value that was written since',
      (there: Namespace<unknown>, { written }: Seen) => there.compareAndDelete('k', written),
      { isDeleted: true },
    ],
    [
      'overwrites a value that was written since',
      (there: Namespace<unknown>, { written }: Seen) => there.compareAndSet('k', written, 3),
      { isWritten: true },
    ],
    [
      'does not treat a value that was written since as absent',
      (there: Namespace<unknown>) => there.compareAndSet('k', null, 3),
      { isWritten: false },
    ],
    [
      'does not overwrite a value that was invalidated',
      (there: Namespace<unknown>, { old }: Seen) => there.compareAndSet('old', old, 3),
      { isWritten: false, version: null },
    ],
  ])('%s, even before it is notified of the invalidation', async (_, change, outcome) => {
    await throughProxy({}, async ({ proxy, here, there }) => {
      const { version: old } = await there.set('old', 1, { tags: ['t'] });
      await warm(there, 'old');
      // Notifications come over the same connection.
      proxy.holdBack('TIME');
      await until(() => proxy.holdsBack);
      await here.invalidateTags('t');
      const { version: written } = await here.set('k', 2, { tags: ['t'] });
      expect(await change(there, { old, written })).toMatchObject(outcome);
      proxy.thaw();
    });
  });

  it('deletes a value that was written after a clear, even before it is notified of the clear', async () => {
    await throughProxy({}, async ({ proxy, here, there }) => {
      await toldAll(here, there);
      proxy.holdBack('TIME');
      await until(() => proxy.holdsBack);
      await here.clear();
      const { version } = await here.set('k', 1);
      expect(await there.compareAndDelete('k', version)).toEqual({ isDeleted: true });
      proxy.thaw();
    });
  });

  it('refreshes an entry from Redis early, once and in the background', async () => {
    const [here, there] = await two();
    await here.getOrSet('k', () => 1, { ttl: 60_000 });
    const next = Promise.withResolvers<number>();
    const load = jest.fn(() => next.promise);
    const asking = (): Promise<unknown> => there.getOrSet('k', load, { ttl: 60_000, refreshBefore: 120_000 });
    expect(await Promise.all(Array.from({ length: 20 }, asking))).toEqual(Array.from({ length: 20 }, () => 1));
    await until(() => load.mock.calls.length > 0);
    expect(await asking()).toBe(1);
    next.resolve(2);
    await until(async () => (await here.get('k')) === 2);
    expect(load).toHaveBeenCalledTimes(1);
  });

  it('attempts a failing early refresh once, even if no entry stays in the process', async () => {
    const here = (await nodeOf(redis.url)).namespace<unknown>(name);
    const engine = await nodeOf(redis.url, {}, 1);
    const there = engine.namespace<unknown>(name);
    await here.getOrSet('k', () => 1, { ttl: 60_000 });
    const next = Promise.withResolvers<number>();
    const load = jest.fn(() => next.promise);
    const asking = (): Promise<unknown> => there.getOrSet('k', load, { ttl: 60_000, refreshBefore: 120_000 });
    for (let times = 0; times < 20; times += 1) expect(await asking()).toBe(1);
    await until(() => load.mock.calls.length > 0);
    next.reject(new Error('the source fails'));
    await sleep(500);
    expect(await asking()).toBe(1);
    expect(load).toHaveBeenCalledTimes(1);
  });

  it('restarts counters after a clear, even before it is notified of it', async () => {
    await throughProxy({}, async ({ proxy, here, there }) => {
      // From here on, that process knows the version of the namespace by which its counters are named.
      await toldAll(here, there);
      expect(await there.increment('n', 5)).toBe(5);
      // Notifications come over the same connection.
      proxy.holdBack('TIME');
      await until(() => proxy.holdsBack);
      await here.clear();
      expect(await here.increment('n')).toBe(1);
      expect(await there.increment('n')).toBe(2);
      proxy.thaw();
    });
  });

  it('serves values from the process only as stale after Redis has been silent for too long', async () => {
    const deadlineMs = 300;
    await throughProxy({ silenceMs: 900, deadlineMs }, async ({ proxy, here, there }) => {
      await here.set('k', 1, { ttl: 60_000 });
      await toldAll(here, there);
      await warm(there, 'k');
      proxy.freeze();
      await here.set('k', 2, { ttl: 60_000 });
      await until(async () => (await there.find('k'))?.isStale === true);
      // Without a stale value, it fails in time, and does not load again for every caller.
      await expect(there.get('k')).rejects.toBeInstanceOf(CacheUnavailable);
      expect(await there.getOrSet('k', async () => 3)).toBe(3);
      expect(await there.getOrSet('k', () => Promise.reject(new Error('away too')))).toBe(1);
      const startedAt = performance.now();
      for (let asked = 0; asked < 20; asked += 1)
        await expect(there.find('unknown')).rejects.toBeInstanceOf(CacheUnavailable);
      expect(performance.now() - startedAt).toBeLessThan(20 * deadlineMs);
      expect(await there.getOrSet('unknown', () => 3)).toBe(3);
      proxy.thaw();
      await until(async () => (await there.get('k').catch(() => undefined)) === 2);
    });
  });

  it.each(['clear', 'invalidateTags'] as const)('serves no write that arrives late, after %s', async (change) => {
    const people = await createClient({ url: redis.url }).connect();
    const stored = async (): Promise<string> => (await people.get(`cache:e:{${name}:k}`)) ?? '';
    try {
      await throughProxy({ deadlineMs: 2_000 }, async ({ proxy, here, there }) => {
        await here.set('k', 'first', { tags: ['t'] });
        // From here on, that process knows the versions of the namespace and of the tag, so it writes with one call.
        await toldAll(here, there);
        await warm(there, 'k');
        proxy.freeze();
        await expect(there.set('k', 'late', { tags: ['t'] })).rejects.toBeInstanceOf(CacheUnavailable);
        await here[change]('t');
        // It also deletes in the background what is there, and must not meet the late write.
        if (change === 'clear') await until(async () => (await stored()) === '');
        proxy.thaw();
        await until(async () => (await stored()).includes('late'));
        expect(await here.get('k')).toBeUndefined();
      });
    } finally {
      people.destroy();
    }
  });

  it.each([1_001, 4_000])('serves no old value after its event loop was blocked for %d ms', async (blockedMs) => {
    const silenceMs = 1_000;
    const engine = await nodeOf(redis.url, { silenceMs });
    const space = engine.namespace<unknown>(name);
    await space.set('k', 1);
    await warm(space, 'k');
    // Another process deletes the key, and this one can hear of nothing until it goes on.
    const script = `
      const redis = require('node:net').connect(${redis.port}, '127.0.0.1');
      redis.write('DEL cache:e:{${name}:k}\\r\\n');
      redis.on('data', (reply) => redis.end(() => process.stdout.write(reply)));`;
    expect(String(execFileSync(process.execPath, ['-e', script]))).toBe(':1\r\n');
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, blockedMs);
    expect(engine.isL1Used).toBe(false);
    // After the longer one, its connections count as silent and are opened anew.
    await until(async () => {
      const value = await space.get('k').catch(() => 'unavailable');
      expect(value).not.toBe(1);
      return value === undefined;
    });
  });

  it('serves no old value as fresh after its connection was lost for a short time', async () => {
    await throughProxy({}, async ({ proxy, engine, here, there }) => {
      await here.set('k', 1);
      await toldAll(here, there);
      await warm(there, 'k');
      proxy.down();
      await until(() => !engine.isL1Used);
      await here.set('k', 2);
      expect(await there.find('k')).toMatchObject({ value: 1, isStale: true });
      proxy.up();
      await until(() => engine.isL1Used);
      await until(async () => {
        const found = await there.find('k').catch(() => undefined);
        if (found && !found.isStale && found.value !== 2) throw new Error('an old value was given out as fresh');
        return found?.value === 2;
      });
    });
  });

  it.each([
    ['cleared', (space: Namespace<unknown>) => space.clear()],
    ['invalidated by tag', (space: Namespace<unknown>) => space.invalidateTags('t')],
  ])('does not serve a value as stale that was %s after Redis had lost its data', async (_, change) => {
    const port = await freePort();
    let own = await startRedis({ port });
    try {
      const engines = [await nodeOf(own.url), await nodeOf(own.url)];
      const [here, there] = engines.map((it) => it.namespace<unknown>(name));
      const other = randomUUID();
      const [otherHere, otherThere] = engines.map((it) => it.namespace<unknown>(other));
      await here!.set('k', 'old', { tags: ['t'] });
      await warm(there!, 'k');
      const away = async (): Promise<void> => {
        await own.kill();
        await until(() => engines.every((it) => !it.isL1Used));
      };
      await away();
      expect(await there!.find('k')).toMatchObject({ value: 'old', isStale: true });
      own = await startRedis({ port });
      await until(() => engines.every((it) => it.isL1Used));
      for (const space of [otherHere!, otherThere!]) await until(() => space.set('k', 1).then(Boolean, () => false));
      await change(here!);
      await toldAll(otherHere!, otherThere!);
      const people = await createClient({ url: own.url }).connect();
      expect(await people.keys(`cache:t:{${name}:*`)).toEqual([]);
      people.destroy();
      await away();
      await expect(there!.find('k')).rejects.toBeInstanceOf(CacheUnavailable);
    } finally {
      await own.stop();
    }
  });

  it.each(['deadlineMs', 'silenceMs'])('rejects an invalid %s', (limit) => {
    for (const ms of [Number.NaN, 0, -1, 2 ** 31, Number.POSITIVE_INFINITY])
      expect(() => new CacheEngine({ redis: { url: redis.url, [limit]: ms } })).toThrow(
        `redis.${limit} is ${ms}; it must be a number of milliseconds from 1 to 2147483647`,
      );
  });

  it('loads in time while Redis is suspended, and recovers by itself', async () => {
    const own = await startRedis();
    try {
      const engine = await nodeOf(own.url, { silenceMs: 300, deadlineMs: 100 });
      const space = engine.namespace<unknown>(name);
      await space.set('k', 1);
      process.kill(own.pid, 'SIGSTOP');
      await until(() => !engine.isL1Used);
      const work = Array.from({ length: 200 }, (_, at) => space.getOrSet(`load ${at}`, () => at));
      expect(await Promise.all(work)).toEqual(work.map((_, at) => at));
      await expect(space.set('k', 2)).rejects.toBeInstanceOf(CacheUnavailable);
      process.kill(own.pid, 'SIGCONT');
      await until(() =>
        space.set('k', 3).then(
          () => true,
          () => false,
        ),
      );
      expect(await space.get('k')).toBe(3);
      await warm(space, 'k');
    } finally {
      process.kill(own.pid, 'SIGCONT');
      await own.stop();
    }
  });

  it('refuses calls at once if too many are unanswered', async () => {
    const own = await startRedis();
    try {
      // Long enough for the test to end before any call is late.
      const space = (await nodeOf(own.url, { deadlineMs: 60_000 })).namespace<unknown>(name);
      await space.increment('n', 0);
      process.kill(own.pid, 'SIGSTOP');
      let refused = 0;
      const calls = Array.from({ length: 20_100 }, () => space.increment('n').catch(() => (refused += 1)));
      await until(() => refused > 0);
      process.kill(own.pid, 'SIGCONT');
      await Promise.all(calls);
      expect(await space.increment('n', 0)).toBeGreaterThanOrEqual(calls.length - refused);
    } finally {
      process.kill(own.pid, 'SIGCONT');
      await own.stop();
    }
  });

  it('closes its circuit breaker again even if the clock is set back', async () => {
    await throughProxy({ deadlineMs: 300 }, async ({ proxy, there }) => {
      proxy.down();
      // Waits until the circuit is open.
      const isBroken = ({ cause }: Error): boolean => cause instanceof BrokenCircuitError;
      await until(() => there.set('k', 1).then(() => false, isBroken));
      const { now } = Date;
      const clock = jest.spyOn(Date, 'now').mockImplementation(() => now() - 3_600_000);
      try {
        proxy.up();
        await until(() => there.set('k', 2).then(Boolean, () => false));
      } finally {
        clock.mockRestore();
      }
    });
  });

  it('replaces a half-open connection even if commands are still sent over it', async () => {
    await throughProxy({ deadlineMs: 100, silenceMs: 1_000 }, async ({ proxy, there }) => {
      await there.set('k', 1);
      proxy.strand();
      await expect(there.set('k', 2)).rejects.toBeInstanceOf(CacheUnavailable);
      await until(() => there.set('k', 3).then(Boolean, () => false));
    });
  });

  it('does not execute commands later that timed out during the first connection attempt', async () => {
    const own = await startRedis();
    const people = await createClient({ url: own.url }).connect();
    const engine = new CacheEngine({ redis: { url: own.url }, complain: () => undefined });
    open.push(engine);
    const space = engine.namespace<number>(name);
    try {
      process.kill(own.pid, 'SIGSTOP');
      engine.start();
      await expect(space.set('k', 1)).rejects.toBeInstanceOf(CacheUnavailable);
      await expect(space.increment('n')).rejects.toBeInstanceOf(CacheUnavailable);
      process.kill(own.pid, 'SIGCONT');
      await until(() =>
        engine.ping().then(
          () => true,
          () => false,
        ),
      );
      await sleep(300);
      expect(await people.keys('*')).toEqual([]);
    } finally {
      process.kill(own.pid, 'SIGCONT');
      people.destroy();
      await own.stop();
    }
  });

  it('uses Redis from the first call on, and may be started twice', async () => {
    const engine = new CacheEngine({ redis: { url: redis.url, deadlineMs: 5_000 } }).start().start();
    open.push(engine);
    const space = engine.namespace<number>(name);
    await space.set('k', 1);
    expect(await space.getOrSet('loaded', () => 2)).toBe(2);
    expect([...(await space.getMany(['k', 'loaded']))].map(([, { value }]) => value)).toEqual([1, 2]);
  });

  it.each([-3_600_000, 3_600_000])('keeps times by the clock of Redis from the first call, %d ms away', async (ms) => {
    const people = await createClient({ url: redis.url }).connect();
    // This user is not told of invalidations. For others, that connection may happen to learn the time first.
    await people.sendCommand(['ACL', 'SETUSER', 'unheard', 'on', '>secret', '~*', '+@all', '-role']);
    const now = Date.now;
    const clock = jest.spyOn(Date, 'now').mockImplementation(() => now() + ms);
    try {
      const url = redis.url.replace('//', '//unheard:secret@');
      const engine = new CacheEngine({ redis: { url, deadlineMs: 5_000 }, complain: () => undefined }).start();
      open.push(engine);
      const { expiresAt } = await engine.namespace<number>(name).set('k', 1, { ttl: 60_000, grace: 7_200_000 });
      expect(Math.abs(expiresAt! - now())).toBeLessThan(600_000);
    } finally {
      clock.mockRestore();
      people.destroy();
    }
  });

  it('keeps times by the clock of Redis if the first connection is lost before it is known', async () => {
    const people = await createClient({ url: redis.url }).connect();
    await people.sendCommand(['ACL', 'SETUSER', 'unheard', 'on', '>secret', '~*', '+@all', '-role']);
    const proxy = await RedisProxy.start(redis.port);
    const now = Date.now;
    const clock = jest.spyOn(Date, 'now').mockImplementation(() => now() + 3_600_000);
    try {
      await people.configResetStat();
      proxy.holdBack('TIME');
      const url = proxy.url.replace('//', '//unheard:secret@');
      const engine = new CacheEngine({ redis: { url, deadlineMs: 5_000 }, complain: () => undefined }).start();
      open.push(engine);
      await until(async () => (await people.info('commandstats')).includes('cmdstat_time'));
      proxy.down();
      proxy.up();
      await until(() =>
        engine.ping().then(
          () => true,
          () => false,
        ),
      );
      const { expiresAt } = await engine.namespace<number>(name).set('k', 1, { ttl: 60_000 });
      expect(Math.abs(expiresAt! - now())).toBeLessThan(600_000);
    } finally {
      clock.mockRestore();
      await proxy.stop();
      people.destroy();
    }
  });

  it('backs off while each connection ends at once, and recovers afterwards', async () => {
    const own = await startRedis();
    try {
      const space = (await nodeOf(own.url)).namespace<number>(name);
      // Two connections, for commands and for tracking, are made four times a second each, and occasionally once more.
      expect(await cutOff(own)).toBeLessThan(16);
      await until(() => space.set('k', 1).then(Boolean, () => false));
      await warm(space, 'k');
    } finally {
      await own.stop();
    }
  });

  it('reports once for each namespace, and without the value, that one cannot be decoded, however often it is read', async () => {
    const complaints: string[] = [];
    const complain = (message: string): number => complaints.push(message);
    const engine = new CacheEngine({
      redis: { url: redis.url, deadlineMs: 5_000, silenceMs: 60_000 },
      complain,
    }).start();
    open.push(engine);
    const writer = await nodeOf(redis.url);
    const names = [name, `${name} too`];
    for (const it of names)
      await writer.namespace<string>(it, { codec: textCodec }).set('k', '{"mail":ann@example.com}');
    for (let reads = 0; reads < 10; reads += 1)
      for (const it of names) expect(await engine.namespace(it).get('k')).toBeUndefined();
    expect(complaints).toEqual(names.map((it) => `a value of ${it} cannot be decoded: SyntaxError`));
  });

  it('reports that it was not started', async () => {
    const complaints: string[] = [];
    const engine = new CacheEngine({ redis: { url: redis.url }, complain: (it) => complaints.push(it) });
    const space = engine.namespace<number>(name);
    for (const value of [1, 2]) expect(await space.getOrSet('k', () => value)).toBe(value);
    expect(complaints).toEqual([expect.stringContaining('call start()')]);
  });

  it('reports no failure of Redis when it is stopped', async () => {
    const complaints: string[] = [];
    for (let time = 0; time < 20; time += 1) {
      const limits = { silenceMs: 4 + time };
      const complain = (message: string) => complaints.push(message);
      const engine = new CacheEngine({ redis: { url: redis.url, ...limits }, complain }).start();
      await until(() =>
        engine.ping().then(
          () => true,
          () => false,
        ),
      );
      await sleep(time);
      complaints.length = 0;
      engine.stop();
      await sleep(5);
      expect(complaints).toEqual([]);
    }
  });

  it('reports that Redis rejects a command, and loads without it', async () => {
    const own = await startRedis();
    const people = await createClient({ url: own.url }).connect();
    const complaints: string[] = [];
    const complain = (message: string) => complaints.push(message);
    const engine = new CacheEngine({ redis: { url: own.url, deadlineMs: 5_000 }, complain }).start();
    open.push(engine);
    try {
      await until(() => engine.isL1Used);
      const space = engine.namespace<number>(name);
      await people.configSet('maxmemory', '1');
      for (let asked = 0; asked < 3; asked += 1) expect(await space.getOrSet('k', () => asked)).toBe(asked);
      await expect(space.set('k', 1)).rejects.toBeInstanceOf(CacheUnavailable);
      expect(complaints).toEqual([expect.stringMatching(/^Redis rejected a command: .*OOM/)]);
      await people.configSet('maxmemory', '0');
      await space.set('k', 1);
      expect(await space.get('k')).toBe(1);
    } finally {
      people.destroy();
      await own.stop();
    }
  });

  it('reads and invalidates while Redis is full, and serves no old value in place of a rejected write', async () => {
    const own = await startRedis();
    const people = await createClient({ url: own.url }).connect();
    const memory = async (): Promise<number> => Number(/used_memory:(\d+)/.exec(await people.info('memory'))![1]);
    try {
      const engine = await nodeOf(own.url);
      const here = engine.namespace<unknown>(name);
      const there = (await nodeOf(own.url)).namespace<unknown>(name);
      const either = [here, there];
      for (const key of ['kept', 'over', 'gone']) await here.set(key, 'old');
      await here.set('tagged', 'old', { tags: ['t'] });
      const large = 'x'.repeat(50_000);
      const more = (of: string) => here.setMany(Array.from({ length: 20 }, (_, at) => [`${of} ${at}`, large]));
      for (const page of ['a', 'b', 'c', 'd']) await more(page);
      const full = await memory();
      await people.configSet('maxmemory', String(full - 2 ** 20));
      for (const key of ['kept', 'over', 'gone', 'tagged']) await warm(there, key);

      await expect(here.set('over', 'new')).rejects.toBeInstanceOf(CacheUnavailable);
      await here.delete('gone');
      await here.invalidateTags('t', 'nobody has it');
      for (const space of either)
        for (const key of ['over', 'gone', 'tagged']) await until(async () => (await space.get(key)) === undefined);
      expect(await there.get('kept')).toBe('old');
      expect(await here.getOrSet('gone', () => 'loaded')).toBe('loaded');
      for (const refused of [
        () => here.compareAndSet('kept', anyVersion, 'new'),
        () => here.increment('n'),
        () => here.findOrLease('gone', 1_000),
      ])
        await expect(refused()).rejects.toBeInstanceOf(CacheUnavailable);
      expect(await there.get('kept')).toBe('old');
      // Refused writes do not fill it further.
      for (let time = 0; time < 20; time += 1) {
        await expect(more(`more ${time}`)).rejects.toBeInstanceOf(CacheUnavailable);
        await here.invalidateTags('t', `nobody has ${time}`);
      }
      expect(await memory()).toBeLessThan(full + 2 ** 20);

      await here.clear();
      for (const space of either) await until(async () => (await space.get('kept')) === undefined);
      // What was cleared is deleted, which makes room.
      await until(() =>
        here.set('kept', 'new').then(
          () => true,
          () => false,
        ),
      );
      expect(await here.get('kept')).toBe('new');
    } finally {
      people.destroy();
      await own.stop();
    }
  });

  it('protects an entry that is read only in the process from LRU eviction in Redis', async () => {
    const own = await startRedis();
    const people = await createClient({ url: own.url }).connect();
    try {
      const engine = await nodeOf(own.url);
      const space = engine.namespace<unknown>(name);
      await people.configSet('maxmemory-policy', 'allkeys-lru');
      const used = Number(/used_memory:(\d+)/.exec(await people.info('memory'))![1]);
      await people.configSet('maxmemory', String(used + 2 ** 22));
      await space.set('kept', 'kept', { tags: ['t'] });
      await warm(space, 'kept');
      const [large, startedAt] = ['x'.repeat(5_000), performance.now()];
      // The amount that fits is rewritten every three seconds.
      for (let page = 0; performance.now() < startedAt + 12_000; page += 1) {
        await space.setMany(Array.from({ length: 20 }, (_, at) => [`${page} ${at}`, large]));
        for (let read = 0; read < 200; read += 1) await space.get('kept');
        // The tag that it was kept under has not been evicted either.
        if (page >= 10) expect(await space.get(`${page - 10} 0`)).toBe(large);
        await sleep(Math.max(0, startedAt + 80 * page - performance.now()));
      }
      expect(Number(/evicted_keys:(\d+)/.exec(await people.info('stats'))![1])).toBeGreaterThan(1_000);
      expect(await space.get('kept')).toBe('kept');
    } finally {
      people.destroy();
      await own.stop();
    }
  });

  it('keeps touching the version of a namespace in Redis while many new tags become known', async () => {
    const people = await createClient({ url: redis.url }).connect();
    const engine = await nodeOf(redis.url);
    const space = engine.namespace<unknown>(name);
    let isOver = false;
    const learn = async (): Promise<void> => {
      for (let round = 0; !isOver; round += 1) {
        const tags = Array.from({ length: 200 }, (_, at) => `${round} ${at}`);
        // A new tag is forgotten again, because Redis reports it as changed.
        for (const value of [1, 2]) {
          await space.set('other', value, { tags });
          await sleep(50);
        }
      }
    };
    try {
      await space.set('k', 1);
      await warm(space, 'k');
      const idleSeconds = sleep(6_000).then(() => {
        isOver = true;
        return people.objectIdleTime(`cache:t:{${name}:}`);
      });
      await Promise.all([learn(), idleSeconds]);
      expect(await idleSeconds).toBeLessThan(3);
    } finally {
      people.destroy();
    }
  });

  it('touches 60,000 tags in Redis at a rate that covers all of them in 30 seconds', async () => {
    const own = await startRedis();
    const people = await createClient({ url: own.url }).connect();
    try {
      const engine = new CacheEngine({
        redis: { url: own.url, deadlineMs: 5_000, silenceMs: 5_000 },
        maxBytes: 2 ** 28,
      });
      open.push(engine.start());
      await until(() => engine.isL1Used);
      const space = engine.namespace<unknown>(name);
      const tags = Array.from({ length: 60_000 }, (_, at) => `t ${at}`);
      // A new tag is forgotten again, because Redis reports it as changed.
      for (const value of [1, 2]) await space.set('k', value, { tags });
      await people.sendCommand(['CONFIG', 'RESETSTAT']);
      await sleep(4_500);
      const [, calls] = /cmdstat_touch:calls=(\d+)/.exec(await people.info('commandstats'))!;
      // Each call touches 512 keys.
      expect(Number(calls) * 512).toBeGreaterThan((tags.length / 30) * 3);
    } finally {
      people.destroy();
      await own.stop();
    }
  });

  it('switches from a demoted master to the new one', async () => {
    const [first, second] = [await startRedis(), await startRedis()];
    const proxy = await RedisProxy.start(first.port);
    try {
      const engine = await nodeOf(proxy.url, { silenceMs: 1_000 });
      const space = engine.namespace<number>(name);
      await space.set('k', 1);
      const people = await createClient({ url: first.url }).connect();
      await people.sendCommand(['REPLICAOF', '127.0.0.1', String(second.port)]);
      people.destroy();
      proxy.port = second.port;
      // Before it hears from the new master, it writes with a version of the namespace that the new master may not know:
      // such a value counts as invalidated. So it writes until it serves what it wrote.
      await until(async () => {
        await space.set('k', 2).catch(() => undefined);
        await space.get('k').catch(() => undefined);
        const found = await space.find('k').catch(() => undefined);
        return found?.tier === 'l1' && found.value === 2;
      });
    } finally {
      await proxy.stop();
      await Promise.all([first.stop(), second.stop()]);
    }
  });

  it('switches to the new master even if the address leads to the demoted one for a while', async () => {
    const [first, second] = [await startRedis(), await startRedis()];
    const proxy = await RedisProxy.start(first.port);
    const people = await createClient({ url: first.url }).connect();
    /** Whether it tracks changes there, and how many other connections are used for commands there. */
    const connected = async (): Promise<{ listens: boolean; others: number }> => {
      const flags = (await people.clientList()).map((it) => it.flags);
      return { listens: flags.some((it) => it.includes('B')), others: flags.filter((it) => it === 'N').length - 1 };
    };
    try {
      const engine = await nodeOf(proxy.url, { silenceMs: 1_000 });
      const space = engine.namespace<number>(name);
      await people.sendCommand(['REPLICAOF', '127.0.0.1', String(second.port)]);
      // It no longer tracks changes at the old server, but has connected to it once more for commands.
      await until(async () => {
        const { listens, others } = await connected();
        return !listens && others === 1;
      });
      proxy.port = second.port;
      await until(() => engine.isL1Used);
      await until(() =>
        space.set('k', 2).then(
          () => true,
          () => false,
        ),
      );
      await warm(space, 'k');
    } finally {
      people.destroy();
      await proxy.stop();
      await Promise.all([first.stop(), second.stop()]);
    }
  });

  it('starts and loads without Redis, and uses it once it is available', async () => {
    const port = await freePort();
    const engine = new CacheEngine({ redis: { url: `redis://127.0.0.1:${port}` }, complain: () => undefined }).start();
    open.push(engine);
    const space = engine.namespace<number>(name);
    expect(await space.getOrSet('k', () => 1)).toBe(1);
    await expect(space.get('k')).rejects.toBeInstanceOf(CacheUnavailable);
    const own = await startRedis({ port });
    try {
      await until(() => engine.isL1Used);
      await until(async () => {
        await space.getOrSet('k', () => 2);
        return (await space.find('k').catch(() => undefined))?.value === 2;
      });
    } finally {
      await own.stop();
    }
  });
});

/** For each master, a key that is stored there. */
const keysOnEach = async (cluster: RedisCluster, name: string): Promise<string[]> => {
  const keys = cluster.servers.map(() => '');
  for (let count = 0; keys.includes(''); count += 1)
    for (const at of keys.keys())
      if (keys[at] === '' && (await cluster.isOn(at, `{${name}:k ${count}}`))) keys[at] = `k ${count}`;
  return keys;
};

describeRedis('a cache over a cluster of three masters', () => {
  let cluster: RedisCluster;
  beforeAll(async () => {
    cluster = await startRedisCluster();
  });
  afterAll(() => cluster?.stop());

  it('works from the first call on', async () => {
    const engine = new CacheEngine({ redis: { url: cluster.url, deadlineMs: 5_000 } }).start();
    open.push(engine);
    const space = engine.namespace<number>(randomUUID());
    await space.set('k', 1);
    expect(await space.get('k')).toBe(1);
  });

  it('stores, notifies, counts and clears on every master', async () => {
    const name = randomUUID();
    const keys = Array.from({ length: 60 }, (_, at) => `k ${at}`);
    const here = (await nodeOf(cluster.url)).namespace<unknown>(name);
    const there = (await nodeOf(cluster.url)).namespace<unknown>(name);
    await here.setMany(keys.map((key) => [key, key]));
    await here.increment('k');
    expect((await there.getMany(keys)).size).toBe(60);
    for (const key of keys) await warm(there, key);
    for (const key of keys) await here.set(key, 'new');
    await until(async () => [...(await there.getMany(keys)).values()].every(({ value }) => value === 'new'));
    await here.clear();
    expect((await here.getMany(keys)).size).toBe(0);
    await until(async () => (await there.getMany(keys)).size === 0);
    await until(async () => (await cluster.keys(`*:e:*${name}:k*`)).length === 0);
    expect(await here.increment('k')).toBe(1);
    let asked = 0;
    const load = (): number => (asked += 1);
    expect(await Promise.all([here, there].map((it) => it.getOrSet('k', load)))).toEqual([1, 1]);
    await here.delete(...keys);
    expect(await here.find('k')).toMatchObject({ value: 1 });
  });

  it('counts a read as failed if it fails for one of the keys on a master', async () => {
    const name = randomUUID();
    const [first] = await keysOnEach(cluster, name);
    let second = '';
    for (let count = 0; second === ''; count += 1)
      if (`other ${count}` !== first && (await cluster.isOn(0, `{${name}:other ${count}}`))) second = `other ${count}`;
    await (await nodeOf(cluster.url)).namespace<unknown>(name).set(first!, 1);
    // This user may read the first key only.
    const keys = [`~cache:e:{${name}:${first!.replace(' ', '?')}}`, '~cache:t:*'];
    for (const { url } of cluster.servers) {
      const people = await createClient({ url }).connect();
      await people.sendCommand(['ACL', 'SETUSER', 'partial', 'reset', 'on', '>secret', ...keys, '+@all']);
      people.destroy();
    }
    const engine = await nodeOf(cluster.url.replace('//', '//partial:secret@'));
    const space = engine.namespace<unknown>(name);
    const { unavailable: before } = engine.statistics;
    // Asked in one turn, so the master is asked once.
    const [one, other] = await Promise.allSettled([space.get(first!), space.get(second)]);
    expect([one, other]).toMatchObject([{ value: 1 }, { reason: expect.any(CacheUnavailable) }]);
    expect(engine.statistics.unavailable - before).toBe(1);
  });

  it('replaces what other clients wrote as another type, on every master', async () => {
    const space = (await nodeOf(cluster.url)).namespace<unknown>(randomUUID());
    for (const [at, key] of (await keysOnEach(cluster, space.name)).entries()) {
      const people = await createClient({ url: cluster.servers[at]!.url }).connect();
      const lists = async (): Promise<void> => {
        await people.del(`cache:e:{${space.name}:${key}}`);
        await people.rPush(`cache:e:{${space.name}:${key}}`, 'no entry');
      };
      try {
        await lists();
        expect(await space.getOrSet(key, () => 1)).toBe(1);
        await warm(space, key);
        await lists();
        expect(await space.compareAndSet(key, null, 2)).toMatchObject({ isWritten: true });
      } finally {
        people.destroy();
      }
    }
  });

  it('serves values from the process only as stale while any master is suspended, and recovers by itself', async () => {
    const silenceMs = 1_000;
    const engine = await nodeOf(cluster.url, { silenceMs, deadlineMs: 300 });
    const here = (await nodeOf(cluster.url)).namespace<unknown>(randomUUID());
    const there = engine.namespace<unknown>(here.name);
    const keys = await keysOnEach(cluster, here.name);
    for (const [at, { pid }] of cluster.servers.entries()) {
      for (const key of keys) {
        await until(() => here.set(key, at).then(Boolean, () => false));
        await warm(there, key);
      }
      process.kill(pid, 'SIGSTOP');
      try {
        await sleep(silenceMs + 50);
        expect(engine.isL1Used).toBe(false);
        for (const key of keys) {
          const found = await there.find(key).catch(() => undefined);
          // Either read from its master, or marked as stale.
          if (found?.tier === 'l1') expect(found.isStale).toBe(true);
        }
        expect(engine.isL1Used).toBe(false);
      } finally {
        process.kill(pid, 'SIGCONT');
      }
      await until(() => engine.isL1Used);
    }
  });

  it('writes and deletes a key while its slot migrates, and no old value comes back', async () => {
    const name = randomUUID();
    const here = (await nodeOf(cluster.url)).namespace<number>(name);
    const there = (await nodeOf(cluster.url)).namespace<number>(name);
    await here.set('k', 1);
    await warm(there, 'k');
    const old = Promise.withResolvers<number>();
    const end = await cluster.move(`{${name}:k}`);
    await here.set('k', 2, { ttl: 60_000 });
    expect(await here.find('k')).toMatchObject({ value: 2, expiresAt: expect.any(Number) });
    await until(async () => (await there.get('k')) === 2);
    await here.delete('k');
    expect(await here.get('k')).toBeUndefined();
    await until(async () => (await there.get('k')) === undefined);
    const load = jest.fn(() => old.promise);
    const loading = there.getOrSet('k', load);
    await until(() => load.mock.calls.length > 0);
    await here.set('k', 3);
    await end();
    old.resolve(2);
    expect(await loading).toBe(2);
    expect(await here.get('k')).toBe(3);
    await until(async () => (await there.get('k')) === 3);
    await here.delete('k');
    expect(await here.getOrSet('k', () => 4)).toBe(4);
  });

  it('invalidates by tag, clears and counts while the slots of the tag, the namespace and the counter migrate', async () => {
    const name = randomUUID();
    const here = (await nodeOf(cluster.url)).namespace<number>(name);
    const there = (await nodeOf(cluster.url)).namespace<number>(name);
    for (const [slot, change] of [
      ['t', () => here.invalidateTags('t')],
      ['', () => here.clear()],
    ] as const) {
      await here.set('k', 1, { tags: ['t'] });
      await warm(there, 'k');
      const end = await cluster.move(`{${name}:${slot}}`);
      await change();
      await until(async () => (await there.get('k')) === undefined);
      await here.set('k', 2, { tags: ['t'] });
      await end();
      expect(await there.get('k')).toBe(2);
    }
    expect(await here.increment('c')).toBe(1);
    const [counter] = await cluster.keys(`*:n:*${name}*`);
    const end = await cluster.move(counter!);
    expect(await here.increment('c')).toBe(2);
    await end();
    expect(await there.increment('c')).toBe(3);
  });

  it('does not execute a write to a migrating slot later that failed', async () => {
    const name = randomUUID();
    const here = (await nodeOf(cluster.url, { deadlineMs: 500 })).namespace<number>(name);
    const moved = `{${name}:k}`;
    await here.set('k', 1);
    const isThere = await Promise.all(cluster.servers.map((_, at) => cluster.isOn(at, moved)));
    const { pid } = cluster.servers[(isThere.indexOf(true) + 1) % isThere.length]!;
    const end = await cluster.move(moved);
    process.kill(pid, 'SIGSTOP');
    try {
      // A write first removes the lease, for which Redis redirects to the suspended target of the migration.
      await expect(here.set('k', 2)).rejects.toThrow(CacheUnavailable);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await sleep(300);
    await end();
    await until(async () => (await here.get('k').catch(() => undefined)) !== undefined);
    expect(await here.get('k')).toBe(1);
  });

  it('leaves no value under a key of a migrating slot if a full Redis rejects the write', async () => {
    const here = (await nodeOf(cluster.url)).namespace<number>(randomUUID());
    await here.set('k', 1);
    await warm(here, 'k');
    const people = await Promise.all(cluster.servers.map(({ url }) => createClient({ url }).connect()));
    const end = await cluster.move(`{${here.name}:k}`);
    try {
      await Promise.all(people.map((it) => it.configSet('maxmemory', '1')));
      await expect(here.set('k', 2)).rejects.toThrow('Redis rejects');
      expect(await here.find('k')).toBeUndefined();
    } finally {
      await Promise.all(people.map((it) => it.configSet('maxmemory', '0')));
      for (const it of people) it.destroy();
      await end();
    }
  });

  it('deletes keys while every master is full, whether or not they are stored', async () => {
    const here = (await nodeOf(cluster.url)).namespace<number>(randomUUID());
    await here.set('k', 1);
    const people = await Promise.all(cluster.servers.map(({ url }) => createClient({ url }).connect()));
    try {
      await Promise.all(people.map((it) => it.configSet('maxmemory', '1')));
      await here.delete('k', 'none');
      expect(await here.find('k')).toBeUndefined();
    } finally {
      await Promise.all(people.map((it) => it.configSet('maxmemory', '0')));
      for (const it of people) it.destroy();
    }
  });

  it('limits early refreshes of a key whose slot migrates, even if their values cannot be stored', async () => {
    const space = (await nodeOf(cluster.url)).namespace<number>(randomUUID(), { ttl: 60_000 });
    await space.set('k', 1);
    await warm(space, 'k');
    const end = await cluster.move(`{${space.name}:k}`);
    const load = jest.fn(() => 2);
    const startedAt = performance.now();
    for (let read = 0; read < 20; read += 1) {
      expect(await space.getOrSet('k', load, { refreshBefore: 60_000 })).toBe(1);
      await sleep(20);
    }
    await end();
    // One, and another one each second.
    expect(load.mock.calls.length).toBeLessThan(3 + Math.floor((performance.now() - startedAt) / 1_000));
  });

  it('grants a lease and overwrites a version in a migrating slot once the migration ends', async () => {
    const engine = await nodeOf(cluster.url);
    const [one, other] = [engine.namespace<number>(randomUUID()), engine.namespace<number>(randomUUID())];
    await other.set('k', 1);
    const ends = await Promise.all([one, other].map(({ name }) => cluster.move(`{${name}:k}`)));
    const leasing = one.findOrLease('k', 1_000);
    const writing = other.compareAndSet('k', anyVersion, 2);
    await sleep(100);
    for (const end of ends) await end();
    expect(await leasing).toEqual({ lease: expect.any(String) });
    expect(await writing).toMatchObject({ isWritten: true });
    expect(await other.get('k')).toBe(2);
  });

  it('backs off while one master ends each connection at once, and recovers afterwards', async () => {
    const own = await startRedisCluster();
    try {
      const space = (await nodeOf(own.url)).namespace<number>(randomUUID());
      expect(await cutOff(own.servers[0]!)).toBeLessThan(16);
      for (let key = 0; key < 30; key += 1) {
        await until(() => space.set(`k ${key}`, key).then(Boolean, () => false));
        await warm(space, `k ${key}`);
      }
    } finally {
      await own.stop();
    }
  });

  it('revokes a lease if its key is deleted while the slot migrates', async () => {
    const space = (await nodeOf(cluster.url)).namespace<number>(randomUUID());
    const leased = await space.findOrLease('k', 60_000);
    const lease = 'lease' in leased ? leased.lease! : '';
    const end = await cluster.move(`{${space.name}:k}`);
    await space.delete('k');
    await end();
    expect(await space.fillLeased('k', lease, 1)).toBeUndefined();
    expect(await space.get('k')).toBeUndefined();
  });

  it('hears of the deletion of a key that was left on another master when a migration was given up', async () => {
    const name = randomUUID();
    const here = (await nodeOf(cluster.url)).namespace<number>(name);
    const there = (await nodeOf(cluster.url)).namespace<number>(name);
    await here.set('k', 1);
    const migration = await cluster.move(`{${name}:k}`);
    await migration.moveKeys();
    await warm(there, 'k');
    await migration.giveUp();
    await here.delete('k');
    await until(async () => (await there.get('k')) === undefined);
  });

  it('hears of changes at a new master, also without reading any key that it has', async () => {
    const growing = await startRedisCluster({ spares: 1 });
    const people = await createClient({ url: growing.servers[3]!.url }).connect();
    try {
      const name = randomUUID();
      const here = (await nodeOf(growing.url)).namespace<number>(name);
      const there = (await nodeOf(growing.url)).namespace<number>(name);
      await here.set('k', 1);
      await warm(there, 'k');
      await (await growing.move(`{${name}:k}`, 3)).takeOver();
      await until(() =>
        here.set('k', 2).then(
          () => true,
          () => false,
        ),
      );
      // Both are told of changes.
      await until(async () => (await people.clientList()).filter((it) => it.flags.includes('B')).length === 2);
      await until(async () => (await there.find('k').catch(() => undefined))?.value === 2);
    } finally {
      people.destroy();
      await growing.stop();
    }
  });

  it('reports that it was given the address of a single master', async () => {
    const complaints: string[] = [];
    const complain = (message: string) => complaints.push(message);
    const redis = { url: cluster.servers[0]!.url, deadlineMs: 5_000 };
    const engine = new CacheEngine({ redis, complain }).start();
    open.push(engine);
    const space = engine.namespace<number>(randomUUID());
    expect(await Promise.all(Array.from({ length: 9 }, (_, at) => space.getOrSet(`k ${at}`, () => at)))).toHaveLength(
      9,
    );
    await until(() =>
      complaints.some((it) => it.endsWith('list two of its masters in redis.url, or its address twice')),
    );
  });

  it('serves other keys while a slot migrates to a master that is not known yet', async () => {
    const growing = await startRedisCluster({ spares: 1 });
    try {
      const space = (await nodeOf(growing.url)).namespace<number>(randomUUID());
      await space.set('other', 1);
      const end = await growing.move(`{${space.name}:k}`, 3);
      for (let asked = 0; asked < 10; asked += 1) await expect(space.get('k')).rejects.toThrow(CacheUnavailable);
      await space.set('other', 2);
      expect(await space.get('other')).toBe(2);
      await end();
      await until(async () => (await space.set('k', 3).catch(() => undefined)) !== undefined);
      expect(await space.get('k')).toBe(3);
    } finally {
      await growing.stop();
    }
  });

  it('keeps entries and counters on every master that were written after a clear', async () => {
    const name = randomUUID();
    const here = (await nodeOf(cluster.url)).namespace<number>(name);
    const there = (await nodeOf(cluster.url)).namespace<number>(name);
    await here.setMany(Array.from({ length: 3_000 }, (_, at) => [`old ${at}`, at] as const));
    await Promise.all(Array.from({ length: 30 }, (_, at) => here.increment(`old ${at}`)));
    await here.clear();
    const keys = Array.from({ length: 60 }, (_, at) => `k ${at}`);
    expect(await here.increment('k')).toBe(1);
    for (const key of keys) expect(await here.compareAndSet(key, null, 1)).toMatchObject({ isWritten: true });
    await until(async () => (await cluster.keys(`*:[en]:*${name}:*old*`)).length === 0);
    expect(await here.increment('k')).toBe(2);
    for (const key of keys) expect(await there.compareAndSet(key, null, 2)).toMatchObject({ isWritten: false });
  });
});
