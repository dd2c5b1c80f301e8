import { randomUUID } from 'node:crypto';
import { decodeEntry, encodeEntry, isDueEarly, versionIn, type Entry } from './entry.js';
import { CacheLoadTimeout, CacheUnavailable } from './errors.js';
import { Keyspace, type Reading } from './keyspace.js';
import { assertTimes, over, ttlBy, type LoadOptions } from './options.js';
import type { Flight, Kept } from './tiers.js';
import { Late, within } from './within.js';

/** Loads from the source. `undefined` means that the source has no value, which is cached as well. */
export type Load<Value> = (asked: {
  key: string;
  signal: AbortSignal;
}) => Promise<Value | undefined> | Value | undefined;

/** A source that has a value for every key. */
type LoadOfAll<Value> = (asked: { key: string; signal: AbortSignal }) => Promise<Value> | Value;

/** A key to be filled, and how its value is loaded. */
interface Wanted<Value> {
  /** The name of its entry. */
  name: string;
  key: string;
  load: Load<Value>;
  options: LoadOptions<never>;
}

const defaultHardMs = 10_000;
/** A lease is renewed while the source is loading, and expires this soon if its holder dies. */
const leaseMs = 2_000;
const renewedEveryMs = 500;
const firstPollMs = 20;
const longestPollMs = 250;
/** After a failed load, callers that have a stale value do not ask the source again for this long. */
const restAfterFailureMs = 1_000;

/**
 * Fills keys from a source as a single flight across all processes, and never keeps a value that was invalidated while it
 * was loaded.
 */
export abstract class Loading<Value> extends Keyspace<Value> {
  /**
   * The cached value of a key, or else the one that `load` returns: a single flight across all processes. An expired value
   * within its grace period is served stale while it is loaded again, and if that fails.
   *
   * @returns `undefined` only if the source of some caller may have no value
   * @throws whatever `load` throws, and `CacheLoadTimeout` if it takes too long, unless a stale value can be served; never
   *   because Redis is unavailable
   */
  getOrSet(key: string, load: LoadOfAll<Value>, options?: LoadOptions<Value>): Promise<Value>;
  getOrSet(key: string, load: Load<Value>, options?: LoadOptions<Value>): Promise<Value | undefined>;
  async getOrSet(key: string, load: Load<Value>, options: LoadOptions<Value> = {}): Promise<Value | undefined> {
    const { tiers } = this;
    const name = this.nameOf(key);
    const here = this.kept(name, key);
    if (here) {
      tiers.counts.l1Hits += 1;
      if (this.isDue(name, here, options) && !tiers.isGood(tiers.flights.get(name)))
        this.refresh({ name, key, load, options }, here);
      return here.value as Value | undefined;
    }
    const flight = tiers.flights.get(name);
    // A flight that began before an invalidation must not serve callers that arrive after it.
    if (!tiers.isGood(flight)) return this.start({ name, key, load, options });
    tiers.counts.sharedLoads += 1;
    // An early refresh has no caller waiting, so it has not looked for a stale value to serve.
    if (flight.isEarly) return this.start({ name, key, load, options }, undefined, flight);
    const isOver = flight.standIn !== undefined && flight.standIn.standsInUntil <= performance.now();
    return (isOver ? flight.loading : flight.answer) as Promise<Value | undefined>;
  }

  /** Whether to refresh the value before it expires. */
  private isDue(name: string, kept: Kept, options: LoadOptions<never>): boolean {
    const { refreshBefore = this.options.refreshBefore ?? 0 } = options;
    const now = this.tiers.now();
    const before = typeof refreshBefore === 'function' ? refreshBefore(kept.value as undefined) : refreshBefore;
    return (kept.freshUntil - now < before || isDueEarly(kept, now, randomAboveZero())) && !this.isResting(name);
  }

  private refresh(wanted: Wanted<Value>, kept: Kept): void {
    const { name } = wanted;
    const { refreshing, flights, counts } = this.tiers;
    // While entries of this process are not served, other callers read the same entry from Redis. A refresh that was
    // invalidated since it began will not be kept, so it does not prevent another one.
    if (this.tiers.isGood(refreshing.get(name))) return;
    counts.earlyRefreshes += 1;
    const refreshed = this.start(wanted, kept);
    const flight = flights.get(name);
    if (flight) refreshing.set(name, flight);
    this.inBackground(
      refreshed.finally(() => {
        if (refreshing.get(name) === flight) refreshing.delete(name);
      }),
    );
  }

