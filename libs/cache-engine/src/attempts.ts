import { ConsecutiveBreaker, ExponentialBackoff, circuitBreaker, handleWhen } from 'cockatiel';
import { ErrorReply } from '@redis/client';
import { assertGoesOn, type Connection } from './connection.js';
import { CacheUnavailable } from './errors.js';
import { within } from './within.js';

const failuresThatBreak = 5;
/** That Redis refuses what it is asked is told so often at the most. */
const refusalsToldEveryMs = 60_000;

/**
 * Every call has a deadline, and after some failures the next ones fail at once until one of them comes through again. Whoever
 * counts hears of each.
 */
export class Attempts {
  private readonly breaker = circuitBreaker(
    handleWhen((error) => !(error instanceof ErrorReply || isNotKnownYet(error))),
    {
      halfOpenAfter: new ExponentialBackoff({ initialDelay: 100, maxDelay: 1_000 }),
      breaker: new ConsecutiveBreaker(failuresThatBreak),
    },
  );
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
   * @param failureIn what is wrong in what was answered, for those who count
   * @throws CacheUnavailable
   */
  async attempt<T>(
    what: string,
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
      const answer = await this.breaker.execute(() => within(this.deadlineMs, what, ask));
      failure = failureIn?.(answer);
      return answer;
    } catch (error) {
      failure = error;
      if (error instanceof ErrorReply && error.message.startsWith('OVERFLOW'))
        throw new RangeError('the counter would leave the safe integers', { cause: error });
      throw new CacheUnavailable({ cause: error });
    } finally {
      if (failure instanceof ErrorReply) this.refused(failure);
      // Whoever looks whether Redis is there, as each reading of the metrics does, is no operation of the cache.
      if (what !== 'ping') this.ended(what, performance.now() - startedAt, failure);
    }
  }

  /** It is there and yet nothing is kept, which whoever goes on without it would not notice. */
  private refused({ message }: ErrorReply): void {
    const now = performance.now();
    if (now - this.refusalToldAt < refusalsToldEveryMs || message.startsWith('OVERFLOW')) return;
    this.refusalToldAt = now;
    const isOfCluster = this.connection.redis.kind === 'server' && /^(?:MOVED|CROSSSLOT)/.test(message);
    const advice = isOfCluster
      ? '. It is one of a cluster: name two of its masters in redis.url, or its address twice'
      : '';
    this.complain(`Redis refuses what it is asked: ${message}${advice}`);
  }

  /** Whoever goes on without it, as `getOrSet` does, would not notice. */
  private sayIfNotStarted(): void {
    if (this.connection.isStarted || this.hasSaidNotStarted) return;
    this.hasSaidNotStarted = true;
    this.complain('Redis is not asked: call start() of the CacheEngine');
  }
}

/** That a slot is being moved to a master that has none yet, of which the client is not told before: of that slot alone. */
const isNotKnownYet = (error: unknown): boolean =>
  error instanceof Error && error.message.startsWith('Cannot find node ');
