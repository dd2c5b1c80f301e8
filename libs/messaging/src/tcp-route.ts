import { Targets, type Attempt, type Instance, type Outcome, type TargetsOptions } from '#balancing';
import type { CleaveError } from '#contracts';
import { within } from '#periodic';
import { ClientTCP, type PacketId, type WritePacket } from '@nestjs/microservices';
import { Socket } from 'node:net';
import { endpointText, type Endpoint } from './address.js';
import { Awaited } from './awaited.js';
import type { Ended, Question, Route } from './client.js';
import { FrameSocket, isDrainNotice, keepAliveMs, probePattern } from './tcp-frames.js';
import { isTooMuch, isWireError, type WireRequest } from './wire.js';

const connectTimeoutMs = 1_000;
/** A connection on which nothing was heard for so long, although there was something to answer, is taken for dead. */
const silenceMs = 5_000;

/** The request has certainly not been sent. */
class NotConnected extends Error {
  override readonly name = 'NotConnected';
}

/** Hears the error that was answered, or an Error of this side, or the reply. */
type Answered = (error: unknown, reply?: unknown) => void;

const connectionClosed = 'Connection closed';
const heard = Promise.resolve();

/** Nest's TCP client, used for the life of one socket. */
class TcpConnection extends ClientTCP {
  private asked = 0;
  private readonly awaited = new Awaited<Answered>();
  private whyClosed = connectionClosed;

  constructor(
    at: Endpoint,
    private readonly maxBytes: number,
  ) {
    super(at);
  }

  override createSocket(): FrameSocket {
    return new FrameSocket(new Socket(), this.maxBytes, true);
  }

  /**
   * Asks without the observables that `send` puts around it, which are a fifth of the cost of a call; it has to be connected.
   *
   * @param answered called with what comes, also when the connection ends before
   * @returns what forgets the request
   */
  ask(pattern: string, data: unknown, answered: Answered): () => void {
    // Counted: a request is known by it on one connection only.
    const id = String((this.asked += 1));
    this.awaited.add(id, answered);
    try {
      if (!this.socket) throw new Error(connectionClosed);
      this.socket.sendMessage({ id, pattern, data });
    } catch (error) {
      this.awaited.take(id)?.(error);
    }
    return () => this.awaited.take(id);
  }

  /** Who asks for a request that is not awaited any more has forgotten it. */
  override handleResponse(packet: unknown): Promise<void> {
    const { id, err, response } = packet as WritePacket & PacketId;
    this.awaited.take(id)?.(err, response);
    return heard;
  }

  override handleError(error: unknown): void {
    this.whyClosed = error instanceof Error ? error.message : String(error);
    super.handleError(error);
  }

  override handleClose(): void {
    super.handleClose();
    for (const answered of this.awaited.takeAll()) answered(new Error(this.whyClosed));
  }

  /** Unlike `close`, does not wait for the other side to end the connection as well. */
  destroy(): void {
    this.socket?.netSocket.destroy();
    this.close();
  }
}

/** One instance of a module, over one connection at a time. */
class TcpInstance implements Instance {
  private unanswered = 0;
  private heardAt = 0;
  /** For how long those that nobody waits for any more had heard nothing. */
  private silentMs = 0;
  private connection: { client: TcpConnection; ready: Promise<TcpConnection> } | undefined;
  private readonly open = new Set<TcpConnection>();

  constructor(
    private readonly at: Endpoint,
    private readonly maxBytes: number,
    private readonly leaving: () => void,
  ) {}

  /**
   * @param ended called once: with the reply, with the error the other side answered with, or with an Error when there is
   *   no answer, a NotConnected when the request has not been sent
   * @returns what is to be called when nobody waits any more; `ended` is not called after it
   */
  ask(pattern: string, message: () => WireRequest | '', ended: (error: unknown, reply?: unknown) => void): () => void {
    // Those before it may each have waited for a short time only.
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
        // An Error is of this side: the connection is gone, and what is sent again has to take another one.
        if (error instanceof Error) this.abandon(client);
        end(error, reply);
      });
      // The connection may be one that has just ended.
      if (isOver) forget();
    };
    this.connect().then(send).catch(end);
    return () => {
      if (isOver) return;
      over();
      this.silentMs = performance.now() - this.heardAt;
      // The instance is slow, or the machine is gone without a word.
      if (this.silentMs > silenceMs) this.close();
    };
  }

  /** An answer is asked for: a process that hangs still takes connections, and one that is not ready takes requests. */
  async probe(signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const forget = this.ask(
        probePattern,
        () => '',
        (error) => {
          // Its time passes after the answer as well, which is no reason to give up the connection.
          signal.removeEventListener('abort', giveUp);
          // Nobody answers it as a request; an instance of a version that does not know it says no more than that.
          if (error instanceof Error) reject(error);
          else if (isWireError(error)) reject(new Error(error.detail));
          else resolve();
        },
      );
      const giveUp = (): void => {
        forget();
        // Perhaps nobody is left at the other end of this connection: the next probe opens another one.
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
    // What was sent before is still answered on this connection; the server ends it afterwards.
    socket.on('message', (packet: unknown) => {
      if (!isDrainNotice(packet)) return;
      this.abandon(client);
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

const failing: ReadonlySet<unknown> = new Set<CleaveError['code']>(['unavailable', 'internal']);

/** What is not an Error is the answer of the other side; what is no error of a contract, that nobody answers it there. */
function outcomeOf(error: unknown): Outcome {
  if (error instanceof NotConnected) return 'not-sent';
  if (error instanceof Error) return 'lost';
  // A code that is not known here is one of a newer module.
  if (!isWireError(error))
    return typeof (error as { code?: unknown } | null)?.code === 'string' ? 'answered' : 'failing';
  if (isTooMuch(error) || error.code === 'deadline-exceeded') return 'busy';
  return failing.has(error.code) ? 'failing' : 'answered';
}

/** The way to the instances of a module over TCP. */
export class TcpRoute implements Route {
  constructor(private readonly targets: TcpTargets) {}

  ask({ pattern, message, mayRepeat, signal }: Question, ended: Ended): () => void {
    let isForgotten = false;
    let giveUp: (() => void) | undefined;
    // Why nothing is known of an attempt that was sent: whatever comes later, it may have been carried out.
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
