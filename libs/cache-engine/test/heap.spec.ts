import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { redisOrSkip, startRedis, until, type RedisServer } from '#testing';
import { CacheEngine, CacheUnavailable, jsonCodec, textCodec, type Codec, type Namespace } from '../src/index.js';

const describeRedis = await redisOrSkip(describe);

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const maxBytes = 4 * 1_024 * 1_024;
/** The size in V8 is an estimate, so the memory used may slightly exceed what was counted … */
const most = 1.25;
/** … but it must not be far below it either: the estimate errs on the high side, but not without limit. */
const least = 0.35;
/** Connections, buffers and histograms, however much is cached. */
const baseBytes = 1_024 * 1_024;
/** How many times the maximum is written. */
const fills = 1.5;
const page = 250;

interface Shape {
  name: string;
  /** The approximate size of one value. */
  bytes: number;
  value: (at: number) => unknown;
  key?: (at: number) => string;
  tags?: (at: number) => string[];
  codec?: Codec<string>;
  /** Whether values from Redis are stored differently: as a substring, with tags that came with it. */
  isTakenApart?: boolean;
}

const long = (at: number, length: number, filling: string): string => `${at} `.padEnd(length, filling);
const list = <T>(length: number, of: (at: number) => T): T[] => Array.from({ length }, (_, at) => of(at));

const shapes: readonly Shape[] = [
  { name: 'short texts', bytes: 560, value: (at) => `value ${at}` },
  {
    name: 'long texts of one byte a character',
    isTakenApart: true,
    bytes: 10_500,
    value: (at) => long(at, 10_000, 'x'),
  },
  {
    name: 'long texts of two bytes a character',
    isTakenApart: true,
    bytes: 20_500,
    value: (at) => long(at, 10_000, 'ж'),
  },
  {
    name: 'small objects',
    isTakenApart: true,
    bytes: 800,
    value: (at) => ({ id: at, name: `name ${at}`, price: at / 7, isNew: true }),
  },
  {
    name: 'nested objects',
    bytes: 4_000,
    value: (at) => ({ id: at, lines: list(10, (n) => ({ sku: `s ${at} ${n}`, price: n + 0.5, in: ['a', `b ${n}`] })) }),
  },
  { name: 'long keys', bytes: 1_600, key: (at) => long(at, 1_000, 'k'), value: (at) => at },
  {
    name: 'texts with the text codec',
    isTakenApart: true,
    bytes: 1_600,
    codec: textCodec,
    value: (at) => long(at, 1_000, 'x'),
  },
  {
    name: 'objects whose property names are data',
    bytes: 5_000,
    value: (at) => Object.fromEntries(list(100, (n) => [`sku ${at} ${n}`, n])),
  },
  {
    name: 'objects whose property names are numbers, with gaps',
    bytes: 5_500,
    value: (at) => Object.fromEntries(list(22, (n) => [n * 26, at])),
  },
  {
    name: 'lists of objects whose property names are large numbers',
    bytes: 20_000,
    value: () => list(80, () => ({ 5_000_000: 1 })),
  },
  {
    name: 'objects that share some property names',
    bytes: 4_000,
    value: (at) => Object.fromEntries(list(30, (n) => [`attribute ${(at * 7 + n * (1 + (at % 13))) % 300}`, n])),
  },
  {
    name: 'objects with many properties, which all have the same names',
    bytes: 4_000,
    value: () => Object.fromEntries(list(172, (n) => [n.toString(36).padStart(2, 'x'), true])),
  },
  {
    name: 'many tags',
    isTakenApart: true,
    bytes: 2_200,
    value: (at) => at,
    tags: (at) => list(20, (n) => `tag number ${n} of ${at % 50}`),
  },
  {
    name: 'texts with the text codec, under a tag of two bytes a character',
    isTakenApart: true,
    bytes: 10_500,
    codec: textCodec,
    value: (at) => long(at, 10_000, 'x'),
    tags: () => ['ж'],
  },
];

