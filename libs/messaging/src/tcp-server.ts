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

// Requests that a caller sent before it heard of the drain still arrive within this time after the last answer.
const lastRequestsMs = 100;
const flushMs = 1_000;

const notReady: WireError = { code: 'unavailable', detail: 'it is not ready', extensions: {} };

/** Nest's TCP server, answering by contract and leaving without losing a request. */
export class TcpServer extends ServerTCP {
  /** Where it reports what it answers. */
  calls = new ObservedCalls();
  private readonly inFlight = new InFlight();
  private readonly answers = new Map<string, Answer>();
  private readonly peers = new Map<Socket, TcpSocket>();
  private largestBytes = 0;
  private isDraining = false;

  constructor(
    { host, port }: Endpoint,
    private readonly admission: Admission,
    private readonly signing?: Signing,
    /** Whether there is any use in asking it for something. */
    private readonly canServe: () => Promise<boolean> = () => Promise.resolve(true),
    private readonly lookup: Lookup = addressesOf,
  ) {
    super({ host, port });
  }

  override addHandler(pattern: unknown, callback: MessageHandler, isEvent?: boolean, extras?: object): void {
    const operation = answeredBy(extras as Record<string, unknown>);
    this.largestBytes = Math.max(this.largestBytes, operation?.maxBytes ?? 0);
    const answer = answering(callback, extras, this.inFlight, () => this.calls, this.admission, this.signing);
    // Nest does not get to know of it: it would find the bare method by an event, or by the pattern written in another way.
    if (answer) this.answers.set(String(pattern), answer);
    else super.addHandler(pattern, callback, isEvent, extras);
  }

  /** Answers a contract's request without what Nest puts around any other: a stream of replies, and a pattern that is parsed. */
  override async handleMessage(socket: TcpSocket, packet: unknown): Promise<void> {
    const { id, pattern, data } = (packet ?? {}) as Partial<ReadPacket<unknown> & PacketId>;
    if (id !== undefined && pattern === probePattern && !(await this.canServe()))
      return socket.sendMessage({ id, err: notReady, isDisposed: true });
    const answer = id === undefined ? undefined : this.answers.get(pattern as string);
    if (!answer) return super.handleMessage(socket, packet);
    socket.sendMessage({ id, ...(await answer(data)), isDisposed: true });
  }

  /** What nobody waits for and nobody answers is none of ours; Nest would log as much of it as was sent. */
  override async handleEvent(...event: Parameters<ServerTCP['handleEvent']>): Promise<void> {
    if (this.messageHandlers.has(event[0])) await super.handleEvent(...event);
  }

  /**
   * Nest reports only a port in use; every other reason would leave the start waiting for ever. A name is looked up as callers
   * do: what the system finds first may be its other address, of IPv6 for `localhost` on most machines, where nobody comes.
   */
  override listen(callback: (error?: unknown) => void): void {
    this.server.once('error', callback);
    const listenAt = ([address]: readonly string[]): void => {
      // It may have been told to stop meanwhile.
      if (this.isDraining) return callback();
      this.server.listen(this.port, address ?? this.host, () => {
        this.server.off('error', callback);
        callback();
      });
    };
    this.lookup(this.host).then(listenAt, callback);
  }

  override bindHandler(socket: Socket): void {
    // A caller whose machine is gone without a word leaves a connection on which nothing is ever sent.
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
   * Asks the callers to go elsewhere, answers what they have sent, and only then lets Nest destroy the sockets. Connections
   * are taken until the callers have heard of it: one that waits to be taken when the port is closed is cut, and what has
   * been sent on it is lost.
   */
  override async close(): Promise<void> {
    this.isManuallyTerminated = true;
    this.isDraining = true;
    const giveUpAt = performance.now() + drainMs;
    for (const peer of this.peers.values()) peer.sendMessage(drainNotice);
    if (this.peers.size > 0) await setTimeout(lastRequestsMs);
    this.server.close();
    while (this.peers.size > 0 && performance.now() < giveUpAt) {
      await this.inFlight.idle(giveUpAt - performance.now());
      await setTimeout(lastRequestsMs);
      if (this.inFlight.count === 0) break;
    }
    if (this.inFlight.count > 0) {
      this.logger.error(`${this.inFlight.count} requests were not finished within ${drainMs} ms and are cut off`);
    }
    await this.flush();
    super.close();
  }

  /** Ends the sockets, so that the last replies leave before they are destroyed. */
  private async flush(): Promise<void> {
    const closed = [...this.peers.keys()].map((socket) => new Promise<void>((resolve) => socket.end(() => resolve())));
    const ended = new AbortController();
    const tooLate = setTimeout(flushMs, undefined, { signal: ended.signal }).catch(() => undefined);
    await Promise.race([Promise.all(closed), tooLate]);
    ended.abort();
  }
}
