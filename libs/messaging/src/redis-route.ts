import { CleaveError } from '#contracts';
import { Logger } from '@nestjs/common';
import { MultiErrorReply } from '@redis/client/dist/lib/errors.js';
import { randomUUID } from 'node:crypto';
import { PendingRequests } from './pending-requests.js';
import type { Ended, Question, Route } from './client.js';
import { packetsIn } from './frames.js';
import {
  framesChannel,
  largestAtOnce,
  leaveReplica,
  lengthOf,
  open,
  queueKeys,
  redisConnection,
  reportOutages,
  serverIdOf,
  shut,
  type PublishedReply,
  type AskedRequest,
  type QueueKeys,
  type RedisConnection,
} from './redis-queue.js';

/** On average; larger requests are added outside of a script. */
const largeLength = 8_192;

/**
 * Calls one module through its queue in Redis. Replies come by a channel that only this client subscribes to. When that
 * subscription's connection is lost, replies may be lost with it, so everything in flight fails at once as unavailable.
 * Requests made in one turn of the event loop are sent in one command.
 */
export class RedisRoute implements Route {
  private readonly logger = new Logger(RedisRoute.name);
  private readonly channel = `${framesChannel}${randomUUID()}`;
  private readonly waiting = new PendingRequests<Ended>();
  private readonly keys: QueueKeys;
  private readonly requests: RedisConnection;
  private readonly replies: RedisConnection;
  private opening: Promise<unknown> | undefined;
  private isOpening = true;
  private subscribed: Promise<void> | undefined;
  private identified: Promise<void> | undefined;
  private serverId: string | undefined;
  private asked = 0;
  private unsent: AskedRequest[] = [];
  private unsentLength = 0;

  constructor(
    url: string,
    private readonly module: string,
  ) {
    this.keys = queueKeys(module);
    this.requests = redisConnection(url, `asks-${module}`);
    this.replies = redisConnection(url, `hears-${module}`);
  }

  ask(question: Question, ended: Ended): () => void {
    const id = String((this.asked += 1));
    this.waiting.add(id, ended);
    const add = (): void => {
      if (this.waiting.has(id)) this.add(id, question);
    };
    this.connect()
      .then(add)
      .catch((error: unknown) => this.finish(id, error));
    return () => this.waiting.take(id);
  }

  async close(): Promise<void> {
    shut(this.requests);
    shut(this.replies);
    this.failAll('the client was closed');
  }

  /** Waits for the first attempt to connect; later it fails at once while a connection is down. */
  private async connect(): Promise<void> {
    this.opening ??= this.open().finally(() => {
      this.isOpening = false;
    });
    if (this.isOpening) await this.opening;
    if (!this.requests.isReady || !this.replies.isReady) throw new Error('Redis is unreachable');
    this.subscribed ??= this.subscribe();
    await this.subscribed;
    this.identified ??= this.identify();
    await this.identified;
  }

  private add(id: string, { pattern, message, mayRepeat }: Question): void {
    const { meta, body } = message();
    const request = {
      ...{ pattern, body, id },
      meta: JSON.stringify(mayRepeat ? meta : { ...meta, server: this.serverId }),
    };
    // Each stream entry includes the channel.
    const length = lengthOf(this.channel, ...Object.values(request));
    if (this.unsentLength + length > largestAtOnce) this.send();
    if (this.unsent.length === 0) process.nextTick(() => this.send());
    this.unsent.push(request);
    this.unsentLength += length;
  }

  private send(): void {
    const requests = this.unsent;
    const areLarge = this.unsentLength > largeLength * requests.length;
    this.unsent = [];
    this.unsentLength = 0;
    if (requests.length === 0) return;
    const adding = areLarge ? this.addLarge(requests) : this.requests.addRequests(this.keys, this.channel, requests);
    adding.then(
      (added) => {
        const count = added === 'nobody' ? 0 : added;
        for (const { id } of requests.slice(count)) this.finish(id, this.refusal(added));
      },
      (error: Error) => {
        for (const { id } of requests)
          this.finish(id, new Error(`Redis did not accept the request (${error.message})`));
        leaveReplica(error, this.requests, this.replies);
      },
    );
  }

  private async addLarge(requests: readonly AskedRequest[]): Promise<'nobody' | number> {
    const batch = this.requests.multi();
    for (const request of requests) batch.xAdd(this.keys.requests, '*', { ...request, channel: this.channel });
    const replies = await batch
      .keepAdded(this.keys, requests.length)
      .exec()
      .catch((error: unknown) => {
        // Its own message only counts the errors.
        throw error instanceof MultiErrorReply ? [...error.errors()][0] : error;
      });
    return replies.at(-1) as unknown as 'nobody' | number;
  }

  private refusal(added: 'nobody' | number): CleaveError {
    const detail =
      added === 'nobody'
        ? `No instance of ${this.module} takes requests at present; start one or try again later`
        : `Too many requests to ${this.module} are waiting; add instances or try again later`;
    return new CleaveError('unavailable', detail);
  }

  private async open(): Promise<void> {
    reportOutages(this.replies, (message) => this.logger.warn(`${this.module}: ${message}`));
    // Both connections go to the same Redis, so only one reports outages.
    this.requests.on('error', () => undefined).on('ready', () => (this.identified = undefined));
    this.replies.on('error', () => this.failAll('the connection to Redis was lost'));
    try {
      await Promise.all([open(this.requests), open(this.replies)]);
    } catch (error) {
      throw new Error(`Redis is unreachable (${(error as Error).message})`, { cause: error });
    }
  }

  /** Only once: the client renews its subscriptions when it reconnects. */
  private async subscribe(): Promise<void> {
    try {
      await this.replies.subscribe(this.channel, (text) => this.hear(text));
    } catch (error) {
      this.subscribed = undefined;
      throw new Error(`the subscription to replies failed (${(error as Error).message})`, { cause: error });
    }
  }

  private async identify(): Promise<void> {
    try {
      this.serverId = await serverIdOf(this.requests);
    } catch (error) {
      this.identified = undefined;
      throw error;
    }
  }

  /** Never throws: the connection would receive no further messages. */
  private hear(text: string): void {
    let replies: PublishedReply[];
    try {
      replies = repliesIn(text);
    } catch (error) {
      this.logger.error(`${this.module}: malformed replies were dropped (${(error as Error).message})`);
      return;
    }
    for (const { id, responseAt, err, response } of replies) {
      if (responseAt === undefined) this.finish(id, err, response);
      else this.fetch(id, responseAt);
    }
  }

  private fetch(id: string, responseAt: string): void {
    this.requests.getDel(responseAt).then(
      (response) => this.finish(id, response === null ? new Error('the reply has expired') : undefined, response),
      (error: Error) => this.finish(id, new Error(`the reply could not be fetched (${error.message})`)),
    );
  }

  /** Does nothing if the caller has given up. */
  private finish(id: string, error: unknown, reply?: unknown): void {
    this.waiting.take(id)?.(error, reply);
  }

  private failAll(why: string): void {
    for (const ended of this.waiting.takeAll()) ended(new Error(why));
  }
}

/** Older versions do not know frames, and publish each reply separately, as JSON. */
function repliesIn(text: string): PublishedReply[] {
  const replies: unknown[] = text.startsWith('{') ? [JSON.parse(text)] : packetsIn(text);
  if (replies.some((it) => typeof it !== 'object' || it === null)) throw new SyntaxError('a reply is not an object');
  return replies as PublishedReply[];
}
