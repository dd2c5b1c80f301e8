import { setTimeout as sleep } from 'node:timers/promises';
import { RedisProxy, freePort, startRedis, startRedisCluster, type RedisCluster, type RedisServer } from '#testing';
import type { Contestant, Node, NodeOptions, Space } from './contestants.js';

/** A call that takes longer counts as hung. */
export const longestCallMs = 5_000;
const longestStopMs = 2_000;

export const hung = Symbol('hung');

/** The result, or `hung` if it takes too long. */
export const orHung = async <T>(work: Promise<T>, ms = longestCallMs): Promise<T | typeof hung> => {
  const given = new AbortController();
  // A late failure does not matter.
  work.catch(() => undefined);
  try {
    return await Promise.race([work, sleep(ms, hung, { signal: given.signal })]);
  } finally {
    given.abort();
  }
};

/** Polls until the condition holds. @returns whether it did in time */
export const comesTrue = async (isSo: () => boolean | Promise<boolean>, patienceMs: number): Promise<boolean> => {
  for (const giveUpAt = performance.now() + patienceMs; !(await isSo()); await sleep(5))
    if (performance.now() > giveUpAt) return false;
  return true;
};

export const seconds = (ms: number): string => `${(ms / 1_000).toFixed(1)} s`;

/** The servers, proxies and nodes for one race of one contestant. */
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

  /** Opens a node, which may not be connected to Redis yet. */
  async open(url: string, options?: NodeOptions): Promise<Node> {
    const node = await this.contestant.open(url, options);
    // If stopping hangs, it ends when the servers do.
    this.cleanUps.push(() => orHung(node.stop(), longestStopMs));
    return node;
  }

  /** Opens a node and waits until it is connected to Redis. */
  async node(url: string, options?: NodeOptions): Promise<Node> {
    const node = await this.open(url, options);
    await ready(node.space('race'));
    return node;
  }

  /** The namespace of the race on a new node; with a long timeout, unless the race is about timeouts. */
  async space(url: string, options: NodeOptions = { patienceMs: 5_000 }): Promise<Space> {
    return (await this.node(url, options)).space('race');
  }

  async clear(): Promise<void> {
    for (const cleanUp of this.cleanUps.splice(0).reverse()) await cleanUp();
  }
}

/** Waits until a value can be written and read back, so that no race is decided by a missing connection. */
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
 * Reads repeatedly until another value than the old one is returned, or the time is over.
 *
 * @returns for how long after `since` the old value was returned, and whether that ended
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
