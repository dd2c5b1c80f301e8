import { randomInt } from 'node:crypto';
import { jsonCodec, type Codec } from './codec.js';
import { decodeEntry, noTags, versionIn, type Entry } from './entry.js';
import { CacheUnavailable } from './errors.js';
import { bytesOfText } from './guarded.js';
import type { Versions } from './lease-token.js';
import {
  assertKey,
  assertName,
  assertTimes,
  type KeepOptions,
  type LoadOptions,
  type NamespaceOptions,
} from './options.js';
import { pagesOf } from './pages.js';
import type { Page } from './reads.js';
import type { RedisTier } from './redis-tier.js';
import type { Kept, Tiers } from './tiers.js';

export interface Found<Value> {
  /** `undefined` if the source has no value. */
  value: Value | undefined;
  /** Changes with every write; for `compareAndSet` and `compareAndDelete`. */
  version: string;
  /** Until when it is fresh, in milliseconds since the epoch by the clock of Redis; `null` for no expiry. */
  expiresAt: number | null;
  isStale: boolean;
  tier: 'l1' | 'l2';
}

/** The entry in Redis under a key. */
export interface Reading {
  state: 'fresh' | 'stale' | 'nothing';
  kept?: Kept;
  /** The version of the stored entry, whatever its state. */
  version: string;
}

const defaultJitter = 0.05;

/** Names the keys of a namespace, reads their entries in both tiers, and decides whether an entry may still be served. */
export abstract class Keyspace<Value> {
  protected readonly ownTag: string;
  private readonly codec: Codec<Value>;
  private readonly entryPrefix: string;
  private readonly leasePrefix: string;

  constructor(
    protected readonly tiers: Tiers,
    readonly name: string,
    protected readonly options: LoadOptions<never> & Pick<NamespaceOptions<Value>, 'codec' | 'jitter'>,
  ) {
    assertName('name of a namespace', name);
    this.codec = options.codec ?? jsonCodec;
    this.ownTag = tiers.nameOf('tag', name, '');
    this.entryPrefix = tiers.prefixOf('entry', name);
    this.leasePrefix = tiers.prefixOf('lease', name);
    assertTimes(options);
    const { jitter = 0 } = options;
    if (!(jitter >= 0 && jitter <= 1)) throw new RangeError(`jitter is ${jitter}; it must be from 0 to 1`);
  }

  /** Checks only that the key is a string; `kept` checks the rest on a miss in this process. */
  protected nameOf(key: string): string {
    if (typeof key !== 'string') assertKey(key);
    return `${this.entryPrefix}${key}}`;
  }

  protected entryName(key: string): string {
    assertKey(key);
    return this.nameOf(key);
  }

  protected leaseName(key: string): string {
    return `${this.leasePrefix}${key}}`;
  }

  protected tagName(tag: string): string {
    assertName('tag', tag);
    return this.tiers.nameOf('tag', this.name, tag);
  }

  /**
   * The entry in this process, if it may be served as fresh.
   *
   * @throws RangeError for an invalid key, under which there cannot be an entry
   */
  protected kept(name: string, key: string): Kept | undefined {
    const { tiers } = this;
    const kept = tiers.entries.get(name);
    if (!kept) assertKey(key);
    tiers.hotKeys.saw(name);
    if (!kept) return undefined;
    const now = performance.now();
    if (now > tiers.l1UsedUntil || (kept.until <= now && this.isOver(kept, now))) return undefined;
    if (kept.checkedAt === tiers.tagChanges) return kept;
    if (!this.isCurrent(kept, now)) return undefined;
    kept.checkedAt = tiers.tagChanges;
    return kept;
  }

  private isOver({ until, freshUntil }: Kept, now: number): boolean {
    return until < longestUntil || freshUntil - this.tiers.clockAheadMs <= now;
  }

  /**
   * @param at by `performance.now()`
   * @returns `undefined` if Redis must be asked to find out
   */
  protected isCurrent({ namespaceVersion, tags }: Versions, at: number): boolean | undefined {
    const { tiers } = this;
    if (at > tiers.l1UsedUntil) return undefined;
    let isKnown = true;
    const check = (name: string, version: string): boolean => {
      const current = tiers.knownTag(name);
      if (current === undefined) isKnown = false;
      return current === undefined || current === version;
    };
    if (!check(this.ownTag, namespaceVersion)) return false;
    for (const [tag, version] of tags) if (!check(this.tagName(tag), version)) return false;
    return isKnown || undefined;
  }

