import { Logger, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import { createClient } from 'redis';
import { CleaveError } from '#contracts';
import { CacheStore, type CacheEntry } from './cache-store.js';

const prefix = 'cleave:cache:';
/** Long enough for a machine that is busy for a moment; modules that ask the cache give up sooner by themselves. */
const commandTimeoutMs = 1_000;
/** A connection on which nothing moves is asked after `pingMs` whether it still lives, and given up after `silenceMs`. */
const pingMs = 1_000;
const silenceMs = 3_000;
/** Commands without an answer. Beyond it they fail at once, so that a Redis that hangs is left in silence and given up. */
const maxUnanswered = 10_000;

/** Values in Redis, shared by all instances. While Redis cannot be reached, every call fails at once. */
export class RedisCacheStore extends CacheStore implements OnModuleInit, OnApplicationShutdown {
  private readonly logger = new Logger(RedisCacheStore.name);
  private readonly client;
  private reachable = true;

  constructor(url: string) {
    super();
    this.client = createClient({
      url,
      // A command that cannot be sent now fails now: a queue would answer late what nobody waits for any more.
      disableOfflineQueue: true,
      commandsQueueMaxLength: maxUnanswered,
      pingInterval: pingMs,
      socket: {
        connectTimeout: 1_000,
        socketTimeout: silenceMs,
        reconnectStrategy: (retries) => Math.min(50 * 2 ** retries, 2_000),
      },
    });
    this.client.on('error', (error: Error) => {
      if (this.reachable) this.logger.warn(`Redis cannot be reached, trying again until it can (${error.message})`);
      this.reachable = false;
    });
    this.client.on('ready', () => {
      if (!this.reachable) this.logger.log('Redis is back');
      this.reachable = true;
    });
  }

  /** Does not wait for Redis: the cache starts without it and serves once it is there. */
  onModuleInit(): void {
    this.client.connect().catch((error: unknown) => {
      this.logger.warn(`gave up connecting to Redis (${String(error)})`);
    });
  }

  onApplicationShutdown(): void {
    this.client.destroy();
  }

  async get(key: string): Promise<CacheEntry | undefined> {
    const text = await this.attempt(() => this.client.get(prefix + key));
    return text === null ? undefined : (JSON.parse(text) as CacheEntry);
  }

  async put(key: string, entry: CacheEntry): Promise<void> {
    const end = entry.expiresAtMs === null ? {} : { expiration: { type: 'PXAT' as const, value: entry.expiresAtMs } };
    await this.attempt(() => this.client.set(prefix + key, JSON.stringify(entry), end));
  }

  async delete(keys: readonly string[]): Promise<void> {
    await this.attempt(() => this.client.unlink(keys.map((key) => prefix + key)));
  }

  async ping(): Promise<void> {
    await this.attempt(() => this.client.ping());
  }

  /** The client's own timeout ends when the command is sent; this one ends when it is answered. */
  private async attempt<T>(command: () => Promise<T>): Promise<T> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(reject, commandTimeoutMs, new Error(`no answer within ${commandTimeoutMs} ms`));
    try {
      return await Promise.race([command(), late]);
    } catch (error) {
      throw new CleaveError('unavailable', 'The cache cannot reach Redis at present.', {}, { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }
}
