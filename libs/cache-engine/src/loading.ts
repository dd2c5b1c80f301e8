import { randomUUID } from 'node:crypto';
import { decodeEntry, encodeEntry, isDueEarly, versionIn, type Entry } from './entry.js';
import { CacheLoadTimeout, CacheUnavailable } from './errors.js';
import type { Guard } from './guarded.js';
import { Keyspace, type Reading } from './keyspace.js';
import { assertTimes, over, ttlBy, type LoadOptions } from './options.js';
import type { Flight, Kept } from './tiers.js';
import { Late, within } from './within.js';

/** Asks the source. `undefined` says that it has nothing, which is kept as well. */
export type Load<Value> = (asked: {
  key: string;
  signal: AbortSignal;
}) => Promise<Value | undefined> | Value | undefined;

/** Of a source that has something under every key. */
type LoadOfAll<Value> = (asked: { key: string; signal: AbortSignal }) => Promise<Value> | Value;

const defaultHardMs = 10_000;
/** A lease is kept for as long as the source takes, and ends so soon after its holder has died. */
const leaseMs = 2_000;
const renewedEveryMs = 500;
const firstPollMs = 20;
const longestPollMs = 250;
/** A source that has failed is left alone for a while by those who have something to stand in. */
const restAfterFailureMs = 1_000;

/** Whether what it loads will be kept: nothing has changed since it began. */
const isGood = (flight: Flight | undefined): flight is Flight => flight?.guards.every((it) => it.isIntact) === true;

/** Keys that are filled from a source: by one caller at a time of all processes, and with nothing that comes too late. */
export abstract class Loading<Value> extends Keyspace<Value> {
  /**
   * The value under a key, asked for where it comes from when it is not here: by one caller at a time, of all processes.
   * What is over its time and within its grace stands in while it is asked for again, and when that fails.
   *
   * @returns `undefined` only where the source of some caller may have nothing
   * @throws whatever `load` throws, and `CacheLoadTimeout` where it takes too long, if nothing stands in; never because
   *   Redis is away
   */
  getOrSet(key: string, load: LoadOfAll<Value>, options?: LoadOptions<Value>): Promise<Value>;
  getOrSet(key: string, load: Load<Value>, options?: LoadOptions<Value>): Promise<Value | undefined>;
  async getOrSet(key: string, load: Load<Value>, options: LoadOptions<Value> = {}): Promise<Value | undefined> {
    const { tiers } = this;
    const name = this.nameOf(key);
    const here = this.kept(name, key);
    if (here) {
      tiers.counts.l1Hits += 1;
      if (this.isDue(name, here, options) && !isGood(tiers.flights.get(name)))
        this.refresh(name, key, load, options, here);
      return here.value as Value | undefined;
    }
    const flight = tiers.flights.get(name);
    // What began before an invalidation is not for who asks after it.
    if (!isGood(flight)) return this.start(name, key, load, options);
    tiers.counts.sharedLoads += 1;
    // It began when nobody had to wait, and has looked for nothing that could stand in.
    if (flight.isEarly) return this.start(name, key, load, options, undefined, flight);
    const isOver = flight.standIn !== undefined && flight.standIn.standsInUntil <= performance.now();
    return (isOver ? flight.loading : flight.answer) as Promise<Value | undefined>;
  }

  /** Whether it is to be asked for again before its end. */
  private isDue(name: string, kept: Kept, options: LoadOptions<never>): boolean {
    const { refreshBefore = this.options.refreshBefore ?? 0 } = options;
    const now = this.tiers.now();
    const before = typeof refreshBefore === 'function' ? refreshBefore(kept.value as undefined) : refreshBefore;
    return (kept.freshUntil - now < before || isDueEarly(kept, now, randomAboveZero())) && !this.isResting(name);
  }

  private refresh(name: string, key: string, load: Load<Value>, options: LoadOptions<never>, kept: Kept): void {
    const { refreshing, flights, counts } = this.tiers;
    // Where nothing is given out of the process, others look in Redis meanwhile and find the same. What has become old
    // since it was begun is kept by nobody, so it stands in the way of none.
    if (isGood(refreshing.get(name))) return;
    counts.earlyRefreshes += 1;
    const refreshed = this.start(name, key, load, options, kept);
    const flight = flights.get(name);
    if (flight) refreshing.set(name, flight);
    this.inBackground(
      refreshed.finally(() => {
        if (refreshing.get(name) === flight) refreshing.delete(name);
      }),
    );
  }

  private async start(
    name: string,
    key: string,
    load: Load<Value>,
    given: LoadOptions<never>,
    early?: Kept,
    underWay?: Flight,
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
    const flight: Flight = {
      ...{ answer: answer.promise, loading: loading.promise, standIn: undefined },
      ...{ isEarly: early !== undefined, guards },
    };
    tiers.flights.set(name, flight);
    for (const each of [answer, loading]) each.promise.catch(() => undefined);
    const standIn = (kept: Kept): void => {
      flight.standIn = kept;
      answer.resolve(kept.value as Value | undefined);
    };
    this.fly(name, key, load, options, guard, early, underWay, standIn)
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
   * @param underWay what was asked for before the end and is not here yet: it is not asked for once more
   * @param standIn may be called before the end
   */
  private async fly(
    name: string,
    key: string,
    load: Load<Value>,
    options: LoadOptions<never>,
    guard: Guard,
    early: Kept | undefined,
    underWay: Flight | undefined,
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
      const kept = reading.kept!;
      // What is read seldom comes from there each time.
      if (!underWay && this.isDue(name, kept, options)) this.refresh(name, key, load, options, kept);
      return kept.value as Value | undefined;
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
    const loading =
      (underWay?.loading as Promise<Value | undefined> | undefined) ??
      this.fill(name, key, load, options, guard, reading?.version ?? '', reading !== undefined);
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
    options: LoadOptions<never>,
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
      // What is loaded is not kept: nobody is to wait for it, and it is not loaded again for everybody who reads what stands in.
      if (lease && !versions) {
        lease.end();
        this.inBackground(this.redis.release(name, this.leaseName(key), lease.token));
        this.rest(name);
      }
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
      if (!leased) {
        // It may have been taken. What is loaded is not kept: not again for everybody who reads what stands in.
        this.inBackground(this.redis.release(name, leaseName, token));
        this.rest(name);
        return undefined;
      }
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
  protected async filledMeanwhile(stored: string): Promise<Kept | undefined> {
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
      // Whoever misses next need not wait until it lapses.
      this.inBackground(this.redis.release(name, this.leaseName(key), token));
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
    // In the order of their ends.
    for (const [other, until] of resting) {
      if (until > now) break;
      resting.delete(other);
    }
  }

  /** Nobody waits for it: what goes wrong is told, and has told itself in the counts. */
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
