import type { LookupAddress, LookupAllOptions } from 'node:dns';
import { lookup as systemLookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import { CleaveError } from '#contracts';
import { balanceBy, type Balance, type BalancePolicy } from './balance.js';
import { RetryBudget } from './retry-budget.js';
import { Target, type Instance, type Outcome } from './target.js';

/** A host and port; a host name stands for one instance at each of its addresses. */
export interface Place {
  host: string;
  port: number;
  /** Distinguishes instances behind one address, as over HTTP. */
  origin?: string;
}

/** Resolves a host name to its addresses. */
export type Lookup = (host: string) => Promise<readonly string[]>;

type SystemLookup = (host: string, options: LookupAllOptions) => Promise<LookupAddress[]>;

export interface TargetsOptions<P extends Place, I extends Instance> {
  /** The name of the service, for the log and the metrics. */
  name: string;
  at: readonly P[];
  policy?: BalancePolicy | undefined;
  /** Creates an instance, which connects on first use and calls `leaving` when the server announces its shutdown. */
  instanceAt: (place: P, address: string, leaving: () => void) => I;
  /** Default: the system's resolver, including `/etc/hosts`. */
  lookup?: Lookup | undefined;
  /** How often names are looked up, in milliseconds. */
  lookupMs?: number | undefined;
  /** Limit of calls in flight to one instance from here: one that hangs must not tie up all resources. */
  maxInFlight?: number | undefined;
}

/** No host name has ever resolved to an address. */
export class NoAddress extends Error {
  override readonly name = 'NoAddress';
}

/**
 * One family only, preferably IPv4: an instance on both must not count twice, nor one on IPv4 alone fail on IPv6. Asked for
 * both families when the DNS server fails for IPv4, glibc returns the IPv6 addresses alone, without an error.
 *
 * @param lookup the system's resolver
 */
export const addressesOf = async (host: string, lookup: SystemLookup = systemLookup): Promise<readonly string[]> => {
  const of = async (family: 4 | 6): Promise<string[]> =>
    (await lookup(host, { all: true, family })).map(({ address }) => address);
  return of(4).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOTFOUND') throw error;
    return of(6);
  });
};

const standardLookupMs = 5_000;
/** Minimum time between lookups, and between probes without a pause, however often all instances fail. */
const leastLookupMs = 500;
/** Longest time that a call waits for an address. */
const longestLookupMs = 1_000;
const standardMaxInFlight = 1_024;

const addressText = (host: string, port: number): string =>
  host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;

/** The currently known instances of one service; callers use `attempts`. */
export class Targets<P extends Place, I extends Instance> {
  /** Totals since the start, for the metrics. */
  readonly counts = { ejections: 0, retries: 0, refusedByBudget: 0, refusedAsFull: 0 };
  readonly budget = new RetryBudget();
  private readonly logger = new Logger('Balancing');
  private readonly balance: Balance;
  private readonly lookup: Lookup;
  private readonly maxInFlight: number;
  private readonly names: readonly P[];
  private readonly addresses = new Map<P, readonly string[]>();
  private readonly whyUnknown = new Map<P, unknown>();
  /** By address, and origin if there is one. */
  private readonly known = new Map<string, Target<I>>();
  private all: readonly Target<I>[] = [];
  private timer: NodeJS.Timeout | undefined;
  private readonly looking = new Map<P, Promise<void>>();
  private lookedAt = Number.NEGATIVE_INFINITY;
  private probedAt = Number.NEGATIVE_INFINITY;
  private isClosed = false;

  constructor(private readonly options: TargetsOptions<P, I>) {
    this.balance = balanceBy(options.policy ?? 'least-loaded');
    this.lookup = options.lookup ?? addressesOf;
    this.maxInFlight = options.maxInFlight ?? standardMaxInFlight;
    this.names = options.at.filter(({ host }) => isIP(host) === 0);
    for (const place of options.at) if (isIP(place.host) !== 0) this.addresses.set(place, [place.host]);
    this.adopt();
  }

  get name(): string {
    return this.options.name;
  }

  /** How many instances are ready and how many are ejected. */
  get states(): Record<'ready' | 'ejected', number> {
    const ejected = this.all.filter(({ isEjected }) => isEjected).length;
    return { ready: this.all.length - ejected, ejected };
  }

