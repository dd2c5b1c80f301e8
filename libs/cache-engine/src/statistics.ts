import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import type { Attributes, Histogram } from '@opentelemetry/api';

/** Milliseconds. */
export interface Latency {
  count: number;
  p50: number;
  p99: number;
  max: number;
}

const nanosecondsPerMs = 1_000_000;

/** Records latencies in a high dynamic range histogram. */
export class LatencyOf {
  private readonly histogram: RecordableHistogram = createHistogram();

  /** @param reported also receives each latency, in seconds */
  constructor(private readonly reported?: Histogram) {}

  record(ms: number, attributes?: Attributes): void {
    this.histogram.record(Math.max(1, Math.round(ms * nanosecondsPerMs)));
    this.reported?.record(ms / 1_000, attributes);
  }

  get now(): Latency {
    const { histogram } = this;
    const ms = (nanoseconds: number): number => (histogram.count === 0 ? 0 : nanoseconds / nanosecondsPerMs);
    return {
      count: histogram.count,
      p50: ms(histogram.percentile(50)),
      p99: ms(histogram.percentile(99)),
      max: ms(histogram.max),
    };
  }
}

const sampledEvery = 64;
const watched = 64;

/**
 * The keys that are read most, in bounded space, from a sample of the reads (Space-Saving).
 *
 * @see Metwally, Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k Elements in Data Streams, ICDT 2005
 */
export class HotKeys {
  private readonly counts = new Map<string, number>();
  private reads = 0;

  saw(key: string): void {
    this.reads += 1;
    if (this.reads < sampledEvery) return;
    this.reads = 0;
    const known = this.counts.get(key);
    if (known !== undefined || this.counts.size < watched) {
      this.counts.set(key, (known ?? 0) + 1);
      return;
    }
    // The least read of the watched keys is replaced and passes on its count, because the new key may have been read as
    // often.
    let [least, fewest] = ['', Number.POSITIVE_INFINITY];
    for (const [other, count] of this.counts) if (count < fewest) [least, fewest] = [other, count];
    this.counts.delete(least);
    this.counts.set(key, fewest + 1);
  }

  /** Reads are estimates, overestimated rather than underestimated. */
  top(count: number): { key: string; reads: number }[] {
    return [...this.counts]
      .sort(([, one], [, other]) => other - one)
      .slice(0, count)
      .map(([key, seen]) => ({ key, reads: seen * sampledEvery }));
  }
}

/** Totals since the start. */
export interface Counts {
  /** Reads served from this process, and from Redis. */
  l1Hits: number;
  l2Hits: number;
  /** Reads served with a stale value. */
  staleHits: number;
  misses: number;
  loads: number;
  loadFailures: number;
  /** Loads avoided by joining a load in this process. */
  sharedLoads: number;
  /** Loads avoided because another process loaded the value. */
  awaitedLoads: number;
  /** Values not stored in Redis because the key was written or invalidated while they were loaded. */
  fillsRefused: number;
  earlyRefreshes: number;
  /** Calls to Redis that failed or were not made. */
  unavailable: number;
}

export interface CacheStatistics extends Counts {
  /** Whether entries of this process are served: not while Redis is silent. */
  isL1Used: boolean;
  l1: {
    entries: number;
    bytes: number;
    maxBytes: number;
    evictions: number;
    promotionsRefused: number;
    /** Leases evicted to make room for others, if this process keeps them because there is no Redis. */
    leasesEvicted: number;
  };
  latency: { redis: Latency; load: Latency };
  hotKeys: { namespace: string; key: string; reads: number }[];
}

export const noCounts = (): Counts => ({
  ...{ l1Hits: 0, l2Hits: 0, staleHits: 0, misses: 0, loads: 0, loadFailures: 0, sharedLoads: 0 },
  ...{ awaitedLoads: 0, fillsRefused: 0, earlyRefreshes: 0, unavailable: 0 },
});