  /**
   * An entry that may be served if nothing better is available: one that has expired, or one from before Redis was silent.
   * It must not be old by the last known version of a tag.
   */
  protected suspect(name: string): Kept | undefined {
    const { tiers } = this;
    const kept = tiers.entries.getSuspect(name);
    if (!kept || kept.standsInUntil <= performance.now()) return undefined;
    const isKnownOld = (tag: string, version: string): boolean => tiers.tags.getSuspect(tag)?.version !== version;
    if (isKnownOld(this.ownTag, kept.namespaceVersion)) return undefined;
    return kept.tags.some(([tag, version]) => isKnownOld(this.tagName(tag), version)) ? undefined : kept;
  }

  protected found(kept: Kept, tier: 'l1' | 'l2', isStale: boolean): Found<Value> {
    const expiresAt = Number.isFinite(kept.freshUntil) ? Math.floor(kept.freshUntil) : null;
    return { value: kept.value as Value | undefined, version: kept.version, expiresAt, isStale, tier };
  }

  /** @throws CacheUnavailable */
  protected async read(name: string): Promise<Reading> {
    const { entries } = this.tiers;
    const mark = entries.mark();
    try {
      const { page, at } = this.redis.read(name);
      const stored = storedIn(await page, at);
      return this.judged(name, mark, stored, performance.now()) ?? (await this.judgedThere(name, mark, stored));
    } finally {
      entries.unmark();
    }
  }

  /**
   * Like `read`, but compares tags with their versions in Redis: the notification of an invalidation by another process may
   * still be on its way.
   *
   * @param tags names of further tags whose versions are updated as well
   */
  protected async readSurely(name: string, tags: readonly string[]): Promise<Reading> {
    const { entries } = this.tiers;
    const mark = entries.mark();
    try {
      const { page, at } = this.redis.read(name);
      const stored = storedIn(await page, at);
      const entry = stored === null ? undefined : decodeEntry(stored);
      const names = new Set([this.ownTag, ...tags, ...(entry?.tags ?? []).map(([tag]) => this.tagName(tag))]);
      for (const some of pagesOf([...names])) await Promise.all(some.map((tag) => this.tiers.lookUpTag(tag)));
      return this.judged(name, mark, stored, performance.now()) ?? (await this.judgedThere(name, mark, stored));
    } finally {
      entries.unmark();
    }
  }

  /**
   * @returns the entry of each key, or why it cannot be read
   * @throws CacheUnavailable if no key can be read
   */
  protected async readAll(names: readonly string[]): Promise<(Reading | CacheUnavailable)[]> {
    const { entries } = this.tiers;
    const mark = entries.mark();
    try {
      const stored = await this.redis.readMany(names);
      const now = performance.now();
      const readings = stored.map((it, at) =>
        it instanceof CacheUnavailable ? it : this.judged(names[at]!, mark, it, now),
      );
      if (!readings.includes(undefined)) return readings as (Reading | CacheUnavailable)[];
      const doubtful = [...readings.keys()].filter((at) => !readings[at]);
      const entries = doubtful.map((at) => decodeEntry(stored[at] as string)!);
      const told = await this.versionsTold(entries.flatMap((it) => it.tags.map(([tag]) => tag)));
      doubtful.forEach((at, which) => {
        const entry = entries[which]!;
        // If one of its tags cannot be read, only this entry is unavailable.
        const away = [told.get(''), ...entry.tags.map(([tag]) => told.get(tag))].find(isUnavailable);
        const isCurrent = !away && isOf(told, entry);
        readings[at] = away ?? this.judged(names[at]!, mark, stored[at] as string, performance.now(), isCurrent);
      });
      return readings as (Reading | CacheUnavailable)[];
    } finally {
      entries.unmark();
    }
  }

  protected readHere(name: string, key: string): Reading {
    const kept = this.kept(name, key);
    return kept ? { state: 'fresh', kept, version: kept.version } : { state: 'nothing', version: '' };
  }

