import { Targets, type Attempt, type Instance, type Outcome, type TargetsOptions } from '#balancing';
import { within } from '#periodic';
import { ClientTCP, type PacketId, type WritePacket } from '@nestjs/microservices';
import { Socket } from 'node:net';
import { endpointText, type Endpoint } from './address.js';
import { PendingRequests } from './pending-requests.js';
import type { Ended, Question, Route } from './client.js';
import { FrameSocket, isDrainNotice, keepAliveMs, probePattern } from './tcp-frames.js';
import { isWireError, verdictOf, type WireRequest } from './wire.js';

const connectTimeoutMs = 1_000;
/** A connection without any reply for this long, although requests were pending, counts as dead. */
const silenceMs = 5_000;
const readAtOnceBytes = 65_536;

/** The request was certainly not sent. */
class NotConnected extends Error {
  override readonly name = 'NotConnected';
}

/** Receives the error the other side answered with, or an Error that arose on this side, or the reply. */
type Answered = (error: unknown, reply?: unknown) => void;

const connectionClosed = 'Connection closed';
const heard = Promise.resolve();

/** Nest's TCP client, used for the lifetime of one socket. */
class TcpConnection extends ClientTCP {
  private asked = 0;
  private readonly awaited = new PendingRequests<Answered>();
  private whyClosed = connectionClosed;
  private isLeaving = false;

  constructor(
    at: Endpoint,
    private readonly maxBytes: number,
  ) {
    super(at);
  }

  /** Reads into one buffer: Node otherwise allocates 64 KB for each read, which costs as much as the read itself. */
  override createSocket(): FrameSocket {
    const onread = {
      buffer: Buffer.allocUnsafeSlow(readAtOnceBytes),
      callback: (bytes: number, buffer: Uint8Array): boolean => {
        frames.receive(buffer.subarray(0, bytes) as Buffer);
        return true;
      },
    };
    const frames = new FrameSocket(new Socket({ onread }), this.maxBytes, true);
    return frames;
  }

  /**
   * Sends a request on an open connection, without the observables of `send`, which are a fifth of the cost of a call.
   *
   * @param answered called with the outcome, also when the connection ends before the reply
   * @returns a function that forgets the request
   */
  ask(pattern: string, data: unknown, answered: Answered): () => void {
    // A counter is enough: ids are unique within one connection.
    const id = String((this.asked += 1));
    this.awaited.add(id, answered);
    try {
      if (!this.socket) throw new Error(connectionClosed);
      this.socket.sendMessage({ id, pattern, data });
    } catch (error) {
      this.awaited.take(id)?.(error);
    }
    return () => {
      this.awaited.take(id);
      this.endIfAnswered();
    };
  }

  /** A reply that is not awaited any more belongs to a request that was forgotten. */
  override handleResponse(packet: unknown): Promise<void> {
    const { id, err, response } = packet as WritePacket & PacketId;
    this.awaited.take(id)?.(err, response);
    this.endIfAnswered();
    return heard;
  }

  /** Ends the connection once all requests are answered. No further one may be sent. */
  leave(): void {
    this.isLeaving = true;
    this.endIfAnswered();
  }

  private endIfAnswered(): void {
    if (this.isLeaving && this.awaited.size === 0) this.socket?.end();
  }

  override handleError(error: unknown): void {
    this.whyClosed = error instanceof Error ? error.message : String(error);
    super.handleError(error);
  }

  override handleClose(): void {
    super.handleClose();
    for (const answered of this.awaited.takeAll()) answered(new Error(this.whyClosed));
  }

  /** Unlike `close`, does not wait for the other side to end the connection. */
  destroy(): void {
    this.socket?.netSocket.destroy();
    this.close();
  }
}

/** One instance of a module, over one connection at a time. */
class TcpInstance implements Instance {
  private unanswered = 0;
  private heardAt = 0;
  /** How long the requests that were given up had gone without any reply; carried over to the next request. */
  private silentMs = 0;
  private connection: { client: TcpConnection; ready: Promise<TcpConnection> } | undefined;
  private readonly open = new Set<TcpConnection>();

  constructor(
    private readonly at: Endpoint,
    private readonly maxBytes: number,
    private readonly leaving: () => void,
  ) {}

  /**
   * @param ended called once: with the reply, with the error the other side answered with, or with an Error if there is no
   *   answer, a NotConnected if the request was not sent
   * @returns a function to give the request up; `ended` is not called afterwards
   */
  ask(pattern: string, message: () => WireRequest | '', ended: (error: unknown, reply?: unknown) => void): () => void {
    // Adds the silence of the requests before, each of which may have waited too briefly to detect a dead connection.
    if (this.unanswered === 0) this.heardAt = performance.now() - this.silentMs;
    this.unanswered += 1;
    let forget: (() => void) | undefined;
    let isOver = false;
    const over = (): void => {
      isOver = true;
      this.unanswered -= 1;
      forget?.();
    };
    const end = (error: unknown, reply?: unknown): void => {
      if (isOver) return;
      over();
      this.heardAt = performance.now();
      this.silentMs = 0;
      ended(error, reply);
    };
    const send = (client: TcpConnection): void => {
      if (isOver) return;
      forget = client.ask(pattern, message(), (error, reply) => {
        // An Error arose on this side: the connection is broken, and a retry must use another one.
        if (error instanceof Error) this.abandon(client);
        end(error, reply);
      });
      // If the connection has just ended, `end` was called before `forget` was assigned.
      if (isOver) forget();
    };
    this.connect().then(send).catch(end);
    return () => {
      if (isOver) return;
      over();
      this.silentMs = performance.now() - this.heardAt;
      // The instance is slow, or its machine is gone without closing the connection.
      if (this.silentMs > silenceMs) this.close();
    };
  }

