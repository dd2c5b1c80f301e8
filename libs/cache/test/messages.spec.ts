import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { CacheModule } from '#cache';
import { cacheContract } from '#contracts';
import { Messenger, address, listenForMessages, type ContractClient } from '#messaging';
import { createService } from '#service';
import { eventually, freePort, natsOrSkip, redisOrSkip, startNats, startRedis } from '#testing';

Logger.overrideLogger(false);

/** The address for messages, and a function that stops their broker. */
type Way = () => Promise<{ url: string; stop?: () => Promise<unknown> }>;

/** With long deadlines, because these tests are not about speed and the machine may be busy. */
const patient = {
  ...cacheContract,
  operations: Object.fromEntries(
    Object.entries(cacheContract.operations).map(([name, it]) => [name, { ...it, deadlineMs: 10_000 }]),
  ),
} as unknown as typeof cacheContract;

/** Values that are easily confused with others or changed on the way; the tests over REST use them too. */
const values: ({} | null)[] = [
  null,
  0,
  '',
  [],
  {},
  { found: false, lease: null },
  '\u2028 "quoted" \\ \u0000 日本語',
  1e21,
];

/** The operations of REST that do the same. */
const inRest: Record<keyof (typeof cacheContract)['operations'], string> = {
  get: 'getCacheEntry',
  put: 'putCacheEntry',
  lease: 'leaseCacheKey',
  delete: 'deleteCacheEntry',
  batch: 'cacheBatch',
  invalidate: 'invalidateCache',
  increment: 'incrementCounter',
  statistics: 'getCacheStatistics',
};

