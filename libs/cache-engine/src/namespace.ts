import { encodeEntry, type Entry } from './entry.js';
import { CacheUnavailable, counterIsFull } from './errors.js';
import type { Found, Reading } from './keyspace.js';
import { tokenOf, versionsIn } from './lease-token.js';
import { Loading } from './loading.js';
import { assertKey, assertTimes, over, ttlBy, type KeepOptions } from './options.js';
import { pagesOf } from './pages.js';
import { unplaced } from './sieve.js';

export interface Written {
  version: string;
  expiresAt: number | null;
}

/** What was found, or the right to fill; `null` where another one has it at present. */
export type Leased<Value> = { found: Found<Value> } | { lease: string | null };

/** Of a write that others come before again and again. */
const mostTries = 100;

export const longestLeaseMs = 60_000;

/** Of what `compareAndSet` writes over: whichever is there. No version is written like it. */
export const anyVersion = '*';

/** The version that has to be there, or one of several; `null` where nothing may be, `anyVersion` where something has to. */
export type ExpectedVersion = string | readonly string[] | null;

/** Keys of one kind, with values of one type. */
export class Namespace<Value> extends Loading<Value> {
  /**
   * @returns `undefined` for a miss, and for what the source does not have
   * @throws CacheUnavailable when Redis cannot be asked; `find` gives what may be old then, and says so
   */
  async get(key: string): Promise<Value | undefined> {
    const name = this.nameOf(key);
    const here = this.kept(name, key);
    if (!here) return (await this.findFar(name, false))?.value;
    this.tiers.counts.l1Hits += 1;
    return here.value as Value | undefined;
  }

  /**
   * @returns `undefined` for a miss
   * @throws CacheUnavailable when Redis cannot be asked and nothing is here to stand in
   */
  async find(key: string): Promise<Found<Value> | undefined> {
    const name = this.nameOf(key);
    const here = this.kept(name, key);
    if (!here) return this.findFar(name);
    this.tiers.counts.l1Hits += 1;
    return this.found(here, 'l1', false);
  }

  /**
   * Many at once: one question to Redis.
   *
   * @returns what was found, by key
   * @throws CacheUnavailable when one of them cannot be asked for and nothing is here to stand in for it
   */
  async getMany(keys: readonly string[]): Promise<Map<string, Found<Value>>> {
    const found = new Map<string, Found<Value>>();
    const far: { key: string; name: string }[] = [];
    for (const key of keys) {
      const name = this.nameOf(key);
      const here = this.kept(name, key);
      if (here) found.set(key, this.found(here, 'l1', false));
      else far.push({ key, name });
    }
    this.tiers.counts.l1Hits += found.size;
    const names = far.map((it) => it.name);
    (await this.findAllFar(names)).forEach((it, at) => it && found.set(far[at]!.key, it));
    return found;
  }

  /** @throws CacheUnavailable when it is not known whether it was written */
  async set(key: string, value: Value, options: KeepOptions = {}): Promise<Written> {
    const name = this.entryName(key);
    const entry = await this.entryOf(value, over(this.options, options));
    await this.put(key, name, entry);
    return writtenOf(entry);
  }

  /**
   * Writes many: of a key that is told twice the last value alone.
   *
   * @param options what none of the values says of itself
   * @throws CacheUnavailable when it is not known which of them were written; where one is refused, none is written
   */
  async setMany(
    values: Iterable<readonly [key: string, value: Value, options?: KeepOptions]>,
    options: KeepOptions = {},
  ): Promise<Written[]> {
    const ofAll = over(this.options, options);
    const all = [...values];
    if (all.length === 0) return [];
    // All of them before the first is written: what is refused, of whichever, leaves none of them written.
    const names = all.map(([key]) => this.entryName(key));
    const entries = await this.entriesOf(all.map(([, value, own = {}]) => [value, over(ofAll, own)] as const));
    // What is sent at once may come in any order.
    const last = new Map(entries.map((entry, at) => [names[at]!, { key: all[at]![0], entry }] as const));
    for (const page of pagesOf([...last]))
      await Promise.all(page.map(([name, { key, entry }]) => this.put(key, name, entry)));
    return entries.map(writtenOf);
  }