  /** Requires an answer: a hung process still accepts connections, and one that is not ready still accepts requests. */
  async probe(signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const forget = this.ask(
        probePattern,
        () => '',
        (error) => {
          // The signal may still abort after the answer, which must not close the connection.
          signal.removeEventListener('abort', giveUp);
          // Probes have no handler: an instance that is ready, or whose version has no probes, answers with Nest's error.
          if (error instanceof Error) reject(error);
          else if (isWireError(error)) reject(new Error(error.detail));
          else resolve();
        },
      );
      const giveUp = (): void => {
        forget();
        // The other end may be gone: the next probe opens a new connection.
        if (this.unanswered === 0) this.close();
        reject(new Error('it does not answer'));
      };
      if (signal.aborted) giveUp();
      else signal.addEventListener('abort', giveUp, { once: true });
    });
    if (!this.connection) throw new Error('it takes no more requests');
  }

  close(): void {
    this.connection = undefined;
    this.silentMs = 0;
    for (const client of this.open) client.destroy();
  }

  private connect(): Promise<TcpConnection> {
    if (!this.connection) {
      const client = new TcpConnection(this.at, this.maxBytes);
      this.open.add(client);
      this.connection = { client, ready: this.establish(client) };
    }
    return this.connection.ready;
  }

  private async establish(client: TcpConnection): Promise<TcpConnection> {
    client.on('close', () => {
      this.open.delete(client);
      this.abandon(client);
    });
    try {
      await within(connectTimeoutMs, client.connect() as Promise<unknown>);
    } catch (error) {
      this.abandon(client);
      client.destroy();
      throw new NotConnected(`${endpointText(this.at)} is unreachable (${(error as Error).message})`, { cause: error });
    }
    const socket = client.unwrap<Socket>();
    socket.setNoDelay(true).setKeepAlive(true, keepAliveMs);
    // Requests sent before are still answered on this connection.
    socket.on('message', (packet: unknown) => {
      if (!isDrainNotice(packet)) return;
      this.abandon(client);
      client.leave();
      this.leaving();
    });
    return client;
  }

  /** The next request opens a new connection. */
  private abandon(client: TcpConnection): void {
    if (this.connection?.client === client) this.connection = undefined;
  }
}

export type TcpTargets = Targets<Endpoint, TcpInstance>;

/** The instances of a module at `tcp://h:p[,h:p…]`. @param maxBytes the largest request or reply */
export const tcpTargets = (
  options: Omit<TargetsOptions<Endpoint, TcpInstance>, 'instanceAt'>,
  maxBytes: number,
): TcpTargets =>
  new Targets({
    ...options,
    instanceAt: ({ port }, host, leaving) => new TcpInstance({ host, port }, maxBytes, leaving),
  });

/** Only an Error arose on this side. */
function outcomeOf(error: unknown): Outcome {
  if (error instanceof NotConnected) return 'not-sent';
  return error instanceof Error ? 'lost' : verdictOf(error);
}

/** Sends requests to the instances of a module over TCP. */
export class TcpRoute implements Route {
  constructor(private readonly targets: TcpTargets) {}

  ask({ pattern, message, mayRepeat, signal }: Question, ended: Ended): () => void {
    let isForgotten = false;
    let giveUp: (() => void) | undefined;
    // Error of an attempt that was sent but not answered. It outranks later ones: the request may have been carried out.
    let unknown: unknown;
    const attempts = this.targets.attempts(mayRepeat);
    const attempt = (): void => {
      if (isForgotten) return;
      let chosen: Attempt<TcpInstance>;
      try {
        chosen = attempts.next();
      } catch (error) {
        ended(unknown ?? error);
        return;
      }
      const forget = chosen.instance.ask(pattern, message, (error, reply) => {
        giveUp = undefined;
        if (!error) {
          chosen.end('answered');
          ended(undefined, reply);
          return;
        }
        const outcome = outcomeOf(error);
        chosen.end(outcome);
        if (outcome === 'lost') unknown ??= error;
        if (attempts.another(outcome)) attempt();
        else ended(unknown ?? error);
      });
      giveUp = () => {
        forget();
        chosen.end(signal?.aborted ? 'given-up' : 'late');
      };
    };
    const starting = this.targets.starting();
    if (starting) void starting.then(attempt);
    else attempt();
    return () => {
      isForgotten = true;
      giveUp?.();
    };
  }

  async close(): Promise<void> {
    this.targets.close();
  }
}