  /**
   * @param early a fresh value that is refreshed before it expires
   * @param underWay the early refresh whose value it uses
   */
  private async start(given: Wanted<Value>, early?: Kept, underWay?: Flight): Promise<Value | undefined> {
    const { tiers } = this;
    const { name } = given;
    const options = over(this.options, given.options);
    assertTimes(options);
    const tags = [this.ownTag, ...(options.tags ?? []).map((tag) => this.tagName(tag))];
    const answer = Promise.withResolvers<Value | undefined>();
    const loading = Promise.withResolvers<Value | undefined>();
    const guard = tiers.entries.open(name);
    const tagGuards = tags.map((tag) => tiers.tags.open(tag));
    const flight: Flight = {
      ...{ answer: answer.promise, loading: loading.promise, standIn: undefined },
      ...{ isEarly: early !== undefined, guard, tagGuards, askedAt: Infinity, heldAt: Infinity, underWay },
    };
    tiers.flights.set(name, flight);
    for (const each of [answer, loading]) each.promise.catch(() => undefined);
    const standIn = (kept: Kept): void => {
      flight.standIn = kept;
      answer.resolve(kept.value as Value | undefined);
    };
    this.fly({ ...given, options }, flight, early, standIn)
      .then(
        (value) => [answer, loading].forEach((each) => each.resolve(value)),
        (error: unknown) => [answer, loading].forEach((each) => each.reject(error)),
      )
      .finally(() => {
        tiers.entries.close(name, guard);
        tags.forEach((tag, at) => tiers.tags.close(tag, tagGuards[at]!));
        if (tiers.flights.get(name) === flight) tiers.flights.delete(name);
      });
    return answer.promise;
  }

