import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

/** The type of a NotificationResponse message (PostgreSQL, 54.7). */
const notification = 'A'.charCodeAt(0);

/** A proxy in front of Postgres that can delay answers and drop notifications. */
export class PostgresBetween {
  /** Drops notifications, as a connection pooler in transaction mode does. */
  isDeaf = false;
  /** How long each answer is delayed. */
  delayMs = 0;
  private readonly sockets = new Set<Socket>();

  private constructor(
    private readonly server: Server,
    readonly url: string,
  ) {}

  static async before(databaseUrl: string): Promise<PostgresBetween> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const url = new URL(databaseUrl);
    const port = Number(url.port);
    url.port = String((server.address() as AddressInfo).port);
    const between = new PostgresBetween(server, url.href);
    server.on('connection', (client) => between.join(client, connect(port, '127.0.0.1')));
    return between;
  }

  async stop(): Promise<void> {
    const closed = once(this.server, 'close');
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }

  private join(client: Socket, postgres: Socket): void {
    for (const socket of [client, postgres]) {
      this.sockets.add(socket);
      const end = (): void => {
        client.destroy();
        postgres.destroy();
        this.sockets.delete(socket);
      };
      socket.setNoDelay(true).on('error', end).on('close', end);
    }
    client.on('data', (chunk: Buffer) => postgres.write(chunk));
    let rest: Buffer = Buffer.alloc(0);
    postgres.on('data', (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk]);
      const passed: Buffer[] = [];
      while (rest.length >= 5 && rest.length > rest.readUInt32BE(1)) {
        const message = rest.subarray(0, 1 + rest.readUInt32BE(1));
        rest = rest.subarray(message.length);
        if (!this.isDeaf || message[0] !== notification) passed.push(message);
      }
      const text = Buffer.concat(passed);
      if (this.delayMs === 0) client.write(text);
      else setTimeout(() => client.write(text), this.delayMs);
    });
  }
}
