import { Logger } from '@nestjs/common';
import { connect, errors, type NatsConnection } from '@nats-io/transport-node';
import { whyDistrusted } from '#config';
import { waitBeforeRetryMs } from '#periodic';
import type { NatsAddress } from './address.js';

interface Options {
  /** Who tells of outages, in the log. */
  title: string;
  /** It was lost: what is under way will hear no answer. */
  onLost?: (why: string) => void;
}

/** Why it is not for us, and what to do, for people to read: waiting does not mend that. */
const whyRefused = (error: Error): string | undefined =>
  // Who was too slow to say who it is may say so again.
  error instanceof errors.AuthorizationError && !/timeout/i.test(error.message)
    ? `${error.message}: correct the user and the password, or the token, in its address`
    : whyDistrusted(error);

/** Whether NATS is there and not for us. */
export const isRefusedByNats = (error: unknown): boolean =>
  !!error && (whyRefused(error as Error) !== undefined || isRefusedByNats((error as Error).cause));

/** A connection to NATS: made when it is first used, and again by itself whenever it is lost. */
export class NatsLink {
  private readonly logger: Logger;
  private opening: Promise<NatsConnection> | undefined;
  private attempts = 0;
  private retryAt = 0;
  private isReached = false;
  private isReported = false;
  private isClosed = false;

  constructor(
    private readonly at: NatsAddress,
    private readonly options: Options,
  ) {
    this.logger = new Logger(options.title);
  }

  /** Whether what is sent now arrives, as far as is known. */
  get isUp(): boolean {
    return this.isReached;
  }

  /**
   * Waits for the first connection, and not for one that was lost: what is sent meanwhile would pile up.
   *
   * @throws Error while NATS is not reached
   */
  async open(): Promise<NatsConnection> {
    if (this.isClosed) throw new Error('The connection to NATS was closed');
    if (!this.opening && performance.now() < this.retryAt) throw new Error('NATS is unreachable');
    this.opening ??= this.connect().catch((error: Error) => {
      this.opening = undefined;
      this.retryAt = performance.now() + waitBeforeRetryMs(this.attempts);
      this.attempts += 1;
      const why = whyRefused(error) ?? error.message;
      this.lost(why);
      throw new Error(`NATS is unreachable (${why})`, { cause: error });
    });
    const connection = await this.opening;
    if (!this.isReached) throw new Error('NATS is unreachable');
    return connection;
  }

  async close(): Promise<void> {
    this.isClosed = true;
    this.isReached = false;
    const connection = await this.opening?.catch(() => undefined);
    await connection?.close();
  }

  private async connect(): Promise<NatsConnection> {
    const { servers, user, pass, token } = this.at;
    const connection = await connect({
      ...{ servers: [...servers], user, pass, token, name: 'cleave' },
      ...{ maxReconnectAttempts: -1, ignoreAuthErrorAbort: true },
      reconnectDelayHandler: () => waitBeforeRetryMs(this.attempts),
      // A server that is gone without a word is noticed by the missing answers to pings.
      ...{ timeout: 2_000, pingInterval: 2_000, maxPingOut: 2 },
      noAsyncTraces: true,
    });
    this.found();
    void this.watch(connection);
    return connection;
  }

  private async watch(connection: NatsConnection): Promise<void> {
    for await (const status of connection.status()) {
      if (status.type === 'disconnect') this.lost('the connection was lost');
      if (status.type === 'reconnecting') this.attempts += 1;
      if (status.type === 'reconnect') this.found();
      if (status.type === 'error') this.logger.warn(`NATS reports: ${status.error.message}`);
    }
    this.opening = undefined;
    this.lost('the connection was closed');
  }

  private found(): void {
    this.isReached = true;
    this.attempts = 0;
    if (this.isReported) this.logger.log('NATS is reachable again');
    this.isReported = false;
  }

  private lost(why: string): void {
    this.isReached = false;
    if (!this.isReported && !this.isClosed) this.logger.warn(`NATS is unreachable (${why}), trying again until it is`);
    this.isReported = true;
    this.options.onLost?.(why);
  }
}