  /**
   * Writes where the version is as it was read.
   *
   * @returns what was written, or the version that is there instead, `null` for none
   */
  async compareAndSet(
    key: string,
    version: ExpectedVersion,
    value: Value,
    options: KeepOptions = {},
  ): Promise<({ isWritten: true } & Written) | { isWritten: false; version: string | null }> {
    const name = this.entryName(key);
    const all = over(this.options, options);
    assertTimes(all);
    // Written under what another one has invalidated meanwhile, it would lie there unseen, and the next one would win as well.
    const tags = (all.tags ?? []).map((tag) => this.tagName(tag));
    let entry: Entry | undefined;
    const other = await this.whereVersion(key, version, tags, async (stored) => {
      entry = await this.entryOf(value, all);
      return this.put(key, name, entry, stored);
    });
    return other ? { isWritten: false, ...other } : { isWritten: true, ...writtenOf(entry!) };
  }

  /**
   * Forgets where the version is as it was read.
   *
   * @returns the version that is there instead, `null` for none
   * @throws CacheUnavailable when it is not known whether it is forgotten
   */
  async compareAndDelete(
    key: string,
    version: ExpectedVersion,
  ): Promise<{ isDeleted: true } | { isDeleted: false; version: string | null }> {
    const { entries, shared } = this.tiers;
    const name = this.entryName(key);
    const other = await this.whereVersion(key, version, [], async (stored) => {
      if (!shared && this.readHere(name, key).version !== stored) return false;
      entries.invalidate(name);
      const isDeleted = shared === undefined || (await shared.removeIf(name, this.leaseName(key), stored));
      entries.invalidate(name);
      return isDeleted;
    });
    return other ? { isDeleted: false, ...other } : { isDeleted: true };
  }

  /**
   * @param tags by name, of what is to be written
   * @param change is told what is stored, and does nothing where that is another by now
   * @returns the version that is there instead; `undefined` where it was changed
   */
  private async whereVersion(
    key: string,
    version: ExpectedVersion,
    tags: readonly string[],
    change: (stored: string) => Promise<boolean>,
  ): Promise<{ version: string | null } | undefined> {
    const { shared } = this.tiers;
    const name = this.entryName(key);
    for (let tries = 0; ; tries += 1) {
      const { state, kept, version: stored } = shared ? await this.readSurely(name, tags) : this.readHere(name, key);
      const current = state === 'fresh' ? kept!.version : null;
      const isExpected = version === anyVersion ? current !== null : [version].flat().includes(current);
      if (!isExpected || tries === mostTries) return { version: current };
      if (await change(stored)) return undefined;
    }
  }

  /**
   * Forgets keys; who loads one of them meanwhile does not get it in.
   *
   * @throws CacheUnavailable when it is not known whether they are forgotten
   */
  async delete(...keys: string[]): Promise<void> {
    const { tiers } = this;
    const names = keys.map((key) => this.entryName(key));
    const forgetHere = (): void => {
      for (const name of names) tiers.entries.invalidate(name);
    };
    forgetHere();
    if (!tiers.shared || keys.length === 0) return;
    await tiers.shared.remove(keys.map((key, at) => [names[at]!, this.leaseName(key)] as const));
    // Who has read it out of Redis meanwhile may have kept it.
    forgetHere();
  }

  /** @throws CacheUnavailable when it is not known whether it took place */
  async invalidateTags(...tags: string[]): Promise<void> {
    const names = tags.map((tag) => this.tagName(tag));
    for (const page of pagesOf(names)) await Promise.all(page.map((name) => this.tiers.changeTag(name)));
  }

  /**
   * Forgets all keys and counters of the namespace at once, however many they are. What lies in Redis is thrown away by and
   * by; what lies in a process makes room for others as it would have done.
   *
   * @throws CacheUnavailable when it is not known whether it took place
   */
  async clear(): Promise<void> {
    const { tiers, name } = this;
    await tiers.changeTag(this.ownTag);
    tiers.sweep(name, this.ownTag);
  }

