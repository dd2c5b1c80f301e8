import type { Admission } from '#admission';
import { addressesOf, type Lookup } from '#balancing';
import { ServerTCP, type MessageHandler, type PacketId, type ReadPacket, type TcpSocket } from '@nestjs/microservices';
import type { Socket } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import type { Endpoint } from './address.js';
import { drainMs } from './answering-server.js';
import { answeredBy, answering, type Answer } from './answers.js';
import { InFlight } from './in-flight.js';
import { ObservedCalls } from './observed-calls.js';
import type { Signing } from './signing.js';
import { drainNotice, FrameSocket, keepAliveMs, probePattern } from './tcp-frames.js';
import type { WireError } from './wire.js';

/** How long connections are still accepted, so that the port is not closed on callers that are just connecting. */
const lastConnectionsMs = 100;
/**
 * How long a caller may take to end its connection after the last answer. Until it has heard of the drain, it may send more
 * requests: its event loop may be busy.
 */
const goodbyeMs = 1_000;
const lookMs = 20;
const flushMs = 1_000;

const notReady: WireError = { code: 'unavailable', detail: 'it is not ready', extensions: {} };

/** Nest's TCP server, answering by contract and shutting down without losing a request. */
export class TcpServer extends ServerTCP {
  /** Records the calls that this server answers. */
  calls = new ObservedCalls();
  private readonly inFlight = new InFlight();
  private readonly answers = new Map<string, Answer>();
  private readonly peers = new Map<Socket, TcpSocket>();
  private largestBytes = 0;
  private isDraining = false;

  constructor(
    { host, port }: Endpoint,
    private readonly admission: Admission,
    private readonly signing: Signing | undefined,
    /** Whether the application is ready; the answer to readiness probes. */
    private readonly canServe: () => Promise<boolean>,
    private readonly lookup: Lookup = addressesOf,
  ) {
    super({ host, port });
  }

  override addHandler(pattern: unknown, callback: MessageHandler, isEvent?: boolean, extras?: object): void {
    const operation = answeredBy(extras as Record<string, unknown>);
    this.largestBytes = Math.max(this.largestBytes, operation?.maxBytes ?? 0);
    const answer = answering(callback, extras, this.inFlight, () => this.calls, this.admission, this.signing);
    // Not registered with Nest, which would run the unwrapped method for an event, or for the pattern in another notation.
    if (answer) this.answers.set(String(pattern), answer);
    else super.addHandler(pattern, callback, isEvent, extras);
  }

  /** Answers contract requests without Nest's overhead: an observable of replies, and parsing of the pattern. */
  override async handleMessage(socket: TcpSocket, packet: unknown): Promise<void> {
    const { id, pattern, data } = (packet ?? {}) as Partial<ReadPacket<unknown> & PacketId>;
    if (id !== undefined && pattern === probePattern && !(await this.canServe()))
      return socket.sendMessage({ id, err: notReady, isDisposed: true });
    const answer = id === undefined ? undefined : this.answers.get(pattern as string);
    if (!answer) return super.handleMessage(socket, packet);
    socket.sendMessage({ id, ...(await answer(data)), isDisposed: true });
  }

  /** Drops events without a handler, whose whole payload Nest would log. */
  override async handleEvent(...event: Parameters<ServerTCP['handleEvent']>): Promise<void> {
    if (this.messageHandlers.has(event[0])) await super.handleEvent(...event);
  }

  /**
   * Nest reports only a port in use; any other failure would leave the start waiting for ever. The host is resolved as
   * callers do: the system's first result may be another address (on most machines the IPv6 one of `localhost`), which no
   * caller uses.
   */
  override listen(callback: (error?: unknown) => void): void {
    this.server.once('error', callback);
    const listenAt = ([address]: readonly string[]): void => {
      // The server may have been closed meanwhile.
      if (this.isDraining) return callback();
      this.server.listen(this.port, address ?? this.host, () => {
        this.server.off('error', callback);
        callback();
      });
    };
    this.lookup(this.host).then(listenAt, callback);
  }

  override bindHandler(socket: Socket): void {
    // Keep-alive detects callers whose machine is gone without closing the connection.
    socket.setNoDelay(true).setKeepAlive(true, keepAliveMs);
    super.bindHandler(socket);
  }

  protected override getSocketInstance(socket: Socket): TcpSocket {
    const peer = new FrameSocket(socket, this.largestBytes, false);
    this.peers.set(socket, peer);
    socket.once('close', () => this.peers.delete(socket));
    if (this.isDraining) peer.sendMessage(drainNotice);
    return peer;
  }

  /**
   * Tells the callers to use other instances, answers the requests they have sent, and only then lets Nest destroy the
   * sockets. A caller ends its connection itself once it has heard of the drain and has its answers; only then is no further
   * request on its way. Foreign callers and older versions do not, so that is not waited for without end.
   *
   * Connections are accepted until the callers have been told: closing the port cuts connections that wait to be accepted,
   * and loses what was sent on them.
   */
  override async close(): Promise<void> {
    this.isManuallyTerminated = true;
    this.isDraining = true;
    const giveUpAt = performance.now() + drainMs;
    for (const peer of this.peers.values()) peer.sendMessage(drainNotice);
    if (this.peers.size > 0) await setTimeout(lastConnectionsMs);
    this.server.close();
    // Also for requests whose callers have gone: what was accepted is finished while the modules still work.
    const isInUse = (): boolean => this.peers.size > 0 || this.inFlight.count > 0;
    // Looks are counted, not time: after this process has stood still, requests may have arrived that it has not read yet.
    for (let looks = 0; isInUse(); await setTimeout(lookMs)) {
      if (this.inFlight.count > 0) {
        await this.inFlight.idle(giveUpAt - performance.now());
        looks = 0;
      }
      looks += 1;
      if (looks * lookMs > goodbyeMs || performance.now() > giveUpAt) break;
    }
    if (this.inFlight.count > 0) {
      this.logger.error(`${this.inFlight.count} requests were not finished within ${drainMs} ms and are cut off`);
    }
    await this.flush();
    super.close();
  }

  /** Ends the sockets gracefully, so that the last replies are sent before they are destroyed. */
  private async flush(): Promise<void> {
    const closed = [...this.peers.keys()].map((socket) => new Promise<void>((resolve) => socket.end(() => resolve())));
    const ended = new AbortController();
    const tooLate = setTimeout(flushMs, undefined, { signal: ended.signal }).catch(() => undefined);
    await Promise.race([Promise.all(closed), tooLate]);
    ended.abort();
  }
}
