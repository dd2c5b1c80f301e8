import { createClient } from 'redis';

/** A server that owns some of the keys. */
export interface Master {
  id: string;
  host?: string;
  port?: number;
}

interface TrackingOptions {
  url: string;
  /** Of the keys whose changes are to be told. */
  prefixes: readonly string[];
  silenceMs: number;
  masters: () => readonly Master[];
}

/** Who has to know what has changed. */
export interface Heard {
  invalidated: (key: string) => void;
  mayHaveMissed: () => void;
}

/** The connection over which one master tells what has changed. */
interface Line {
  client: ReturnType<typeof createClient>;
  /** When the last question was asked that has been answered, by the clock that only goes forward; never before it is told of changes. */
  heardAt: number;
  isAsking: boolean;
}

const never = Number.NEGATIVE_INFINITY;

/**
 * Hears from Redis what has changed, whoever changed it: expiry and eviction too (client tracking in broadcasting mode).
 *
 * What a master tells and what it answers come over one connection and in that order. So an answer shows that everything
 * is known that was changed before the question: as long as the last answered question is not older than `silenceMs`,
 * nothing in this process is older than that, be the connection lost, half open or this process stopped meanwhile. What
 * was missed is not known when the connection is back: then everything in this process is suspect.
 *
 * @see https://redis.io/docs/latest/develop/reference/client-side-caching/
 */
export class Tracking {
  /** How far the clock of Redis is ahead of this one. */
  clockAheadMs = 0;
  private readonly lines = new Map<string, Line>();
  private timer: NodeJS.Timeout | undefined;
  private isLost = false;

  constructor(
    private readonly options: TrackingOptions,
    private readonly heard: Heard,
    private readonly complain: (message: string) => void,
  ) {}

  /** Of every master, so that no key is left out. */
  get isHeardOf(): boolean {
    const { lines } = this;
    if (lines.size === 0) return false;
    const since = performance.now() - this.options.silenceMs;
    for (const { heardAt } of lines.values()) if (heardAt < since) return false;
    return true;
  }

  start(): void {
    clearInterval(this.timer);
    this.timer = setInterval(() => this.look(), this.options.silenceMs / 4);
    this.look();
  }

  stop(): void {
    clearInterval(this.timer);
    for (const { client } of this.lines.values()) client.destroy();
    this.lines.clear();
  }

  private look(): void {
    const masters = this.options.masters();
    const ids = new Set(masters.map((it) => it.id));
    for (const [id, { client }] of this.lines) {
      if (ids.has(id)) continue;
      client.destroy();
      this.lines.delete(id);
      this.heard.mayHaveMissed();
    }
    for (const master of masters) {
      const line = this.lines.get(master.id);
      if (!line) this.open(master);
      else if (line.isAsking || !line.client.isReady) continue;
      else void (line.heardAt === never ? this.arm(line) : this.ask(line));
    }
    if (this.isLost && this.isHeardOf) {
      this.isLost = false;
      this.complain('Redis is heard of again');
    }
  }

  private open({ id, host, port }: Master): void {
    const url = new URL(this.options.url.split(',')[0]!);
    if (host !== undefined) Object.assign(url, { hostname: host, port: String(port) });
    const client = createClient({
      ...{ url: url.href, RESP: 3, emitInvalidate: true, disableOfflineQueue: true },
      // Slow or gone: it is asked four times before it counts as silent, and given up a little later.
      socket: { connectTimeout: 1_000, socketTimeout: 3 * this.options.silenceMs, reconnectStrategy: 50 },
    });
    const line: Line = { client: client as unknown as Line['client'], heardAt: never, isAsking: false };
    this.lines.set(id, line);
    client.on('invalidate', (key: Buffer | string | null) => {
      // Without a key: the database was flushed.
      if (key === null) this.heard.mayHaveMissed();
      else this.heard.invalidated(key.toString());
    });
    client.on('ready', () => void this.arm(line));
    client.on('error', (error: Error) => this.lose(line, error));
    client.connect().catch(() => undefined);
  }

  /** Nothing that lies here is known to be as it is there: changes may have gone by before this. */
  private async arm(line: Line): Promise<void> {
    if (line.isAsking) return;
    line.heardAt = never;
    line.isAsking = true;
    try {
      // The client has asked to be told of what it reads; of all under the prefixes is what is wanted.
      await line.client.sendCommand(['CLIENT', 'TRACKING', 'OFF']);
      const prefixes = this.options.prefixes.flatMap((it) => ['PREFIX', it]);
      await line.client.sendCommand(['CLIENT', 'TRACKING', 'ON', 'BCAST', ...prefixes]);
    } catch (error) {
      return this.lose(line, error as Error);
    } finally {
      line.isAsking = false;
    }
    this.heard.mayHaveMissed();
    await this.ask(line);
  }

  private async ask(line: Line): Promise<void> {
    const askedAt = performance.now();
    const sentAt = Date.now();
    line.isAsking = true;
    try {
      const [seconds, microseconds] = await line.client.sendCommand<string[]>(['TIME']);
      line.heardAt = askedAt;
      const there = Number(seconds) * 1_000 + Number(microseconds) / 1_000;
      this.clockAheadMs = there - (sentAt + Date.now()) / 2;
    } catch (error) {
      this.lose(line, error as Error);
    } finally {
      line.isAsking = false;
    }
  }

  private lose(line: Line, error: Error): void {
    line.heardAt = never;
    if (this.isLost) return;
    this.isLost = true;
    this.complain(`Redis is not heard of: what lies in this process is not given out until it is (${error.message})`);
  }
}
