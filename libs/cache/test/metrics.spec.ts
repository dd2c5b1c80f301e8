import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { z } from 'zod';
import { CacheModule } from '#cache';
import { CacheEngine, textCodec } from '#cache-engine';
import type { cacheStatistics } from '#contracts';
import { createService } from '#service';
import {
  redisOrSkip,
  samplesIn,
  startRedis,
  startRedisCluster,
  type RedisCluster,
  type RedisServer,
  type Samples,
} from '#testing';

type Statistics = z.input<typeof cacheStatistics>;

Logger.overrideLogger(false);

const person = 'somebody@example.org';
const describeWithRedis = await redisOrSkip(describe);

/** The metrics, and the same figures in the statistics. */
const read = (outcome: string): string => `cache_reads_total{cache_outcome=${outcome}}`;
const countedAs: Record<string, (it: Statistics) => number> = {
  [read('"hit",cache_tier="l1"')]: (it) => it.l1_hits,
  [read('"hit",cache_tier="l2"')]: (it) => it.l2_hits,
  [read('"stale"')]: (it) => it.stale_hits,
  [read('"miss"')]: (it) => it.misses,
  cache_loads_total: (it) => it.loads,
  cache_load_failures_total: (it) => it.load_failures,
  cache_load_duration_seconds_count: (it) => it.latency_ms.load.count,
  cache_fills_refused_total: (it) => it.fills_refused,
  cache_redis_failures_total: (it) => it.unavailable,
  cache_l1_entries: (it) => it.l1.entries,
  cache_l1_memory_usage_bytes: (it) => it.l1.bytes,
  cache_l1_memory_limit_bytes: (it) => it.l1.max_bytes,
  cache_l1_evictions_total: (it) => it.l1.evictions,
  cache_l1_promotions_refused_total: (it) => it.l1.promotions_refused,
  cache_l1_lease_evictions_total: (it) => it.l1.leases_evicted,
  cache_l1_is_used: (it) => Number(it.is_l1_used),
};

let app: NestFastifyApplication;
let engine: CacheEngine;

const start = async (redis: { CACHE_REDIS_URL: string; CACHE_REDIS_DEADLINE_MS: number }): Promise<void> => {
  app = await createService({
    ...{ name: 'cache', HOST: '127.0.0.1', PORT: 0 },
    document: { title: 'Cache', description: '' },
    modules: [CacheModule.register({ ...redis, CACHE_MAX_BYTES: 8_388_608 })],
  });
  await app.listen(0, '127.0.0.1');
  engine = app.get(CacheEngine);
  const isReached = () =>
    engine.ping().then(
      () => true,
      () => false,
    );
  while (!engine.isL1Used || !(await isReached())) await new Promise(setImmediate);
};

const fetched = async (path: string, init?: RequestInit): Promise<Response> => {
  const answer = await fetch(`${await app.getUrl()}${path}`, init);
  expect(answer.ok || answer.status === 404).toBe(true);
  return answer;
};
const statistics = async (): Promise<Statistics> => (await fetched('/cache/stats')).json() as Promise<Statistics>;
const metrics = async (): Promise<Samples> => samplesIn(await (await fetched('/metrics')).text());
/** Both at the same moment: nothing was counted in between. */
const both = async (): Promise<[told: Statistics, samples: Samples]> => {
  for (;;) {
    const told = await statistics();
    const samples = await metrics();
    if (JSON.stringify(await statistics()) === JSON.stringify(told)) return [told, samples];
  }
};
const sumOf = (samples: Samples, name: string, among = ''): number =>
  [...samples].reduce((sum, [it, value]) => (it.startsWith(`${name}{`) && it.includes(among) ? sum + value : sum), 0);

const expectTheSame = (told: Statistics, samples: Samples): void => {
  const expected = Object.entries(countedAs).map(([name, count]) => [name, count(told)]);
  expect(Object.keys(countedAs).map((name) => [name, samples.get(name)])).toEqual(expected);
  expect(sumOf(samples, 'cache_loads_spared_total')).toBe(told.loads_spared);
  expect(sumOf(samples, 'db_client_operation_duration_seconds_count')).toBe(told.latency_ms.redis.count);
  expect(sumOf(samples, 'cache_hot_key_reads')).toBe(told.hot_keys.reduce((sum, { reads }) => sum + reads, 0));
};

