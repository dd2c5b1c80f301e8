import { randomInt } from 'node:crypto';
import type { Meter } from '@opentelemetry/api';
import { Guarded, bytesOfText, type Guard, type Guardable } from './guarded.js';
import { Leases } from './leases.js';
import { loadDurationIn, redisAttributes, redisDurationIn } from './metrics.js';
import { RedisTier, keyKinds, randomTagBase, type RedisOptions } from './redis-tier.js';
import { assertBytes } from './options.js';
import { HotKeys, LatencyOf, noCounts, type Counts } from './statistics.js';
import { unplaced } from './sieve.js';
import type { Head } from './entry.js';

/** A value that is being loaded. */
export interface Flight {
  /** What callers that join get: the loaded value, or a stale one if that is served first. */
  answer: Promise<unknown>;
  loading: Promise<unknown>;
  standIn: Kept | undefined;
  /** Whether it is an early refresh, begun before the value expired. */
  isEarly: boolean;
  /** The guard of the entry. Once an invalidation breaks it or one of `tagGuards`, later callers must not get this value. */
  guard: Guard;
  /** The guards of its tags, and of those of the stale value that may be served meanwhile. */
  tagGuards: Guard[];
  /** When the source was asked; infinite before that. */
  askedAt: number;
  /** When nobody had written or deleted the key yet: when Redis was asked for it, later when the lease was last held. */
  heldAt: number;
  /** The early refresh whose value it uses. */
  underWay: Flight | undefined;
}

export interface CacheEngineOptions {
  /**
   * The memory limit of this process in bytes, including keys and overhead. Tags, and without Redis also counters and
   * leases, take at least 64 KiB each, so a smaller limit leaves no room for values.
   */
  maxBytes?: number | undefined;
  /** The tier that all processes share; without it each process has its own cache. */
  redis?: RedisOptions | undefined;
  /** The prefix of all keys in Redis. */
  prefix?: string | undefined;
  /** Receives the metrics, of one engine only: those of two engines could not be told apart. */
  meter?: Meter | undefined;
  /** Receives problems that no call reports as an error. */
  complain?: ((message: string) => void) | undefined;
}

/** A value in this process. */
export interface Kept extends Omit<Head, 'staleUntil'>, Guardable {
  value: unknown;
  /** `freshUntil` and `staleUntil` by the monotonic clock of this process. */
  until: number;
  standsInUntil: number;
  /** The value of `tagChanges` when the versions of its tags were last checked: no tag has changed since. */
  checkedAt: number;
}

const defaultMaxBytes = 67_108_864;
/** The share of `maxBytes` for the versions of tags, and without Redis also for counters and for leases. */
const shareOfTags = 1 / 16;
/** Without the versions of tags, every read would have to ask Redis for them. */
const leastForTags = 65_536;

/** How often it is reported at most that values of a namespace cannot be decoded. */
const unreadableToldEveryMs = 60_000;

/** How often the versions of tags are read again, which keeps them from expiring in Redis: once a week. */
const tagsAskedEveryMs = 7 * 24 * 3_600_000;

/**
 * Redis does not see reads that this process serves, so their keys are touched: all tags in this many rounds, at least this
 * many per round.
 */
const touchedEveryMs = 1_000;
const turnsOfRound = 30;
const leastTouched = 512;
const mostHotTouched = 64;
const mostNamespacesTouched = 512;

/** The state that all namespaces of an engine share: both tiers, the names of keys, and statistics. */
export class Tiers {
  readonly counts: Counts = noCounts();
  readonly hotKeys = new HotKeys();
  readonly redisLatency: LatencyOf;
  readonly loadLatency: LatencyOf;
  readonly entries: Guarded<Kept>;
  readonly tags: Guarded<{ version: string } & Guardable>;
  readonly counters: Guarded<{ count: number; until: number } & Guardable>;
  /** The loads in progress, by entry. */
  readonly flights = new Map<string, Flight>();
  /** The early refreshes in progress, by entry. */
  readonly refreshing = new Map<string, Flight>();
  /** The leases granted by this process if there is no Redis. */
  readonly leases: Leases;
  /** The entries whose source has failed, and until when it is not asked again. */
  readonly resting = new Map<string, number>();
  /** The versions of tags requested in this turn of the event loop. */
  private readonly askedTags = new Map<string, Promise<string>>();
  /** Counts changes of any tag. */
  tagChanges = 0;
  readonly shared: RedisTier | undefined;
  readonly complain: (message: string) => void;
  readonly maxBytes: number;
  private readonly prefix: string;
  private readonly tagPrefix: string;
  private readonly waiting = new Map<string, (() => void)[]>();
  private timers: NodeJS.Timeout[] = [];
  /** The tags to touch next, and how many of them are left in this pass. */
  private touching: Iterator<string> | undefined;
  private leftToTouch = 0;
  private isTouching = false;
  /** What was reported of them since then. */
  private readonly unreadableTold = new Set<string>();
  private unreadableToldSince = Number.NEGATIVE_INFINITY;
  /**
   * The tags of the namespaces used most recently. They are touched in every round, because a whole namespace is lost with
   * its tag.
   */
  private readonly namespaceTags = new Set<string>();

