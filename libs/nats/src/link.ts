import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import type { Socket } from 'node:net';
import { Logger } from '@nestjs/common';
import { connect, errors, type ConnectionOptions, type NatsConnection } from '@nats-io/transport-node';
import { whyDistrusted } from '#config';
import { backoffMs } from '#periodic';
import type { NatsAddress } from './address.js';

interface Options {
  /** Name of the logger that reports outages. */
  title: string;
  /** Called when the connection is lost: pending requests will get no answer. */
  onLost?: (why: string) => void;
}

/** For people to read: why the server or its credentials are refused, and what to do; undefined if waiting may help. */
const whyRefused = (error: Error): string | undefined =>
  // An authentication timeout is no refusal: a slow client may try again.
  error instanceof errors.AuthorizationError && !/timeout/i.test(error.message)
    ? `${error.message}: correct the user and the password, or the token, in its address`
    : whyDistrusted(error);

/** Whether NATS was reached but rejects the credentials, or is not trusted. */
export const isRefusedByNats = (error: unknown): boolean =>
  !!error && (whyRefused(error as Error) !== undefined || isRefusedByNats((error as Error).cause));

/** The newest socket of an attempt to connect; null once that has ended. */
const dialing = new AsyncLocalStorage<{ socket?: Socket | null }>();
subscribe('net.client.socket', (event) => {
  const attempt = dialing.getStore();
  if (attempt && attempt.socket !== null) attempt.socket = (event as { socket: Socket }).socket;
});

/**
 * Closes the socket of a failed attempt. The client (3.4) leaves it open if the server accepts the connection and then says
 * nothing, as one that is suspended does; the next attempt closes only those of the same call of `connect`.
 */
async function connectOrClose(options: ConnectionOptions): Promise<NatsConnection> {
  const attempt: { socket?: Socket | null } = {};
  try {
    return await dialing.run(attempt, () => connect(options));
  } catch (error) {
    attempt.socket?.destroy();
    throw error;
  } finally {
    attempt.socket = null;
  }
}

/**
 * While it reconnects to a server that accepts the connection and then says nothing, the client (3.4) leaves the socket of
 * that attempt open when it is closed. Only its own transport knows that socket.
 */
const discardAttempt = (connection: NatsConnection | undefined): void =>
  (connection as { protocol?: { transport?: { discard(): void } } } | undefined)?.protocol?.transport?.discard();

/** A connection to NATS that is made on first use, and reconnects by itself. */
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

  /** Whether the connection is up, as far as is known. */
  get isUp(): boolean {
    return this.isReached;
  }

  /**
   * Waits for the first connection, but not for one that was lost, because messages would pile up meanwhile.
   *
   * @throws Error while NATS is not reached
   */
  async open(): Promise<NatsConnection> {
    if (this.isClosed) throw new Error('The connection to NATS was closed');
    if (!this.opening && performance.now() < this.retryAt) throw new Error('NATS is unreachable');
    this.opening ??= this.connect().catch((error: Error) => {
      this.opening = undefined;
      this.retryAt = performance.now() + backoffMs(this.attempts);
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
    discardAttempt(connection);
  }

  private async connect(): Promise<NatsConnection> {
    const { servers, user, pass, token } = this.at;
    const connection = await connectOrClose({
      ...{ servers: [...servers], user, pass, token, name: 'cleave' },
      ...{ maxReconnectAttempts: -1, ignoreAuthErrorAbort: true },
      reconnectDelayHandler: () => backoffMs(this.attempts),
      // Missing answers to pings reveal a server that is gone without closing the connection.
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