describeWithRedis('GET /metrics of a cache over Redis', () => {
  let redis: RedisServer;
  beforeAll(async () => {
    redis = await startRedis();
    await start({ CACHE_REDIS_URL: redis.url, CACHE_REDIS_DEADLINE_MS: 5_000 });
  });
  afterAll(async () => {
    await app?.close();
    await redis?.stop();
  });

  it('shows the same figures as /cache/stats', async () => {
    const body = JSON.stringify({ key: person, value: 1, namespace: 'people' });
    await fetched('/cache', { method: 'PUT', body, headers: { 'content-type': 'application/json' } });
    for (let reads = 0; reads < 40; reads += 1) await fetched(`/cache?key=${person}&namespace=people`);
    await fetched('/cache?key=none');

    const space = engine.namespace<number>('numbers');
    await expect(space.getOrSet('fails', () => Promise.reject(new Error('no source')))).rejects.toThrow('no source');
    const [asked, letGo] = [Promise.withResolvers<void>(), Promise.withResolvers<number>()];
    const late = space.getOrSet('late', () => {
      asked.resolve();
      return letGo.promise;
    });
    const joined = space.getOrSet('late', () => 0);
    await asked.promise;
    await space.delete('late');
    letGo.resolve(1);
    expect([await late, await joined]).toEqual([1, 1]);

    const [told, samples] = await both();
    expect(told).toMatchObject({ loads: 2, load_failures: 1, loads_spared: 1, fills_refused: 1 });
    // The reads of the person; the first of them came from Redis.
    expect(told.l1_hits + told.l2_hits).toBe(40);
    expect(told.l2_hits).toBeGreaterThan(0);
    // `none`, `fails` and `late`.
    expect(told.misses).toBe(3);
    expectTheSame(told, samples);
    for (const operation of ['read', 'put', 'lease', 'fill', 'remove'])
      expect(
        sumOf(samples, 'db_client_operation_duration_seconds_count', `db_operation_name="${operation}"`),
      ).toBeGreaterThan(0);
    expect(sumOf(samples, 'db_client_operation_duration_seconds_count', 'error_type')).toBe(told.unavailable);
  });

  it('counts hits in L1 without recording an operation on Redis', async () => {
    const before = await metrics();
    const space = engine.namespace('callers:people', { codec: textCodec });
    for (let reads = 0; reads < 100; reads += 1) expect(await space.get(person)).toBe('1');
    const after = await metrics();
    const hits = read('"hit",cache_tier="l1"');
    expect(after.get(hits)! - before.get(hits)!).toBe(100);
    const recorded = 'db_client_operation_duration_seconds_count';
    expect(sumOf(after, recorded)).toBe(sumOf(before, recorded));
  });

  it('contains no keys and no namespaces', async () => {
    expect((await statistics()).hot_keys[0]).toMatchObject({ namespace: 'callers:people', key: person });
    expect(await (await fetched('/metrics')).text()).not.toMatch(/somebody|people/);
  });

  it('shows that Redis is away, and how many operations failed', async () => {
    await redis.stop();
    while (engine.isL1Used) await new Promise(setImmediate);
    expect((await fetch(`${await app.getUrl()}/cache?key=none`)).status).toBe(503);
    const [told, samples] = await both();
    expect(told.unavailable).toBeGreaterThan(0);
    expectTheSame(told, samples);
    expect(samples.get('cache_l1_is_used')).toBe(0);
    expect(sumOf(samples, 'db_client_operation_duration_seconds_count', 'error_type')).toBe(told.unavailable);
  });
});