/** Measured once it no longer shrinks, because connections keep their buffers for a while. */
const usedBytes = async (): Promise<number> => {
  for (let least = Number.POSITIVE_INFINITY; ;) {
    collectGarbage();
    await sleep(30);
    const { heapUsed, external } = process.memoryUsage();
    if (heapUsed + external > least - 16_384) return least;
    least = heapUsed + external;
  }
};

/** A machine that stands still for seconds loses connections. */
const patiently = (work: () => Promise<unknown>): Promise<void> =>
  until(() =>
    work().then(
      () => true,
      (error: unknown) => {
        if (error instanceof CacheUnavailable) return false;
        throw error;
      },
    ),
  );

// One call per page, so that no suspended function keeps references to its values.
const putPage = (space: Namespace<string>, { key = String, value, tags }: Shape, from: number): Promise<void> => {
  const put = (at: number) => space.set(key(at), value(at) as string, tags && { tags: tags(at) });
  return patiently(() => Promise.all(list(page, (n) => put(from + n))));
};
const readPage = (space: Namespace<string>, { key = String }: Shape, from: number): Promise<void> =>
  patiently(() => space.getMany(list(page, (n) => key(from + n))));

/** How much more memory is used once the cache is full, and how much of that the cache counts. */
const grownBy = async (engine: CacheEngine, shape: Shape): Promise<{ grown: number; counted: number }> => {
  await until(() => engine.isL1Used);
  const space = engine.namespace<string>(randomUUID(), { codec: shape.codec ?? jsonCodec });
  await patiently(() => space.set('ready', 'ready'));
  const before = await usedBytes();
  const count = Math.ceil((fills * maxBytes) / shape.bytes / page) * page;
  for (let from = 0; from < count; from += page) await putPage(space, shape, from);
  // Our own writes are reported as invalidations too, so a value is kept once it is read after that.
  await until(async () => {
    for (let from = 0; from < count; from += page) await readPage(space, shape, from);
    return engine.statistics.l1.evictions > 0;
  });
  return { grown: (await usedBytes()) - before, counted: engine.statistics.l1.bytes };
};

const staysWithin = (some: readonly Shape[], redisUrl?: () => string): void => {
  it.each(some)('$name', async (shape) => {
    const redis = redisUrl && { url: redisUrl(), deadlineMs: 60_000, silenceMs: 60_000 };
    const engine = new CacheEngine({ maxBytes, redis, complain: () => undefined }).start();
    try {
      const { grown, counted } = await grownBy(engine, shape);
      expect(counted).toBeLessThanOrEqual(maxBytes);
      expect(grown).toBeLessThanOrEqual(most * maxBytes + baseBytes);
      expect(grown).toBeGreaterThan(least * maxBytes);
    } finally {
      engine.stop();
    }
  });
};

describe('the memory of a full cache without Redis', () => {
  staysWithin(shapes);

  const smallOnes: readonly [string, (engine: CacheEngine, at: number) => Promise<unknown>][] = [
    ['counters', (engine, at) => engine.namespace('n').increment(`counter ${at}`)],
    ['versions of tags', (engine, at) => engine.namespace(`n ${at}`).increment('c')],
  ];
  it.each(smallOnes)('%s', async (_, count) => {
    // Each of these gets a sixteenth, and this many do not fit into it.
    const engine = new CacheEngine({ maxBytes: 16 * maxBytes }).start();
    try {
      const before = await usedBytes();
      for (let at = 0; at < 30_000; at += 1) await count(engine, at);
      const grown = (await usedBytes()) - before;
      const { bytes } = engine.statistics.l1;
      // There are no connections here.
      expect(grown).toBeLessThanOrEqual(most * bytes + baseBytes / 4);
      expect(grown).toBeGreaterThan(least * bytes);
    } finally {
      engine.stop();
    }
  });
});

describeRedis('the memory of a full cache with Redis', () => {
  let redis: RedisServer;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis?.stop());

  staysWithin(
    shapes.filter((it) => it.isTakenApart),
    () => redis.url,
  );
});
