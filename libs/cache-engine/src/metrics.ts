import type { Attributes, Histogram, Meter } from '@opentelemetry/api';
import type { CacheStatistics } from './statistics.js';

/** Seconds, finest where an answer of Redis in the same house lies. */
const redisBounds = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1];
const loadBounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

export const redisDurationIn = (meter: Meter): Histogram =>
  meter.createHistogram('db.client.operation.duration', {
    unit: 's',
    description: 'How long calls to Redis take, with error_type those that fail or are not made.',
    advice: { explicitBucketBoundaries: redisBounds },
  });

/** What is recorded with a call to Redis. */
export const redisAttributes = (operation: string, error: unknown): Attributes => ({
  'db.system.name': 'redis',
  'db.operation.name': operation,
  ...(error !== undefined && { 'error.type': error instanceof Error ? error.constructor.name : typeof error }),
});

export const loadDurationIn = (meter: Meter): Histogram =>
  meter.createHistogram('cache.load.duration', {
    unit: 's',
    description: 'How long the sources take, also to fail.',
    advice: { explicitBucketBoundaries: loadBounds },
  });

interface Observed {
  name: string;
  kind: 'Counter' | 'UpDownCounter' | 'Gauge';
  unit?: string;
  description: string;
  read: (it: CacheStatistics) => (readonly [value: number, attributes?: Attributes])[];
}

const outcome = (of: string, tier?: string): Attributes => ({
  'cache.outcome': of,
  ...(tier && { 'cache.tier': tier }),
});

/** What is counted anyhow: reading it when somebody asks costs those who use the cache nothing. */
const observed: readonly Observed[] = [
  {
    name: 'cache.reads',
    kind: 'Counter',
    unit: '{read}',
    description: 'Reads by what they were answered with, and from where.',
    read: (it) => [
      [it.l1Hits, outcome('hit', 'l1')],
      [it.l2Hits, outcome('hit', 'l2')],
      [it.staleHits, outcome('stale')],
      [it.misses, outcome('miss')],
    ],
  },
  {
    name: 'cache.loads',
    kind: 'Counter',
    unit: '{load}',
    description: 'How often a source was asked.',
    read: (it) => [[it.loads]],
  },
  {
    name: 'cache.load_failures',
    kind: 'Counter',
    unit: '{load}',
    description: 'How often a source failed or took too long.',
    read: (it) => [[it.loadFailures]],
  },
  {
    name: 'cache.loads_spared',
    kind: 'Counter',
    unit: '{load}',
    description: 'Loads that another one has made superfluous, in this process or in another.',
    read: (it) => [
      [it.sharedLoads, { 'cache.loader': 'this_process' }],
      [it.awaitedLoads, { 'cache.loader': 'other_process' }],
    ],
  },
  {
    name: 'cache.early_refreshes',
    kind: 'Counter',
    unit: '{load}',
    description: 'Loads before the end of a value, for which nobody waits.',
    read: (it) => [[it.earlyRefreshes]],
  },
  {
    name: 'cache.fills_refused',
    kind: 'Counter',
    unit: '{fill}',
    description: 'Values whose lease was gone when they came: the key was written or invalidated meanwhile.',
    read: (it) => [[it.fillsRefused]],
  },
  {
    name: 'cache.l1.promotions_refused',
    kind: 'Counter',
    unit: '{promotion}',
    description: 'Values that were invalidated on their way into this process.',
    read: (it) => [[it.l1.promotionsRefused]],
  },
  {
    name: 'cache.l1.lease_evictions',
    kind: 'Counter',
    unit: '{lease}',
    description: 'Leases that made room for others before they were over, where there is no Redis to keep them.',
    read: (it) => [[it.l1.leasesEvicted]],
  },
  {
    name: 'cache.redis.failures',
    kind: 'Counter',
    unit: '{call}',
    description: 'Calls to Redis that failed or were skipped.',
    read: (it) => [[it.unavailable]],
  },
  {
    name: 'cache.l1.evictions',
    kind: 'Counter',
    unit: '{entry}',
    description: 'Values that made room for others in this process.',
    read: (it) => [[it.l1.evictions]],
  },
  {
    name: 'cache.l1.entries',
    kind: 'UpDownCounter',
    unit: '{entry}',
    description: 'Values in this process.',
    read: (it) => [[it.l1.entries]],
  },
  {
    name: 'cache.l1.memory.usage',
    kind: 'UpDownCounter',
    unit: 'By',
    description: 'What lies in this process, keys and what it takes to keep them included.',
    read: (it) => [[it.l1.bytes]],
  },
  {
    name: 'cache.l1.memory.limit',
    kind: 'UpDownCounter',
    unit: 'By',
    description: 'What may lie in this process.',
    read: (it) => [[it.l1.maxBytes]],
  },
  {
    name: 'cache.l1.is_used',
    kind: 'Gauge',
    description: 'Whether what lies in this process is given out: 0 while Redis is silent.',
    read: (it) => [[it.isL1Used ? 1 : 0]],
  },
  {
    // By rank: names of keys may be about people, and would begin a series with each key that becomes hot.
    name: 'cache.hot_key.reads',
    kind: 'Gauge',
    unit: '{read}',
    description: 'Estimated reads of the keys that are read most, by rank; the statistics name them.',
    read: (it) => it.hotKeys.map(({ reads }, at) => [reads, { 'cache.hot_key.rank': String(at + 1) }] as const),
  },
];

/** @returns what ends it */
export const reportTo = (meter: Meter, statistics: () => CacheStatistics): (() => void) => {
  const reported = observed.map(({ name, kind, read, ...options }) => ({
    read,
    instrument: meter[`createObservable${kind}`](name, options),
  }));
  const instruments = reported.map((it) => it.instrument);
  const report: Parameters<Meter['addBatchObservableCallback']>[0] = (result) => {
    const now = statistics();
    for (const { instrument, read } of reported)
      for (const [value, attributes] of read(now)) result.observe(instrument, value, attributes);
  };
  meter.addBatchObservableCallback(report, instruments);
  return () => meter.removeBatchObservableCallback(report, instruments);
};