  constructor({ maxBytes = defaultMaxBytes, redis, prefix = 'cache', meter, complain }: CacheEngineOptions = {}) {
    assertBytes('maxBytes', maxBytes);
    this.maxBytes = maxBytes;
    this.prefix = prefix;
    this.tagPrefix = this.prefixOf('tag');
    this.complain = complain ?? ((message) => process.emitWarning(message, 'CacheWarning'));
    this.redisLatency = new LatencyOf(meter && redisDurationIn(meter));
    this.loadLatency = new LatencyOf(meter && loadDurationIn(meter));
    const forTags = Math.max(leastForTags, Math.floor(maxBytes * shareOfTags));
    this.entries = new Guarded(Math.max(1, maxBytes - (redis ? 1 : 3) * forTags));
    this.leases = new Leases(this.entries, forTags);
    this.tags = new Guarded(forTags);
    this.counters = new Guarded(forTags);
    if (!redis) return;
    const prefixes = [this.prefixOf('entry'), this.tagPrefix];
    const heard = {
      ended: (operation: string, ms: number, error: unknown) => {
        if (error !== undefined) this.counts.unavailable += 1;
        this.redisLatency.record(ms, meter && redisAttributes(operation, error));
      },
      invalidated: (key: string) => this.invalidated(key),
      mayHaveMissed: () => {
        this.entries.suspectAll();
        this.suspectTags();
      },
    };
    this.shared = new RedisTier(redis, prefixes, heard, this.complain);
  }

  start(): void {
    if (!this.shared || this.timers.length > 0) return;
    this.shared.start();
    this.timers = [
      setInterval(() => this.suspectTags(), tagsAskedEveryMs).unref(),
      setInterval(() => void this.touch(), touchedEveryMs).unref(),
    ];
  }

  stop(): void {
    for (const timer of this.timers) clearInterval(timer);
    this.shared?.stop();
  }

  get isL1Used(): boolean {
    return performance.now() <= this.l1UsedUntil;
  }

  /** By `performance.now()`, if Redis does not answer again. */
  get l1UsedUntil(): number {
    return this.shared?.heardUntil ?? Number.POSITIVE_INFINITY;
  }

  now(): number {
    return performance.now() + this.clockAheadMs;
  }

  /** How far the shared clock is ahead of the monotonic clock of this process. */
  get clockAheadMs(): number {
    return this.shared?.clockAheadMs ?? Date.now() - performance.now();
  }

  /**
   * The name of a key in Redis. The colon ends the namespace and is escaped in it, so that keys of two namespaces never
   * collide. The braces are the hash tag, so that all names of one key lie in the same slot.
   */
  nameOf(kind: keyof typeof keyKinds, namespace: string, key: string): string {
    return `${this.prefixOf(kind, namespace)}${key}}`;
  }

  /** The prefix of the names of all entries or counters, of one namespace if given. */
  prefixOf(kind: keyof typeof keyKinds, namespace?: string): string {
    const all = `${this.prefix}:${keyKinds[kind]}:`;
    return namespace === undefined ? all : `${all}{${encodeURIComponent(namespace)}:`;
  }

  /** Resolves when the entry changes, or after the given time. */
  changeOf(name: string, ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.waiting.set(name, [...(this.waiting.get(name) ?? []), resolve]);
    return promise.finally(() => {
      clearTimeout(timer);
      const left = this.waiting.get(name)?.filter((it) => it !== resolve) ?? [];
      if (left.length === 0) this.waiting.delete(name);
      else this.waiting.set(name, left);
    });
  }

  /**
   * Whether later callers may get the value that it loads: nothing was invalidated since it began, except within the last
   * `silenceMs`. Redis reports changes of entries and tags, but not that a key without an entry was deleted, which only the
   * lost lease shows.
   */
  isGood(flight: Flight | undefined): flight is Flight {
    if (!flight?.guard.isIntact || !flight.tagGuards.every((it) => it.isIntact)) return false;
    if (flight.underWay && !this.isGood(flight.underWay)) return false;
    if (!this.shared) return true;
    const { askedAt, heldAt } = flight;
    const { silenceMs } = this.shared;
    return performance.now() <= Math.min(heldAt + silenceMs, Math.max(askedAt + silenceMs, this.l1UsedUntil));
  }

  /** The version of a tag, if it is known here. */
  knownTag(name: string): string | undefined {
    return this.tags.get(name)?.version;
  }

  /** The current version of a tag; an unknown tag is created. */
  tagVersion(name: string): Promise<string> {
    const known = this.isL1Used ? this.knownTag(name) : undefined;
    if (known !== undefined) return Promise.resolve(known);
    const asked = this.askedTags.get(name);
    if (asked) return asked;
    const version = this.askTag(name);
    this.askedTags.set(name, version);
    // Later callers must read the version anew.
    setImmediate(() => this.askedTags.delete(name));
    return version;
  }

