import KeyvRedis from '@keyv/redis';
import { BentoCache, bentostore } from 'bentocache';
import { memoryDriver } from 'bentocache/drivers/memory';
import { redisDriver } from 'bentocache/drivers/redis';
import { createCache } from 'cache-manager';
import { Redis } from 'ioredis';
import { Keyv } from 'keyv';
import { LRUCache } from 'lru-cache';
import { createClient } from '@redis/client';
import { CacheEngine } from '#cache-engine';
import type { CacheName } from './commands.js';

/** The operations of a cache, in its own API. Values are small objects; unsupported operations are left out. */
export interface CacheClient {
  /** Reads a value that is in process memory once it has been read. */
  readNear?(key: string): Promise<unknown>;
  /** Writes what `readNear` reads, if that is stored elsewhere than the values of `write`. */
  writeNear?(key: string, value: object): Promise<unknown>;
  /** Reads a value that is only in Redis. */
  readFar?(key: string): Promise<unknown>;
  readFarMany?(keys: string[]): Promise<unknown[]>;
  write(key: string, value: object): Promise<unknown>;
}

const largeBytes = 256 * 1_024 * 1_024;

const ours = async (url: string): Promise<CacheClient> => {
  const engineOf = async (prefix: string, maxBytes: number): Promise<CacheEngine> => {
    const engine = new CacheEngine({ maxBytes, prefix, redis: { url, deadlineMs: 5_000 } }).start();
    while (!engine.isL1Used) await new Promise((resolve) => setTimeout(resolve, 10));
    return engine;
  };
  // Separate, so that one is not invalidated by the writes of the other.
  const near = (await engineOf('near', largeBytes)).namespace<object>('bench');
  // Only room for the bookkeeping that every read needs.
  const far = (await engineOf('far', 1)).namespace<object>('bench');
  return {
    readNear: (key) => near.get(key),
    writeNear: (key, value) => near.set(key, value),
    readFar: (key) => far.get(key),
    readFarMany: async (keys) => {
      const found = await far.getMany(keys);
      return keys.map((key) => found.get(key)?.value);
    },
    write: (key, value) => far.set(key, value),
  };
};

const bentocache = async (url: string): Promise<CacheClient> => {
  const connection = new Redis(url);
  const bento = new BentoCache({
    default: 'near',
    stores: {
      near: bentostore()
        .useL1Layer(memoryDriver({ maxSize: largeBytes }))
        .useL2Layer(redisDriver({ connection })),
      far: bentostore().useL2Layer(redisDriver({ connection })),
    },
  });
  const far = bento.use('far');
  return {
    readNear: (key) => bento.use('near').get({ key }),
    readFar: (key) => far.get({ key }),
    write: (key, value) => far.set({ key, value }),
  };
};

const cacheManager = async (url: string): Promise<CacheClient> => {
  const far = createCache({ stores: [new Keyv({ store: new KeyvRedis(url), useKeyPrefix: false })] });
  const near = createCache({
    stores: [new Keyv(), new Keyv({ store: new KeyvRedis(url), useKeyPrefix: false })],
  });
  const nearKeys = new Set<string>();
  return {
    readNear: async (key) => {
      const value = await near.get(key);
      // It does not keep values that it reads from Redis.
      if (value !== undefined && !nearKeys.has(key)) {
        nearKeys.add(key);
        await near.set(key, value);
      }
      return value;
    },
    readFar: (key) => far.get(key),
    readFarMany: (keys) => far.mget(keys),
    write: (key, value) => far.set(key, value),
  };
};

const parsed = (text: string | null): unknown => (text === null ? undefined : JSON.parse(text));

const nodeRedis = async (url: string): Promise<CacheClient> => {
  const client = await createClient({ url }).connect();
  return {
    readFar: async (key) => parsed(await client.get(key)),
    readFarMany: async (keys) => (await client.mGet(keys)).map(parsed),
    write: (key, value) => client.set(key, JSON.stringify(value)),
  };
};

const ioredis = async (url: string): Promise<CacheClient> => {
  const client = new Redis(url);
  return {
    readFar: async (key) => parsed(await client.get(key)),
    readFarMany: async (keys) => (await client.mget(keys)).map(parsed),
    write: (key, value) => client.set(key, JSON.stringify(value)),
  };
};

