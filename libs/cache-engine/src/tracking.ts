import type { createClient } from '@redis/client';
import { reconnectUnlessCutOff } from './reconnect.js';
import { redisClient } from './redis-client.js';

/** A server that owns some of the keys. */
export interface Master {
  id: string;
  host?: string;
  port?: number;
}

interface TrackingOptions {
  url: string;
  /** The prefixes of the keys to track. */
  prefixes: readonly string[];
  silenceMs: number;
  masters: () => readonly Master[];
  /** Whether these masters cover all slots. */
  isWhole: () => boolean;
  /** Called if a master of a cluster is missing or not in charge, to look up the topology again. */
  lookAnew: () => void;
}

/** Receives the changes that Redis reports. */
export interface Heard {
  invalidated: (key: string) => void;
  mayHaveMissed: () => void;
}

/** The connection over which one master reports changes. */
interface Line {
  /** The id of the master. */
  id: string;
  client: ReturnType<typeof createClient>;
  /** When the last answered request was sent, by the monotonic clock; `never` until tracking is on. */
  heardAt: number;
  isAsking: boolean;
  isOfCluster: boolean;
  /** How many masters with slots this one knows, itself included, as far as it has said. */
  masters: number;
  /** Shared by successive connections to the same master. */
  reconnectStrategy: ReturnType<typeof reconnectUnlessCutOff>;
}

const never = Number.NEGATIVE_INFINITY;
const longestForClockMs = 50;
/** How often the topology is looked up at most. */
const lookedAnewEveryMs = 1_000;

/**
 * Learns from Redis what has changed, whoever changed it, including expiry and eviction (client tracking in broadcasting
 * mode).
 *
 * A master sends its notifications and its answers over one connection, in order. So an answer shows that all changes made
 * before its request are known. As long as the last answered request is not older than `silenceMs`, no entry in this
 * process is outdated for longer than that, even if the connection is lost or half open or this process was suspended
 * meanwhile. Notifications missed while disconnected are lost, so after a reconnect everything in this process is suspect.
 *
 * @see https://redis.io/docs/latest/develop/reference/client-side-caching/
 */
export class Tracking {
  /** How far the clock of Redis is ahead of the monotonic clock of this process, which starts at zero. */
  clockAheadMs = Date.now() - performance.now();
  /**
   * Until when entries of this process may be served if nothing more is heard, by `performance.now()`: the earliest of all
   * masters, so that every key is covered.
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

  /** The masters that do not answer. */
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
    if (masters.every((it) => it.host !== undefined) && !this.isWhole(masters) && this.isTimeToLookAnew())
      this.options.lookAnew();
    if (this.isLost && this.isHeardOf) {
      this.isLost = false;
      this.complain('Invalidations from Redis are received again');
    }
  }

  /**
   * Whether every master of the cluster is known and heard. Another one may have taken over, or have received slots. The
   * client hears of that only from nodes that it was connected to, and only when it asks for a key in one of those slots; a
   * node that has left the cluster reports that there are no masters. A node that knows fewer masters is no reason to look
   * anew: if that one were asked, the client would leave the others until it asks again.
   */
  private isWhole(masters: readonly Master[]): boolean {
    if (!this.isHeardOf || !this.options.isWhole()) return false;
    return [...this.lines.values()].every((it) => it.masters <= masters.length);
  }

  private open({ id, host, port }: Master): void {
    const { protocol, username, password } = new URL(this.options.url);
    const { silenceMs, url } = this.options;
    const reconnectStrategy = this.lines.get(id)?.reconnectStrategy ?? reconnectUnlessCutOff();
    // The server is probed four times before it counts as silent, and the connection is given up a little later.
    const socket = {
      connectTimeout: 1_000,
      socketTimeout: 3 * silenceMs,
      // After a connection was refused, the next `look` opens another one.
      reconnectStrategy,
    };
    const common = {
      ...{ RESP: 3 as const, emitInvalidate: true, disableOfflineQueue: true },
      // A maintenance handover would replace the connection with one that does not track.
      maintNotifications: 'disabled' as const,
    };
    const { createClient } = redisClient();
    const client =
      host === undefined
        ? createClient({ url, ...common, socket })
        : createClient({
            ...common,
            ...(password && { username: decodeURIComponent(username), password: decodeURIComponent(password) }),
            socket: { ...socket, host, port: port!, ...(protocol === 'rediss:' && { tls: true as const }) },
          });
    const line: Line = {
      id,
      client: client as unknown as Line['client'],
      heardAt: never,
      isAsking: false,
      isOfCluster: host !== undefined,
      masters: 0,
      reconnectStrategy,
    };
    this.lines.set(id, line);
    this.countHeard();
    client.on('invalidate', (key: Buffer | string | null) => {
      // Redis sends null if the database was flushed.
      if (key === null) this.heard.mayHaveMissed();
      else this.heard.invalidated(key.toString());
    });
    client.on('ready', () => void this.arm(line));
    client.on('error', (error: Error) => this.lose(line, error));
    client.connect().catch(() => undefined);
  }

  /** Turns tracking on for a new connection. Changes may have been missed before that, so all entries are suspect. */
  private async arm(line: Line): Promise<void> {
    if (line.isAsking) return;
    this.setHeard(line, never);
    line.isAsking = true;
    try {
      // The client enables tracking of the keys that it reads; all keys with our prefixes are needed instead.
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
      // Another server may accept writes in its place, and this one would not report them.
      if (role !== 'master' || cluster?.includes('cluster_state:fail')) {
        if (!line.isOfCluster) this.leave(line);
        throw new Error('the server is not a master, or its cluster is down');
      }
      if (cluster) line.masters = Number(/cluster_size:(\d+)/.exec(cluster)?.[1] ?? 0);
      this.setHeard(line, askedAt);
      this.setClockBy(line, time, askedAt);
    } catch (error) {
      this.lose(line, error as Error);
    } finally {
      line.isAsking = false;
    }
  }

  /**
   * Leaves a server that is not the master: its name may resolve to another one by now, but a connection lasts until
   * someone closes it.
   */
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

  /** Takes the time from another connection while nothing is heard over this one. */
  setClockUnheard(time: string[], askedAt: number): void {
    if (!this.isHeardOf) this.setClock(time, askedAt);
  }

  /** Uses one server only, because clocks differ, and ignores answers that took too long. */
  private setClockBy(line: Line, time: string[], askedAt: number): void {
    const [first] = this.lines.values();
    if (line !== first || (this.isClockKnown && performance.now() - askedAt > longestForClockMs)) return;
    this.setClock(time, askedAt);
  }

  private setClock([seconds, microseconds]: string[], askedAt: number): void {
    const there = Number(seconds) * 1_000 + Number(microseconds) / 1_000;
    this.clockAheadMs = there - (askedAt + performance.now()) / 2;
    this.isClockKnown = true;
  }

  private lose(line: Line, error: Error): void {
    this.setHeard(line, never);
    if (this.isLost || this.isStopped) return;
    this.isLost = true;
    const reason = line.isOfCluster ? `${line.id}: ${error.message}` : error.message;
    this.complain(
      `Invalidations from Redis are not received: entries in this process are not served until they are (${reason})`,
    );
  }
}
