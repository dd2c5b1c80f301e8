import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** A raw TCP connection, to send any bytes at any pace. */
export class Connection {
  private readonly openedAt = performance.now();
  private readonly chunks: Buffer[] = [];
  private readonly ended: Promise<number>;

  private constructor(private readonly socket: Socket) {
    // A connection reset while we send arrives as an error.
    socket.on('error', () => socket.destroy());
    this.ended = new Promise((resolve) => socket.once('close', () => resolve(performance.now() - this.openedAt)));
  }

  /** @param isRead whether to read what the server sends */
  static async open(baseUrl: string, isRead = true): Promise<Connection> {
    const { hostname, port } = new URL(baseUrl);
    const connection = new Connection(connect({ host: hostname, port: Number(port) }));
    await once(connection.socket, 'connect');
    if (isRead) connection.socket.on('data', (chunk: Buffer) => connection.chunks.push(chunk));
    return connection;
  }

  /** What the server has sent so far. */
  get received(): string {
    return Buffer.concat(this.chunks).toString('latin1');
  }

  get isOpen(): boolean {
    return !this.socket.destroyed;
  }

  write(text: string): void {
    if (this.isOpen) this.socket.write(Buffer.from(text, 'latin1'));
  }

  /** Sends one character at a time, until the server closes the connection. */
  async drip(text: string, everyMs: number): Promise<void> {
    for (const character of text) {
      if (!this.isOpen) return;
      this.write(character);
      await sleep(everyMs);
    }
  }

  /** Milliseconds from opening to the close by the server; undefined if it stays open for `withinMs`. */
  closedAfter(withinMs: number): Promise<number | undefined> {
    return Promise.race([this.ended, sleep(withinMs, undefined, { ref: false })]);
  }

  /** Resolves when the received text satisfies `fits`, after `withinMs`, or when the server closes the connection. */
  async until(fits: (received: string) => boolean, withinMs: number): Promise<void> {
    const giveUpAt = performance.now() + withinMs;
    while (this.isOpen && !fits(this.received) && performance.now() < giveUpAt) await sleep(5);
  }

  /** Reads and discards what the server sends. */
  resume(): void {
    this.socket.resume();
  }

  close(): void {
    this.socket.destroy();
  }
}

/** The status of each response in the received text. */
export const statusesIn = (received: string): number[] =>
  [...received.matchAll(/HTTP\/1\.[01] (\d{3}) [A-Z]/g)].map((it) => Number(it[1]));
