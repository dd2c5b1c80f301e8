import { reportTo } from './metrics.js';
import { Namespace } from './namespace.js';
import type { NamespaceOptions } from './options.js';
import type { CacheStatistics } from './statistics.js';
import { Tiers, type CacheEngineOptions } from './tiers.js';

const toldHotKeys = 10;

/**
 * A cache in two tiers: this process, bounded in bytes, and Redis, which processes share.
 *
 * The promise: no value that was loaded before an acknowledged invalidation is given out of Redis after it, nor out of
 * the process that asked for it; out of other processes for as long as it takes Redis to tell them, and never longer than
 * `silenceMs`, whatever breaks. Redis replicates in the background, so a failover may lose what was acknowledged, an
 * invalidation among it: staleness then is bounded by the time to live alone.
 */
export class CacheEngine {
  private readonly tiers: Tiers;
  private readonly endReport: (() => void) | undefined;

  constructor(options: CacheEngineOptions = {}) {
    this.tiers = new Tiers(options);
    this.endReport = options.meter && reportTo(options.meter, () => this.statistics);
  }

  /**
   * Begins to connect, and does not wait for that: what is asked of Redis meanwhile waits for the first connection, as long as
   * a call may take. Where there is none, what needs it fails at once.
   */
  start(): this {
    this.tiers.start();
    return this;
  }

  stop(): void {
    this.endReport?.();
    this.tiers.stop();
  }

  /** Keys of one's own, apart from those of all others whatever they are. The same name is the same namespace. */
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

  /** Whether what lies in this process is given out: not while Redis is silent. */
  get isL1Used(): boolean {
    return this.tiers.isL1Used;
  }

  /** Milliseconds since the epoch, by the clock that times to live are told by. */
  now(): number {
    return this.tiers.now();
  }

  /** @throws CacheUnavailable */
  async ping(): Promise<void> {
    await this.tiers.shared?.ping();
  }
}
