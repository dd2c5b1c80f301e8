import { Logger } from '@nestjs/common';
import { CleaveError } from '#contracts';
import { NoAnswer, nowAndThen, waitBeforeRetryMs, within } from '#periodic';
import { LRUCache } from 'lru-cache';
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes, type RateLimiterAbstract } from 'rate-limiter-flexible';
import { createClient } from '@redis/client';

/** So many requests in so many seconds. */
export interface Rate {
  requests: number;
  perSeconds: number;
}

/** Where somebody stands. */
export interface Standing {
  /** How many more may come, as far as this process knows. */
  remaining: number;
  /** When there are as many as ever again, in milliseconds. */
  resetMs: number;
  isRefused: boolean;
}

/** Who is forgotten before their time is over is counted a second time. */
const mostRemembered = 100_000;
/** Of its requests, what a process takes for somebody at once where several share the count: Redis is asked for each such part. */
const parts = 20;
/** Who waits for Redis waits no longer than this. */
const sharedWithinMs = 200;
const saidEveryMs = 10_000;
/** More than one replica may be met before somebody is the primary; one that is merely slow is not to be dialled all the time. */
const connectAnewMs = 1_000;
/** A connection leads nowhere when so many in a row are not answered, each of which was asked after the one before was given up. */
const mostSilences = 3;
const pingMs = 2_000;

/** What this process may still let through of somebody, without asking. */
interface Share {
  left: number;
  remaining: number;
  until: number;
  isUsedUp: boolean;
}

/**
 * Lets each of those who ask send so many requests in a window of time that begins with the first. Several processes share
 * the count through Redis, in parts, so that most requests ask nobody; what a process has taken and not used is lost to the
 * others until the window is over. While Redis does not answer, each process counts by itself.
 */
export class RateLimits {
  private readonly logger = new Logger('RateLimits');
  private readonly shares = new LRUCache<string, Share>({ max: mostRemembered });
  private readonly asked = new Map<string, Promise<void>>();
  private readonly own: RateLimiterMemory;
  private readonly shared: RateLimiterRedis | undefined;
  private readonly client: ReturnType<typeof createClient> | undefined;
  private readonly part: number;
  private readonly say = nowAndThen(saidEveryMs);
  private readonly anew = nowAndThen(connectAnewMs);
  private silences = 0;
  private silentAt = Number.NEGATIVE_INFINITY;

  /** @param redisUrl where the count is shared; each process counts by itself when left out */
  constructor(
    readonly rate: Rate,
    redisUrl?: string,
  ) {
    const options = { points: rate.requests, duration: rate.perSeconds, keyPrefix: 'cleave:rate' };
    this.own = new RateLimiterMemory(options);
    this.part = redisUrl === undefined ? rate.requests : Math.max(1, Math.floor(rate.requests / parts));
    if (redisUrl === undefined) return;
    this.client = createClient({
      url: redisUrl,
      disableOfflineQueue: true,
      pingInterval: pingMs,
      socket: {
        connectTimeout: 1_000,
        // Until it is ready, as no pings are sent before that.
        socketTimeout: 3 * pingMs,
        // Left out, a connection over which nothing came for so long would not be made again.
        reconnectStrategy: waitBeforeRetryMs,
      },
    });
    this.client.on('error', (error: Error) => this.sayLost(error));
    this.connect();
    this.shared = new RateLimiterRedis({ ...options, storeClient: this.client, useRedisPackage: true });
  }

  /** Counts one request of somebody. At once, unless the count is shared and has to be asked for. */
  take(who: string): Standing | Promise<Standing> {
    return this.standing(who) ?? this.takeMore(who);
  }

  async close(): Promise<void> {
    // A connection that is being made is made nevertheless, and would keep the process alive.
    this.client?.on('ready', () => this.client?.destroy());
    this.client?.destroy();
  }

  private standing(who: string): Standing | undefined {
    const share = this.shares.get(who);
    const resetMs = share ? share.until - performance.now() : 0;
    if (!share || resetMs <= 0 || (share.left === 0 && !share.isUsedUp)) return undefined;
    if (share.left === 0) return { remaining: 0, resetMs, isRefused: true };
    share.left -= 1;
    return { remaining: share.left + share.remaining, resetMs, isRefused: false };
  }

  /** All who come meanwhile wait for the same answer. */
  private async takeMore(who: string): Promise<Standing> {
    for (;;) {
      const asking = this.asked.get(who) ?? this.ask(who).finally(() => this.asked.delete(who));
      this.asked.set(who, asking);
      await asking;
      const standing = this.standing(who);
      if (standing) return standing;
    }
  }

  private async ask(who: string): Promise<void> {
    const result = await this.consumed(who);
    const isUsedUp = result.consumedPoints > this.rate.requests;
    this.shares.set(who, {
      // Of the last part there may be less.
      left: Math.max(0, Math.min(this.part, this.rate.requests - (result.consumedPoints - this.part))),
      remaining: result.remainingPoints,
      until: performance.now() + Math.max(1, result.msBeforeNext),
      isUsedUp: isUsedUp || result.remainingPoints === 0,
    });
  }

  private async consumed(who: string): Promise<RateLimiterRes> {
    if (this.shared) {
      const askedAt = performance.now();
      const answer = take(this.shared, who, this.part);
      // One that comes too late as well. Why there is none is told of below.
      const heard = (): void => void (this.silences = 0);
      answer.then(heard, () => undefined);
      try {
        return await within(sharedWithinMs, answer);
      } catch (error) {
        this.sayLost(error as Error);
        this.connectAnew(error as Error, askedAt);
      }
    }
    return take(this.own, who, this.part);
  }

  private connect(): void {
    void this.client?.connect().catch((error: Error) => this.sayLost(error));
  }

  /** It leads to what was the primary when it was made, or nowhere: whoever is that by now is found by connecting anew. */
  private connectAnew(why: Error, askedAt: number): void {
    // When this process itself stood still, the time of all that wait has run out together.
    if (why instanceof NoAnswer && askedAt > this.silentAt) {
      this.silences += 1;
      this.silentAt = performance.now();
    }
    const isWrong = why.message.includes('READONLY') || this.silences >= mostSilences;
    if (!isWrong || !this.client?.isReady) return;
    this.anew(() => {
      this.silences = 0;
      this.client?.destroy();
      this.connect();
    });
  }

  private sayLost({ message }: Error): void {
    this.say(() => this.logger.warn(`Redis does not count (${message}): each process counts by itself meanwhile`));
  }
}

export const tooMany = ({ resetMs }: Standing, why = 'More requests come by this key than it may send.'): CleaveError =>
  new CleaveError('too-many-requests', `${why} This one has had no effect; repeat it after Retry-After.`, {
    retry_after_ms: Math.ceil(resetMs),
  });

/** Too many is an answer as well. */
const take = (from: RateLimiterAbstract, who: string, part: number): Promise<RateLimiterRes> =>
  from.consume(who, part).catch((result: unknown) => {
    if (result instanceof RateLimiterRes) return result;
    throw result;
  });
