import { encodeEntry, type Entry } from './entry.js';
import { CacheUnavailable, counterIsFull } from './errors.js';
import type { Found, Reading } from './keyspace.js';
import { tokenOf, versionsIn } from './lease-token.js';
import { Loading } from './loading.js';
import { assertKey, assertTimes, longestLeaseMs, over, ttlBy, type KeepOptions } from './options.js';
import { pagesOf } from './pages.js';
import { unplaced } from './sieve.js';
import type { Kept } from './tiers.js';

export interface Written {
  version: string;
  /** Until when it is fresh, in milliseconds since the epoch by the clock of Redis; `null` for no expiry. */
  expiresAt: number | null;
}

/** The entry that was found, or a lease to fill the key; `null` if another caller holds the lease. */
export type Leased<Value> = { found: Found<Value> } | { lease: string | null };

/** How often a conditional write is tried while others keep overtaking it. */
const mostTries = 100;

/** Makes `compareAndSet` overwrite any existing version. No version looks like this. */
export const anyVersion = '*';

/** The expected version, or several; `null` if there must be no entry, `anyVersion` if there must be one. */
export type ExpectedVersion = string | readonly string[] | null;

/** Keys of one kind, with values of one type. */
export class Namespace<Value> extends Loading<Value> {
  /**
   * @returns `undefined` for a miss, and if the source has no value
   * @throws CacheUnavailable if Redis cannot be asked; `find` then returns a value that may be stale, marked as such
   */
  async get(key: string): Promise<Value | undefined> {
    const name = this.nameOf(key);
    const here = this.kept(name, key);
    const { counts, shared } = this.tiers;
    if (here) {
      counts.l1Hits += 1;
      return here.value as Value | undefined;
    }
    if (shared) return this.freshIn(await this.read(name))?.value as Value | undefined;
    counts.misses += 1;
    return undefined;
  }

  /**
   * @returns `undefined` for a miss
   * @throws CacheUnavailable if Redis cannot be asked and there is no stale value to serve
   */
  async find(key: string): Promise<Found<Value> | undefined> {
    return this.findAtOnce(key);
  }

  /** Does the same as `find`, without a promise if the entry is in this process or the key is invalid. */
  findAtOnce(key: string): Found<Value> | undefined | Promise<Found<Value> | undefined> {
    const name = this.nameOf(key);
    const here = this.kept(name, key);
    if (!here) return this.findFar(name);
    this.tiers.counts.l1Hits += 1;
    return this.found(here, 'l1', false);
  }

  /**
   * Reads many keys with one call to Redis per page.
   *
   * @returns the entries that were found, by key
   * @throws CacheUnavailable if a key cannot be read and there is no stale value to serve for it
   */
  async getMany(keys: readonly string[]): Promise<Map<string, Found<Value>>> {
    const found = new Map<string, Found<Value>>();
    const far: string[] = [];
    const names: string[] = [];
    for (const key of keys) {
      const name = this.nameOf(key);
      const here = this.kept(name, key);
      if (here) found.set(key, this.found(here, 'l1', false));
      else {
        far.push(key);
        names.push(name);
      }
    }
    this.tiers.counts.l1Hits += found.size;
    (await this.findAllFar(names)).forEach((it, at) => it && found.set(far[at]!, it));
    return found;
  }

  /** @throws CacheUnavailable if it is unknown whether the value was written */
  async set(key: string, value: Value, options: KeepOptions = {}): Promise<Written> {
    const name = this.entryName(key);
    const made = this.entryOf(value, over(this.options, options));
    const entry = made instanceof Promise ? await made : made;
    await this.put(key, name, entry);
    return writtenOf(entry);
  }

  /**
   * Writes many values. If a key occurs more than once, only its last value is written.
   *
   * @param options defaults for the values that have none of their own
   * @throws CacheUnavailable if it is unknown which values were written; if one is invalid, none is written
   */
  async setMany(
    values: Iterable<readonly [key: string, value: Value, options?: KeepOptions]>,
    options: KeepOptions = {},
  ): Promise<Written[]> {
    const ofAll = over(this.options, options);
    const all = [...values];
    if (all.length === 0) return [];
    // All values are checked before the first is written, so that an invalid one prevents all writes.
    const names = all.map(([key]) => this.entryName(key));
    const entries = await this.entriesOf(all.map(([, value, own = {}]) => [value, over(ofAll, own)] as const));
    // Concurrent writes may arrive in any order, so each key is written once.
    const last = new Map(entries.map((entry, at) => [names[at]!, { key: all[at]![0], entry }] as const));
    for (const page of pagesOf([...last]))
      await Promise.all(page.map(([name, { key, entry }]) => this.put(key, name, entry)));
    return entries.map(writtenOf);
  }

  /**
   * Writes the value if the key still has the expected version.
   *
   * @returns what was written, or the current version, `null` for none
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
    // Checks these tags in Redis too: a value written under a version that another process has invalidated would never be
    // served, and the next caller would succeed as well.
    const tags = (all.tags ?? []).map((tag) => this.tagName(tag));
    let entry: Entry | undefined;
    const other = await this.whereVersion(key, version, tags, async (stored) => {
      entry = await this.entryOf(value, all);
      return this.put(key, name, entry, stored);
    });
    return other ? { isWritten: false, ...other } : { isWritten: true, ...writtenOf(entry!) };
  }

  /**
   * Deletes the key if it still has the expected version.
   *
   * @returns the current version if it differs, `null` for none
   * @throws CacheUnavailable if it is unknown whether the key was deleted
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
   * @param tags names of the tags of the value to be written
   * @param change receives the stored version, and must do nothing if that has changed
   * @returns the current version if it differs; `undefined` if the change was made
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
   * Deletes keys. A load in progress for one of them is not stored.
   *
   * @throws CacheUnavailable if it is unknown whether they were deleted
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
    // A concurrent reader may have kept the old value in this process.
    forgetHere();
  }

  /** @throws CacheUnavailable if it is unknown whether the tags were invalidated */
  async invalidateTags(...tags: string[]): Promise<void> {
    const names = tags.map((tag) => this.tagName(tag));
    for (const page of pagesOf(names)) await Promise.all(page.map((name) => this.tiers.changeTag(name)));
  }

