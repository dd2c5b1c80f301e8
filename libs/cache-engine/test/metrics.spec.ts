import { afterEach, expect, it } from '@jest/globals';
import { Metrics } from '#telemetry';
import { samplesIn, type Samples } from '#testing';
import { CacheEngine, type CacheEngineOptions } from '../src/index.js';

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

const measured = (options: CacheEngineOptions = {}) => {
  const metrics = new Metrics();
  const engine = new CacheEngine({ ...options, meter: metrics.meter('cache-engine') }).start();
  closing.push(
    () => engine.stop(),
    () => metrics.stop(),
  );
  const read = async (): Promise<Samples> => {
    const { text, errors } = await metrics.read();
    expect(errors).toEqual([]);
    return samplesIn(text);
  };
  return { engine, read };
};

it('reports reads, loads and memory as metrics', async () => {
  const { engine, read } = measured({ maxBytes: 8_388_608 });
  const space = engine.namespace<number>('numbers');
  const letGo = Promise.withResolvers<number>();
  const together = [1, 2, 3].map(() => space.getOrSet('a', () => letGo.promise));
  letGo.resolve(1);
  expect(await Promise.all(together)).toEqual([1, 1, 1]);
  for (let at = 0; at < 5; at += 1) await space.get('a');
  await expect(space.getOrSet('b', () => Promise.reject(new Error('no source')))).rejects.toThrow('no source');
  const samples = await read();
  const { l1 } = engine.statistics;
  expect(Object.fromEntries(samples)).toMatchObject({
    'cache_reads_total{cache_outcome="hit",cache_tier="l1"}': 5,
    'cache_reads_total{cache_outcome="hit",cache_tier="l2"}': 0,
    'cache_reads_total{cache_outcome="stale"}': 0,
    'cache_reads_total{cache_outcome="miss"}': 2,
    cache_loads_total: 2,
    cache_load_failures_total: 1,
    'cache_loads_spared_total{cache_loader="this_process"}': 2,
    'cache_loads_spared_total{cache_loader="other_process"}': 0,
    cache_load_duration_seconds_count: 2,
    cache_early_refreshes_total: 0,
    cache_fills_refused_total: 0,
    cache_l1_promotions_refused_total: 0,
    cache_l1_lease_evictions_total: 0,
    cache_l1_entries: 1,
    cache_l1_memory_usage_bytes: l1.bytes,
    cache_l1_memory_limit_bytes: 8_388_608,
    cache_l1_is_used: 1,
    cache_redis_failures_total: 0,
  });
  expect(l1.bytes).toBeGreaterThan(0);
});

it('reports evictions', async () => {
  const { engine, read } = measured({ maxBytes: 300_000 });
  const space = engine.namespace<string>('texts');
  for (let at = 0; at < 200; at += 1) await space.set(String(at), 'x'.repeat(1_000));
  const samples = await read();
  const entries = samples.get('cache_l1_entries')!;
  expect(entries).toBeGreaterThan(0);
  expect(samples.get('cache_l1_evictions_total')).toBe(200 - entries);
});

it('reports the reads of the ten hottest keys without their names', async () => {
  const { engine, read } = measured();
  const space = engine.namespace<number>('people');
  for (let key = 0; key < 40; key += 1)
    for (let reads = 0; reads < 16 * (key + 1); reads += 1) await space.get(`somebody-${key}@example.org`);
  const samples = await read();
  const ranks = [...samples.keys()].filter((name) => name.startsWith('cache_hot_key_reads'));
  expect(ranks).toHaveLength(10);
  const reads = engine.statistics.hotKeys.map((it) => it.reads);
  expect(reads.map((_, at) => samples.get(`cache_hot_key_reads{cache_hot_key_rank="${at + 1}"}`))).toEqual(reads);
  expect(reads.every((it) => it > 0)).toBe(true);
  expect([...samples.keys()].join()).not.toMatch(/somebody|people/);
});

it('reports nothing more after it was stopped', async () => {
  const { engine, read } = measured();
  const space = engine.namespace('numbers');
  await space.get('k');
  const misses = 'cache_reads_total{cache_outcome="miss"}';
  expect((await read()).get(misses)).toBe(1);
  engine.stop();
  await space.get('k');
  expect(engine.statistics.misses).toBe(2);
  expect((await read()).get(misses)).toBe(1);
});