  /** All known instances, ejected or not. */
  get instances(): readonly I[] {
    return this.all.map(({ instance }) => instance);
  }

  /** Must be awaited before the first attempt, if defined: names that have not been looked up yet. Never rejects. */
  starting(): Promise<void> | undefined {
    if (this.names.length === 0 || this.isClosed) return undefined;
    if (!this.timer) {
      this.timer = setInterval(() => void this.lookUp(), this.options.lookupMs ?? standardLookupMs).unref();
      void this.lookUp();
    }
    if (this.all.length > 0) return undefined;
    if (this.looking.size === 0) {
      if (performance.now() - this.lookedAt < leastLookupMs) return undefined;
      void this.lookUp();
    }
    const looked = Promise.all(this.looking.values()).then(() => undefined);
    return Promise.race([looked, setTimeout(longestLookupMs, undefined, { ref: false })]);
  }

  /** All instances with their addresses, after a new lookup of the names. Never rejects. */
  async current(): Promise<readonly (readonly [address: string, instance: I])[]> {
    await Promise.race([this.lookUp(), setTimeout(longestLookupMs, undefined, { ref: false })]);
    return this.all.map(({ address, instance }) => [address, instance]);
  }

  /** One call, from its first attempt to its last. @param mayRepeat whether it may be sent again after it was lost */
  attempts(mayRepeat: boolean): Attempts<I> {
    this.budget.earn();
    return new Attempts(this, mayRepeat);
  }

  /** Picks among the instances that were not tried yet; ejected ones only if there are no others, full or not. */
  pick(tried: readonly Target<I>[]): Target<I> {
    if (this.all.length === 0) throw this.noAddress();
    const [first] = this.all as [Target<I>];
    if (this.all.length === 1 && first.inFlight < this.maxInFlight) return first;
    const others = this.othersThan(tried);
    const left = others.length > 0 ? others : this.all;
    const ready = left.filter(({ isEjected }) => !isEjected);
    const open = (ready.length > 0 ? ready : left).filter(({ inFlight }) => inFlight < this.maxInFlight);
    if (ready.length === 0 || open.length === 0) this.noneReady();
    if (open.length === 0) {
      this.counts.refusedAsFull += 1;
      const detail = `${this.name} has too many requests in flight; this one was not sent, repeat it shortly`;
      throw new CleaveError('unavailable', detail, { retry_after_ms: 1_000 });
    }
    return this.balance(open);
  }

  /** The instances that were not tried yet. */
  othersThan(tried: readonly Target<I>[]): readonly Target<I>[] {
    return this.all.filter((target) => !tried.includes(target));
  }

  /** The names may have other addresses by now, and instances that were ejected earlier may be back. */
  noneReady(): void {
    const now = performance.now();
    if (this.names.length > 0 && now - this.lookedAt > leastLookupMs) void this.lookUp();
    if (now - this.probedAt <= leastLookupMs) return;
    this.probedAt = now;
    for (const target of this.all) target.probeNow();
  }

  close(): void {
    this.isClosed = true;
    clearInterval(this.timer);
    // First, because a call that is lost when its connection closes would go to one of them again.
    this.all = [];
    for (const target of this.known.values()) {
      target.retire();
      target.instance.close();
    }
    this.known.clear();
  }

  private async lookUp(): Promise<void> {
    await Promise.all(this.names.map((place) => this.lookUpOne(place)));
  }

  /** Each name separately: one that does not resolve does not delay the others. */
  private lookUpOne(place: P): Promise<void> {
    const looking = this.looking.get(place) ?? this.find(place).finally(() => this.looking.delete(place));
    this.looking.set(place, looking);
    return looking;
  }

  /** A name that cannot be resolved keeps its last addresses. */
  private async find(place: P): Promise<void> {
    try {
      const found = await this.lookup(place.host);
      if (found.length === 0) throw new Error('it has no address');
      this.addresses.set(place, found);
      this.whyUnknown.delete(place);
    } catch (error) {
      if (!this.whyUnknown.has(place))
        this.logger.warn(`${place.host} cannot be resolved: ${(error as Error).message}`);
      this.whyUnknown.set(place, error);
    }
    this.lookedAt = performance.now();
    if (!this.isClosed) this.adopt();
  }

