import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { CacheModule } from '#cache';
import { limits } from '#contracts';
import { createService } from '#service';

Logger.overrideLogger(false);

describe('POST /cache/batch', () => {
  let app: NestFastifyApplication;
  beforeAll(async () => {
    app = await createService({
      ...{ name: 'cache', HOST: '127.0.0.1', PORT: 0 },
      document: { title: 'Cache', description: '' },
      modules: [CacheModule.register({ CACHE_MAX_BYTES: 67_108_864 })],
    });
    await app.listen(0, '127.0.0.1');
  });
  afterAll(() => app?.close());

  const send = async (method: string, path: string, body: object | string): Promise<Response> =>
    fetch(`${await app.getUrl()}${path}`, {
      method,
      body: typeof body === 'string' ? body : JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    });

  it('refuses a batch whose reply would be too large, and reads repeated keys once', async () => {
    const value = 'x'.repeat(1_000_000);
    const keys = Array.from({ length: Math.ceil(limits.cacheBatchCharacters / value.length) }, (_, at) => `k ${at}`);
    for (const key of keys) expect((await send('PUT', '/cache', { key, value })).status).toBe(200);
    const few = await send('POST', '/cache/batch', { get: keys.slice(1) });
    expect(((await few.json()) as { found: unknown[] }).found).toHaveLength(keys.length - 1);
    const again = await send('POST', '/cache/batch', {
      get: Array.from({ length: 40 }, () => keys.slice(1, 11)).flat(),
    });
    expect(((await again.json()) as { found: unknown[] }).found).toHaveLength(10);
    expect(await (await send('POST', '/cache/batch', { get: ['none', 'none'] })).json()).toMatchObject({
      missing: ['none'],
    });
    // Too many keys for one page.
    const none = Array.from({ length: 300 }, (_, at) => `none ${at}`);
    const all = await send('POST', '/cache/batch', { get: [...keys.slice(1), ...none, keys[0]] });
    expect([all.status, await all.json()]).toEqual([413, expect.objectContaining({ code: 'payload-too-large' })]);
  });

  it('spends no more on values that are nested deeply than on flat ones of the same size', async () => {
    const characters = 900_000;
    const nested = (levels: number): string => '['.repeat(levels) + ']'.repeat(levels);
    const listOf = (item: string): string =>
      `[${Array.from({ length: Math.floor(characters / (item.length + 1)) }, () => item).join()}]`;
    const values = { flat: listOf('[]'), 'as deep as allowed': listOf(nested(27)), deep: nested(characters / 2) };
    const costs = new Map<string, number>();
    const rounds = 5;
    for (let round = 0; round < rounds; round += 1)
      for (const [name, value] of Object.entries(values)) {
        const before = process.cpuUsage();
        const { status } = await send('POST', '/cache/batch', `{"put":[{"key":"k","value":${value}}]}`);
        const { user, system } = process.cpuUsage(before);
        expect([name, status]).toEqual([name, name === 'deep' ? 400 : 200]);
        costs.set(name, Math.min(user + system, costs.get(name) ?? Number.POSITIVE_INFINITY));
      }
    for (const cost of costs.values()) expect(cost).toBeLessThan(5 * costs.get('flat')!);
  });
});
