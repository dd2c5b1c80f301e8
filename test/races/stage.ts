import { setTimeout as sleep } from 'node:timers/promises';
import { RedisProxy, freePort, startRedis, startRedisCluster, type RedisCluster, type RedisServer } from '#testing';
import type { Contestant, Node, NodeOptions, Space } from './contestants.js';

/** After so long a call counts as hanging. */
export const longestCallMs = 5_000;
const longestStopMs = 2_000;

export const hung = Symbol('hung');

/** What it gives, or `hung` when it takes too long. */
export const orHung = async <T>(work: Promise<T>, ms = longestCallMs): Promise<T | typeof hung> => {
  const given = new AbortController();
  // What becomes of it after that is nobody's concern.
  work.catch(() => undefined);
  try {
    return await Promise.race([work, sleep(ms, hung, { signal: given.signal })]);
  } finally {
    given.abort();
  }
};

/** Waits until it is so. @returns whether it came to be so in time */
export const comesTrue = async (isSo: () => boolean | Promise<boolean>, patienceMs: number): Promise<boolean> => {
  for (const giveUpAt = performance.now() + patienceMs; !(await isSo()); await sleep(5))
    if (performance.now() > giveUpAt) return false;
  return true;
};

export const seconds = (ms: number): string => `${(ms / 1_000).toFixed(1)} s`;

/** Servers, ways to them and nodes for one race of one contestant, all of them its own. */
export class Stage {
  private readonly cleanUps: (() => Promise<unknown>)[] = [];

  constructor(private readonly contestant: Contestant) {}

  async redis(port?: number): Promise<RedisServer> {
    const server = await startRedis(port === undefined ? {} : { port });
    this.cleanUps.push(() => {
      process.kill(server.pid, 'SIGCONT');
      return server.stop();
    });
    return server;
  }

  async cluster(): Promise<RedisCluster> {
    const cluster = await startRedisCluster();
    this.cleanUps.push(() => cluster.stop());
    return cluster;
  }

  async proxy({ port }: RedisServer): Promise<RedisProxy> {
    const proxy = await RedisProxy.start(port);
    this.cleanUps.push(() => proxy.stop());
    return proxy;
  }

  freePort(): Promise<number> {
    return freePort();
  }

  /** A node that has perhaps no way to Redis yet. */
  async open(url: string, options?: NodeOptions): Promise<Node> {
    const node = await this.contestant.open(url, options);
    // What hangs while it is stopped ends with the servers.
    this.cleanUps.push(() => orHung(node.stop(), longestStopMs));
    return node;
  }

  /** A node whose way to Redis is open. */
  async node(url: string, options?: NodeOptions): Promise<Node> {
    const node = await this.open(url, options);
    await ready(node.space('race'));
    return node;
  }

  /** The keys of a race, as a node of their own sees them; it is patient where the race is not about that. */
  async space(url: string, options: NodeOptions = { patienceMs: 5_000 }): Promise<Space> {
    return (await this.node(url, options)).space('race');
  }

  async clear(): Promise<void> {
    for (const cleanUp of this.cleanUps.splice(0).reverse()) await cleanUp();
  }
}

/** Until a value that it writes comes back, so that no race is decided by a connection that is not there yet. */
const ready = async (space: Space): Promise<void> => {
  const isUp = async (): Promise<boolean> => {
    try {
      await space.set('ready', 'ready');
      return (await space.get('ready')) === 'ready';
    } catch {
      return false;
    }
  };
  if (!(await comesTrue(isUp, 20_000))) throw new Error('it was never ready');
};

/**
 * Reads again and again until something else than the old value is given, or the time is over.
 *
 * @returns for how long from `since` the old value was given out, and whether it ended with that
 */
export const oldFor = async (
  read: () => Promise<unknown>,
  old: unknown,
  since: number,
  longestMs: number,
): Promise<{ ms: number; isOver: boolean }> => {
  let ms = 0;
  for (;;) {
    const at = performance.now();
    if (at - since > longestMs) return { ms, isOver: false };
    const given = await orHung(read());
    if (given !== old) return { ms, isOver: true };
    ms = Math.max(ms, at - since);
    await sleep(5);
  }
};
