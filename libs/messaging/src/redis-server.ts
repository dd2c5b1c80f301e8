import type { Admission } from '#admission';
import type { CustomTransportStrategy, MessageHandler } from '@nestjs/microservices';
import { AnsweringServer } from './answering-server.js';
import { answeredBy } from './answers.js';
import { open, redisConnection, reportOutages, shut, type RedisConnection } from './redis-queue.js';
import { RedisReader, type Work } from './redis-reader.js';

/** Answers from Redis: one queue for each module that this application answers for. */
export class RedisServer extends AnsweringServer implements CustomTransportStrategy {
  override readonly transportId = Symbol('redis-streams');
  private readonly modules = new Set<string>();
  private readonly repeatable = new Set<string>();
  private connection: RedisConnection | undefined;
  private readers: RedisReader[] = [];

  constructor(
    private readonly url: string,
    admission: Admission,
  ) {
    super(admission);
  }

  override addHandler(pattern: string, callback: MessageHandler, isEvent?: boolean, extras?: object): void {
    const operation = answeredBy(extras as Record<string, unknown>);
    if (operation) this.modules.add(pattern.slice(0, pattern.indexOf('.')));
    if (operation?.idempotent) this.repeatable.add(pattern);
    super.addHandler(pattern, callback, isEvent, extras);
  }

  override listen(callback: (error?: unknown) => void): void {
    this.start().then(
      () => callback(),
      (error: unknown) => callback(error),
    );
  }

  /** Stops reading, finishes what has been read, replies, acknowledges; then lets go of Redis. */
  override async close(): Promise<void> {
    await Promise.all(this.readers.map((reader) => reader.stop()));
    if (this.connection) shut(this.connection);
  }

  private async start(): Promise<void> {
    if (this.modules.size === 0) throw new Error('this application answers no messages');
    const connection = redisConnection(this.url, 'answers');
    reportOutages(connection, (message) => this.logger.warn(message));
    this.connection = connection;
    const work: Work = {
      carryOut: ({ pattern, body }, meta) => this.receive(pattern, { meta, body }),
      mayRepeat: (pattern) => this.repeatable.has(pattern),
    };
    try {
      await open(connection);
      this.readers = [...this.modules].map((module) => new RedisReader(module, this.url, connection, work));
      await Promise.all(this.readers.map((reader) => reader.start()));
    } catch (error) {
      await this.close();
      throw error;
    }
  }
}
