import { describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { ok, refused, type Answer, type CacheEntryWritten, type CacheStatistics } from '../../support/api.js';
import { fresh } from '../../support/fresh.js';
import { exchange } from '../../support/raw-http.js';
import type { World } from './world.js';

/** The clock of Redis is known to within half a round trip. */
const clockErrorMs = 250;

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
    it('answers GET and PUT in the form of the second specification', async () => {
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

    it('refuses a repeated key parameter', async () => {
      for (const search of ['key=a&key=b', 'key=a&key=a', 'key=a&key=', 'key=&key=a'])
        refused(await world.api.get(`/cache?${search}`), '400 invalid-request', ['key']);
      for (const name of ['key[]', 'key[x]'])
        refused(await world.api.get(`/cache?${name}=a`), '400 invalid-request', ['key', name]);
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
    ])('returns %j unchanged', async (value) => {
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
    ])('accepts %j as a key', async (text) => {
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

    it('deletes a key, also one that does not exist', async () => {
      const key = fresh('key');
      ok(await put({ key, value: 1 }));
      for (let time = 0; time < 2; time += 1) {
        const deleted = await world.api.send('DELETE', at(key));
        expect([deleted.status, deleted.text]).toEqual([204, '']);
        isMissing(await get(key));
      }
    });

    it('expires an entry after its ttl_ms', async () => {
      const key = fresh('key');
      const before = Date.now();
      const written = ok(await put({ key, value: 1, ttl_ms: 1_000 }));
      const expiresAt = Date.parse(written.expires_at!);
      expect(expiresAt).toBeGreaterThanOrEqual(before + 1_000 - clockErrorMs);
      expect(expiresAt).toBeLessThanOrEqual(Date.now() + 1_000 + clockErrorMs);
      const early = await get(key);
      if (Date.now() < expiresAt - clockErrorMs) expect(ok(early)).toEqual({ value: 1 });
      await eventually(async () => isMissing(await get(key)));
      expect(Date.now()).toBeGreaterThanOrEqual(expiresAt - clockErrorMs);
    });

    it('removes the expiry of an entry that is rewritten without ttl_ms', async () => {
      const key = fresh('key');
      ok(await put({ key, value: 1, ttl_ms: 1 }));
      await eventually(async () => isMissing(await get(key)));
      ok(await put({ key, value: 1, ttl_ms: 60_000 }));
      expect(ok(await put({ key, value: 2 })).expires_at).toBeNull();
      expect(ok(await get(key))).toEqual({ value: 2 });
    });

    it('accepts keys and values up to their size limits and refuses larger ones', async () => {
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
      // Only the header is sent: a server that leaves a body unread may close the connection before its response is read.
      const tooLarge = await exchange(world.api.baseUrl, {
        line: 'PUT /cache HTTP/1.1',
        headers: ['Content-Type: application/json', `Content-Length: ${1_048_576 + 1}`],
      });
      refused(tooLarge, '413 payload-too-large');
      expect(ok(await get(key))).toEqual({ value: large });
    });

    it.each([
      [{ value: 1 }, ['key']],
      [{ key: '', value: 1 }, ['key']],
      [{ key: 5, value: 1 }, ['key']],
      [{ key: '\ud800', value: 1 }, ['key']],
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

    it('separates namespaces, and invalidates one as a whole', async () => {
      const [key, one, other] = [fresh('key'), fresh('u'), `${fresh('u')}*`];
      const of = (namespace: string): string => `${at(key)}&namespace=${encodeURIComponent(namespace)}`;
      ok(await put({ key, value: 0 }));
      for (const namespace of [one, other]) ok(await put({ key, namespace, value: namespace }));
      for (const namespace of [one, other])
        expect(ok(await world.api.get(of(namespace)))).toEqual({ value: namespace });
      expect((await world.api.send('POST', '/cache/invalidate', { body: { namespace: other } })).status).toBe(204);
      isMissing(await world.api.get(of(other)));
      expect(ok(await world.api.get(of(one)))).toEqual({ value: one });
      expect((await world.api.send('DELETE', of(one))).status).toBe(204);
      isMissing(await world.api.get(of(one)));
      expect(ok(await get(key))).toEqual({ value: 0 });
    });

    it('invalidates entries by tag', async () => {
      const [tagged, both, plain, tag] = [fresh('key'), fresh('key'), fresh('key'), fresh('tag')];
      ok(await put({ key: tagged, value: 1, tags: [tag] }));
      ok(await put({ key: both, value: 2, tags: [fresh('tag'), tag] }));
      ok(await put({ key: plain, value: 3 }));
      for (const key of [tagged, both, plain]) ok(await get(key));
      expect((await world.api.send('POST', '/cache/invalidate', { body: { tags: [tag] } })).status).toBe(204);
      for (const key of [tagged, both]) isMissing(await get(key));
      expect(ok(await get(plain))).toEqual({ value: 3 });
    });

    it('applies If-Match and If-None-Match to PUT and DELETE', async () => {
      const key = fresh('key');
      const putIf = (value: number, headers: Record<string, string>): Promise<Answer<CacheEntryWritten>> =>
        world.api.send('PUT', '/cache', { body: { key, value }, headers });
      ok(await putIf(1, { 'If-None-Match': '*' }));
      refused(await putIf(2, { 'If-None-Match': '*' }), '412 precondition-failed');
      const etag = (await get(key)).headers.get('etag')!;
      const tries = await Promise.all([3, 4, 5].map((value) => putIf(value, { 'If-Match': etag })));
      expect(tries.map((it) => it.status).toSorted((one, other) => one - other)).toEqual([200, 412, 412]);
      const { version } = tries.find((it) => it.status === 200)!.body;
      expect((await get(key)).headers.get('etag')).toBe(`"${version}"`);
      // A weak ETag does not guarantee an identical value.
      for (const others of ['W/"1", "2"', `W/"${version}"`, '"*"'])
        refused(await putIf(6, { 'If-Match': others }), '412 precondition-failed');
      for (const malformed of [version, `"${version}`, `"${version}", *`])
        refused(await putIf(6, { 'If-Match': malformed }), '400 invalid-request', ['If-Match']);
      ok(await putIf(6, { 'If-Match': `${etag}, W/"1" ,"${version}"` }));
      ok(await putIf(7, { 'If-Match': '*' }));
      expect(ok(await get(key))).toEqual({ value: 7 });
      const { etag: last } = Object.fromEntries((await get(key)).headers);
      const deleteIf = (tag: string) => world.api.send('DELETE', at(key), { headers: { 'If-Match': tag } });
      refused(await deleteIf(etag), '412 precondition-failed');
      refused(await deleteIf('7'), '400 invalid-request', ['If-Match']);
      expect(ok(await get(key))).toEqual({ value: 7 });
      expect((await deleteIf(`${etag},${last!}`)).status).toBe(204);
      isMissing(await get(key));
      for (const refusal of [await deleteIf('*'), await putIf(8, { 'If-Match': '*' })])
        refused(refusal, '412 precondition-failed');
      isMissing(await get(key));
    });

    it('answers 304 when If-None-Match names the current version', async () => {
      const key = fresh('key');
      const getIf = (tags: string) => world.api.send('GET', at(key), { headers: { 'If-None-Match': tags } });
      for (const tags of ['*', '"1"']) isMissing(await getIf(tags));
      const etag = `"${ok(await put({ key, value: 'hello' })).version}"`;
      for (const tags of [etag, `W/${etag}`, `"1", W/"2" ,${etag}`, '*']) {
        const known = await getIf(tags);
        expect([known.status, known.text, known.headers.get('etag')]).toEqual([304, '', etag]);
        const asked = await world.api.send('HEAD', at(key), { headers: { 'If-None-Match': tags } });
        expect([asked.status, asked.headers.get('content-length')]).toEqual([304, null]);
      }
      for (const tags of ['"1"', '""', etag.slice(1, -1), `${etag} "1"`]) {
        const other = await getIf(tags);
        expect([other.status, other.text, other.headers.get('etag')]).toEqual([200, '{"value":"hello"}', etag]);
      }
      ok(await put({ key, value: 'hello' }));
      expect((await getIf(etag)).status).toBe(200);
    });

    it('gives one caller at a time a lease to fill a key, and a deletion invalidates the lease', async () => {
      const [key, namespace] = [fresh('key'), 'leased'];
      const lease = (body: object = {}): Promise<Answer<{ found: boolean; lease?: string | null }>> =>
        world.api.send('POST', '/cache/lease', { body: { key, namespace, ...body } });
      const first = ok(await lease());
      expect(first).toEqual({ found: false, lease: expect.any(String) });
      expect(ok(await lease())).toEqual({ found: false, lease: null });
      ok(await world.api.send('DELETE', `${at(key)}&namespace=${namespace}`), 204);
      const late = await put({ key, namespace, value: 'old', lease: first.lease });
      refused(late, '412 precondition-failed');
      expect(late.text).toContain('The lease is no longer valid');
      const { lease: second } = ok(await lease({ lease_ms: 30_000, tags: ['t'] }));
      refused(await put({ key, namespace, value: 1, lease: second, tags: ['t'] }), '400 invalid-request', ['tags']);
      const headers = { 'if-none-match': '*' };
      const both = { headers, body: { key, namespace, value: 1, lease: second } };
      refused(await world.api.send('PUT', '/cache', both), '400 invalid-request');
      const { version } = ok(await put({ key, namespace, value: 1, lease: second }));
      expect(ok(await lease())).toEqual({ found: true, value: 1, version });
      for (const lease_ms of [0, 60_001, 1.5]) refused(await lease({ lease_ms }), '400 invalid-request', ['lease_ms']);
    });

    it('deletes, writes and reads several keys in one batch', async () => {
      const [gone, kept, unknown] = [fresh('key'), fresh('key'), fresh('key')];
      const batch = (body: object): Promise<Answer<object>> => world.api.send('POST', '/cache/batch', { body });
      ok(await put({ key: gone, value: 1 }));
      const value = { text: '日本語 "' };
      const answer = ok(await batch({ delete: [gone], put: [{ key: kept, value }], get: [gone, kept, unknown] }));
      expect(answer).toEqual({
        found: [{ key: kept, value, version: expect.any(String), is_stale: false }],
        missing: [gone, unknown],
        written: [{ key: kept, version: expect.any(String), expires_at: null }],
      });
      const twice = [
        { key: kept, value: 1, tags: ['t'] },
        { key: kept, value: 2 },
      ];
      expect(ok(await batch({ put: twice, get: [kept, kept] }))).toMatchObject({ found: [{ key: kept, value: 2 }] });
      refused(await batch({ get: ['k', ''] }), '400 invalid-request', ['get.1']);
      expect(ok(await batch({}))).toEqual({ found: [], missing: [], written: [] });
    });

    it('increments counters atomically, apart from entries', async () => {
      const key = fresh('key');
      const count = (body: object): Promise<Answer<object>> => world.api.send('POST', '/cache/counters', { body });
      const counts = await Promise.all(Array.from({ length: 10 }, () => count({ key })));
      expect(new Set(counts.map((it) => JSON.stringify(ok(it)))).size).toBe(10);
      expect(ok(await count({ key, by: -4 }))).toEqual({ key, count: 6 });
      isMissing(await get(key));
      refused(await count({ key, by: 0.5 }), '400 invalid-request', ['by']);
      refused(await count({ key, by: Number.MAX_SAFE_INTEGER }), '400 invalid-request', []);
      expect(ok(await count({ key, by: 0 }))).toEqual({ key, count: 6 });
    });

    it('counts hits and misses in its statistics', async () => {
      const key = fresh('key');
      ok(await put({ key, value: 1 }));
      const read = async (): Promise<{ hits: number; misses: number }> => {
        const told = ok(await world.api.get<CacheStatistics>('/cache/stats'));
        return { hits: told.l1_hits + told.l2_hits, misses: told.misses };
      };
      const before = await read();
      for (let reads = 0; reads < 20; reads += 1) ok(await get(key));
      for (let reads = 0; reads < 10; reads += 1) isMissing(await get(fresh('none')));
      const after = await read();
      // Other modules may have read from the cache as well.
      expect(after.hits - before.hits).toBeGreaterThanOrEqual(20);
      expect(after.misses - before.misses).toBeGreaterThanOrEqual(10);
    });

    it('serves a hundred concurrent keys with their own values', async () => {
      const keys = Array.from({ length: 100 }, () => fresh('key'));
      await Promise.all(keys.map(async (key) => ok(await put({ key, value: { of: key } }))));
      const values = await Promise.all(keys.map(async (key) => ok(await get(key)).value));
      expect(values).toEqual(keys.map((key) => ({ of: key })));
    });
  });
};
