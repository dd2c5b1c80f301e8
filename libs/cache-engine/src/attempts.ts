import { ConsecutiveBreaker, ExponentialBackoff, circuitBreaker, handleWhen, type IBackoff } from 'cockatiel';
import { ErrorReply } from '@redis/client';
import { assertGoesOn, type Connection } from './connection.js';
import { CacheUnavailable, counterIsFull } from './errors.js';
import { within } from './within.js';

const failuresThatBreak = 5;
/** That Redis refuses what it is asked is told so often at the most. */
const refusalsToldEveryMs = 60_000;

/** By the clock that only goes forward: cockatiel goes by the one of the machine, and would wait for as long as that is set back. */
const unset = (backoff: IBackoff<unknown>): IBackoff<unknown> => {
  const overAt = performance.now() + backoff.duration;
  return {
    get duration() {
      return performance.now() < overAt ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
    },
    next: (context) => unset(backoff.next(context)),
  };
};

const backoff = new ExponentialBackoff({ initialDelay: 100, maxDelay: 1_000 });

const newBreaker = () =>
  circuitBreaker(
    handleWhen((error) => !(error instanceof ErrorReply || isNotKnownYet(error))),
    { halfOpenAfter: { next: () => unset(backoff.next()) }, breaker: new ConsecutiveBreaker(failuresThatBreak) },
  );

/**
 * Every call has a deadline, and after some failures the next ones fail at once until one of them comes through again: in a
 * cluster those about keys of the same master, as the others are there. Whoever counts hears of each.
 */
export class Attempts {
  private readonly breaker = newBreaker();
  private readonly ofMasters = new WeakMap<object, ReturnType<typeof newBreaker>>();
  private hasSaidNotStarted = false;
  private refusalToldAt = Number.NEGATIVE_INFINITY;

  /** @param ended hears of every call */
  constructor(
    private readonly connection: Connection,
    readonly deadlineMs: number,
    private readonly ended: (what: string, ms: number, error: unknown) => void,
    private readonly complain: (message: string) => void,
  ) {}

  /**
   * @param key one of those that it is about, if all of them lie on one master
   * @param failureIn what is wrong in what was answered, for those who count
   * @throws CacheUnavailable
   */
  async attempt<T>(
    what: string,
    key: string | undefined,
    work: (hasEnded: () => boolean) => Promise<T>,
    failureIn?: (answer: T) => unknown,
  ): Promise<T> {
    const startedAt = performance.now();
    let failure: unknown;
    this.sayIfNotStarted();
    try {
      const { beginning } = this.connection;
      const onceBegun = async (hasEnded: () => boolean): Promise<T> => {
        await beginning;
        assertGoesOn(hasEnded);
        return work(hasEnded);
      };
      const ask = beginning ? onceBegun : work;
      const answer = await this.breakerFor(key).execute(() => within(this.deadlineMs, what, ask));
      failure = failureIn?.(answer);
      return answer;
    } catch (error) {
      // Redis has done what it was asked: there is nothing wrong but with the step.
      if (error instanceof ErrorReply && error.message.startsWith('OVERFLOW'))
        throw new RangeError(counterIsFull, { cause: error });
      failure = error;
      throw new CacheUnavailable({ cause: error });
    } finally {
      if (failure instanceof ErrorReply) this.refused(failure);
      // Whoever looks whether Redis is there, as each reading of the metrics does, is no operation of the cache.
      if (what !== 'ping') this.ended(what, performance.now() - startedAt, failure);
    }
  }

  private breakerFor(key: string | undefined): ReturnType<typeof newBreaker> {
    // What no master is known for fails by itself, and at once.
    const master = key === undefined ? undefined : this.connection.masterOf(key);
    if (!master) return this.breaker;
    const breaker = this.ofMasters.get(master) ?? newBreaker();
    this.ofMasters.set(master, breaker);
    return breaker;
  }

  /** It is there and yet nothing is kept, which whoever goes on without it would not notice. */
  private refused({ message }: ErrorReply): void {
    const now = performance.now();
    if (now - this.refusalToldAt < refusalsToldEveryMs) return;
    this.refusalToldAt = now;
    const isOfCluster = this.connection.redis.kind === 'server' && /^(?:MOVED|CROSSSLOT)/.test(message);
    const advice = isOfCluster
      ? '. The server is part of a cluster: list two of its masters in redis.url, or its address twice'
      : '';
    this.complain(`Redis rejected a command: ${message}${advice}`);
  }

  /** Whoever goes on without it, as `getOrSet` does, would not notice. */
  private sayIfNotStarted(): void {
    if (this.connection.isStarted || this.hasSaidNotStarted) return;
    this.hasSaidNotStarted = true;
    this.complain('Redis is not used: call start() of the CacheEngine');
  }
}

/** That a slot is being moved to a master that has none yet, of which the client is not told before: of that slot alone. */
const isNotKnownYet = (error: unknown): boolean =>
  error instanceof Error && error.message.startsWith('Cannot find node ');
