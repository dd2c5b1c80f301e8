import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { z } from 'zod';
import { CacheModule } from '#cache';
import { CacheEngine, textCodec } from '#cache-engine';
import type { cacheStatistics } from '#contracts';
import { createService } from '#service';
import { redisOrSkip, samplesIn, startRedis, type RedisServer, type Samples } from '#testing';

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

describeWithRedis('GET /metrics of a cache over Redis', () => {
  let redis: RedisServer;
  let app: NestFastifyApplication;
  let engine: CacheEngine;

  beforeAll(async () => {
    redis = await startRedis();
    app = await createService({
      ...{ name: 'cache', HOST: '127.0.0.1', PORT: 0 },
      document: { title: 'Cache', description: '', version: '1' },
      modules: [
        CacheModule.register({
          ...{ CACHE_REDIS_URL: redis.url, CACHE_REDIS_DEADLINE_MS: 5_000 },
          CACHE_MAX_BYTES: 8_388_608,
        }),
      ],
    });
    await app.listen(0, '127.0.0.1');
    engine = app.get(CacheEngine);
    const isReached = () =>
      engine.ping().then(
        () => true,
        () => false,
      );
    while (!engine.isL1Used || !(await isReached())) await new Promise(setImmediate);
  });
  afterAll(async () => {
    await app?.close();
    await redis?.stop();
  });

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
    expect(told.l1_hits).toBeGreaterThan(30);
    expect(told.l2_hits).toBeGreaterThan(0);
    expect(told.misses).toBeGreaterThan(0);
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
