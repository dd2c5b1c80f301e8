import { ConsecutiveBreaker, ExponentialBackoff, circuitBreaker, handleWhen, type IBackoff } from 'cockatiel';
import { ErrorReply } from '@redis/client/dist/lib/errors.js';
import { assertGoesOn, type Connection } from './connection.js';
import { CacheUnavailable, counterIsFull } from './errors.js';
import { within } from './within.js';

const failuresThatBreak = 5;
/** How often a refusal by Redis is logged at most. */
const refusalsToldEveryMs = 60_000;

/**
 * Measures the backoff by the monotonic clock: cockatiel uses the system clock, and if that were set back it would keep the
 * circuit open for that much longer.
 */
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
 * Gives every call a deadline and guards it with a circuit breaker: after some consecutive failures, calls fail at once
 * until one succeeds again. In a cluster each master has its own breaker, so that one that is down does not affect the
 * others.
 */
export class Attempts {
  private readonly breaker = newBreaker();
  private readonly ofMasters = new WeakMap<object, ReturnType<typeof newBreaker>>();
  private hasSaidNotStarted = false;
  private refusalToldAt = Number.NEGATIVE_INFINITY;

  /** @param ended is called after every call, for statistics */
  constructor(
    private readonly connection: Connection,
    readonly deadlineMs: number,
    private readonly ended: (what: string, ms: number, error: unknown) => void,
    private readonly complain: (message: string) => void,
  ) {}

  /**
   * @param key one of the keys of the call, if all of them lie on one master
   * @param failureIn finds a failure in an answer, for statistics
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
      // Redis executed the command; only the step was out of range.
      if (error instanceof ErrorReply && error.message.startsWith('OVERFLOW'))
        throw new RangeError(counterIsFull, { cause: error });
      failure = error;
      throw new CacheUnavailable({ cause: error });
    } finally {
      if (failure instanceof ErrorReply) this.refused(failure);
      // A ping is a probe (each scrape of the metrics sends one), not an operation of the cache.
      if (what !== 'ping') this.ended(what, performance.now() - startedAt, failure);
    }
  }

  private breakerFor(key: string | undefined): ReturnType<typeof newBreaker> {
    // If no master is known for the key, the call itself fails at once.
    const master = key === undefined ? undefined : this.connection.masterOf(key);
    if (!master) return this.breaker;
    const breaker = this.ofMasters.get(master) ?? newBreaker();
    this.ofMasters.set(master, breaker);
    return breaker;
  }

  /** Logs that Redis answers but refuses commands. Callers that go on without Redis would not notice. */
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

  /** Callers that go on without Redis, as `getOrSet` does, would not notice. */
  private sayIfNotStarted(): void {
    if (this.connection.isStarted || this.hasSaidNotStarted) return;
    this.hasSaidNotStarted = true;
    this.complain('Redis is not used: call start() of the CacheEngine');
  }
}

/**
 * While a slot moves to a master that has no slots yet, the client does not know that master. This concerns that slot only,
 * so it must not open the circuit.
 */
const isNotKnownYet = (error: unknown): boolean =>
  error instanceof Error && error.message.startsWith('Cannot find node ');