/** Carries out together what is asked in one turn of the event loop. */
const batched = <Asked, Answer>(
  send: (all: Asked[]) => Promise<readonly Answer[]>,
): ((asked: Asked) => Promise<Answer>) => {
  let waiting: { asked: Asked; done: (answer: Answer) => void; failed: (error: unknown) => void }[] = [];
  const sendAll = async (): Promise<void> => {
    const all = waiting;
    waiting = [];
    try {
      const answers = await send(all.map((it) => it.asked));
      for (const [at, { done }] of all.entries()) done(answers[at]!);
    } catch (error) {
      for (const { failed } of all) failed(error);
    }
  };
  return (asked) =>
    new Promise<Answer>((done, failed) => {
      if (waiting.length === 0) setImmediate(() => void sendAll());
      waiting.push({ asked, done, failed });
    });
};

/**
 * The least that a hit in Redis costs with concurrent readers: all keys read in one turn of the event loop go into one MGET
 * of node-redis. Nothing is validated, kept or bounded.
 */
const mergedMget = async (url: string): Promise<CacheClient> => {
  const client = await createClient({ url }).connect();
  const read = batched((keys: string[]) => client.mGet(keys));
  return {
    readFar: async (key) => parsed(await read(key)),
    write: (key, value) => client.set(key, JSON.stringify(value)),
  };
};

/**
 * The least that the promises of our cache cost with node-redis: names that cannot collide, a head that says whether the
 * value may still be served, a write that ends the lease and that listeners hear of, everything of one turn of the event
 * loop in one command. There is no deadline, no breaker, no measurement, and nothing is frozen or kept.
 */
const bareContract = async (url: string): Promise<CacheClient> => {
  const client = await createClient({ url, RESP: 3, commandOptions: { timeout: undefined as never } }).connect();
  const listener = await createClient({ url, RESP: 3 }).connect();
  await listener.sendCommand(['CLIENT', 'TRACKING', 'ON', 'BCAST', 'PREFIX', 'bare:e:']);
  const prefix = `{${encodeURIComponent('bench')}:`;
  const entryOf = (key: string): string => `bare:e:${prefix}${key}}`;
  const leaseOf = (key: string): string => `bare:l:${prefix}${key}}`;
  const [version, namespaceVersion] = ['a1b2c3d4', 'e5f6g7h8'];
  const valueIn = (stored: string | null): unknown => {
    if (stored === null) return undefined;
    const end = stored.indexOf('\n');
    const [, freshUntil, , , ofNamespace] = stored.slice(1, end).split('|');
    if (ofNamespace !== namespaceVersion || (freshUntil !== '' && Number(freshUntil) < Date.now())) return undefined;
    return JSON.parse(stored.slice(end + 1));
  };
  const read = (keys: readonly string[]) => client.sendCommand<(string | null)[]>(['MGET', ...keys]);
  const readSoon = batched(read);
  const writeSoon = batched(async (all: readonly (readonly [key: string, stored: string])[]) => {
    await client
      .multi()
      .mSet(all.map(([key, stored]) => [entryOf(key), stored] as [string, string]))
      .del(all.map(([key]) => leaseOf(key)))
      .exec();
    return all;
  });
  return {
    readFar: async (key) => valueIn(await readSoon(entryOf(key))),
    readFarMany: async (keys) => (await read(keys.map(entryOf))).map(valueIn),
    write: (key, value) => writeSoon([key, `+${version}|||0|${namespaceVersion}|\n${JSON.stringify(value)}`]),
  };
};

/** A plain map behind an `await`, as a reference for the cost of everything else. */
const lruCache = async (): Promise<CacheClient> => {
  const map = new LRUCache<string, object>({ max: 1_000_000 });
  return {
    readNear: async (key) => map.get(key),
    write: async (key, value) => map.set(key, value),
  };
};

export const clients: Record<CacheName, (url: string) => Promise<CacheClient>> = {
  ours,
  bentocache,
  ioredis,
  'cache-manager': cacheManager,
  'node-redis': nodeRedis,
  'merged MGET': mergedMget,
  'bare contract': bareContract,
  'lru-cache': lruCache,
};
