import { describe, expect, it } from '@jest/globals';
import { ok, refused, type Answer, type CacheEntryWritten } from '../../support/api.js';
import { eventually } from '../../support/eventually.js';
import { fresh } from '../../support/fresh.js';
import type { World } from './world.js';

export const cacheTests = (world: World): void => {
  const at = (key: string): string => `/cache?key=${encodeURIComponent(key)}`;
  const get = (key: string): Promise<Answer<{ value: unknown }>> => world.api.get(at(key));
  const put = (body: unknown): Promise<Answer<CacheEntryWritten>> => world.api.send('PUT', '/cache', { body });
  const isMissing = (answer: Answer): void => {
    expect(answer.status).toBe(404);
    expect(answer.text).toBe('{"error":"key not found"}');
    expect(answer.headers.get('content-type')).toMatch(/^application\/json(?:;|$)/);
  };

  describe('the cache', () => {
    it('answers as the second specification says', async () => {
      const key = fresh('key');
      isMissing(await get(key));
      expect(ok(await put({ key, value: 'hello' }))).toEqual({ key, version: expect.any(String), expires_at: null });
      const hit = await get(key);
      expect(hit.status).toBe(200);
      expect(hit.text).toBe('{"value":"hello"}');
      expect(hit.headers.get('content-type')).toMatch(/^application\/json(?:;|$)/);
    });

    it.each(['', '?', '?key', '?key=', '?other=1'])('refuses GET and DELETE /cache%s', async (search) => {
      const paths = search === '?other=1' ? ['key', 'other'] : ['key'];
      refused(await world.api.get(`/cache${search}`), '400 invalid-request', paths);
      refused(await world.api.send('DELETE', `/cache${search}`), '400 invalid-request', paths);
    });

    it('refuses a key given twice, however', async () => {
      for (const search of ['key=a&key=b', 'key=a&key=a', 'key=a&key=', 'key=&key=a'])
        refused(await world.api.get(`/cache?${search}`), '400 invalid-request', ['key']);
      refused(await world.api.get('/cache?key[]=a'), '400 invalid-request', ['key', 'key[]']);
    });

    it.each([
      [null],
      [false],
      [0],
      [''],
      [[]],
      [{}],
      [{ found: false, error: 'key not found', value: null }],
      [[1, 'two', { three: [null, { four: 5.5 }] }]],
      ['\u2028 "quoted" \\ 🧸 \u0000'],
      [1e21],
    ])('gives %j back as it came', async (value) => {
      const key = fresh('key');
      ok(await put({ key, value }));
      expect(ok(await get(key))).toEqual({ value });
    });

    it.each([
      'plain',
      'with spaces & such = ?#+%',
      ' led and trailed ',
      'a/b//c',
      '日本語 🧸',
      '\u0000 and \n',
      '%00',
      '__proto__',
      'constructor',
      'toString',
      '*',
    ])('takes %j as a key', async (text) => {
      const mark = fresh('');
      const key = /^(?:__proto__|constructor|toString|\*)$/.test(text) ? text : text + mark;
      isMissing(await get(key));
      ok(await put({ key, value: { of: key } }));
      expect(ok(await get(key))).toEqual({ value: { of: key } });
      expect((await world.api.send('DELETE', at(key))).status).toBe(204);
      isMissing(await get(key));
    });

    it('changes the version with every write', async () => {
      const key = fresh('key');
      const versions = [];
      for (const value of [1, 1, 2]) versions.push(ok(await put({ key, value })).version);
      expect(new Set(versions).size).toBe(3);
      expect(ok(await get(key))).toEqual({ value: 2 });
    });

    it('forgets what is deleted, and does not mind deleting what it does not have', async () => {
      const key = fresh('key');
      ok(await put({ key, value: 1 }));
      for (let time = 0; time < 2; time += 1) {
        const deleted = await world.api.send('DELETE', at(key));
        expect([deleted.status, deleted.text]).toEqual([204, '']);
        isMissing(await get(key));
      }
    });

    it('forgets what has expired', async () => {
      const key = fresh('key');
      const before = Date.now();
      const written = ok(await put({ key, value: 1, ttl_ms: 1_000 }));
      const expiresAt = Date.parse(written.expires_at!);
      expect(expiresAt).toBeGreaterThanOrEqual(before + 1_000);
      expect(expiresAt).toBeLessThanOrEqual(Date.now() + 1_000);
      const early = await get(key);
      if (Date.now() < expiresAt) expect(ok(early)).toEqual({ value: 1 });
      await eventually(async () => isMissing(await get(key)));
      expect(Date.now()).toBeGreaterThanOrEqual(expiresAt - 1);
    });

    it('keeps what is written anew without an end', async () => {
      const key = fresh('key');
      ok(await put({ key, value: 1, ttl_ms: 1 }));
      await eventually(async () => isMissing(await get(key)));
      ok(await put({ key, value: 1, ttl_ms: 60_000 }));
      expect(ok(await put({ key, value: 2 })).expires_at).toBeNull();
      expect(ok(await get(key))).toEqual({ value: 2 });
    });

    it('takes keys and values up to their limits', async () => {
      const longest = fresh('k').padEnd(1_024, 'x');
      ok(await put({ key: longest, value: 1 }));
      expect(ok(await get(longest))).toEqual({ value: 1 });
      refused(await put({ key: `${longest}x`, value: 1 }), '400 invalid-request', ['key']);
      refused(await put({ key: '語'.repeat(342), value: 1 }), '400 invalid-request', ['key']);
      refused(await get(`${longest}x`), '400 invalid-request', ['key']);
      const key = fresh('large');
      const large = '語'.repeat(330_000);
      ok(await put({ key, value: large }));
      expect(ok(await get(key))).toEqual({ value: large });
      refused(await put({ key, value: 'x'.repeat(1_048_576) }), '413 payload-too-large');
      expect(ok(await get(key))).toEqual({ value: large });
    });

    it.each([
      [{ value: 1 }, ['key']],
      [{ key: '', value: 1 }, ['key']],
      [{ key: 5, value: 1 }, ['key']],
      [{ key: 'k' }, ['value']],
      [{ key: 'k', value: 1, ttl_ms: 0 }, ['ttl_ms']],
      [{ key: 'k', value: 1, ttl_ms: -1 }, ['ttl_ms']],
      [{ key: 'k', value: 1, ttl_ms: 1.5 }, ['ttl_ms']],
      [{ key: 'k', value: 1, ttl_ms: '5' }, ['ttl_ms']],
      [{ key: 'k', value: 1, ttl_ms: 31_536_000_001 }, ['ttl_ms']],
      [{ key: 'k', value: 1, ttl: 5 }, ['ttl']],
    ])('refuses to write %j', async (body, paths) => {
      refused(await put(body), '400 invalid-request', paths);
    });

    it('serves many at once, each its own', async () => {
      const keys = Array.from({ length: 100 }, () => fresh('key'));
      await Promise.all(keys.map(async (key) => ok(await put({ key, value: { of: key } }))));
      const values = await Promise.all(keys.map(async (key) => ok(await get(key)).value));
      expect(values).toEqual(keys.map((key) => ({ of: key })));
    });
  });
};
