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
  /** What those get who ask for it meanwhile: the value, or what stands in until then. */
  answer: Promise<unknown>;
  loading: Promise<unknown>;
  standIn: Kept | undefined;
  /** Whether it began before the end of a value. */
  isEarly: boolean;
  /** Of its key and tags. One is broken once somebody has invalidated that: whoever asks after it is not to get the value. */
  guards: readonly Guard[];
}

export interface CacheEngineOptions {
  /** What this process may keep, keys and what it takes to keep them included; below 256 KiB it keeps no values. */
  maxBytes?: number | undefined;
  /** The tier that all processes share; without it each has its own. */
  redis?: RedisOptions | undefined;
  /** What all keys in Redis begin with. */
  prefix?: string | undefined;
  /** What is measured is told to it, of one engine only: two of them cannot be told apart there. */
  meter?: Meter | undefined;
  /** Hears of what goes wrong where nobody is told by an error. */
  complain?: ((message: string) => void) | undefined;
}

/** A value in this process. */
export interface Kept extends Omit<Head, 'staleUntil'>, Guardable {
  value: unknown;
  /** `freshUntil` and `staleUntil` by the clock of this process that only goes forward. */
  until: number;
  standsInUntil: number;
  /** What the tags were last found to be as they were before the load: nothing has been said about any tag since. */
  checkedAt: number;
}

const defaultMaxBytes = 67_108_864;
/** Of `maxBytes`, what goes to the versions of tags, and as much each to counters and leases where there is no Redis. */
const shareOfTags = 1 / 16;
/** Without the versions of tags every read asks for them. */
const leastForTags = 65_536;

/** The version of a tag is asked for anew so often, which keeps it in Redis, however long it is known here: a week. */
const tagsAskedEveryMs = 7 * 24 * 3_600_000;

/** What Redis is not asked for, since it is known here, it is told to be in use: all of it in so many turns, so many at least. */
const touchedEveryMs = 1_000;
const turnsOfRound = 30;
const leastTouched = 512;
const mostHotTouched = 64;
const mostNamespacesTouched = 512;

/** What lies in this process and in Redis, under which names, and what has happened to it. */
export class Tiers {
  readonly counts: Counts = noCounts();
  readonly hotKeys = new HotKeys();
  readonly redisLatency: LatencyOf;
  readonly loadLatency: LatencyOf;
  readonly entries: Guarded<Kept>;
  readonly tags: Guarded<{ version: string } & Guardable>;
  readonly counters: Guarded<{ count: number; until: number } & Guardable>;
  /** Entries that are being loaded, and what those who ask for one get. */
  readonly flights = new Map<string, Flight>();
  /** Entries that are being asked for again before their end. */
  readonly refreshing = new Map<string, Flight>();
  /** The rights to fill that were given out where there is no Redis to keep them. */
  readonly leases: Leases;
  /** Entries whose source has failed, and until when it is left alone. */
  readonly resting = new Map<string, number>();
  /** Versions of tags that have been asked for in this turn of the event loop. */
  private readonly askedTags = new Map<string, Promise<string>>();
  /** How often something has been said about any tag. */
  tagChanges = 0;
  readonly shared: RedisTier | undefined;
  readonly complain: (message: string) => void;
  readonly maxBytes: number;
  private readonly prefix: string;
  private readonly tagPrefix: string;
  private readonly waiting = new Map<string, (() => void)[]>();
  private timers: NodeJS.Timeout[] = [];
  /** The tags that are told to Redis next, and how many of them until it begins with the first one again. */
  private touching: Iterator<string> | undefined;
  private leftToTouch = 0;
  private isTouching = false;
  /** The tags of whole namespaces, of those that were asked for last: told each time, as all of a namespace goes with its tag. */
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

  /** By `performance.now()`, if Redis is not heard of again. */
  get l1UsedUntil(): number {
    return this.shared?.heardUntil ?? Number.POSITIVE_INFINITY;
  }

  now(): number {
    return performance.now() + this.clockAheadMs;
  }

  /** How far the shared clock is ahead of the one of this process that only goes forward. */
  get clockAheadMs(): number {
    return this.shared?.clockAheadMs ?? Date.now() - performance.now();
  }

  /**
   * The name of a key in Redis. The namespace is written without the colon that ends it, so that no key of one is a key of
   * another; what is in braces decides on the slot, so that all names of one key lie together.
   */
  nameOf(kind: keyof typeof keyKinds, namespace: string, key: string): string {
    return `${this.prefixOf(kind, namespace)}${key}}`;
  }

  /** What the names of all entries or counters of a namespace begin with. */
  prefixOf(kind: keyof typeof keyKinds, namespace?: string): string {
    const all = `${this.prefix}:${keyKinds[kind]}:`;
    return namespace === undefined ? all : `${all}{${encodeURIComponent(namespace)}:`;
  }

  /** Resolves when the entry changes, or after so many milliseconds. */
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

  /** The version of a tag, where it is known here. */
  knownTag(name: string): string | undefined {
    return this.tags.get(name)?.version;
  }

  /** The version of a tag as it is now; one that is not known yet begins. */
  tagVersion(name: string): Promise<string> {
    const known = this.isL1Used ? this.knownTag(name) : undefined;
    if (known !== undefined) return Promise.resolve(known);
    const asked = this.askedTags.get(name);
    if (asked) return asked;
    const version = this.askTag(name);
    this.askedTags.set(name, version);
    // Whoever asks later is told what it is then.
    setImmediate(() => this.askedTags.delete(name));
    return version;
  }

  /** The version of a tag as Redis has it, also where nobody has told of a change yet. */
  async lookUpTag(name: string): Promise<string> {
    if (!this.shared) return this.tagVersion(name);
    const known = this.knownTag(name);
    const version = await this.askTag(name);
    if (known !== undefined && known !== version) this.forgetTag(name);
    return version;
  }

  /** What was kept under the tag is old from now on. */
  async changeTag(name: string): Promise<void> {
    this.forgetTag(name);
    if (this.shared) {
      await this.shared.tagVersion(name, randomInt(1, 2 ** 20));
      // Who read it meanwhile has perhaps read the old one.
      this.forgetTag(name);
    }
  }

  /** Throws away what lies in Redis from before the version that the namespace has now. */
  sweep(namespace: string, tag: string): void {
    const pattern = `${literal(this.prefix)}:[${keyKinds.entry}${keyKinds.counter}]:{${literal(encodeURIComponent(namespace))}:*`;
    this.shared?.sweep({ tag, pattern, counters: this.prefixOf('counter', namespace) });
  }

  /** What a name of an entry is made of. */
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
   * A Redis that is full throws away first what nobody asks it for: that would be the tags, and with each of them all that was
   * kept under it, and what is read here most.
   */
  private async touch(): Promise<void> {
    if (this.isTouching || !this.isL1Used) return;
    const hot = this.hotKeys.top(mostHotTouched).map(({ key }) => key);
    const ofHot = hot.map((it) => this.nameOf('tag', this.partsOf(it).namespace, ''));
    const names = new Set([...hot, ...ofHot, ...this.namespaceTags]);
    if (this.leftToTouch === 0) {
      this.touching = this.tags.keys();
      // Those that come meanwhile are for the next time: they would keep it from its end.
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

  /** Whether a tag is that of a whole namespace: no other one is called by an empty text. */
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

/** As a part of a pattern of Redis. */
const literal = (text: string): string => text.replaceAll(/[\\*?[\]^]/g, String.raw`\$&`);
