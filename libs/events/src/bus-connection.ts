import { Logger } from '@nestjs/common';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import type { NatsAddress } from './bus-address.js';

/** The connection of a process to NATS: made when it is first used, and again by itself whenever it is lost. */
export class BusConnection {
  private readonly logger = new Logger('EventBus');
  private opening: Promise<NatsConnection> | undefined;
  private isReached = false;
  private isReported = false;
  private isClosed = false;

  constructor(private readonly at: NatsAddress) {}

  /** Whether what is sent now arrives, as far as is known. */
  get isUp(): boolean {
    return this.isReached;
  }

  /**
   * Does not wait for a connection that was lost: what is sent meanwhile would pile up.
   *
   * @throws Error while NATS is not reached
   */
  async open(): Promise<NatsConnection> {
    if (this.isClosed) throw new Error('The connection to NATS was closed');
    this.opening ??= this.connect().catch((error: Error) => {
      this.opening = undefined;
      this.lost(error.message);
      throw new Error(`NATS is not reached (${error.message})`, { cause: error });
    });
    const connection = await this.opening;
    if (!this.isReached) throw new Error('NATS is not reached');
    return connection;
  }

  async close(): Promise<void> {
    this.isClosed = true;
    const connection = await this.opening?.catch(() => undefined);
    await connection?.close();
  }

  private async connect(): Promise<NatsConnection> {
    const { servers, user, pass, token } = this.at;
    const connection = await connect({
      ...{ servers: [...servers], user, pass, token, name: 'cleave' },
      ...{ maxReconnectAttempts: -1, reconnectTimeWait: 250, reconnectJitter: 250, ignoreAuthErrorAbort: true },
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
      if (status.type === 'reconnect') this.found();
    }
    this.isReached = false;
    this.opening = undefined;
  }

  private found(): void {
    this.isReached = true;
    if (this.isReported) this.logger.log('NATS is reached again');
    this.isReported = false;
  }

  private lost(why: string): void {
    this.isReached = false;
    if (!this.isReported && !this.isClosed) this.logger.warn(`NATS is not reached (${why}), trying again until it is`);
    this.isReported = true;
  }
}
