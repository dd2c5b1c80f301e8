import type { Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import { throttled } from '#periodic';

/** Limits that keep slow or numerous clients from using up resources that others need. */
export interface ConnectionLimits {
  /**
   * How long the header of a request may take, in milliseconds, from when the connection was opened or the request began.
   */
  headersMs: number;
  /** How long the whole request may take, in milliseconds, from the same moment. */
  requestMs: number;
  /** How long a client may take to read a response, or the next part of a stream, in milliseconds. */
  answerMs: number;
  /** How long an idle connection is kept open, in milliseconds. */
  keepAliveMs: number;
  /** Beyond this number of connections, only endpoints that are always admitted are answered, such as health and metrics. */
  maxConnections: number;
}

export const usualConnectionLimits: ConnectionLimits = {
  ...{ headersMs: 10_000, requestMs: 30_000, answerMs: 60_000, keepAliveMs: 72_000 },
  maxConnections: 10_000,
};

export type GivenConnectionLimits = { [Name in keyof ConnectionLimits]?: number | undefined };

/** Fills in the default limits. */
export const connectionLimits = (given: GivenConnectionLimits = {}): ConnectionLimits => ({
  ...usualConnectionLimits,
  ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
});

/** How often slow clients are looked for, in milliseconds. */
export const lookMs = 500;
const saidEveryMs = 10_000;
/**
 * How many connections beyond `maxConnections` are still served, so that a monitor does not mistake a full process for a
 * dead one.
 */
const mostSpare = 32;
/** How many connections there may be beyond `maxConnections`, including refused ones that are not closed yet. */
const mostBeyond = 1_000;
/** How long a refused client has to read the refusal, in milliseconds. */
const goWithinMs = 1_000;
/** How many turns of the event loop are waited at most until nobody connects any more: as many as can wait in the kernel. */
const mostQueued = 4_096;
/** How often idle connections are looked for while the server closes, in milliseconds. */
const idleLookMs = 50;

/** The response in progress on a connection: null between requests, undefined before the first request. */
export const answerOn = (socket: Socket): ServerResponse | null | undefined =>
  (socket as Socket & { _httpMessage?: ServerResponse | null })._httpMessage;

/**
 * Marks a 503 that does not mean that the process is faulty: it accepts no more `connections` (this one is closed), has too
 * many `requests`, or has yet to `start`. With `connections` or `start`, the request has not begun.
 */
export const fullHeader = 'cleave-full';

/** Tracks the open connections of a server and enforces their limits. */
export class Connections implements Iterable<Socket> {
  /** Responses without an end of their own, such as event streams. */
  readonly streams = new Set<ServerResponse>();
  /** When the newest connection was opened, by `performance.now()`. */
  openedAt = Number.NEGATIVE_INFINITY;
  private readonly logger = new Logger('Rest');
  private readonly sockets = new Set<Socket>();
  /** The connections beyond the limit, oldest first. */
  private readonly spare = new Set<Socket>();
  /** At how many looks the client of a response had not read. */
  private readonly unread = new WeakMap<ServerResponse, number>();
  private readonly sayFull = throttled(saidEveryMs);
  /** The connections that had no request at an earlier look, once the server closes. */
  private idle: WeakSet<Socket> | undefined;

  constructor(
    server: Server,
    private readonly limits: Pick<ConnectionLimits, 'answerMs' | 'maxConnections'>,
    /** The raw response for a connection that is closed before its request is known. */
    private readonly refusal: string,
  ) {
    const warn = (): void => this.logger.warn(full(limits.maxConnections));
    // Counted here because the server counts only connections to its first address.
    server.on('connection', (socket) => {
      this.openedAt = performance.now();
      if (this.sockets.size - this.spare.size >= limits.maxConnections) {
        this.sayFull(warn);
        this.makeRoom();
        this.spare.add(socket);
      }
      this.sockets.add(socket);
      socket.once('close', () => this.forget(socket));
    });
    const looking = setInterval(() => this.cutUnread(), lookMs).unref();
    server.once('close', () => clearInterval(looking));
    // Node calls this when the server stops listening, to destroy idle connections.
    server.closeIdleConnections = () => {
      if (this.idle) return;
      this.idle = new WeakSet();
      this.closeIdle(this.idle);
    };
  }

  get size(): number {
    return this.sockets.size;
  }

  [Symbol.iterator](): Iterator<Socket> {
    return this.sockets.values();
  }

  /** Whether the connection is beyond the limit: it is served one request, at an endpoint that is always admitted. */
  isSpare(socket: Socket): boolean {
    return this.spare.has(socket);
  }

  /** A monitor sends its request at once, so a connection without a request, or else the oldest, is closed to make room. */
  private makeRoom(): void {
    const heardOut = [...this.spare].filter(({ writable }) => writable);
    if (heardOut.length >= mostSpare) this.sendAway(heardOut.find((socket) => !answerOn(socket)) ?? heardOut[0]!);
    if (this.spare.size >= mostBeyond) this.cut([...this.spare].find(({ writable }) => !writable)!);
  }

  /**
   * Resolves once a turn of the event loop, each of which accepts one connection, has accepted none. To be awaited before the
   * server stops listening, which resets connections that are not accepted yet.
   */
  async acceptQueued(): Promise<void> {
    // The first turn may begin after the poll for connections.
    await nextTurn();
    for (let turns = 0, before = Number.NaN; turns < mostQueued && before !== this.openedAt; turns += 1) {
      before = this.openedAt;
      await nextTurn();
    }
  }

  /**
   * Closes streams, whose followers resume elsewhere, and connections without a request, until none is left. A connection
   * is idle if it has no request at two looks. Each comes right after a poll, so that a request that had arrived at the
   * first one is read before the second, however long the process stands still in between. A request that is still arriving
   * is refused: Node looks for slow requests no more once the server closes, so it could take for ever.
   */
  private closeIdle(idle: WeakSet<Socket>): void {
    for (const stream of this.streams) stream.destroy();
    for (const socket of this.sockets) {
      if (answerOn(socket) || !socket.writable) continue;
      if (idle.has(socket)) this.sendAway(socket);
      else idle.add(socket);
    }
    if (this.sockets.size > 0) setTimeout(() => setImmediate(() => this.closeIdle(idle)), idleLookMs);
  }

  /**
   * A request on the connection may just not have been read yet. If the connection were cut off, the client would have to
   * assume that the request may have taken effect. So it is refused instead, and must not be carried out any more: the
   * socket is not `writable`. Closing a socket with unread data resets it and may lose the refusal, so the client gets time
   * to close it, and what has arrived by then is read. Then the connection is reset: a client that looks at it only before
   * its next request, such as curl, finds it broken and opens another, instead of taking the refusal as the answer.
   */
  private sendAway(socket: Socket): void {
    if (answerOn(socket)?.headersSent) return this.cut(socket);
    socket.end(this.refusal);
    const leave = (): unknown => (socket.writableFinished ? socket.resetAndDestroy() : socket.destroy());
    setTimeout(() => setImmediate(leave), goWithinMs).unref();
  }

  private cut(socket: Socket): void {
    this.forget(socket);
    socket.destroy();
  }

  private forget(socket: Socket): void {
    this.sockets.delete(socket);
    this.spare.delete(socket);
  }

  /** Tracks a response without an end of its own until it is closed. */
  noteStream(answer: ServerResponse): void {
    if (answer.closed) return;
    this.streams.add(answer);
    answer.once('close', () => this.streams.delete(answer));
    // Between two checks the buffer may have been drained and filled again.
    answer.on('drain', () => this.unread.delete(answer));
  }

  /**
   * Closes connections whose client does not read, because their response stays in memory. A stream produces nothing more
   * until its client reads, so the time counts from its last read. Looks are counted, not time: after this process has stood
   * still, clients may have read, or have had nothing to read.
   */
  private cutUnread(): void {
    for (const socket of this.sockets) {
      const answer = answerOn(socket);
      if (!answer?.headersSent) continue;
      if (this.streams.has(answer) && !answer.writableNeedDrain) {
        this.unread.delete(answer);
        continue;
      }
      const looks = this.unread.get(answer) ?? 0;
      this.unread.set(answer, looks + 1);
      if (looks * lookMs >= this.limits.answerMs) socket.destroy();
    }
  }
}

const full = (most: number): string =>
  `the maximum of ${most} connections is reached; further ones are refused, except for health, metrics and log levels`;
