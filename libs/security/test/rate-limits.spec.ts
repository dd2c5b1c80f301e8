import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { createClient } from '@redis/client';
import { RedisProxy, startRedis, type RedisServer } from '#testing';
import { RateLimits, type Rate } from '../src/rate-limits.js';

const limits: RateLimits[] = [];
const limited = (rate: Rate, redisUrl?: string): RateLimits => {
  const it = new RateLimits(rate, redisUrl);
  limits.push(it);
  return it;
};
afterEach(async () => {
  for (const it of limits.splice(0)) await it.close();
});

/** How many of this many concurrent requests are admitted. */
const through = async (by: RateLimits, who: string, requests: number): Promise<number> => {
  const standings = await Promise.all(Array.from({ length: requests }, async () => by.take(who)));
  return standings.filter((it) => !it.isRefused).length;
};

describe('a rate limit', () => {
  it('admits its number of requests per caller and window, at once or one by one', async () => {
    const by = limited({ requests: 40, perSeconds: 1 });
    expect(await through(by, 'one', 50)).toBe(40);
    expect(await by.take('one')).toMatchObject({ remaining: 0, isRefused: true });
    const { resetMs } = await by.take('one');
    expect(resetMs).toBeGreaterThan(0);
    expect(resetMs).toBeLessThanOrEqual(1_000);
    // The requests of another caller are counted separately.
    expect(await by.take('other')).toMatchObject({ remaining: 39, isRefused: false });
    await sleep(resetMs + 50);
    for (let sent = 0; sent < 40; sent += 1) expect((await by.take('one')).isRefused).toBe(false);
    expect((await by.take('one')).isRefused).toBe(true);
  });

  it('answers synchronously without Redis', async () => {
    const by = limited({ requests: 3, perSeconds: 60 });
    await by.take('one');
    expect(by.take('one')).toMatchObject({ remaining: 1, isRefused: false });
    expect(by.take('one')).toMatchObject({ remaining: 0, isRefused: false });
    expect(by.take('one')).toMatchObject({ remaining: 0, isRefused: true });
  });
});

describe('a rate limit shared over Redis', () => {
  let redis: RedisServer;
  let client: ReturnType<typeof createClient>;
  beforeAll(async () => {
    redis = await startRedis();
    client = createClient({ url: redis.url });
    await client.connect();
  });
  afterAll(async () => {
    client.destroy();
    await redis.stop();
  });

  /** Whether requests of new callers are soon counted in that Redis. */
  const soonCounts = async (by: RateLimits, there: typeof client, who: string): Promise<boolean> => {
    for (let tried = 0; tried < 150; tried += 1) {
      await by.take(`${who} ${tried}`);
      if ((await there.keys(`*${who} ${tried}`)).length > 0) return true;
      await sleep(20);
    }
    return false;
  };

  /** Waits until it is connected; until then it counts on its own. */
  const sharing = async (rate: Rate): Promise<RateLimits> => {
    const it = limited(rate, redis.url);
    if (!(await soonCounts(it, client, 'is it there'))) throw new Error('Redis does not count');
    return it;
  };

  it('admits its number over all processes, less a few that one has reserved and not used', async () => {
    const rate = { requests: 100, perSeconds: 60 };
    const [one, other] = await Promise.all([sharing(rate), sharing(rate)]);
    const first = await through(one, 'shared', 33);
    const both = first + (await through(other, 'shared', 200)) + (await through(one, 'shared', 200));
    expect(first).toBe(33);
    expect(both).toBeLessThanOrEqual(100);
    expect(both).toBeGreaterThanOrEqual(95);
    expect((await one.take('shared')).isRefused).toBe(true);
    expect((await other.take('shared')).isRefused).toBe(true);
  });

  describe('after a failover', () => {
    let [old, primary]: RedisServer[] = [];
    let [atOld, atPrimary]: (typeof client)[] = [];
    let proxy: RedisProxy;
    beforeEach(async () => {
      [old, primary] = await Promise.all([startRedis(), startRedis()]);
      proxy = await RedisProxy.start(old.port);
      [atOld, atPrimary] = [createClient({ url: old.url }), createClient({ url: primary.url })];
      await Promise.all([atOld.connect(), atPrimary.connect()]);
    });
    afterEach(async () => {
      atOld?.destroy();
      atPrimary?.destroy();
      await proxy.stop();
      await Promise.all([old?.stop(), primary?.stop()]);
    });

    it('counts at the new primary if the old one has become its replica', async () => {
      const by = limited({ requests: 10, perSeconds: 60 }, proxy.url);
      expect(await soonCounts(by, atOld!, 'before')).toBe(true);
      await atOld!.sendCommand(['REPLICAOF', '127.0.0.1', String(primary!.port)]);
      proxy.port = primary!.port;
      expect(await soonCounts(by, atPrimary!, 'after')).toBe(true);
    });

    it('counts at the new primary if the old connection is silent', async () => {
      const by = limited({ requests: 10, perSeconds: 60 }, proxy.url);
      expect(await soonCounts(by, atOld!, 'before')).toBe(true);
      proxy.strand();
      proxy.port = primary!.port;
      expect(await soonCounts(by, atPrimary!, 'after')).toBe(true);
    });
  });

  it('counts per process while Redis is frozen, and waits for it hardly longer than 200 ms', async () => {
    const by = await sharing({ requests: 20, perSeconds: 60 });
    process.kill(redis.pid, 'SIGSTOP');
    try {
      // Timers expire in order, however late, so a busy machine does not change which one is first.
      const first = await Promise.race([by.take('meanwhile'), sleep(250, 'late')]);
      expect(first).toMatchObject({ isRefused: false });
      expect(await through(by, 'meanwhile', 30)).toBe(19);
    } finally {
      process.kill(redis.pid, 'SIGCONT');
    }
  });

  it('keeps its connection after this process was blocked', async () => {
    const by = await sharing({ requests: 20, perSeconds: 60 });
    const connections = async (): Promise<string[]> =>
      (await client.sendCommand<string>(['CLIENT', 'LIST'])).match(/\bid=\d+/g)!.toSorted();
    const before = await connections();
    for (let time = 0; time < 3; time += 1) {
      const taking = Array.from({ length: 10 }, async (_, at) => by.take(`stalled ${time} ${at}`));
      await new Promise(setImmediate);
      for (const until = performance.now() + 300; performance.now() < until;);
      await Promise.all(taking);
      await sleep(100);
    }
    expect(await soonCounts(by, client, 'after')).toBe(true);
    expect(await connections()).toEqual(before);
  });

  it('counts in Redis again after Redis was frozen for longer than the connection timeout', async () => {
    const rate = { requests: 20, perSeconds: 60 };
    const [asking, idle] = await Promise.all([sharing(rate), sharing(rate)]);
    process.kill(redis.pid, 'SIGSTOP');
    try {
      for (const until = performance.now() + 8_000; performance.now() < until; await sleep(100))
        await asking.take(`meanwhile ${Math.floor(performance.now())}`);
    } finally {
      process.kill(redis.pid, 'SIGCONT');
    }
    expect(await soonCounts(asking, client, 'asked meanwhile')).toBe(true);
    expect(await soonCounts(idle, client, 'idle meanwhile')).toBe(true);
  });
});