  /** The version of a tag in Redis, even if the notification of a change has not arrived yet. */
  async lookUpTag(name: string): Promise<string> {
    if (!this.shared) return this.tagVersion(name);
    const known = this.knownTag(name);
    const version = await this.askTag(name);
    if (known !== undefined && known !== version) this.forgetTag(name);
    return version;
  }

  /** Invalidates everything kept under the tag. */
  async changeTag(name: string): Promise<void> {
    this.forgetTag(name);
    if (this.shared) {
      await this.shared.tagVersion(name, randomInt(1, 2 ** 20));
      // A concurrent read may have returned the old version.
      this.forgetTag(name);
    }
  }

  /**
   * Reports a value that cannot be decoded, but not for every read of it, and without the message of the error: that of
   * JSON.parse quotes the value, which may be personal data.
   */
  unreadable(namespace: string, error: unknown): void {
    const now = performance.now();
    if (now - this.unreadableToldSince >= unreadableToldEveryMs) {
      this.unreadableTold.clear();
      this.unreadableToldSince = now;
    }
    const message = `a value of ${namespace} cannot be decoded: ${error instanceof Error ? error.name : 'unknown error'}`;
    if (this.unreadableTold.has(message)) return;
    this.unreadableTold.add(message);
    this.complain(message);
  }

  /** Deletes entries in Redis from before the current version of the namespace. */
  sweep(namespace: string, tag: string): void {
    const pattern = `${literal(this.prefix)}:[${keyKinds.entry}${keyKinds.counter}]:{${literal(encodeURIComponent(namespace))}:*`;
    this.shared?.sweep({ tag, pattern, counters: this.prefixOf('counter', namespace) });
  }

  /** The parts of an entry's name. */
  partsOf(name: string): { namespace: string; key: string } {
    const [namespace = '', ...key] = name.slice(this.prefixOf('entry').length + 1, -1).split(':');
    return { namespace: decodeURIComponent(namespace), key: key.join(':') };
  }

  private async askTag(name: string): Promise<string> {
    const guard = this.tags.open(name);
    try {
      const version = this.shared ? await this.shared.tagVersion(name, 0) : randomTagBase().toString(36);
      this.tags.keep(name, guard, { version, epoch: 0, ...unplaced }, bytesOfText(version));
      if (this.isOfNamespace(name)) this.rememberNamespace(name);
      return version;
    } finally {
      this.tags.close(name, guard);
    }
  }

  /**
   * Touches tags and hot keys, because a full Redis evicts first what is not read from it: tags, with all entries kept
   * under them, and the entries that are read most in this process.
   */
  private async touch(): Promise<void> {
    if (this.isTouching || !this.isL1Used) return;
    const hot = this.hotKeys.top(mostHotTouched).map(({ key }) => key);
    const ofHot = hot.map((it) => this.nameOf('tag', this.partsOf(it).namespace, ''));
    const names = new Set([...hot, ...ofHot, ...this.namespaceTags]);
    if (this.leftToTouch === 0) {
      this.touching = this.tags.keys();
      // Tags added meanwhile wait for the next pass; otherwise a pass might never end.
      this.leftToTouch = this.tags.size;
    }
    const each = Math.max(leastTouched, Math.ceil(this.tags.size / turnsOfRound));
    for (let tags = 0; tags < each && this.leftToTouch > 0; tags += 1) {
      const { done, value } = this.touching!.next();
      this.leftToTouch = done ? 0 : this.leftToTouch - 1;
      if (!done) names.add(value);
    }
    if (names.size === 0) return;
    this.isTouching = true;
    await this.shared?.touch([...names]);
    this.isTouching = false;
  }

  /** Whether a tag is that of a whole namespace: only its name is empty. */
  private isOfNamespace(name: string): boolean {
    return name.indexOf(':', this.tagPrefix.length) === name.length - ':}'.length;
  }

  private rememberNamespace(name: string): void {
    this.namespaceTags.delete(name);
    this.namespaceTags.add(name);
    if (this.namespaceTags.size <= mostNamespacesTouched) return;
    const [oldest] = this.namespaceTags;
    this.namespaceTags.delete(oldest!);
  }

  private suspectTags(): void {
    this.tagChanges += 1;
    this.askedTags.clear();
    this.tags.suspectAll();
  }

  private forgetTag(name: string): void {
    this.tagChanges += 1;
    this.askedTags.delete(name);
    this.tags.invalidate(name);
  }

  private invalidated(name: string): void {
    if (name.startsWith(this.tagPrefix)) return this.forgetTag(name);
    this.entries.invalidate(name);
    for (const resolve of this.waiting.get(name) ?? []) resolve();
  }
}

/** Escapes a text for a glob pattern of Redis. */
const literal = (text: string): string => text.replaceAll(/[\\*?[\]^]/g, String.raw`\$&`);
