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
import type { RedisTier } from './redis-tier.js';
import type { Kept, Tiers } from './tiers.js';

export interface Found<Value> {
  /** `undefined` where the source was asked and has nothing. */
  value: Value | undefined;
  version: string;
  /** Milliseconds since the epoch, by the clock of Redis. */
  expiresAt: number | null;
  isStale: boolean;
  tier: 'l1' | 'l2';
}

/** What lies in Redis under a key. */
export interface Reading {
  state: 'fresh' | 'stale' | 'nothing';
  kept?: Kept;
  /** Of what is stored there, whatever its state. */
  version: string;
}

const defaultJitter = 0.05;

/** What the keys of a namespace are called, what lies under them in either tier, and whether it may still be given out. */
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

  /** Of what may be no key, though it is a text. */
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

  /** What lies in this process and may be given out as it is. @throws RangeError for what is no key: nothing lies there */
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

  /** @param at by `performance.now()`. @returns `undefined` where that is not known without asking Redis */
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

  /** What may stand in: over its time, or of a time when nobody heard of Redis; nothing that may be old by a tag. */
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
      const stored = await this.redis.read(name);
      return this.judged(name, mark, stored, performance.now()) ?? (await this.judgedThere(name, mark, stored));
    } finally {
      entries.unmark();
    }
  }

  /**
   * As `read`, by the versions that Redis has of the tags of what lies there: nobody may have told yet of what another one
   * has invalidated, and written since.
   *
   * @param tags by name, of which the versions are to be known as of now as well
   */
  protected async readSurely(name: string, tags: readonly string[]): Promise<Reading> {
    const { entries } = this.tiers;
    const mark = entries.mark();
    try {
      const stored = await this.redis.read(name);
      const entry = stored === null ? undefined : decodeEntry(stored);
      const names = new Set([this.ownTag, ...tags, ...(entry?.tags ?? []).map(([tag]) => this.tagName(tag))]);
      for (const page of pagesOf([...names])) await Promise.all(page.map((tag) => this.tiers.lookUpTag(tag)));
      return this.judged(name, mark, stored, performance.now()) ?? (await this.judgedThere(name, mark, stored));
    } finally {
      entries.unmark();
    }
  }

  /** @returns of each what lies there, or why it cannot be asked for. @throws CacheUnavailable where that is so of all */
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
        // One of its tags is away; what has others is given out.
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

  /** Of something whose tags are not known here. */
  private async judgedThere(name: string, mark: number, stored: string | null): Promise<Reading> {
    const isCurrent = await this.isCurrentThere(decodeEntry(stored!)!);
    return this.judged(name, mark, stored, performance.now(), isCurrent)!;
  }

  /** @returns `undefined` where it is not known whether what it was loaded under is as it was */
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
    const decoded = this.decoded(entry);
    if (!decoded) return { state: 'nothing', version };
    const { kept, bytes } = decoded;
    // Kept in this process for as long as it was kept there, not from now on.
    this.tiers.entries.keep(name, mark, kept, bytes);
    return { state: freshUntil > now ? 'fresh' : 'stale', kept, version };
  }

  protected async isCurrentThere(versions: Versions): Promise<boolean> {
    return isOf(await this.currentVersions(versions.tags.map(([tag]) => tag)), versions);
  }

  /** As `versionsOf`, where nobody has to be asked: a promise less, and there is one for every write. */
  private knownVersions(tags: readonly string[]): Versions | undefined {
    const { tiers } = this;
    const namespaceVersion = tiers.isL1Used && tags.length === 0 ? tiers.knownTag(this.ownTag) : undefined;
    return namespaceVersion === undefined ? undefined : { namespaceVersion, tags: noTags };
  }

  protected async versionsOf(tags: readonly string[]): Promise<Versions> {
    if (tags.length > 0) return versionsAmong(await this.currentVersions(tags), tags);
    return { namespaceVersion: await this.tiers.tagVersion(this.ownTag), tags: noTags };
  }

  /** As `versionsTold`. @throws CacheUnavailable where one of them cannot be asked for */
  private async currentVersions(tags: readonly string[]): Promise<Map<string, string>> {
    const told = await this.versionsTold(tags);
    for (const version of told.values()) if (isUnavailable(version)) throw version;
    return told as Map<string, string>;
  }

  /**
   * By tag, `''` for the namespace, what its version is or why it cannot be asked for: each is asked for once, and not more
   * at a time than Redis is to be asked.
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

  protected async entryOf(value: Value, options: KeepOptions): Promise<Entry> {
    assertTimes(options);
    const { tags = [] } = options;
    return this.entryWith(value, options, 0, this.knownVersions(tags) ?? (await this.versionsOf(tags)));
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
      // That there is nothing does not stand in: nobody would see what has come to be since.
      staleUntil: value === undefined ? freshUntil : freshUntil + grace,
      ...{ freshUntil, loadMs, ...versions },
    };
  }

  /** @returns `undefined` for what the codec does not understand, perhaps as another version of the program wrote it */
  protected decoded(entry: Entry): { kept: Kept; bytes: number } | undefined {
    try {
      return this.keptOf(entry);
    } catch (error) {
      this.tiers.complain(`a value of ${this.name} cannot be read: ${String(error)}`);
      return undefined;
    }
  }

  protected keptOf(entry: Entry): { kept: Kept; bytes: number } {
    const { text, version, freshUntil, staleUntil, loadMs, namespaceVersion, tags } = entry;
    const { value, bytes } = text === undefined ? nothing : this.codec.decode(text);
    // One after the other: there is one for every value that comes out of Redis.
    const kept: Kept = {
      // What every hit reads lies together, in whole numbers, which V8 keeps in their place.
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
      bytes: 0,
      newer: undefined,
      older: undefined,
    };
    let total = headBytes + bytes;
    for (const [tag, ofTag] of tags) total += bytesOfText(tag) + bytesOfText(ofTag) + bytesOfPair;
    return { kept, bytes: total };
  }

  /** How long Redis keeps it, in whole milliseconds; 0 for no end. */
  protected storedFor({ staleUntil }: Entry): number {
    return Number.isFinite(staleUntil) ? Math.max(1, Math.ceil(staleUntil - this.tiers.now())) : 0;
  }

  protected get redis(): RedisTier {
    return this.tiers.shared!;
  }
}

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
/** The largest number that V8 keeps in its place: after 24 days of this process. */
const longestUntil = 2 ** 31 - 1;

/** The members of a `Kept` beside its value and tags: two identifiers, numbers and the object. */
const headBytes = 320;
/** A tag with its version, and its place among the others. */
const bytesOfPair = 72;

/** Six letters and digits of this process, and a number: so that none comes twice, in whatever process. */
const mostVersions = 36 ** 6;
let [versionPrefix, versionCount] = ['', mostVersions];
const nextVersion = (): string => {
  if (versionCount === mostVersions)
    [versionPrefix, versionCount] = [randomInt(mostVersions).toString(36).padStart(6, '0'), 0];
  return `${versionPrefix}${(versionCount++).toString(36)}`;
};
