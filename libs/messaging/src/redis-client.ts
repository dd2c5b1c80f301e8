import { CleaveError } from '#contracts';
import { Logger } from '@nestjs/common';
import { ClientProxy, type ReadPacket, type WritePacket } from '@nestjs/microservices';
import { randomUUID } from 'node:crypto';
import {
  open,
  queueKeys,
  redisConnection,
  reportOutages,
  shut,
  type PublishedReply,
  type QueueKeys,
  type RedisConnection,
} from './redis-queue.js';
import type { WireRequest } from './wire.js';

/**
 * Asks one module through its queue in Redis. Replies come by a channel that only this client listens to. When the
 * connection that listens is lost, a reply may be lost with it, so everything in flight fails at once as unavailable.
 */
export class RedisClient extends ClientProxy {
  private readonly logger = new Logger(RedisClient.name);
  private readonly channel = `cleave:replies:${randomUUID()}`;
  private readonly keys: QueueKeys;
  private readonly requests: RedisConnection;
  private readonly replies: RedisConnection;
  private opening: Promise<unknown> | undefined;
  private isOpening = true;
  private subscribed: Promise<void> | undefined;
  private sent = 0;

  constructor(
    url: string,
    private readonly module: string,
  ) {
    super();
    this.keys = queueKeys(module);
    this.requests = redisConnection(url, `asks-${module}`);
    this.replies = redisConnection(url, `hears-${module}`);
  }

  /** Waits for the first attempt to connect; later, while a connection is down, it fails at once. */
  override async connect(): Promise<void> {
    this.opening ??= this.open().finally(() => {
      this.isOpening = false;
    });
    if (this.isOpening) await this.opening;
    if (!this.requests.isReady || !this.replies.isReady) throw new Error('Redis is not reached');
    this.subscribed ??= this.subscribe();
    await this.subscribed;
  }

  override async close(): Promise<void> {
    shut(this.requests);
    shut(this.replies);
    this.failAll('the client was closed');
  }

  override unwrap(): never {
    throw new Error('The connections to Redis are not shared');
  }

  protected override publish({ pattern, data }: ReadPacket, callback: (packet: WritePacket) => void): () => void {
    const id = String((this.sent += 1));
    const { meta, body } = data as WireRequest;
    this.routingMap.set(id, callback);
    const request = { pattern: pattern as string, meta: JSON.stringify(meta), body, channel: this.channel, id };
    this.requests.addRequest(this.keys, request).then(
      (added) => {
        if (added !== 'added') this.finish(id, { err: this.refusal(added) });
      },
      (error: Error) => this.finish(id, { err: new Error(`Redis did not take it (${error.message})`) }),
    );
    return () => this.routingMap.delete(id);
  }

  protected override dispatchEvent(): never {
    throw new Error('Events do not travel this way: they ride the outbox');
  }

  private refusal(added: 'nobody' | 'full'): CleaveError {
    const detail = {
      nobody: `No instance of ${this.module} takes requests at present; start one or try again later`,
      full: `Too many requests to ${this.module} are waiting; add instances or try again later`,
    };
    return new CleaveError('unavailable', detail[added]);
  }

  private async open(): Promise<void> {
    reportOutages(this.replies, (message) => this.logger.warn(`${this.module}: ${message}`));
    // Both connections lose and find the same Redis: one of them tells.
    this.requests.on('error', () => undefined);
    this.replies.on('error', () => this.failAll('the connection to Redis was lost'));
    try {
      await Promise.all([open(this.requests), open(this.replies)]);
    } catch (error) {
      throw new Error(`Redis is not reached (${(error as Error).message})`, { cause: error });
    }
  }

  /** Once: the connection itself renews a subscription that it has had. */
  private async subscribe(): Promise<void> {
    try {
      await this.replies.subscribe(this.channel, (text) => this.hear(text));
    } catch (error) {
      this.subscribed = undefined;
      throw new Error(`Redis did not subscribe us (${(error as Error).message})`, { cause: error });
    }
  }

  private hear(text: string): void {
    const { id, responseAt, ...outcome } = JSON.parse(text) as PublishedReply;
    if (responseAt === undefined) return this.finish(id, outcome);
    this.requests.getDel(responseAt).then(
      (response) => this.finish(id, response === null ? { err: new Error('the reply has expired') } : { response }),
      (error: Error) => this.finish(id, { err: new Error(`the reply was not fetched (${error.message})`) }),
    );
  }

  /** Does nothing for a request whose caller has given up. */
  private finish(id: string, packet: WritePacket): void {
    const callback = this.routingMap.get(id);
    this.routingMap.delete(id);
    callback?.({ ...packet, isDisposed: true });
  }

  private failAll(why: string): void {
    const callbacks = [...this.routingMap.values()];
    this.routingMap.clear();
    for (const callback of callbacks) callback({ err: new Error(why) });
  }
}
