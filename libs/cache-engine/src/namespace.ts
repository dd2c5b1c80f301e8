import { randomInt, randomUUID } from 'node:crypto';
import { within } from './within.js';
import { jsonCodec, type Codec } from './codec.js';
import { decodeEntry, encodeEntry, isDueEarly, noTags, versionIn, type Entry } from './entry.js';
import { bytesOfText, type Guard } from './guarded.js';
import { tokenOf, versionsIn, type Versions } from './lease-token.js';
import {
  assertKey,
  assertName,
  assertTimes,
  over,
  ttlBy,
  type KeepOptions,
  type LoadOptions,
  type NamespaceOptions,
} from './options.js';
import { CacheUnavailable, pagesOf, type RedisTier } from './redis-tier.js';
import { unplaced } from './sieve.js';
import type { Flight, Kept, Tiers } from './tiers.js';

export interface Found<Value> {
  /** `undefined` where the source was asked and has nothing. */
  value: Value | undefined;
  version: string;
  /** Milliseconds since the epoch, by the clock of Redis. */
  expiresAt: number | null;
  isStale: boolean;
  tier: 'l1' | 'l2';
}

export interface Written {
  version: string;
  expiresAt: number | null;
}

/** Asks the source. `undefined` says that it has nothing, which is kept as well. */
export type Load<Value> = (asked: {
  key: string;
  signal: AbortSignal;
}) => Promise<Value | undefined> | Value | undefined;

/** What was found, or the right to fill; `null` where another one has it at present. */
export type Leased<Value> = { found: Found<Value> } | { lease: string | null };

/** What lies in Redis under a key. */
interface Reading {
  state: 'fresh' | 'stale' | 'nothing';
  kept?: Kept;
  /** Of what is stored there, whatever its state. */
  version: string;
}

/** Of a write that others come before again and again. */
const mostTries = 100;
const defaultJitter = 0.05;
const defaultHardMs = 10_000;
/** A lease is kept for as long as the source takes, and ends so soon after its holder has died. */
const leaseMs = 2_000;
const renewedEveryMs = 500;
const firstPollMs = 20;
const longestPollMs = 250;
/** A source that has failed is left alone for a while by those who have something to stand in. */
const restAfterFailureMs = 1_000;

export const longestLeaseMs = 60_000;

/** Keys of one kind, with values of one type. */
export class Namespace<Value> {
  private readonly codec: Codec<Value>;
  private readonly ownTag: string;
  private readonly entryPrefix: string;
  private readonly leasePrefix: string;

