import type { Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { Logger } from '@nestjs/common';
import { nowAndThen } from '#periodic';

/** What keeps those who are slow, or many, from taking what others need. */
export interface ConnectionLimits {
  /** How long the header of a request may take, from when a connection was opened or another request began, in milliseconds. */
  headersMs: number;
  /** The same for a whole request. */
  requestMs: number;
  /** How long it may take to read an answer, and what comes next of one that has no end of its own, in milliseconds. */
  answerMs: number;
  /** How long a connection waits for another request, in milliseconds. */
  keepAliveMs: number;
  /** When there are so many, whoever comes can ask how the process does, and nothing else. */
  maxConnections: number;
}

export const usualConnectionLimits: ConnectionLimits = {
  ...{ headersMs: 10_000, requestMs: 30_000, answerMs: 60_000, keepAliveMs: 72_000 },
  maxConnections: 10_000,
};

export type GivenConnectionLimits = { [Name in keyof ConnectionLimits]?: number | undefined };

/** What is not given is as usual. */
export const connectionLimits = (given: GivenConnectionLimits = {}): ConnectionLimits => ({
  ...usualConnectionLimits,
  ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
});

/** How often is looked who has taken too long, in milliseconds. */
export const lookMs = 500;
const saidEveryMs = 10_000;
/** How many are heard out beyond `maxConnections`: whoever watches a process that is full must not take it for dead. */
const mostSpare = 32;
/** How many there may be beyond `maxConnections`, with those that were sent away and have not gone yet. */
const mostBeyond = 1_000;
/** How long those have to read why, in milliseconds. */
const goWithinMs = 1_000;

/** What is being answered on a connection; null when nothing is, undefined as long as there has been no request. */
export const answerOn = (socket: Socket): ServerResponse | null | undefined =>
  (socket as Socket & { _httpMessage?: ServerResponse | null })._httpMessage;

/**
 * With an answer that says nothing against the process and does not mean that it is about to stop: there are too many
 * `connections`, which ends this one, or too many `requests`; or it still has to `start`.
 */
export const fullHeader = 'cleave-full';

/** The connections to a server. */
export class Connections implements Iterable<Socket> {
  /** Answers that have no end of their own. */
  readonly streams = new Set<ServerResponse>();
  /** When the newest was opened, by `performance.now()`. */
  openedAt = Number.NEGATIVE_INFINITY;
  private readonly logger = new Logger('Rest');
  private readonly sockets = new Set<Socket>();
  /** Those beyond the limit, the oldest first. */
  private readonly spare = new Set<Socket>();
  /** Since when somebody does not read. */
  private readonly unread = new WeakMap<ServerResponse, number>();
  private readonly sayFull = nowAndThen(saidEveryMs);

  constructor(
    server: Server,
    private readonly limits: Pick<ConnectionLimits, 'answerMs' | 'maxConnections'>,
    /** What is written where it is not known what is asked, or whether anything is. */
    private readonly refusal: string,
  ) {
    const warn = (): void => this.logger.warn(full(limits.maxConnections));
    // Counted here: the server itself counts those alone that came by its first address.
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
  }

  get size(): number {
    return this.sockets.size;
  }

  [Symbol.iterator](): Iterator<Socket> {
    return this.sockets.values();
  }

  /** Whether it is beyond the limit: one request is answered on it, and only if it is about the process itself. */
  isSpare(socket: Socket): boolean {
    return this.spare.has(socket);
  }

  /** Whoever watches asks at once: a connection that has not done so, or else the oldest, makes room for the next. */
  private makeRoom(): void {
    const heardOut = [...this.spare].filter(({ writable }) => writable);
    if (heardOut.length >= mostSpare) this.sendAway(heardOut.find((socket) => !answerOn(socket)) ?? heardOut[0]!);
    if (this.spare.size >= mostBeyond) this.cut([...this.spare].find(({ writable }) => !writable)!);
  }

  /**
   * What is asked on it may only not have been read yet. Whoever were cut off would have to think that it may have been done;
   * and with something unread a connection that is closed is cut off, whatever was written, so the other side closes it.
   */
  private sendAway(socket: Socket): void {
    if (answerOn(socket)?.headersSent) return this.cut(socket);
    socket.end(this.refusal);
    setTimeout(() => socket.destroy(), goWithinMs).unref();
  }

  private cut(socket: Socket): void {
    this.forget(socket);
    socket.destroy();
  }

  private forget(socket: Socket): void {
    this.sockets.delete(socket);
    this.spare.delete(socket);
  }

  /** Remembers an answer that has no end of its own for as long as it is being given. */
  noteStream(answer: ServerResponse): void {
    if (answer.closed) return;
    this.streams.add(answer);
    answer.once('close', () => this.streams.delete(answer));
    // Between two looks it may have been read, and filled again.
    answer.on('drain', () => this.unread.delete(answer));
  }

  /**
   * Cuts off who does not read: they keep what was made for them in memory. Of a stream no more is made until they do, so
   * there it counts from the last that they took.
   */
  private cutUnread(): void {
    const now = performance.now();
    for (const socket of this.sockets) {
      const answer = answerOn(socket);
      if (!answer?.headersSent) continue;
      if (this.streams.has(answer) && !answer.writableNeedDrain) {
        this.unread.delete(answer);
        continue;
      }
      const since = this.unread.get(answer) ?? now;
      this.unread.set(answer, since);
      if (now - since >= this.limits.answerMs) socket.destroy();
    }
  }
}

const full = (most: number): string =>
  `the maximum of ${most} connections is reached; further ones are refused, except for health and metrics`;