describeWithRedis('the statistics of a cache over a cluster of three masters', () => {
  const suspended = 2;
  let cluster: RedisCluster;
  let namespace: string;
  /** Eight keys on each master. */
  const keys: string[][] = [[], [], []];

  beforeAll(async () => {
    cluster = await startRedisCluster({ isPartial: true });
    await start({ CACHE_REDIS_URL: cluster.url, CACHE_REDIS_DEADLINE_MS: 5_000 });
    // The histogram of loads has no series before its first value.
    await engine.namespace<number>('numbers').getOrSet('k', () => 1);
    const hashTagOf = (key: string): string => `{callers%3A${namespace}:${key}}`;
    // Every read needs the version of the namespace, so that must not be on the master that is suspended.
    for (let count = 0; count === 0 || !(await cluster.isOn(0, hashTagOf(''))); count += 1) namespace = `n${count}`;
    for (let count = 0; keys.some((it) => it.length < 8); count += 1)
      for (const [at, own] of keys.entries())
        if (own.length < 8 && (await cluster.isOn(at, hashTagOf(`k${count}`)))) own.push(`k${count}`);
  });
  afterAll(async () => {
    await app?.close();
    await cluster?.stop();
  });

  const get = async (key: string): Promise<number> =>
    (await fetch(`${await app.getUrl()}/cache?key=${key}&namespace=${namespace}`)).status;
  const put = async (key: string): Promise<number> => {
    const body = JSON.stringify({ key, value: 1, namespace });
    const headers = { 'content-type': 'application/json' };
    return (await fetch(`${await app.getUrl()}/cache`, { method: 'PUT', body, headers })).status;
  };
  const calls = (samples: Samples, operation: string): number =>
    sumOf(samples, 'db_client_operation_duration_seconds_count', `db_operation_name="${operation}"`);

  it('count what is asked of every master', async () => {
    const [before, samplesBefore] = await both();
    for (const key of keys.flatMap((it) => it.slice(0, 5))) {
      expect(await get(key)).toBe(404);
      expect(await put(key)).toBe(200);
      for (let reads = 0; reads < 3; reads += 1) expect(await get(key)).toBe(200);
    }
    const [after, samples] = await both();
    expect(after.misses - before.misses).toBe(15);
    expect(after.l1_hits + after.l2_hits - before.l1_hits - before.l2_hits).toBe(45);
    // What is written is read from its master once before this process keeps it.
    expect(after.l2_hits - before.l2_hits).toBeGreaterThanOrEqual(15);
    expect(calls(samples, 'put') - calls(samplesBefore, 'put')).toBe(15);
    const fromRedis = after.l2_hits + after.misses - before.l2_hits - before.misses;
    expect(calls(samples, 'read') - calls(samplesBefore, 'read')).toBe(fromRedis);
    expect(after.unavailable).toBe(before.unavailable);
    expect(after.is_l1_used).toBe(true);
    expectTheSame(after, samples);
  });

  it('count the calls that a suspended master does not answer, and go on counting those to the others', async () => {
    const { pid } = cluster.servers[suspended]!;
    process.kill(pid, 'SIGSTOP');
    try {
      while (engine.isL1Used) await new Promise(setImmediate);
      const [before] = await both();
      const statuses: number[] = [];
      // This process has no value of the suspended master's keys that could stand in.
      for (const it of [keys[0]!.slice(0, 5), keys[1]!.slice(0, 5), keys[suspended]!.slice(5)])
        for (const key of it) statuses.push(await get(key));
      const [after, samples] = await both();
      const [hits, failures] = [200, 503].map((status) => statuses.filter((it) => it === status).length);
      expect(hits! + failures!).toBe(13);
      expect(hits).toBeGreaterThan(0);
      expect(failures).toBeGreaterThanOrEqual(3);
      // A call to the others may be late on a busy machine, and then a stale value stands in.
      const stale = after.stale_hits - before.stale_hits;
      expect(after.l2_hits - before.l2_hits).toBe(hits! - stale);
      expect(after.unavailable - before.unavailable).toBe(failures! + stale);
      expect([after.l1_hits, after.misses]).toEqual([before.l1_hits, before.misses]);
      expect(after.is_l1_used).toBe(false);
      expectTheSame(after, samples);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
  });
});
