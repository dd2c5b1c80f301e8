import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

interface Line {
  client: Socket;
  redis: Socket;
}

/** Stands between a cache and Redis, and does what networks do. */
export class RedisProxy {
  private readonly lines = new Set<Line>();
  private isDown = false;
  private isFrozen = false;
  private holdingBack: string | undefined;
  /** How long what Redis answers from now on is under way. */
  delayMs = 0;
  /** Whether somebody has asked with the word that `holdBack` said, and is kept waiting. */
  holdsBack = false;
  /** Who waits for a word from Redis. */
  private readonly listening = new Set<{ word: string; heard: () => void }>();

  private constructor(
    private readonly server: Server,
    readonly url: string,
    /** Where those come to who connect from now on. */
    public port: number,
  ) {}

  static async start(port: number): Promise<RedisProxy> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const proxy = new RedisProxy(server, `redis://127.0.0.1:${(server.address() as AddressInfo).port}`, port);
    server.on('connection', (client) => proxy.join({ client, redis: connect(proxy.port, '127.0.0.1') }));
    return proxy;
  }

  /** Nothing gets through any more in either direction, and no connection ends: as with a cable that is cut. */
  freeze(): void {
    this.isFrozen = true;
    this.strand();
  }

  /** The same for the connections that there are: who connects anew comes through, as when another machine has the address. */
  strand(): void {
    for (const { client, redis } of this.lines) {
      client.pause();
      redis.pause();
    }
  }

  thaw(): void {
    this.isFrozen = false;
    this.holdsBack = false;
    for (const { client, redis } of this.lines) {
      client.resume();
      redis.resume();
    }
  }

  /** Ends all connections and lets nobody connect. */
  down(): void {
    this.isDown = true;
    for (const { client } of this.lines) client.resetAndDestroy();
  }

  up(): void {
    this.isDown = false;
  }

  /** Answers on connections that ask with this word are held back from now on, until `thaw`. */
  holdBack(word: string): void {
    this.holdingBack = word;
  }

  /** Resolves when Redis has told somebody something with this word in it from now on. */
  heard(word: string): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const listener = { word, heard: resolve };
    this.listening.add(listener);
    return promise.finally(() => this.listening.delete(listener));
  }

  async stop(): Promise<void> {
    this.down();
    const closed = once(this.server, 'close');
    this.server.close();
    await closed;
  }

  private join(line: Line): void {
    const { client, redis } = line;
    if (this.isDown) {
      client.destroy();
      redis.destroy();
      return;
    }
    this.lines.add(line);
    const end = (): void => {
      client.destroy();
      redis.destroy();
      this.lines.delete(line);
    };
    // As Redis does: what is passed on is there at once, in the order that it came in over all connections.
    for (const socket of [client, redis]) socket.setNoDelay(true).on('error', end).on('close', end);
    client.on('data', (chunk: Buffer) => {
      if (this.holdingBack && chunk.includes(this.holdingBack)) {
        this.holdingBack = undefined;
        this.holdsBack = true;
        redis.pause();
      }
      redis.write(chunk);
    });
    redis.on('data', (chunk: Buffer) => {
      // Timers of the same time end in their order.
      if (this.delayMs > 0) setTimeout(() => client.write(chunk), this.delayMs);
      else client.write(chunk);
      for (const { word, heard } of this.listening) if (chunk.includes(word)) heard();
    });
    // Whoever connects meanwhile gets a connection, and nothing over it.
    if (this.isFrozen) this.freeze();
  }
}