  /** For an entry with tags whose versions are not known here. */
  private async judgedThere(name: string, mark: number, stored: string | null): Promise<Reading> {
    const isCurrent = await this.isCurrentThere(decodeEntry(stored!)!);
    return this.judged(name, mark, stored, performance.now(), isCurrent)!;
  }

  /** @returns `undefined` if it is not known here whether its tags still have the same versions */
  private judged(
    name: string,
    mark: number,
    stored: string | null,
    at: number,
    isCurrent?: boolean,
  ): Reading | undefined {
    const now = at + this.tiers.clockAheadMs;
    const entry = stored === null ? undefined : decodeEntry(stored);
    if (!entry) return { state: 'nothing', version: stored === null ? '' : versionIn(stored) };
    const { version, freshUntil, staleUntil } = entry;
    if (staleUntil <= now) return { state: 'nothing', version };
    const current = isCurrent ?? this.isCurrent(entry, at);
    if (current === undefined) return undefined;
    if (!current) return { state: 'nothing', version };
    const kept = this.decoded(entry);
    if (!kept) return { state: 'nothing', version };
    // The entry expires here when it expires in Redis; its time does not start anew.
    this.tiers.entries.keep(name, mark, kept, kept.bytes);
    return { state: freshUntil > now ? 'fresh' : 'stale', kept, version };
  }

  protected async isCurrentThere(versions: Versions): Promise<boolean> {
    return isOf(await this.currentVersions(versions.tags.map(([tag]) => tag)), versions);
  }

  /** Like `versionsOf`, but synchronous, if the versions are known here. */
  private knownVersions(tags: readonly string[]): Versions | undefined {
    const { tiers } = this;
    const namespaceVersion = tiers.isL1Used && tags.length === 0 ? tiers.knownTag(this.ownTag) : undefined;
    return namespaceVersion === undefined ? undefined : { namespaceVersion, tags: noTags };
  }

  protected async versionsOf(tags: readonly string[]): Promise<Versions> {
    if (tags.length > 0) return versionsAmong(await this.currentVersions(tags), tags);
    return { namespaceVersion: await this.tiers.tagVersion(this.ownTag), tags: noTags };
  }

  /**
   * Like `versionsTold`.
   *
   * @throws CacheUnavailable if one of the tags cannot be read
   */
  private async currentVersions(tags: readonly string[]): Promise<Map<string, string>> {
    const told = await this.versionsTold(tags);
    for (const version of told.values()) if (isUnavailable(version)) throw version;
    return told as Map<string, string>;
  }

  /**
   * The version of each tag, or why it cannot be read; the namespace has the key `''`. Each tag is read once, page by page
   * to limit the load on Redis.
   */
  private async versionsTold(tags: readonly string[]): Promise<Map<string, string | CacheUnavailable>> {
    const names = new Map<string, string>();
    for (const tag of tags) if (!names.has(tag)) names.set(tag, this.tagName(tag));
    names.set('', this.ownTag);
    const versions = new Map<string, string | CacheUnavailable>();
    for (const page of pagesOf([...names])) {
      const told = await Promise.all(page.map(([, name]) => this.tiers.tagVersion(name).catch(unavailable)));
      page.forEach(([tag], at) => versions.set(tag, told[at]!));
    }
    return versions;
  }

  /** No promise if the versions are known here. */
  protected entryOf(value: Value, options: KeepOptions): Entry | Promise<Entry> {
    assertTimes(options);
    const { tags = [] } = options;
    const known = this.knownVersions(tags);
    if (known) return this.entryWith(value, options, 0, known);
    return this.versionsOf(tags).then((versions) => this.entryWith(value, options, 0, versions));
  }

  protected async entriesOf(values: readonly (readonly [value: Value, options: KeepOptions])[]): Promise<Entry[]> {
    for (const [, options] of values) assertTimes(options);
    const current = await this.currentVersions(values.flatMap(([, { tags = [] }]) => tags));
    return values.map(([value, options]) => this.entryWith(value, options, 0, versionsAmong(current, options.tags)));
  }

