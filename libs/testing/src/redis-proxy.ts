import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

interface Line {
  client: Socket;
  redis: Socket;
}

/** A proxy between a cache and Redis that simulates the faults of networks. */
export class RedisProxy {
  private readonly lines = new Set<Line>();
  private isDown = false;
  private isFrozen = false;
  private holdingBack: string | undefined;
  /** Delay of every answer of Redis from now on, in milliseconds. */
  delayMs = 0;
  /** A further delay for each part of an answer. Every connection keeps its own order, as networks do. */
  jitterMs: (() => number) | undefined;
  /** Whether a connection has sent the word of `holdBack`, and its answers are being held back. */
  holdsBack = false;
  /** Those who wait until Redis sends a certain word. */
  private readonly listening = new Set<{ word: string; heard: () => void }>();

  private constructor(
    private readonly server: Server,
    readonly url: string,
    /** The port that new connections are forwarded to. */
    public port: number,
  ) {}

  static async start(port: number): Promise<RedisProxy> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const proxy = new RedisProxy(server, `redis://127.0.0.1:${(server.address() as AddressInfo).port}`, port);
    server.on('connection', (client) => proxy.join({ client, redis: connect(proxy.port, '127.0.0.1') }));
    return proxy;
  }

  /** Blocks all data in both directions without ending connections, as if a cable were cut. */
  freeze(): void {
    this.isFrozen = true;
    this.strand();
  }

  /** Blocks existing connections only, as if another machine had taken over the address. */
  strand(): void {
    for (const { client, redis } of this.lines) {
      client.pause();
      redis.pause();
    }
  }

  thaw(): void {
    this.isFrozen = false;
    this.holdsBack = false;
    this.holdingBack = undefined;
    for (const { client, redis } of this.lines) {
      client.resume();
      redis.resume();
    }
  }

  /** Resets all connections, and closes new ones at once. */
  down(): void {
    this.isDown = true;
    for (const { client } of this.lines) client.resetAndDestroy();
  }

  up(): void {
    this.isDown = false;
  }

  /** Holds back the answers on the next connection that sends this word, until `thaw`. */
  holdBack(word: string): void {
    this.holdingBack = word;
  }

  /** Resolves when Redis next sends something that contains this word. */
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
    // Without Nagle's delay, like Redis, so that data is forwarded in the order of its arrival over all connections.
    for (const socket of [client, redis]) socket.setNoDelay(true).on('error', end).on('close', end);
    client.on('data', (chunk: Buffer) => {
      if (this.holdingBack && chunk.includes(this.holdingBack)) {
        this.holdingBack = undefined;
        this.holdsBack = true;
        redis.pause();
      }
      redis.write(chunk);
    });
    /** The parts that are delayed, in their order. */
    const delayed: Buffer[] = [];
    let latest = 0;
    redis.on('data', (chunk: Buffer) => {
      const ms = this.delayMs + (this.jitterMs?.() ?? 0);
      if (ms > 0 || delayed.length > 0) {
        delayed.push(chunk);
        latest = Math.max(latest, performance.now() + ms);
        // Whichever timer fires first, the oldest part goes first.
        setTimeout(() => client.write(delayed.shift()!), Math.ceil(latest - performance.now()));
      } else client.write(chunk);
      for (const { word, heard } of this.listening) if (chunk.includes(word)) heard();
    });
    // A new connection to a frozen proxy is accepted, but blocked as well.
    if (this.isFrozen) this.freeze();
  }
}