  /**
   * Invalidates all keys and counters of the namespace at once, however many there are. The memory in Redis is freed in the
   * background; entries in a process are evicted as usual.
   *
   * @throws CacheUnavailable if it is unknown whether the namespace was cleared
   */
  async clear(): Promise<void> {
    const { tiers, name } = this;
    await tiers.changeTag(this.ownTag);
    tiers.sweep(name, this.ownTag);
  }

  /**
   * Adds to a counter. Counters and values are separate: a key may have both.
   *
   * @param by a whole number, may be 0 or negative
   * @param options `ttl` applies if this call creates the counter; without it the counter does not expire, whatever the
   *   namespace's default for values is
   * @returns the count
   */
  async increment(key: string, by = 1, { ttl }: Pick<KeepOptions, 'ttl'> = {}): Promise<number> {
    const { tiers } = this;
    assertTimes({ ttl });
    if (!Number.isSafeInteger(by)) throw new RangeError(`a counter is changed by a whole number, not by ${by}`);
    assertKey(key);
    // A cleared namespace counts anew, even if the notification has not arrived yet.
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
   * Reads a key, and on a miss grants the first caller the lease to fill it: for callers that load elsewhere and cannot
   * pass a function to `getOrSet`.
   *
   * @param ms how long the lease is valid, at most `longestLeaseMs`
   * @param tags the tags of the value, by default those of the namespace: given before the load, because an invalidation
   *   from now on makes the value old
   * @throws CacheUnavailable if Redis cannot be asked
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
   * Writes a value that was loaded under a lease.
   *
   * @param lease the token from `findOrLease`, which contains the tags
   * @returns `undefined` if it came too late: the key was written or invalidated since, or the lease has expired
   * @throws CacheUnavailable if it is unknown whether the value was written
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
    // A value with outdated versions would be stored but never served.
    if (await this.isCurrentThere(entry)) {
      const isFilled = await shared.fill(name, leaseName, lease, encodeEntry(entry), this.storedFor(entry));
      // This process may not have heard yet that the entry it has was deleted.
      if (isFilled) this.tiers.entries.invalidate(name);
      return isFilled;
    }
    await shared.release(name, leaseName, lease);
    return false;
  }

  private fillHere(name: string, lease: string, entry: Entry): boolean {
    const { leases, entries } = this.tiers;
    const kept = this.keptOf(entry);
    const guard = leases.end(name, lease);
    if (!guard) return false;
    const isKept = this.isCurrent(entry, performance.now()) === true && entries.keep(name, guard, kept, kept.bytes);
    entries.close(name, guard);
    return isKept;
  }

  /**
   * @param ifVersion writes only over that version, `''` for none
   * @returns whether the value was written
   */
  private async put(key: string, name: string, entry: Entry, ifVersion?: string): Promise<boolean> {
    const { tiers } = this;
    if (!tiers.shared) {
      if (ifVersion !== undefined && this.readHere(name, key).version !== ifVersion) return false;
      const kept = this.keptOf(entry);
      tiers.entries.invalidate(name);
      const guard = tiers.entries.open(name);
      tiers.entries.keep(name, guard, kept, kept.bytes);
      tiers.entries.close(name, guard);
      return true;
    }
    tiers.entries.invalidate(name);
    const stored = encodeEntry(entry);
    const isWritten = await tiers.shared.put(name, this.leaseName(key), stored, this.storedFor(entry), ifVersion);
    tiers.entries.invalidate(name);
    return isWritten;
  }

  /**
   * The entry in Redis, or a stale one from this process.
   *
   * @throws CacheUnavailable if Redis cannot be asked and there is no stale entry
   */
  private async findFar(name: string): Promise<Found<Value> | undefined> {
    const { counts, shared } = this.tiers;
    if (!shared) {
      counts.misses += 1;
      return undefined;
    }
    try {
      return this.foundIn(await this.read(name));
    } catch (error) {
      const [standIn] = this.standInFor([name], error);
      return standIn;
    }
  }

  /** @throws CacheUnavailable if a key cannot be read and there is no stale entry for it */
  private async findAllFar(names: readonly string[]): Promise<(Found<Value> | undefined)[]> {
    const { counts, shared } = this.tiers;
    if (!shared || names.length === 0) {
      counts.misses += names.length;
      return names.map(() => undefined);
    }
    try {
      return (await this.readAll(names)).map((it, at) =>
        it instanceof CacheUnavailable ? this.standInFor([names[at]!], it)[0] : this.foundIn(it),
      );
    } catch (error) {
      return this.standInFor(names, error);
    }
  }

  private foundIn(reading: Reading): Found<Value> | undefined {
    const kept = this.freshIn(reading);
    return kept && this.found(kept, 'l2', false);
  }

  private freshIn({ state, kept }: Reading): Kept | undefined {
    const { counts } = this.tiers;
    if (state === 'fresh') counts.l2Hits += 1;
    else counts.misses += 1;
    return state === 'fresh' ? kept : undefined;
  }

  private standInFor(names: readonly string[], error: unknown): Found<Value>[] {
    if (!(error instanceof CacheUnavailable)) throw error;
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
