import type { Latency } from '../statistics.js';

/** Whose cache it is. */
export const cacheNames = [
  ...(['ours', 'bentocache', 'cache-manager', 'node-redis', 'ioredis', 'merged MGET', 'lru-cache'] as const),
] as const;
export type CacheName = (typeof cacheNames)[number];

/**
 * What is done with it: values read out of the process, out of Redis one by one or a hundred at once, and written. Reads
 * are of values that are there.
 */
export const cacheWork = ['l1 hit', 'l2 hit', 'l2 batch of 100', 'write'] as const;
export type CacheWork = (typeof cacheWork)[number];

export const keyCount = 10_000;
export const batchSize = 100;

/** What lies under each key. */
export const valueOf = (at: number): object => ({
  id: at,
  name: `value ${at}`,
  tags: ['a', 'b'],
  text: 'x'.repeat(40),
});

export interface CacheLoad {
  work: CacheWork;
  callers: number;
  durationMs: number;
  seed: number;
}

export interface CacheResult extends Latency {
  /** Keys that were read or written. */
  keys: number;
  /** Of these, what was not the value that lies there. */
  wrong: number;
  seconds: number;
  cpuMs: number;
}

export type CacheCommands = {
  /** @returns what it can do */
  open(argument: { name: CacheName; redisUrl: string }): Promise<CacheWork[]>;
  load(load: CacheLoad): Promise<CacheResult>;
};
