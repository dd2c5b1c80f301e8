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

  const send = async (method: string, path: string, body: object): Promise<Response> =>
    fetch(`${await app.getUrl()}${path}`, {
      method,
      body: JSON.stringify(body),
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
    // Too many keys for one page.
    const none = Array.from({ length: 300 }, (_, at) => `none ${at}`);
    const all = await send('POST', '/cache/batch', { get: [...keys.slice(1), ...none, keys[0]] });
    expect([all.status, await all.json()]).toEqual([413, expect.objectContaining({ code: 'payload-too-large' })]);
  });
});
