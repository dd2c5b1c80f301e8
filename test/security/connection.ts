import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** A connection on which anything is sent, at any pace. */
export class Connection {
  private readonly openedAt = performance.now();
  private readonly chunks: Buffer[] = [];
  private readonly ended: Promise<number>;

  private constructor(private readonly socket: Socket) {
    // Whoever is cut off while they send is told so by an error.
    socket.on('error', () => socket.destroy());
    this.ended = new Promise((resolve) => socket.once('close', () => resolve(performance.now() - this.openedAt)));
  }

  /** @param isRead whether what is answered is read at all */
  static async open(baseUrl: string, isRead = true): Promise<Connection> {
    const { hostname, port } = new URL(baseUrl);
    const connection = new Connection(connect({ host: hostname, port: Number(port) }));
    await once(connection.socket, 'connect');
    if (isRead) connection.socket.on('data', (chunk: Buffer) => connection.chunks.push(chunk));
    return connection;
  }

  /** What was answered so far. */
  get received(): string {
    return Buffer.concat(this.chunks).toString('latin1');
  }

  get isOpen(): boolean {
    return !this.socket.destroyed;
  }

  write(text: string): void {
    if (this.isOpen) this.socket.write(Buffer.from(text, 'latin1'));
  }

  /** Sends a character now and then, until the other end has had enough. */
  async drip(text: string, everyMs: number): Promise<void> {
    for (const character of text) {
      if (!this.isOpen) return;
      this.write(character);
      await sleep(everyMs);
    }
  }

  /** When the other end closed it, in milliseconds from when it was opened; undefined where it has not within the time. */
  closedAfter(withinMs: number): Promise<number | undefined> {
    return Promise.race([this.ended, sleep(withinMs, undefined, { ref: false })]);
  }

  /** Resolves when what was answered fits, or the time is over, or the other end has closed it. */
  async until(fits: (received: string) => boolean, withinMs: number): Promise<void> {
    const giveUpAt = performance.now() + withinMs;
    while (this.isOpen && !fits(this.received) && performance.now() < giveUpAt) await sleep(5);
  }

  /** Reads on, without keeping it. */
  resume(): void {
    this.socket.resume();
  }

  close(): void {
    this.socket.destroy();
  }
}

/** The status of each answer in what was received. */
export const statusesIn = (received: string): number[] =>
  [...received.matchAll(/HTTP\/1\.[01] (\d{3}) [A-Z]/g)].map((it) => Number(it[1]));