  /**
   * Counts. Counters are kept apart from values: a key may have both.
   *
   * @param by a whole number, also 0 or less
   * @param options `ttl` of a counter that begins with this; without it there is no end, whatever the namespace says of values
   * @returns the count
   */
  async increment(key: string, by = 1, { ttl }: Pick<KeepOptions, 'ttl'> = {}): Promise<number> {
    const { tiers } = this;
    assertTimes({ ttl });
    if (!Number.isSafeInteger(by)) throw new RangeError(`a counter is changed by a whole number, not by ${by}`);
    assertKey(key);
    // A namespace that is cleared begins to count anew, also where nobody has told of that yet.
    const version = await tiers.lookUpTag(this.ownTag);
    const name = tiers.nameOf('counter', this.name, `${version}:${key}`);
    if (tiers.shared) return tiers.shared.count(name, by, ttl === Number.POSITIVE_INFINITY ? 0 : (ttl ?? 0));
    const known = tiers.counters.get(name);
    const isNew = !known || known.until <= performance.now();
    const count = (isNew ? 0 : known.count) + by;
    if (!Number.isSafeInteger(count)) throw new RangeError(counterIsFull);
    const until = isNew ? performance.now() + (ttl ?? Number.POSITIVE_INFINITY) : known.until;
    const guard = tiers.counters.open(name);
    tiers.counters.keep(name, guard, { count, until, epoch: 0, ...unplaced }, 0);
    tiers.counters.close(name, guard);
    return count;
  }

  /**
   * Reads, and on a miss gives the right to fill the key to whoever asks first: for those who load elsewhere, who cannot
   * hand over a function as to `getOrSet`.
   *
   * @param ms how long the lease holds, at most `longestLeaseMs`
   * @param tags what the value will depend on, those of the namespace when left out: said now, since what is invalidated
   *   from now on is old by the time it comes
   * @throws CacheUnavailable when Redis cannot be asked
   */
  async findOrLease(key: string, ms: number, tags = this.options.tags ?? []): Promise<Leased<Value>> {
    if (!(Number.isInteger(ms) && ms >= 1 && ms <= longestLeaseMs))
      throw new RangeError(`a lease lasts a whole number of milliseconds from 1 to ${longestLeaseMs}, not ${ms}`);
    const { tiers } = this;
    const name = this.nameOf(key);
    const here = this.kept(name, key);
    if (here) {
      tiers.counts.l1Hits += 1;
      return { found: this.found(here, 'l1', false) };
    }
    const reading = tiers.shared && (await this.read(name));
    if (reading?.state === 'fresh') {
      tiers.counts.l2Hits += 1;
      return { found: this.found(reading.kept!, 'l2', false) };
    }
    tiers.counts.misses += 1;
    const token = tokenOf(await this.versionsOf(tags));
    if (!tiers.shared) return { lease: tiers.leases.take(name, token, ms) ? token : null };
    const leasing = this.redis.lease(name, this.leaseName(key), token, ms, reading!.version);
    const { isTaken, stored } = await leasing.catch((error: unknown) => {
      // It may have been taken, and nobody has the token.
      this.inBackground(this.redis.release(name, this.leaseName(key), token));
      throw error;
    });
    if (isTaken) return { lease: token };
    const filled = stored === null ? undefined : await this.filledMeanwhile(stored);
    return filled ? { found: this.found(filled, 'l2', false) } : { lease: null };
  }

  /**
   * Writes what was loaded under a lease.
   *
   * @param lease as `findOrLease` gave it, with the tags that were said then
   * @returns `undefined` where it comes too late: the key was written or invalidated since, or the lease is over
   * @throws CacheUnavailable when it is not known whether it was written
   */
  async fillLeased(
    key: string,
    lease: string,
    value: Value,
    options: Omit<KeepOptions, 'tags'> = {},
  ): Promise<Written | undefined> {
    const { tiers } = this;
    const { ttl = ttlBy(this.options, value) } = options;
    const all = over(this.options, { ...options, ttl });
    assertTimes(all);
    const name = this.entryName(key);
    const versions = versionsIn(lease);
    if (versions) {
      const entry = this.entryWith(value, all, 0, versions);
      if (await this.isFilled(name, key, lease, entry)) return writtenOf(entry);
    }
    tiers.counts.fillsRefused += 1;
    return undefined;
  }