/** @param suite `describe`, or its `skip` if there is no broker */
const asked = (how: string, way: Way, suite: (name: string, tests: () => void) => void = describe): void => {
  suite(`the contract of the cache ${how}`, () => {
    let app: NestFastifyApplication;
    let isNear: boolean;
    let messenger: Messenger;
    let cache: ContractClient<typeof cacheContract>;
    let found: Awaited<ReturnType<Way>>;

    beforeAll(async () => {
      found = await way();
      const at = address.parse(found.url);
      isNear = at.scheme === 'in-process';
      app = await createService({
        ...{ name: 'cache', HOST: '127.0.0.1', PORT: 0 },
        document: { title: 'Cache', description: '' },
        modules: [CacheModule.register({ CACHE_MAX_BYTES: 67_108_864 })],
      });
      await listenForMessages(app, isNear ? [] : [at]);
      await app.listen(0, '127.0.0.1');
      messenger = isNear ? app.get(Messenger, { strict: false }) : new Messenger();
      cache = messenger.clientFor(patient, at);
    });
    afterAll(async () => {
      if (!isNear) await messenger?.onApplicationShutdown();
      await app?.close();
      await found?.stop?.();
    });

    const codeOf = (call: Promise<unknown>): Promise<unknown> =>
      call.then(
        () => undefined,
        (error: { code?: unknown }) => error.code,
      );

    it('has the operations of REST', async () => {
      const document = (await (await fetch(`${await app.getUrl()}/openapi.json`)).json()) as {
        paths: Record<string, Record<string, { operationId: string; tags: string[] }>>;
      };
      const offered = Object.values(document.paths).flatMap((it) => Object.values(it));
      const ofCache = offered.filter(({ tags }) => tags.includes('cache')).map((it) => it.operationId);
      expect(ofCache.toSorted()).toEqual(Object.values(inRest).toSorted());
    });

    it.each(values)('returns the value %j unchanged', async (value) => {
      const key = `value ${JSON.stringify(value)}`;
      expect(await cache.call('get', { key })).toEqual({ found: false });
      const { version, expires_at } = await cache.call('put', { key, value });
      expect(expires_at).toBeNull();
      expect(await cache.call('get', { key })).toEqual({ found: true, value, version, is_stale: false });
    });

    it('returns the expiry of a value as a Date', async () => {
      const { expires_at } = await cache.call('put', { key: 'ends', value: 1, ttl_ms: 60_000 });
      expect(expires_at).toBeInstanceOf(Date);
      expect(Math.abs(expires_at!.getTime() - Date.now() - 60_000)).toBeLessThan(5_000);
    });

    it('overwrites only the expected version', async () => {
      const put = (value: number, if_version: string | string[] | null) =>
        cache.call('put', { key: 'versions', value, if_version });
      const { version } = await put(1, null);
      expect(await codeOf(put(2, null))).toBe('precondition-failed');
      expect(await codeOf(put(2, 'another'))).toBe('precondition-failed');
      const next = await put(2, version);
      expect(await codeOf(put(3, version))).toBe('precondition-failed');
      expect(await cache.call('get', { key: 'versions' })).toMatchObject({ value: 2, version: next.version });
      expect((await put(4, '*')).version).not.toBe(next.version);
      expect(await codeOf(put(5, [version, next.version]))).toBe('precondition-failed');
      const { version: last } = (await cache.call('get', { key: 'versions' })) as { version: string };
      await put(5, [version, last]);
      expect(await cache.call('get', { key: 'versions' })).toMatchObject({ value: 5 });
    });

    it('deletes only the expected version', async () => {
      const key = 'deleted';
      const remove = (if_version: string | string[] | null, ...others: string[]) =>
        cache.call('delete', { keys: [key, ...others], if_version });
      for (const version of ['*', 'another']) expect(await codeOf(remove(version))).toBe('precondition-failed');
      await remove(null);
      const { version: first } = await cache.call('put', { key, value: 1 });
      const { version } = await cache.call('put', { key, value: 2 });
      for (const other of [first, [first], null]) expect(await codeOf(remove(other))).toBe('precondition-failed');
      expect(await codeOf(remove(version, 'another'))).toBe('invalid-request');
      expect(await cache.call('get', { key })).toMatchObject({ value: 2 });
      await remove([first, version]);
      expect(await cache.call('get', { key })).toEqual({ found: false });
      await cache.call('put', { key, value: 3 });
      await remove('*');
      expect(await cache.call('get', { key })).toEqual({ found: false });
    });

    it('reads the largest value that it accepts', async () => {
      const key = 'k';
      const room = patient.operations.put.maxBytes - JSON.stringify({ key, value: '' }).length;
      const value = 'x'.repeat(room);
      expect(await codeOf(cache.call('put', { key, value: `${value}x` }))).toBe('payload-too-large');
      const { version } = await cache.call('put', { key, value });
      expect(await cache.call('get', { key })).toEqual({ found: true, value, version, is_stale: false });
      expect(await cache.call('lease', { key, lease_ms: 1 })).toEqual({ found: true, value, version });
      const { found } = await cache.call('batch', { get: [key] });
      expect(found).toEqual([{ key, value, version, is_stale: false }]);
    });

    it('grants one lease at a time for a missing value, and refuses a fill after a delete', async () => {
      const lease = () => cache.call('lease', { key: 'leased', lease_ms: 30_000 });
      const first = await lease();
      expect(first).toEqual({ found: false, lease: expect.any(String) });
      expect(await lease()).toEqual({ found: false, lease: null });
      await cache.call('delete', { keys: ['leased'] });
      const put = (given: string) => cache.call('put', { key: 'leased', value: { of: 'source' }, lease: given });
      expect(await codeOf(put((first as { lease: string }).lease))).toBe('precondition-failed');
      const { version } = await put(((await lease()) as { lease: string }).lease);
      expect(await lease()).toEqual({ found: true, value: { of: 'source' }, version });
    });

    it('puts and gets many keys in one batch, and invalidates by key, tag and namespace', async () => {
      const namespace = 'many';
      const put = ['a', 'b', 'c'].map((key) => ({ key, value: { of: key }, tags: [`tag ${key}`] }));
      const first = await cache.call('batch', { namespace, put, get: ['a', 'none'] });
      expect(first).toEqual({
        found: [{ key: 'a', value: { of: 'a' }, version: first.written[0]!.version, is_stale: false }],
        missing: ['none'],
        written: put.map(({ key }) => ({ key, version: expect.any(String), expires_at: null })),
      });
      const left = async () =>
        (await cache.call('batch', { namespace, get: ['a', 'b', 'c', 'd'] })).found.map((it) => it.key);
      await cache.call('put', { namespace, key: 'd', value: 1 });
      await cache.call('delete', { namespace, keys: ['a', 'none'] });
      expect(await left()).toEqual(['b', 'c', 'd']);
      await cache.call('invalidate', { namespace, tags: ['tag b', 'none'] });
      expect(await left()).toEqual(['c', 'd']);
      await cache.call('put', { namespace: 'another', key: 'c', value: 1 });
      await cache.call('invalidate', { namespace });
      expect(await left()).toEqual([]);
      expect(await cache.call('get', { namespace: 'another', key: 'c' })).toMatchObject({ found: true });
    });

    it('increments and decrements a counter', async () => {
      const counts = await Promise.all(Array.from({ length: 10 }, () => cache.call('increment', { key: 'n' })));
      expect(counts.map((it) => it.count).toSorted((one, other) => one - other)).toEqual([
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
      ]);
      expect(await cache.call('increment', { key: 'n', by: -4 })).toEqual({ key: 'n', count: 6 });
    });

    /** @throws if the statistics do not agree with the traffic */
    const expectCounted = async (namespace: string): Promise<void> => {
      const statistics = () => cache.call('statistics', {});
      const before = await statistics();
      const put = ['a', 'b', 'c'].map((key) => ({ key, value: 1 }));
      await cache.call('batch', { namespace, put });
      for (let reads = 0; reads < 7; reads += 1) await cache.call('get', { namespace, key: 'a' });
      for (let reads = 0; reads < 2; reads += 1) await cache.call('get', { namespace, key: 'none' });
      await cache.call('batch', { namespace, get: ['a', 'b', 'none'] });
      await cache.call('lease', { namespace, key: 'c', lease_ms: 30_000 });
      const { lease } = (await cache.call('lease', { namespace, key: 'none', lease_ms: 30_000 })) as { lease: string };
      await cache.call('delete', { namespace, keys: ['none', 'b'] });
      expect(await codeOf(cache.call('put', { namespace, key: 'none', value: 1, lease }))).toBe('precondition-failed');
      const after = await statistics();
      // Without Redis, this process keeps all values, and only this test uses it.
      const counted = {
        l1_hits: before.l1_hits + 7 + 2 + 1,
        misses: before.misses + 2 + 1 + 1,
        fills_refused: before.fills_refused + 1,
        ...{ l2_hits: 0, stale_hits: 0, loads: 0, unavailable: 0, is_l1_used: true },
      };
      expect(after).toMatchObject(counted);
      expect(after.l1.entries).toBe(before.l1.entries + 2);
      expect(after.l1.bytes).toBeGreaterThan(before.l1.bytes);
      expect(after.l1.max_bytes).toBe(67_108_864);
      expect(await (await fetch(`${await app.getUrl()}/cache/stats`)).json()).toEqual(after);
    };

    it('reports the statistics of its traffic, the same as GET /cache/stats', async () => {
      let tries = 0;
      // If a call takes seconds on a busy machine, NATS may deliver it twice.
      await eventually(() => expectCounted(`counted ${(tries += 1)}`));
    });

    it('separates the values of modules from those of callers', async () => {
      await cache.call('put', { key: 'mine', value: 'of a module' });
      const answer = await fetch(`${await app.getUrl()}/cache?key=mine`);
      expect([answer.status, await answer.text()]).toEqual([404, '{"error":"key not found"}']);
    });
  });
};

asked('in its process', async () => ({ url: 'in-process:' }));
asked('over TCP', async () => ({ url: `tcp://127.0.0.1:${await freePort()}` }));
asked('over Redis', startRedis, await redisOrSkip(describe));
asked('over NATS', startNats, await natsOrSkip(describe));
