import { reportTo } from './metrics.js';
import { Namespace } from './namespace.js';
import type { NamespaceOptions } from './options.js';
import type { CacheStatistics } from './statistics.js';
import { Tiers, type CacheEngineOptions } from './tiers.js';

const toldHotKeys = 10;

/**
 * A cache in two tiers: this process, bounded in bytes, and Redis, which processes share.
 *
 * The promise: after an invalidation is acknowledged, no value loaded before it is served from Redis, nor from the process that
 * invalidated it. Other processes may serve it until Redis has notified them, and never longer than `silenceMs`, whatever
 * breaks. Redis replicates asynchronously, so a failover can lose an acknowledged invalidation, as can a restart from a
 * snapshot; then only the time to live bounds how stale a value can be.
 */
export class CacheEngine {
  private readonly tiers: Tiers;
  private readonly endReport: (() => void) | undefined;

  constructor(options: CacheEngineOptions = {}) {
    this.tiers = new Tiers(options);
    this.endReport = options.meter && reportTo(options.meter, () => this.statistics);
  }

  /**
   * Starts connecting in the background. Until the first connection is made, calls to Redis wait for it within their
   * deadline. If it cannot be made, they fail at once.
   */
  start(): this {
    this.tiers.start();
    return this;
  }

  stop(): void {
    this.endReport?.();
    this.tiers.stop();
  }

  /** Returns a namespace, whose keys are separate from those of all others. Equal names give the same namespace. */
  namespace<Value>(name: string, options: NamespaceOptions<Value> = {}): Namespace<Value> {
    return new Namespace<Value>(this.tiers, name, options);
  }

  get statistics(): CacheStatistics {
    const { counts, entries, tags, counters, leases, maxBytes, isL1Used, redisLatency, loadLatency, hotKeys } =
      this.tiers;
    return {
      ...counts,
      isL1Used,
      l1: {
        entries: entries.size,
        bytes: entries.bytes + tags.bytes + counters.bytes + leases.bytes,
        maxBytes,
        evictions: entries.evictions,
        promotionsRefused: entries.refusals,
        leasesEvicted: leases.evictions,
      },
      latency: { redis: redisLatency.now, load: loadLatency.now },
      hotKeys: hotKeys.top(toldHotKeys).map(({ key, reads }) => ({ ...this.tiers.partsOf(key), reads })),
    };
  }

  /** Whether entries of this process are served: not while Redis is silent. */
  get isL1Used(): boolean {
    return this.tiers.isL1Used;
  }

  /** Milliseconds since the epoch, by the shared clock that expiry times refer to. */
  now(): number {
    return this.tiers.now();
  }

  /** @throws CacheUnavailable */
  async ping(): Promise<void> {
    await this.tiers.shared?.ping();
  }
}