  protected entryWith(
    value: Value | undefined,
    { ttl, absentTtl = ttl, grace = 0 }: LoadOptions<never>,
    loadMs: number,
    versions: Versions,
  ): Entry {
    const { jitter = defaultJitter } = this.options;
    const lasts = (value === undefined ? absentTtl : ttl) ?? Number.POSITIVE_INFINITY;
    const freshUntil = this.tiers.now() + lasts * (1 - jitter * Math.random());
    return {
      text: value === undefined ? undefined : this.codec.encode(value),
      version: nextVersion(),
      // An absent value has no grace period: serving it stale would hide a value created since.
      staleUntil: value === undefined ? freshUntil : freshUntil + grace,
      ...{ freshUntil, loadMs, ...versions },
    };
  }

  /** @returns `undefined` if the codec cannot decode it, for example because another version of the program wrote it */
  protected decoded(entry: Entry): Kept | undefined {
    try {
      return this.keptOf(entry);
    } catch (error) {
      this.tiers.unreadable(this.name, error);
      return undefined;
    }
  }

  /** With its own size, without its key. */
  protected keptOf(entry: Entry): Kept {
    const { text, version, freshUntil, staleUntil, loadMs, namespaceVersion, tags } = entry;
    const { value, bytes } = text === undefined ? nothing : this.codec.decode(text);
    let total = headBytes + bytes;
    for (const [tag, ofTag] of tags) total += bytesOfText(tag) + bytesOfText(ofTag) + bytesOfPair;
    // Written member by member, because this runs for every value read from Redis.
    return {
      // The fields that every hit reads come first, as small integers, which V8 stores inline.
      epoch: 0,
      until: Math.min(Math.floor(freshUntil - this.tiers.clockAheadMs), longestUntil),
      checkedAt: notChecked,
      wasRead: false,
      value,
      version,
      namespaceVersion,
      tags,
      freshUntil,
      standsInUntil: staleUntil - this.tiers.clockAheadMs,
      loadMs,
      key: '',
      bytes: total,
      newer: undefined,
      older: undefined,
    };
  }

  /** The time to live in Redis, in whole milliseconds; 0 for no expiry. */
  protected storedFor({ staleUntil }: Entry): number {
    return Number.isFinite(staleUntil) ? Math.max(1, Math.ceil(staleUntil - this.tiers.now())) : 0;
  }

  protected get redis(): RedisTier {
    return this.tiers.shared!;
  }
}

/** @throws CacheUnavailable */
const storedIn = (page: Page, at: number): string | null => {
  const stored = page[at]!;
  if (stored instanceof CacheUnavailable) throw stored;
  return stored;
};

const versionsAmong = (current: ReadonlyMap<string, string>, tags: readonly string[] = []): Versions => ({
  namespaceVersion: current.get('')!,
  tags: tags.length === 0 ? noTags : tags.map((tag) => [tag, current.get(tag)!] as const),
});

const isOf = (current: ReadonlyMap<string, unknown>, { namespaceVersion, tags }: Versions): boolean =>
  current.get('') === namespaceVersion && tags.every(([tag, version]) => current.get(tag) === version);

const isUnavailable = (it: unknown): it is CacheUnavailable => it instanceof CacheUnavailable;
const unavailable = (error: unknown): CacheUnavailable => {
  if (!isUnavailable(error)) throw error;
  return error;
};

const nothing = { value: undefined, bytes: 0 };
const notChecked = -1;
/** The largest integer that V8 stores inline; `performance.now()` exceeds it after 24 days. */
const longestUntil = 2 ** 31 - 1;

/** The size of a `Kept` besides its value and tags: two identifiers, numbers and the object. */
const headBytes = 320;
/** The size of a tag with its version and its place in the array. */
const bytesOfPair = 72;

/** Versions have a random prefix of six letters and digits and a counter, so that none repeats in any process. */
const mostVersions = 36 ** 6;
let [versionPrefix, versionCount] = ['', mostVersions];
const nextVersion = (): string => {
  if (versionCount === mostVersions)
    [versionPrefix, versionCount] = [randomInt(mostVersions).toString(36).padStart(6, '0'), 0];
  return `${versionPrefix}${(versionCount++).toString(36)}`;
};