  /**
   * @param early a fresh value that is refreshed before it expires: no caller waits, so no stale value is served
   * @param standIn may be called with a stale value before the load ends
   */
  private async fly(
    wanted: Wanted<Value>,
    flight: Flight,
    early: Kept | undefined,
    standIn: (kept: Kept) => void,
  ): Promise<Value | undefined> {
    const { tiers } = this;
    const { name, options } = wanted;
    const { underWay } = flight;
    if (early)
      return this.fill(wanted, flight, early.version, tiers.shared !== undefined).catch((error: unknown) => {
        this.rest(name);
        throw error;
      });
    let reading: Reading | undefined;
    // What Redis answers may be outdated by the time it arrives; what is loaded after that is not.
    flight.heldAt = performance.now();
    try {
      reading = tiers.shared && (await this.read(name));
    } catch (error) {
      notAtPresent(error);
    }
    if (reading?.state === 'fresh') {
      tiers.counts.l2Hits += 1;
      const kept = reading.kept!;
      // A key that is read seldom always comes from Redis, so its early refresh starts here.
      if (!underWay && this.isDue(name, kept, options)) this.refresh(wanted, kept);
      return kept.value as Value | undefined;
    }
    flight.heldAt = Infinity;
    // If Redis answers that there is no entry, no stale value is served.
    const kept = reading ? reading.kept : this.suspect(name);
    let isGivenOut = false;
    const giveOut = (it: Kept): Value | undefined => {
      if (!isGivenOut) tiers.counts.staleHits += 1;
      isGivenOut = true;
      return it.value as Value | undefined;
    };
    if (kept && this.isResting(name)) return giveOut(kept);
    tiers.counts.misses += 1;
    const loading =
      (underWay?.loading as Promise<Value | undefined> | undefined) ??
      this.fill(wanted, flight, reading?.version ?? '', reading !== undefined);
    if (!kept) return loading;
    const tagsOfKept = kept.tags.map(([tag]) => this.tagName(tag));
    const guardsOfKept = tagsOfKept.map((tag) => tiers.tags.open(tag));
    flight.tagGuards.push(...guardsOfKept);
    // While Redis is unavailable, the value may have been invalidated unnoticed. By default it is then served only if the
    // load fails.
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
      // The message omits the key, which may be personal data.
      tiers.complain(`a value of ${this.name} could not be loaded: ${String(error)}`);
      return giveOut(kept);
    } finally {
      clearTimeout(timer);
      tagsOfKept.forEach((tag, at) => tiers.tags.close(tag, guardsOfKept[at]!));
    }
  }

  /** Takes the lease, loads from the source and stores the value. */
  private async fill(
    wanted: Wanted<Value>,
    flight: Flight,
    seen: string,
    isShared: boolean,
  ): Promise<Value | undefined> {
    const { tiers } = this;
    const { name, key, options } = wanted;
    const hard = options.timeouts?.hard ?? defaultHardMs;
    const lease = isShared ? await this.leased(wanted, flight, seen, hard) : undefined;
    try {
      if (lease && 'kept' in lease) {
        tiers.counts.awaitedLoads += 1;
        return lease.kept.value as Value | undefined;
      }
      // Read before the load, so that an invalidation from now on makes the value old.
      const mayKeep = !tiers.shared || lease;
      const versions = mayKeep && (await this.versionsOf(options.tags ?? []).catch(notAtPresent));
      // The value cannot be stored. Releases the lease so that no one waits for it, and pauses loads so that readers of the
      // stale value do not each load again.
      if (lease && !versions) {
        lease.end();
        this.inBackground(this.redis.release(name, this.leaseName(key), lease.token));
        this.rest(name);
      }
      flight.askedAt = performance.now();
      flight.heldAt = flight.askedAt;
      const { value, loadMs } = await this.asked(wanted, hard);
      const ttl = ttlBy(options, value);
      assertTimes({ ttl });
      const entry = this.entryWith(value, { ...options, ttl }, loadMs, versions ?? { namespaceVersion: '', tags: [] });
      const kept = this.keptOf(entry);
      if (!versions) return kept.value as Value | undefined;
      if (!tiers.shared) tiers.entries.keep(name, flight.guard, kept, kept.bytes);
      else if (lease) await this.filled(wanted, lease.token, entry);
      return kept.value as Value | undefined;
    } catch (error) {
      if (lease && 'token' in lease) this.inBackground(this.redis.release(name, this.leaseName(key), lease.token));
      throw error;
    } finally {
      if (lease && 'end' in lease) lease.end();
    }
  }

  /**
   * Decides which process loads: this one, with a token, or another one, whose value is returned; `undefined` if that is
   * unknown.
   */
  private async leased(
    { name, key }: Wanted<Value>,
    flight: Flight,
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
      if (!leased) {
        // The lease may have been taken. The value cannot be stored, so readers of the stale value must not each load again.
        this.inBackground(this.redis.release(name, leaseName, token));
        this.rest(name);
        return undefined;
      }
      if (leased.isTaken) {
        const renew = async (): Promise<void> => {
          const askedAt = performance.now();
          const isHeld = await this.redis.renew(name, leaseName, token, leaseMs);
          flight.heldAt = isHeld ? Math.max(flight.heldAt, askedAt) : Number.NEGATIVE_INFINITY;
        };
        const timer = setInterval(() => this.inBackground(renew()), Math.min(renewedEveryMs, this.redis.silenceMs / 2));
        return { token, end: () => clearInterval(timer) };
      }
      const kept = leased.stored === null ? undefined : await this.filledMeanwhile(leased.stored).catch(notAtPresent);
      if (kept) return { kept };
      if (leased.stored === null) await change;
      else version = versionIn(leased.stored);
    }
    return undefined;
  }

  /** The value that another process has filled, if it is fresh. */
  protected async filledMeanwhile(stored: string): Promise<Kept | undefined> {
    const entry = decodeEntry(stored);
    const kept = entry && this.decoded(entry);
    const isFresh = kept && entry.freshUntil > this.tiers.now() && (await this.isCurrentThere(entry));
    return isFresh ? kept : undefined;
  }

  /**
   * Stores the value in Redis only: Redis reports our own writes as invalidations too. This process keeps it once it is
   * read again.
   */
  private async filled({ name, key }: Wanted<Value>, token: string, entry: Entry): Promise<void> {
    const { tiers } = this;
    try {
      const isIn = await this.redis.fill(name, this.leaseName(key), token, encodeEntry(entry), this.storedFor(entry));
      if (!isIn) tiers.counts.fillsRefused += 1;
    } catch (error) {
      notAtPresent(error);
      // Otherwise the next caller that misses would have to wait until the lease expires.
      this.inBackground(this.redis.release(name, this.leaseName(key), token));
    }
  }

  private async asked(
    { key, load }: Wanted<Value>,
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
    } catch (thrown) {
      const error = thrown instanceof Late ? new CacheLoadTimeout(this.name, hard) : thrown;
      tiers.counts.loadFailures += 1;
      aborting.abort(error);
      throw error;
    } finally {
      tiers.loadLatency.record(performance.now() - startedAt);
    }
  }

  private isResting(name: string): boolean {
    return (this.tiers.resting.get(name) ?? 0) > performance.now();
  }

  private rest(name: string): void {
    const { resting } = this.tiers;
    const now = performance.now();
    resting.delete(name);
    resting.set(name, now + restAfterFailureMs);
    // The map is ordered by end.
    for (const [other, until] of resting) {
      if (until > now) break;
      resting.delete(other);
    }
  }

  /** Runs without a waiting caller: errors are logged, except unavailability, which the statistics already count. */
  protected inBackground(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      if (!(error instanceof CacheUnavailable)) this.tiers.complain(String(error));
    });
  }
}

const notAtPresent = (error: unknown): undefined => {
  if (!(error instanceof CacheUnavailable)) throw error;
  return undefined;
};

const randomAboveZero = (): number => 1 - Math.random();
