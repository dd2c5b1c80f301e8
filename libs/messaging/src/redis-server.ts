import type { Admission } from '#admission';
import { AnsweringServer } from './answering-server.js';
import { openPatiently, redisConnection, reportOutages, shut, type RedisConnection } from './redis-queue.js';
import { RedisReader, type Work } from './redis-reader.js';
import type { Signing } from './signing.js';

/** Answers requests from Redis: one queue for each module that this application answers for. */
export class RedisServer extends AnsweringServer {
  override readonly transportId = Symbol('redis-streams');
  private connection: RedisConnection | undefined;
  private readers: RedisReader[] = [];

  constructor(
    private readonly url: string,
    private readonly limits: Admission,
    signing: Signing | undefined,
    private readonly canServe: () => Promise<boolean>,
  ) {
    super(limits, signing);
  }

  get isReached(): boolean {
    return this.connection?.isReady === true && this.readers.every((reader) => reader.isReached);
  }

  /** Stops reading, finishes and acknowledges the requests taken, then closes the connections. */
  override async close(): Promise<void> {
    await Promise.all(this.readers.map((reader) => reader.stop()));
    if (this.connection) shut(this.connection);
  }

  protected override async start(): Promise<void> {
    if (this.modules.size === 0) throw new Error('this application has no message handlers');
    const connection = redisConnection(this.url, 'answers');
    reportOutages(connection, (message) => this.logger.warn(message));
    this.connection = connection;
    const repeatable = new Set(this.operations.filter((it) => it.idempotent).map((it) => it.pattern));
    const work: Work = {
      carryOut: ({ pattern, body }, meta) => this.receive(pattern, { meta, body }),
      mayRepeat: (pattern) => repeatable.has(pattern),
      isFull: (pattern) => this.limits.limiterOf(pattern).isFull,
      canServe: this.canServe,
    };
    try {
      await openPatiently(connection);
      this.readers = [...this.modules].map((module) => new RedisReader(module, this.url, connection, work));
      await Promise.all(this.readers.map((reader) => reader.start()));
    } catch (error) {
      await this.close();
      throw error;
    }
  }
}
