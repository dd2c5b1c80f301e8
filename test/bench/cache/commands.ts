import type { Latency } from '../statistics.js';

/** The caches that are compared. */
export const cacheNames = [
  ...([
    'ours',
    'bentocache',
    'cache-manager',
    'node-redis',
    'ioredis',
    'merged MGET',
    'bare contract',
    'lru-cache',
  ] as const),
] as const;
export type CacheName = (typeof cacheNames)[number];

/** Reads from process memory, from Redis one by one or a hundred at a time, and writes. Every read hits. */
export const cacheWork = ['l1 hit', 'l2 hit', 'l2 batch of 100', 'write'] as const;
export type CacheWork = (typeof cacheWork)[number];

export const keyCount = 10_000;
export const batchSize = 100;

/** The value of each key. */
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
  /** The number of keys that were read or written. */
  keys: number;
  /** How many of them had a wrong value. */
  wrong: number;
  seconds: number;
  cpuMs: number;
}

export type CacheCommands = {
  /** @returns the kinds of work that it supports */
  open(argument: { name: CacheName; redisUrl: string }): Promise<CacheWork[]>;
  load(load: CacheLoad): Promise<CacheResult>;
};
