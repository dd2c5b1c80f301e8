import { afterEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { CacheModule } from '#cache';
import { createService } from '#service';
import { eventually, freePort, redisOrSkip, startRedis, type RedisServer } from '#testing';

Logger.overrideLogger(false);

const describeWithRedis = await redisOrSkip(describe);

const deadlineMs = 500;
/** Several deadlines: a read may need two calls (value and tags), and the machine may be busy. */
const answerMs = 5 * deadlineMs;

describeWithRedis('the cache as a service whose Redis', () => {
  let redis: RedisServer | undefined;
  let app: NestFastifyApplication | undefined;
  afterEach(async () => {
    await app?.close();
    if (redis) process.kill(redis.pid, 'SIGCONT');
    await redis?.stop();
    [app, redis] = [undefined, undefined];
  });

  const start = async (url: string): Promise<void> => {
    app = await createService({
      ...{ name: 'cache', HOST: '127.0.0.1', PORT: 0 },
      document: { title: 'Cache', description: '' },
      modules: [
        CacheModule.register({
          ...{ CACHE_REDIS_URL: url, CACHE_REDIS_DEADLINE_MS: deadlineMs, CACHE_MAX_BYTES: 8_388_608 },
        }),
      ],
    });
    await app.listen(0, '127.0.0.1');
  };

  const ask = async (path: string, init?: RequestInit): Promise<{ status: number; body: unknown; ms: number }> => {
    const startedAt = performance.now();
    const answer = await fetch(`${await app!.getUrl()}${path}`, init);
    const text = await answer.text();
    const ms = performance.now() - startedAt;
    return { status: answer.status, body: text === '' ? undefined : JSON.parse(text), ms };
  };
  const get = (key: string) => ask(`/cache?key=${key}`);
  const put = (key: string, value: unknown) =>
    ask('/cache', {
      method: 'PUT',
      body: JSON.stringify({ key, value }),
      headers: { 'content-type': 'application/json' },
    });

  const isReady = (status: 'ok' | 'degraded'): Promise<void> =>
    eventually(async () => {
      const { status: code, body } = await ask('/health/ready');
      const cache = status === 'ok' ? { status: 'up' } : { status: 'degraded', redis: 'cannot be reached' };
      // Ready, because other instances would do no better.
      expect([code, body]).toEqual([200, expect.objectContaining({ status })]);
      expect(body).toMatchObject({ details: { cache } });
    });

  const works = (key: string): Promise<void> =>
    eventually(async () => {
      expect((await put(key, 'new')).status).toBe(200);
      expect((await get(key)).body).toEqual({ value: 'new' });
    });

  /** Checks that requests are refused in time, and not answered as a miss. */
  const refuses = async (): Promise<void> => {
    for (const asking of [
      () => get('never'),
      () => put('key', 'lost'),
      () => ask('/cache?key=key', { method: 'DELETE' }),
    ]) {
      const { status, body, ms } = await asking();
      expect([status, body]).toEqual([503, expect.objectContaining({ code: 'unavailable' })]);
      expect(ms).toBeLessThan(answerMs);
    }
  };

  const away: [string, (it: RedisServer) => Promise<unknown>, (it: RedisServer) => Promise<RedisServer>][] = [
    ['is killed', (it) => it.kill(), (it) => startRedis({ port: it.port })],
    [
      'is frozen',
      async (it) => process.kill(it.pid, 'SIGSTOP'),
      async (it) => {
        process.kill(it.pid, 'SIGCONT');
        return it;
      },
    ],
  ];
  it.each(away)('%s answers in time, is degraded, serves stale values, and recovers', async (_, leave, comeBack) => {
    redis = await startRedis();
    await start(redis.url);
    await isReady('ok');
    await works('key');
    // Makes sure that this process has the value in L1.
    await eventually(async () => {
      const before = (await ask('/cache/stats')).body as { l1_hits: number };
      await get('key');
      expect((await ask('/cache/stats')).body).toMatchObject({ l1_hits: before.l1_hits + 1 });
    });
    await leave(redis);
    // Earlier calls do not delay later callers either.
    const crowd = await Promise.all(Array.from({ length: 100 }, () => get('never')));
    for (const { status, ms } of crowd) {
      expect(status).toBe(503);
      expect(ms).toBeLessThan(answerMs);
    }
    await isReady('degraded');
    // A stale value is served, because Redis cannot be asked.
    const stale = await get('key');
    expect([stale.status, stale.body]).toEqual([200, { value: 'new' }]);
    expect(stale.ms).toBeLessThan(answerMs);
    expect((await ask('/health/live')).status).toBe(200);
    await refuses();
    redis = await comeBack(redis);
    await isReady('ok');
    await works('another');
    await works('key');
  });

  it('is not there at the start is degraded, and works once Redis is there', async () => {
    const port = await freePort();
    await start(`redis://127.0.0.1:${port}`);
    await isReady('degraded');
    await refuses();
    redis = await startRedis({ port });
    await isReady('ok');
    await works('key');
  });
});
