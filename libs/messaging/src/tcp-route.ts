import { ClientTCP } from '@nestjs/microservices';
import type { Socket } from 'node:net';
import { catchError, defer, finalize, mergeMap, tap, throwError, type Observable } from 'rxjs';
import { endpointText, type Endpoint } from './address.js';
import type { Balance } from './balance.js';
import type { Route } from './client.js';
import { frameCharacters, isDrainNotice } from './tcp-frames.js';
import type { WireRequest } from './wire.js';

const connectTimeoutMs = 1_000;
const keepAliveMs = 10_000;
const firstAvoidanceMs = 1_000;
const longestAvoidanceMs = 30_000;
/** A connection on which nothing was heard for so long, although there was something to answer, is taken for dead. */
const silenceMs = 5_000;

/** The request has certainly not been sent. */
class NotConnected extends Error {
  override readonly name = 'NotConnected';
}

/** Nest's TCP client, used for the life of one socket. */
class TcpConnection extends ClientTCP {
  /** Unlike `close`, does not wait for the other side to end the connection as well. */
  destroy(): void {
    this.socket?.netSocket.destroy();
    this.close();
  }
}

async function within<Result>(work: Promise<Result>, timeoutMs: number): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no connection within ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    return await Promise.race([work, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}

/** One instance of a module, over one connection at a time. */
class TcpEndpoint {
  inFlight = 0;
  private connection: { client: TcpConnection; ready: Promise<TcpConnection> } | undefined;
  private readonly open = new Set<TcpConnection>();
  private failures = 0;
  private avoidedUntil = 0;
  private heardAt = 0;

  constructor(
    private readonly at: Endpoint,
    private readonly maxBytes: number,
  ) {}

  get isAvoided(): boolean {
    return performance.now() < this.avoidedUntil;
  }

  /** Fails with NotConnected when the request has not been sent. */
  send(pattern: string, message: () => WireRequest): Observable<unknown> {
    return defer(() => {
      if (this.inFlight === 0) this.heardAt = performance.now();
      this.inFlight += 1;
      let isAnswered = false;
      const answered = () => {
        isAnswered = true;
        this.heardAt = performance.now();
      };
      return defer(() => this.connect()).pipe(
        mergeMap((client) => client.send(pattern, message())),
        tap({ next: answered, error: answered }),
        finalize(() => {
          this.inFlight -= 1;
          if (!isAnswered) this.abandoned();
        }),
      );
    });
  }

  /** Other instances are preferred for a while, longer with every failure in a row. */
  avoid(): void {
    const avoidanceMs = Math.min(firstAvoidanceMs * 2 ** this.failures, longestAvoidanceMs);
    this.failures += 1;
    this.avoidedUntil = performance.now() + avoidanceMs;
  }

  close(): void {
    this.connection = undefined;
    for (const client of this.open) client.destroy();
  }

  /** A caller's deadline passed: the instance is slow, or the machine is gone without a word. */
  private abandoned(): void {
    this.avoid();
    if (performance.now() - this.heardAt > silenceMs) this.close();
  }

  private connect(): Promise<TcpConnection> {
    if (!this.connection) {
      const client = new TcpConnection({ ...this.at, maxBufferSize: frameCharacters(this.maxBytes) });
      this.open.add(client);
      this.connection = { client, ready: this.establish(client) };
    }
    return this.connection.ready;
  }

  private async establish(client: TcpConnection): Promise<TcpConnection> {
    client.on('close', () => {
      this.open.delete(client);
      this.leave(client);
    });
    try {
      await within(client.connect() as Promise<unknown>, connectTimeoutMs);
    } catch (error) {
      this.leave(client);
      client.destroy();
      throw new NotConnected(`${endpointText(this.at)} is not reached (${(error as Error).message})`, { cause: error });
    }
    const socket = client.unwrap<Socket>();
    socket.setNoDelay(true).setKeepAlive(true, keepAliveMs);
    // What was sent before is still answered on this connection; the server ends it afterwards.
    socket.on('message', (packet: unknown) => {
      if (isDrainNotice(packet)) this.leave(client);
    });
    this.failures = 0;
    this.avoidedUntil = 0;
    return client;
  }

  /** The next request opens a new connection. */
  private leave(client: TcpConnection): void {
    if (this.connection?.client === client) this.connection = undefined;
  }
}

/** The instances of a module at `tcp://h:p[,h:p…]`. */
export class TcpRoute implements Route {
  private readonly endpoints: readonly TcpEndpoint[];

  constructor(
    at: readonly Endpoint[],
    private readonly balance: Balance,
    maxBytes: number,
  ) {
    this.endpoints = at.map((endpoint) => new TcpEndpoint(endpoint, maxBytes));
  }

  send(pattern: string, message: () => WireRequest, mayRepeat: boolean): Observable<unknown> {
    return this.tryOne(pattern, message, mayRepeat, []);
  }

  async close(): Promise<void> {
    for (const endpoint of this.endpoints) endpoint.close();
  }

  private tryOne(
    pattern: string,
    message: () => WireRequest,
    mayRepeat: boolean,
    tried: readonly TcpEndpoint[],
  ): Observable<unknown> {
    return defer(() => {
      const endpoint = this.choose(tried);
      const triedNow = [...tried, endpoint];
      return endpoint.send(pattern, message).pipe(
        catchError((error: unknown) => {
          // What is not an Error is the answer of the other side.
          if (!(error instanceof Error)) return throwError(() => error);
          endpoint.avoid();
          if (!this.isWorthAnother(error, mayRepeat, triedNow)) return throwError(() => error);
          return this.tryOne(pattern, message, mayRepeat, triedNow);
        }),
      );
    });
  }

  /** A lone address may stand for several instances behind a balancer: a lost connection is worth a second one there. */
  private isWorthAnother(error: Error, mayRepeat: boolean, tried: readonly TcpEndpoint[]): boolean {
    const hasOthers = tried.length < this.endpoints.length;
    if (error instanceof NotConnected) return hasOthers;
    return mayRepeat && (hasOthers || tried.length === 1);
  }

  private choose(tried: readonly TcpEndpoint[]): TcpEndpoint {
    const others = this.endpoints.filter((endpoint) => !tried.includes(endpoint));
    const left = others.length > 0 ? others : this.endpoints;
    const ready = left.filter((endpoint) => !endpoint.isAvoided);
    return this.balance(ready.length > 0 ? ready : left);
  }
}
