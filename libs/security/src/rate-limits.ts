import { createRequire } from 'node:module';
import { Logger } from '@nestjs/common';
import { CleaveError } from '#contracts';
import { NoAnswer, backoffMs, throttled, within } from '#periodic';
import { LRUCache } from 'lru-cache';
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes, type RateLimiterAbstract } from 'rate-limiter-flexible';
import type { createClient } from '@redis/client';

/** At most this many requests in this many seconds. */
export interface Rate {
  requests: number;
  perSeconds: number;
}

/** How many of its requests a caller has left. */
export interface Standing {
  /** How many more requests are allowed, as far as this process knows. */
  remaining: number;
  /** Milliseconds until the window ends, and the full number is allowed again. */
  resetMs: number;
  isRefused: boolean;
}

/** A caller that is evicted before its window ends takes another share, and loses the rest of the first one. */
const mostRemembered = 100_000;
/** If processes share a count, each takes the requests of a caller from Redis in this many parts, one at a time. */
const parts = 20;
/** How long a request waits for Redis. */
const sharedWithinMs = 200;
const saidEveryMs = 10_000;
/** The time between reconnects: finding the primary may take several, but a slow server must not be dialled constantly. */
const connectAnewMs = 1_000;
/** A connection is dead after so many unanswered commands in a row, each sent after the last one timed out. */
const mostSilences = 3;
const pingMs = 2_000;

/** What this process may still admit for a caller without asking Redis. */
interface Share {
  left: number;
  remaining: number;
  until: number;
  isUsedUp: boolean;
}

/**
 * Limits the requests of each caller in a window of time that begins with its first request. Several processes share the
 * count through Redis and take it in parts, so that most requests need no round trip; what a process took and did not use
 * is lost to the others until the window ends. While Redis does not answer, each process counts on its own.
 */
export class RateLimits {
  private readonly logger = new Logger('RateLimits');
  private readonly shares = new LRUCache<string, Share>({ max: mostRemembered });
  private readonly asked = new Map<string, Promise<void>>();
  private readonly own: RateLimiterMemory;
  private readonly shared: RateLimiterRedis | undefined;
  private readonly client: ReturnType<typeof createClient> | undefined;
  private readonly part: number;
  private readonly say = throttled(saidEveryMs);
  private readonly anew = throttled(connectAnewMs);
  private silences = 0;
  private silentAt = Number.NEGATIVE_INFINITY;

  /** @param redisUrl where the count is shared; without it, each process counts on its own */
  constructor(
    readonly rate: Rate,
    redisUrl?: string,
  ) {
    const options = { points: rate.requests, duration: rate.perSeconds, keyPrefix: 'cleave:rate' };
    this.own = new RateLimiterMemory(options);
    this.part = redisUrl === undefined ? rate.requests : Math.max(1, Math.floor(rate.requests / parts));
    if (redisUrl === undefined) return;
    // Loaded only if it is used: it consists of hundreds of files.
    const library = createRequire(import.meta.url)('@redis/client') as typeof import('@redis/client');
    this.client = library.createClient({
      url: redisUrl,
      disableOfflineQueue: true,
      pingInterval: pingMs,
      socket: {
        connectTimeout: 1_000,
        // Only works until the connection is ready: after that, pings keep the socket active.
        socketTimeout: 3 * pingMs,
        // The default strategy of node-redis does not reconnect after a socket timeout.
        reconnectStrategy: backoffMs,
      },
    });
    this.client.on('error', (error: Error) => this.sayLost(error));
    this.connect();
    this.shared = new RateLimiterRedis({ ...options, storeClient: this.client, useRedisPackage: true });
  }

  /** Counts one request of the caller: at once if this process has a share left, else after taking another one. */
  take(who: string): Standing | Promise<Standing> {
    return this.standing(who) ?? this.takeMore(who);
  }

  async close(): Promise<void> {
    // Nothing stops a connection attempt under way: it would succeed and keep the process alive.
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

  /** Requests that arrive meanwhile wait for the same answer. */
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
      // The last part may be smaller.
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
      // An answer that comes too late counts as well. The reason for a failure is logged below.
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

  /** Reconnects, to find the current primary: this connection leads to the former one, or nowhere. */
  private connectAnew(why: Error, askedAt: number): void {
    // If this process itself was stalled, all pending timeouts expire together; they count as one.
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
    this.say(() =>
      this.logger.warn(`Rate limits cannot be counted in Redis (${message}): each process counts on its own meanwhile`),
    );
  }
}

export const tooMany = ({ resetMs }: Standing, why = 'The rate limit of this key is exceeded.'): CleaveError =>
  new CleaveError('too-many-requests', `${why} This one has had no effect; repeat it after Retry-After.`, {
    retry_after_ms: Math.ceil(resetMs),
  });

/** Being over the limit is an answer as well, although the library rejects with it. */
const take = (from: RateLimiterAbstract, who: string, part: number): Promise<RateLimiterRes> =>
  from.consume(who, part).catch((result: unknown) => {
    if (result instanceof RateLimiterRes) return result;
    throw result;
  });
