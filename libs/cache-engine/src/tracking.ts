import { createClient } from '@redis/client';
import { reconnectUnlessCutOff } from './reconnect.js';

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
  /** Whether those are the masters of everything. */
  isWhole: () => boolean;
  /** One of a cluster is not in charge or not there: whoever looks anew may find the one that is in charge by now. */
  lookAnew: () => void;
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
  isOfCluster: boolean;
  /** Of all connections to it, one after the other. */
  reconnectStrategy: ReturnType<typeof reconnectUnlessCutOff>;
}

const never = Number.NEGATIVE_INFINITY;
const longestForClockMs = 50;
/** Those that are in charge are looked for so often at the most. */
const lookedAnewEveryMs = 1_000;

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
  /** How far the clock of Redis is ahead of the one of this process that only goes forward, whose zero is its start. */
  clockAheadMs = Date.now() - performance.now();
  /**
   * Until when what lies in this process may be given out, if nothing more is heard, by `performance.now()`. Of every
   * master, so that no key is left out.
   */
  heardUntil = never;
  private isClockKnown = false;
  private readonly lines = new Map<string, Line>();
  private timer: NodeJS.Timeout | undefined;
  private isLost = false;
  private isStopped = false;
  private lookedAnewAt = never;

  constructor(
    private readonly options: TrackingOptions,
    private readonly heard: Heard,
    private readonly complain: (message: string) => void,
  ) {}

  get isHeardOf(): boolean {
    return performance.now() <= this.heardUntil;
  }

  /** The masters that are not heard of. */
  silent(): Set<string> {
    const least = performance.now() - this.options.silenceMs;
    return new Set([...this.lines].flatMap(([id, { heardAt }]) => (heardAt < least ? [id] : [])));
  }

  start(): void {
    clearInterval(this.timer);
    this.timer = setInterval(() => this.look(), this.options.silenceMs / 4);
    this.look();
  }

  stop(): void {
    this.isStopped = true;
    clearInterval(this.timer);
    for (const { client } of this.lines.values()) client.destroy();
    this.lines.clear();
    this.heardUntil = never;
  }

  private look(): void {
    const masters = this.options.masters();
    const ids = new Set(masters.map((it) => it.id));
    for (const [id, { client }] of this.lines) {
      if (ids.has(id)) continue;
      client.destroy();
      this.lines.delete(id);
      this.countHeard();
      this.heard.mayHaveMissed();
    }
    for (const master of masters) {
      const line = this.lines.get(master.id);
      if (!line?.client.isOpen) this.open(master);
      else if (line.isAsking || !line.client.isReady) continue;
      else void (line.heardAt === never ? this.arm(line) : this.ask(line));
    }
    // In a cluster another one may be in charge by now, of which the client hears by itself only from those that it was
    // connected to; and one that has left it says that there is none.
    const isMissed = masters.every((it) => it.host !== undefined) && !(this.isHeardOf && this.options.isWhole());
    if (isMissed && this.isTimeToLookAnew()) this.options.lookAnew();
    if (this.isLost && this.isHeardOf) {
      this.isLost = false;
      this.complain('Invalidations from Redis are received again');
    }
  }

  private open({ id, host, port }: Master): void {
    const { protocol, username, password } = new URL(this.options.url);
    const { silenceMs, url } = this.options;
    const reconnectStrategy = this.lines.get(id)?.reconnectStrategy ?? reconnectUnlessCutOff();
    // Slow or gone: it is asked four times before it counts as silent, and given up a little later.
    const socket = {
      connectTimeout: 1_000,
      socketTimeout: 3 * silenceMs,
      // What is cut off is left to the next look.
      reconnectStrategy,
    };
    const common = {
      ...{ RESP: 3 as const, emitInvalidate: true, disableOfflineQueue: true },
      // It would bring a connection that does not tell.
      maintNotifications: 'disabled' as const,
    };
    const client =
      host === undefined
        ? createClient({ url, ...common, socket })
        : createClient({
            ...common,
            ...(password && { username: decodeURIComponent(username), password: decodeURIComponent(password) }),
            socket: { ...socket, host, port: port!, ...(protocol === 'rediss:' && { tls: true as const }) },
          });
    const line: Line = {
      client: client as unknown as Line['client'],
      heardAt: never,
      isAsking: false,
      isOfCluster: host !== undefined,
      reconnectStrategy,
    };
    this.lines.set(id, line);
    this.countHeard();
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
    this.setHeard(line, never);
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
    line.isAsking = true;
    try {
      const [time, [role], cluster] = await Promise.all([
        line.client.sendCommand<string[]>(['TIME']),
        line.client.sendCommand<string[]>(['ROLE']),
        line.isOfCluster ? line.client.sendCommand<string>(['CLUSTER', 'INFO']) : undefined,
      ]);
      // Others may be written to in its place, of which it does not tell.
      if (role !== 'master' || cluster?.includes('cluster_state:fail')) {
        if (!line.isOfCluster) this.leave(line);
        throw new Error('the server is not a master, or its cluster is down');
      }
      this.setHeard(line, askedAt);
      this.setClock(line, time, askedAt);
    } catch (error) {
      this.lose(line, error as Error);
    } finally {
      line.isAsking = false;
    }
  }

  /** Its name may stand for another one by now, and a connection lasts as long as nobody ends it. */
  private leave(line: Line): void {
    if (!this.isTimeToLookAnew()) return;
    for (const [id, it] of this.lines) if (it === line) this.lines.delete(id);
    line.client.destroy();
  }

  private isTimeToLookAnew(): boolean {
    const now = performance.now();
    if (now - this.lookedAnewAt < lookedAnewEveryMs) return false;
    this.lookedAnewAt = now;
    return true;
  }

  private setHeard(line: Line, at: number): void {
    line.heardAt = at;
    this.countHeard();
  }

  private countHeard(): void {
    const heardAt = [...this.lines.values()].map((it) => it.heardAt);
    this.heardUntil = heardAt.length === 0 ? never : Math.min(...heardAt) + this.options.silenceMs;
  }

  /** By one server, as those of others differ, and not by an answer that was on its way for long. */
  private setClock(line: Line, [seconds, microseconds]: string[], askedAt: number): void {
    const now = performance.now();
    const [first] = this.lines.values();
    if (line !== first || (this.isClockKnown && now - askedAt > longestForClockMs)) return;
    const there = Number(seconds) * 1_000 + Number(microseconds) / 1_000;
    this.clockAheadMs = there - (askedAt + now) / 2;
    this.isClockKnown = true;
  }

  private lose(line: Line, error: Error): void {
    this.setHeard(line, never);
    if (this.isLost || this.isStopped) return;
    this.isLost = true;
    this.complain(
      `Invalidations from Redis are not received: entries in this process are not served until they are (${error.message})`,
    );
  }
}