  constructor(
    private readonly tiers: Tiers,
    readonly name: string,
    private readonly options: NamespaceOptions<Value>,
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

  /** Many at once: one question to Redis. @returns what was found, by key */
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

  /**
   * The value under a key, asked for where it comes from when it is not here: by one caller at a time, of all processes.
   * What is over its time and within its grace stands in while it is asked for again, and when that fails.
   *
   * @throws whatever `load` throws, where nothing stands in; never because Redis is away
   */
  async getOrSet(key: string, load: Load<Value>, options: LoadOptions = {}): Promise<Value | undefined> {
    const { tiers } = this;
    const name = this.nameOf(key);
    const here = this.kept(name, key);
    if (here) {
      tiers.counts.l1Hits += 1;
      const { refreshBefore = this.options.refreshBefore ?? 0 } = options;
      const now = tiers.now();
      const before = typeof refreshBefore === 'function' ? refreshBefore(here.value) : refreshBefore;
      const isDue = here.freshUntil - now < before || isDueEarly(here, now, randomAboveZero());
      if (isDue && !tiers.flights.has(name) && !this.isResting(name)) {
        tiers.counts.earlyRefreshes += 1;
        this.inBackground(this.start(name, key, load, options, here));
      }
      return here.value as Value | undefined;
    }
    const flight = tiers.flights.get(name);
    // What began before an invalidation is not for who asks after it.
    if (!flight?.guards.every((it) => it.isIntact)) return this.start(name, key, load, options);
    tiers.counts.sharedLoads += 1;
    const isOver = flight.standIn !== undefined && flight.standIn.standsInUntil <= performance.now();
    return (isOver ? flight.loading : flight.answer) as Promise<Value | undefined>;
  }

  /** @throws CacheUnavailable when it is not known whether it was written */
  async set(key: string, value: Value, options: KeepOptions = {}): Promise<Written> {
    const name = this.entryName(key);
    const entry = await this.entryOf(value, over(this.options, options));
    await this.put(key, name, entry);
    return writtenOf(entry);
  }

  /**
   * Writes in the order that is told: of a key that is told twice the last value stays.
   *
   * @param options what none of the values says of itself
   * @throws CacheUnavailable when it is not known which of them were written
   */
  async setMany(
    values: Iterable<readonly [key: string, value: Value, options?: KeepOptions]>,
    options: KeepOptions = {},
  ): Promise<Written[]> {
    const ofAll = over(this.options, options);
    const written: Written[] = [];
    for (const page of pagesOf([...values])) {
      const names = page.map(([key]) => this.entryName(key));
      // All of them before the first is written: some are known at once, and others have to be asked for.
      const entries = await Promise.all(page.map(([, value, own = {}]) => this.entryOf(value, over(ofAll, own))));
      await Promise.all(entries.map((entry, at) => this.put(page[at]![0], names[at]!, entry)));
      for (const entry of entries) written.push(writtenOf(entry));
    }
    return written;
  }

  /**
   * Writes where the version is as it was read.
   *
   * @param version `null` to write only where nothing is
   * @returns what was written, or the version that is there instead, `null` for none
   */
  async compareAndSet(
    key: string,
    version: string | null,
    value: Value,
    options: KeepOptions = {},
  ): Promise<({ isWritten: true } & Written) | { isWritten: false; version: string | null }> {
    const { tiers } = this;
    const name = this.entryName(key);
    const all = over(this.options, options);
    // Written under what another one has invalidated meanwhile, it would lie there unseen, and the next one would win as well.
    const tags = [this.ownTag, ...(all.tags ?? []).map((tag) => this.tagName(tag))];
    await Promise.all(tags.map((tag) => tiers.lookUpTag(tag)));
    const entry = await this.entryOf(value, all);
    for (let tries = 0; ; tries += 1) {
      const { state, kept, version: stored } = tiers.shared ? await this.read(name) : this.readHere(name, key);
      const current = state === 'fresh' ? kept!.version : null;
      if (current !== version || tries === mostTries) return { isWritten: false, version: current };
      if (await this.put(key, name, entry, stored)) return { isWritten: true, ...writtenOf(entry) };
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
   * @returns the count
   */
  async increment(key: string, by = 1, { ttl }: Pick<KeepOptions, 'ttl'> = {}): Promise<number> {
    const { tiers } = this;
    assertTimes({ ttl });
    if (!Number.isSafeInteger(by)) throw new RangeError(`a counter is moved by a whole number, not by ${by}`);
    assertKey(key);
    // A namespace that is cleared begins to count anew, also where nobody has told of that yet.
    const version = await tiers.lookUpTag(this.ownTag);
    const name = tiers.nameOf('counter', this.name, `${version}:${key}`);
    if (tiers.shared) return tiers.shared.count(name, by, ttl === Number.POSITIVE_INFINITY ? 0 : (ttl ?? 0));
    const known = tiers.counters.get(name);
    const isNew = !known || known.until <= performance.now();
    const count = (isNew ? 0 : known.count) + by;
    if (!Number.isSafeInteger(count)) throw new RangeError('the counter would leave the safe integers');
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
    const { isTaken, stored } = await this.redis.lease(name, this.leaseName(key), token, ms, reading!.version);
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

  private async start(
    name: string,
    key: string,
    load: Load<Value>,
    given: LoadOptions,
    early?: Kept,
  ): Promise<Value | undefined> {
    const { tiers } = this;
    const options = over(this.options, given);
    assertTimes(options);
    const tags = [this.ownTag, ...(options.tags ?? []).map((tag) => this.tagName(tag))];
    const answer = Promise.withResolvers<Value | undefined>();
    const loading = Promise.withResolvers<Value | undefined>();
    const guard = tiers.entries.open(name);
    const ofTags = tags.map((tag) => tiers.tags.open(tag));
    const guards = [guard, ...ofTags];
    const flight: Flight = { answer: answer.promise, loading: loading.promise, standIn: undefined, guards };
    tiers.flights.set(name, flight);
    for (const each of [answer, loading]) each.promise.catch(() => undefined);
    const standIn = (kept: Kept): void => {
      flight.standIn = kept;
      answer.resolve(kept.value as Value | undefined);
    };
    this.fly(name, key, load, options, guard, early, standIn)
      .then(
        (value) => [answer, loading].forEach((each) => each.resolve(value)),
        (error: unknown) => [answer, loading].forEach((each) => each.reject(error)),
      )
      .finally(() => {
        tiers.entries.close(name, guard);
        tags.forEach((tag, at) => tiers.tags.close(tag, ofTags[at]!));
        if (tiers.flights.get(name) === flight) tiers.flights.delete(name);
      });
    return answer.promise;
  }

  /**
   * @param early what is as good as new and asked for again before its end: nobody waits, so nothing stands in
   * @param standIn may be called before the end
   */
  private async fly(
    name: string,
    key: string,
    load: Load<Value>,
    options: LoadOptions,
    guard: Guard,
    early: Kept | undefined,
    standIn: (kept: Kept) => void,
  ): Promise<Value | undefined> {
    const { tiers } = this;
    if (early)
      return this.fill(name, key, load, options, guard, early.version, tiers.shared !== undefined).catch(
        (error: unknown) => {
          this.rest(name);
          throw error;
        },
      );
    let reading: Reading | undefined;
    try {
      reading = tiers.shared && (await this.read(name));
    } catch (error) {
      notAtPresent(error);
    }
    if (reading?.state === 'fresh') {
      tiers.counts.l2Hits += 1;
      return reading.kept!.value as Value | undefined;
    }
    // Where Redis says that there is nothing, nothing stands in.
    const kept = reading ? reading.kept : this.suspect(name);
    let isGivenOut = false;
    const giveOut = (it: Kept): Value | undefined => {
      if (!isGivenOut) tiers.counts.staleHits += 1;
      isGivenOut = true;
      return it.value as Value | undefined;
    };
    if (kept && this.isResting(name)) return giveOut(kept);
    tiers.counts.misses += 1;
    const loading = this.fill(name, key, load, options, guard, reading?.version ?? '', reading !== undefined);
    if (!kept) return loading;
    // Nobody knows whether it is old while Redis is away: then it stands in for want of anything else.
    const isAway = tiers.shared !== undefined && reading === undefined;
    const soft = options.timeouts?.soft ?? (isAway ? undefined : 0);
    const timer =
      soft === undefined
        ? undefined
        : setTimeout(() => {
            if (kept.standsInUntil <= performance.now()) return;
            giveOut(kept);
            standIn(kept);
          }, soft);
    try {
      return await loading;
    } catch (error) {
      if (kept.standsInUntil <= performance.now()) throw error;
      this.rest(name);
      // Without the key, which may name a person.
      tiers.complain(`a value of ${this.name} could not be loaded: ${String(error)}`);
      return giveOut(kept);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Gets the right to fill, asks the source and fills. */
  private async fill(
    name: string,
    key: string,
    load: Load<Value>,
    options: LoadOptions,
    guard: Guard,
    seen: string,
    isShared: boolean,
  ): Promise<Value | undefined> {
    const { tiers } = this;
    const hard = options.timeouts?.hard ?? defaultHardMs;
    const lease = isShared ? await this.leased(name, key, seen, hard) : undefined;
    try {
      if (lease && 'kept' in lease) {
        tiers.counts.awaitedLoads += 1;
        return lease.kept.value as Value | undefined;
      }
      // Before the source is asked: what is invalidated from now on is old by the time it is here.
      const mayKeep = !tiers.shared || lease;
      const versions = mayKeep && (await this.versionsOf(options.tags ?? []).catch(notAtPresent));
      const { value, loadMs } = await this.asked(key, load, hard);
      const ttl = ttlBy(options, value);
      assertTimes({ ttl });
      const entry = this.entryWith(value, { ...options, ttl }, loadMs, versions ?? { namespaceVersion: '', tags: [] });
      const { kept, bytes } = this.keptOf(entry);
      if (!versions) return kept.value as Value | undefined;
      if (!tiers.shared) tiers.entries.keep(name, guard, kept, bytes);
      else if (lease) await this.filled(name, key, lease.token, entry);
      return kept.value as Value | undefined;
    } catch (error) {
      if (lease && 'token' in lease) this.inBackground(this.redis.release(name, this.leaseName(key), lease.token));
      throw error;
    } finally {
      if (lease && 'end' in lease) lease.end();
    }
  }

  /** Who loads, of all processes: us, with a token; another one, whose value this is; or nobody can say. */
  private async leased(
    name: string,
    key: string,
    seen: string,
    patienceMs: number,
  ): Promise<{ token: string; end: () => void } | { kept: Kept } | undefined> {
    const { tiers } = this;
    const [token, leaseName] = [randomUUID(), this.leaseName(key)];
    const giveUpAt = performance.now() + patienceMs;
    let version = seen;
    for (let pollMs = firstPollMs; performance.now() < giveUpAt; pollMs = Math.min(2 * pollMs, longestPollMs)) {
      const change = tiers.changeOf(name, pollMs);
      const leased = await this.redis.lease(name, leaseName, token, leaseMs, version).catch(notAtPresent);
      if (!leased) return undefined;
      if (leased.isTaken) {
        const renew = (): void => this.inBackground(this.redis.renew(name, leaseName, token, leaseMs));
        const timer = setInterval(renew, renewedEveryMs);
        return { token, end: () => clearInterval(timer) };
      }
      const kept = leased.stored === null ? undefined : await this.filledMeanwhile(leased.stored).catch(notAtPresent);
      if (kept) return { kept };
      if (leased.stored === null) await change;
      else version = versionIn(leased.stored);
    }
    return undefined;
  }

  /** What another one has filled in place of us, where it is as good as new. */
  private async filledMeanwhile(stored: string): Promise<Kept | undefined> {
    const entry = decodeEntry(stored);
    const decoded = entry && this.decoded(entry);
    const isFresh = decoded && entry.freshUntil > this.tiers.now() && (await this.isCurrentThere(entry));
    return isFresh ? decoded.kept : undefined;
  }

  /** It is kept in this process only when it is read again: Redis tells of our own writes as well. */
  private async filled(name: string, key: string, token: string, entry: Entry): Promise<void> {
    const { tiers } = this;
    try {
      const leaseName = this.leaseName(key);
      const isIn = await this.redis.fill(name, leaseName, token, encodeEntry(entry), this.storedFor(entry));
      if (!isIn) tiers.counts.fillsRefused += 1;
    } catch (error) {
      notAtPresent(error);
    }
  }

  private async asked(
    key: string,
    load: Load<Value>,
    hard: number,
  ): Promise<{ value: Value | undefined; loadMs: number }> {
    const { tiers } = this;
    const aborting = new AbortController();
    tiers.counts.loads += 1;
    const startedAt = performance.now();
    try {
      const loading = async (): Promise<Value | undefined> => load({ key, signal: aborting.signal });
      const value = await within(hard, `loading a value of ${this.name}`, loading);
      return { value, loadMs: performance.now() - startedAt };
    } catch (error) {
      tiers.counts.loadFailures += 1;
      aborting.abort(error);
      throw error;
    } finally {
      tiers.loadLatency.record(performance.now() - startedAt);
    }
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

  /** What lies in this process and may be given out as it is. @throws RangeError for what is no key: nothing lies there */
  private kept(name: string, key: string): Kept | undefined {
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
  private isCurrent({ namespaceVersion, tags }: Versions, at: number): boolean | undefined {
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
  private suspect(name: string): Kept | undefined {
    const { tiers } = this;
    const kept = tiers.entries.getSuspect(name);
    if (!kept || kept.standsInUntil <= performance.now()) return undefined;
    const isKnownOld = (tag: string, version: string): boolean => tiers.tags.getSuspect(tag)?.version !== version;
    if (isKnownOld(this.ownTag, kept.namespaceVersion)) return undefined;
    return kept.tags.some(([tag, version]) => isKnownOld(this.tagName(tag), version)) ? undefined : kept;
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
      return (await this.readAll(names)).map((it) => this.foundIn(it));
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

  /** @throws CacheUnavailable */
  private async read(name: string): Promise<Reading> {
    const { entries } = this.tiers;
    const mark = entries.mark();
    try {
      const stored = await this.redis.read(name);
      return this.judged(name, mark, stored, performance.now()) ?? (await this.judgedThere(name, mark, stored));
    } finally {
      entries.unmark();
    }
  }

  /** @throws CacheUnavailable */
  private async readAll(names: readonly string[]): Promise<Reading[]> {
    const { entries } = this.tiers;
    const mark = entries.mark();
    try {
      const stored = await this.redis.readMany(names);
      const now = performance.now();
      const readings = stored.map((it, at) => this.judged(names[at]!, mark, it, now));
      const decide = async (at: number): Promise<void> => {
        readings[at] ??= await this.judgedThere(names[at]!, mark, stored[at]!);
      };
      if (!readings.includes(undefined)) return readings as Reading[];
      // All of them, whatever becomes of one: what is decided once the mark is given back could not be refused any more.
      const decided = await Promise.allSettled(readings.keys().map(decide));
      for (const it of decided) if (it.status === 'rejected') throw it.reason;
      return readings as Reading[];
    } finally {
      entries.unmark();
    }
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

  private readHere(name: string, key: string): Reading {
    const kept = this.kept(name, key);
    return kept ? { state: 'fresh', kept, version: kept.version } : { state: 'nothing', version: '' };
  }

  private async isCurrentThere({ namespaceVersion, tags }: Versions): Promise<boolean> {
    const current = await this.versionsOf(tags.map(([tag]) => tag));
    return (
      current.namespaceVersion === namespaceVersion && current.tags.every(([, version], at) => version === tags[at]![1])
    );
  }

  /** As `versionsOf`, where nobody has to be asked: a promise less, and there is one for every write. */
  private knownVersions(tags: readonly string[]): Versions | undefined {
    const { tiers } = this;
    const namespaceVersion = tiers.isL1Used && tags.length === 0 ? tiers.knownTag(this.ownTag) : undefined;
    return namespaceVersion === undefined ? undefined : { namespaceVersion, tags: noTags };
  }

  private async versionsOf(tags: readonly string[]): Promise<Versions> {
    const { tiers } = this;
    if (tags.length === 0) return { namespaceVersion: await tiers.tagVersion(this.ownTag), tags: noTags };
    const [namespaceVersion, ...versions] = await Promise.all([
      tiers.tagVersion(this.ownTag),
      ...tags.map((tag) => tiers.tagVersion(this.tagName(tag))),
    ]);
    return { namespaceVersion, tags: tags.map((tag, at) => [tag, versions[at]!] as const) };
  }

  private async entryOf(value: Value, options: KeepOptions): Promise<Entry> {
    assertTimes(options);
    const { tags = [] } = options;
    return this.entryWith(value, options, 0, this.knownVersions(tags) ?? (await this.versionsOf(tags)));
  }

  private entryWith(
    value: Value | undefined,
    { ttl, absentTtl = ttl, grace = 0 }: LoadOptions,
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
  private decoded(entry: Entry): { kept: Kept; bytes: number } | undefined {
    try {
      return this.keptOf(entry);
    } catch (error) {
      this.tiers.complain(`a value of ${this.name} cannot be read: ${String(error)}`);
      return undefined;
    }
  }

  private keptOf(entry: Entry): { kept: Kept; bytes: number } {
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
  private storedFor({ staleUntil }: Entry): number {
    return Number.isFinite(staleUntil) ? Math.max(1, Math.ceil(staleUntil - this.tiers.now())) : 0;
  }

  private get redis(): RedisTier {
    return this.tiers.shared!;
  }

  private found(kept: Kept, tier: 'l1' | 'l2', isStale: boolean): Found<Value> {
    const expiresAt = Number.isFinite(kept.freshUntil) ? Math.floor(kept.freshUntil) : null;
    return { value: kept.value as Value | undefined, version: kept.version, expiresAt, isStale, tier };
  }

  private entryName(key: string): string {
    assertKey(key);
    return this.nameOf(key);
  }

  /** Of what may be no key, though it is a text. */
  private nameOf(key: string): string {
    if (typeof key !== 'string') assertKey(key);
    return `${this.entryPrefix}${key}}`;
  }

  private leaseName(key: string): string {
    return `${this.leasePrefix}${key}}`;
  }

  private tagName(tag: string): string {
    assertName('tag', tag);
    return this.tiers.nameOf('tag', this.name, tag);
  }

  private isResting(name: string): boolean {
    return (this.tiers.resting.get(name) ?? 0) > performance.now();
  }

  private rest(name: string): void {
    const { resting } = this.tiers;
    const now = performance.now();
    resting.delete(name);
    resting.set(name, now + restAfterFailureMs);
    // In the order of their ends.
    for (const [other, until] of resting) {
      if (until > now) break;
      resting.delete(other);
    }
  }

  /** Nobody waits for it: what goes wrong is told, and has told itself in the counts. */
  private inBackground(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      if (!(error instanceof CacheUnavailable)) this.tiers.complain(String(error));
    });
  }
}

const nothing = { value: undefined, bytes: 0 };
const notChecked = -1;
/** The largest number that V8 keeps in its place: after 24 days of this process. */
const longestUntil = 2 ** 31 - 1;

/** The members of a `Kept` beside its value and tags: two identifiers, numbers and the object. */
const headBytes = 320;
/** A tag with its version, and its place among the others. */
const bytesOfPair = 72;

const writtenOf = ({ version, freshUntil }: Entry): Written => ({
  version,
  expiresAt: Number.isFinite(freshUntil) ? Math.floor(freshUntil) : null,
});

const notAtPresent = (error: unknown): undefined => {
  if (!(error instanceof CacheUnavailable)) throw error;
  return undefined;
};

/** Six letters and digits of this process, and a number: so that none comes twice, in whatever process. */
const mostVersions = 36 ** 6;
let [versionPrefix, versionCount] = ['', mostVersions];
const nextVersion = (): string => {
  if (versionCount === mostVersions)
    [versionPrefix, versionCount] = [randomInt(mostVersions).toString(36).padStart(6, '0'), 0];
  return `${versionPrefix}${(versionCount++).toString(36)}`;
};

const randomAboveZero = (): number => 1 - Math.random();