  /** Adds new addresses and retires those that are gone. */
  private adopt(): void {
    const wanted = new Map<string, { place: P; address: string }>();
    for (const [place, addresses] of this.addresses)
      for (const address of addresses)
        wanted.set(`${addressText(address, place.port)} ${place.origin ?? ''}`, { place, address });
    for (const [id, target] of this.known) {
      if (wanted.has(id)) continue;
      this.known.delete(id);
      target.retire();
      this.logger.log(`${this.name}: ${target.address} was removed, its name no longer has that address.`);
    }
    for (const [id, { place, address }] of wanted) {
      if (this.known.has(id)) continue;
      const target: Target<I> = new Target(
        this.options.instanceAt(place, address, () => target.leave()),
        addressText(address, place.port),
        this.owner,
      );
      this.known.set(id, target);
    }
    this.all = [...this.known.values()];
  }

  private readonly owner = {
    ejected: (address: string, why: string): void => {
      this.counts.ejections += 1;
      this.logger.warn(`${this.name}: ${address} was ejected and gets no more requests: ${why}.`);
    },
    back: (address: string): void => this.logger.log(`${this.name}: ${address} gets requests again.`),
    hasOthers: (): boolean => this.all.length > 1,
    hasOtherReady: (target: unknown): boolean => this.all.some((it) => it !== target && !it.isEjected),
  };

  private noAddress(): NoAddress {
    const [error] = this.whyUnknown.values();
    const why = error instanceof Error ? error.message : 'the application is stopping';
    return new NoAddress(`${this.name} has no address: ${why}`, { cause: error });
  }
}

/** The attempts of one call to find an instance that answers. */
export class Attempts<I extends Instance> {
  private readonly tried: Target<I>[] = [];

  constructor(
    private readonly targets: Pick<Targets<never, I>, 'pick' | 'othersThan' | 'noneReady' | 'counts' | 'budget'>,
    private readonly mayRepeat: boolean,
  ) {}

  /** @throws CleaveError `unavailable` if every instance has its limit of calls in flight; NoAddress */
  next(): Attempt<I> {
    const target = this.targets.pick(this.tried);
    if (this.tried.length > 0) this.targets.counts.retries += 1;
    this.tried.push(target);
    return new Attempt(target);
  }

  /**
   * Whether to make another attempt, which is then counted. A call that was not sent, or not begun, goes on to a second
   * instance, and then while there are ready ones: each such failure ejects one. Other repeats are within the retry budget:
   *
   * - to further ejected instances, as otherwise each call would go to all of them in an outage;
   * - of a lost call, if that is safe;
   * - to a lone address, which may stand for several instances, of a call that was lost or not begun there.
   */
  another(outcome: Outcome): boolean {
    const others = this.targets.othersThan(this.tried);
    const isFirst = this.tried.length === 1;
    const isUnsent = outcome === 'not-sent' || outcome === 'full';
    if (isUnsent) {
      if (others.some(({ isEjected }) => !isEjected)) return true;
      this.targets.noneReady();
      if (isFirst && others.length > 0) return true;
    }
    const isSafe = isUnsent || (outcome === 'lost' && this.mayRepeat);
    const hasPlace = others.length > 0 || (isFirst && outcome !== 'not-sent');
    if (!isSafe || !hasPlace) return false;
    if (this.targets.budget.spend()) return true;
    this.targets.counts.refusedByBudget += 1;
    return false;
  }
}

/** A call to one instance. */
export class Attempt<I extends Instance> {
  private readonly startedAt = performance.now();
  private isBeingRead = false;
  private isOver = false;

  constructor(private readonly target: Target<I>) {
    target.begun();
  }

  get instance(): I {
    return this.target.instance;
  }

  /** The answer has begun: its outcome is known, while reading it may take as long as the caller likes. */
  answerBegins(outcome: Outcome): void {
    if (this.isOver || this.isBeingRead) return;
    this.isBeingRead = true;
    this.target.answerBegan(outcome, performance.now() - this.startedAt);
  }

  /** Must be called for every attempt; repeated calls do nothing. */
  end(outcome: Outcome): void {
    if (this.isOver) return;
    this.isOver = true;
    if (this.isBeingRead) this.target.answerEnded();
    else this.target.ended(outcome, performance.now() - this.startedAt);
  }
}
