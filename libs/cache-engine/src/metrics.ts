import type { Attributes, Histogram, Meter } from '@opentelemetry/api';
import type { CacheStatistics } from './statistics.js';

/** Seconds, finest around the latency of a nearby Redis. */
const redisBounds = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1];
const loadBounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

export const redisDurationIn = (meter: Meter): Histogram =>
  meter.createHistogram('db.client.operation.duration', {
    unit: 's',
    description: 'Duration of calls to Redis; failed and skipped calls have an error_type.',
    advice: { explicitBucketBoundaries: redisBounds },
  });

/** The attributes of a call to Redis. */
export const redisAttributes = (operation: string, error: unknown): Attributes => ({
  'db.system.name': 'redis',
  'db.operation.name': operation,
  ...(error !== undefined && { 'error.type': error instanceof Error ? error.constructor.name : typeof error }),
});

export const loadDurationIn = (meter: Meter): Histogram =>
  meter.createHistogram('cache.load.duration', {
    unit: 's',
    description: 'Duration of loads from the source, failed ones included.',
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

/** Counts that are kept anyway, so reading them on demand adds no cost to cache operations. */
const observed: readonly Observed[] = [
  {
    name: 'cache.reads',
    kind: 'Counter',
    unit: '{read}',
    description: 'Reads by result and tier.',
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
    description: 'Loads from the source.',
    read: (it) => [[it.loads]],
  },
  {
    name: 'cache.load_failures',
    kind: 'Counter',
    unit: '{load}',
    description: 'Loads that failed or timed out.',
    read: (it) => [[it.loadFailures]],
  },
  {
    name: 'cache.loads_spared',
    kind: 'Counter',
    unit: '{load}',
    description: 'Loads avoided because another one was in progress, in this process or in another.',
    read: (it) => [
      [it.sharedLoads, { 'cache.loader': 'this_process' }],
      [it.awaitedLoads, { 'cache.loader': 'other_process' }],
    ],
  },
  {
    name: 'cache.early_refreshes',
    kind: 'Counter',
    unit: '{load}',
    description: 'Early refreshes: loads in the background before a value expires.',
    read: (it) => [[it.earlyRefreshes]],
  },
  {
    name: 'cache.fills_refused',
    kind: 'Counter',
    unit: '{fill}',
    description: 'Fills refused because the key was written or invalidated while the value was loaded.',
    read: (it) => [[it.fillsRefused]],
  },
  {
    name: 'cache.l1.promotions_refused',
    kind: 'Counter',
    unit: '{promotion}',
    description: 'Values not promoted into this process because they were invalidated on the way.',
    read: (it) => [[it.l1.promotionsRefused]],
  },
  {
    name: 'cache.l1.lease_evictions',
    kind: 'Counter',
    unit: '{lease}',
    description: 'Leases evicted before they expired, without Redis.',
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
    description: 'Entries evicted from this process.',
    read: (it) => [[it.l1.evictions]],
  },
  {
    name: 'cache.l1.entries',
    kind: 'UpDownCounter',
    unit: '{entry}',
    description: 'Entries in this process.',
    read: (it) => [[it.l1.entries]],
  },
  {
    name: 'cache.l1.memory.usage',
    kind: 'UpDownCounter',
    unit: 'By',
    description: 'Bytes used in this process, keys and overhead included.',
    read: (it) => [[it.l1.bytes]],
  },
  {
    name: 'cache.l1.memory.limit',
    kind: 'UpDownCounter',
    unit: 'By',
    description: 'Bytes that entries may use in this process.',
    read: (it) => [[it.l1.maxBytes]],
  },
  {
    name: 'cache.l1.is_used',
    kind: 'Gauge',
    description: 'Whether entries of this process are served: 0 while Redis does not answer.',
    read: (it) => [[it.isL1Used ? 1 : 0]],
  },
  {
    // By rank, because keys may be personal data, and each new hot key would start another time series.
    name: 'cache.hot_key.reads',
    kind: 'Gauge',
    unit: '{read}',
    description: 'Estimated reads of the hottest keys, by rank. The statistics name the keys.',
    read: (it) => it.hotKeys.map(({ reads }, at) => [reads, { 'cache.hot_key.rank': String(at + 1) }] as const),
  },
];

/** @returns a function that stops the reports */
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