  private async isFilled(name: string, key: string, lease: string, entry: Entry): Promise<boolean> {
    const { shared } = this.tiers;
    if (!shared) return this.fillHere(name, lease, entry);
    const leaseName = this.leaseName(key);
    // It would lie there and be given to nobody.
    if (await this.isCurrentThere(entry))
      return shared.fill(name, leaseName, lease, encodeEntry(entry), this.storedFor(entry));
    await shared.release(name, leaseName, lease);
    return false;
  }

  private fillHere(name: string, lease: string, entry: Entry): boolean {
    const { leases, entries } = this.tiers;
    const { kept, bytes } = this.keptOf(entry);
    const guard = leases.end(name, lease);
    if (!guard) return false;
    const isKept = this.isCurrent(entry, performance.now()) === true && entries.keep(name, guard, kept, bytes);
    entries.close(name, guard);
    return isKept;
  }

  /** @param ifVersion writes only where that version lies, `''` for nothing. @returns whether it was written */
  private async put(key: string, name: string, entry: Entry, ifVersion?: string): Promise<boolean> {
    const { tiers } = this;
    if (!tiers.shared) {
      if (ifVersion !== undefined && this.readHere(name, key).version !== ifVersion) return false;
      const { kept, bytes } = this.keptOf(entry);
      tiers.entries.invalidate(name);
      const guard = tiers.entries.open(name);
      tiers.entries.keep(name, guard, kept, bytes);
      tiers.entries.close(name, guard);
      return true;
    }
    tiers.entries.invalidate(name);
    const stored = encodeEntry(entry);
    const isWritten = await tiers.shared.put(name, this.leaseName(key), stored, this.storedFor(entry), ifVersion);
    tiers.entries.invalidate(name);
    return isWritten;
  }

  /** What Redis has, or what stands in for it. @throws CacheUnavailable when it cannot be asked and nothing stands in */
  private async findFar(name: string, mayBeStale = true): Promise<Found<Value> | undefined> {
    const { counts, shared } = this.tiers;
    if (!shared) {
      counts.misses += 1;
      return undefined;
    }
    try {
      return this.foundIn(await this.read(name));
    } catch (error) {
      const [standIn] = this.standInFor([name], error, mayBeStale);
      return standIn;
    }
  }

  /** @throws CacheUnavailable when Redis cannot be asked and something of it has nothing to stand in */
  private async findAllFar(names: readonly string[]): Promise<(Found<Value> | undefined)[]> {
    const { counts, shared } = this.tiers;
    if (!shared || names.length === 0) {
      counts.misses += names.length;
      return names.map(() => undefined);
    }
    try {
      return (await this.readAll(names)).map((it, at) =>
        it instanceof CacheUnavailable ? this.standInFor([names[at]!], it, true)[0] : this.foundIn(it),
      );
    } catch (error) {
      return this.standInFor(names, error, true);
    }
  }

  private foundIn({ state, kept }: Reading): Found<Value> | undefined {
    const { counts } = this.tiers;
    if (state === 'fresh') counts.l2Hits += 1;
    else counts.misses += 1;
    return state === 'fresh' ? this.found(kept!, 'l2', false) : undefined;
  }

  private standInFor(names: readonly string[], error: unknown, mayBeStale: boolean): Found<Value>[] {
    if (!(error instanceof CacheUnavailable) || !mayBeStale) throw error;
    const suspects = names.map((name) => this.suspect(name));
    if (suspects.includes(undefined)) throw error;
    this.tiers.counts.staleHits += suspects.length;
    return suspects.map((it) => this.found(it!, 'l1', true));
  }
}

const writtenOf = ({ version, freshUntil }: Entry): Written => ({
  version,
  expiresAt: Number.isFinite(freshUntil) ? Math.floor(freshUntil) : null,
});
