import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { limits } from '#contracts';
import { Api, refused } from '../support/api.js';
import { exchange } from '../support/raw-http.js';
import { Connection } from './connection.js';
import { doorNames, startDoors, type Doors } from './doors.js';

const shop = 'https://shop.example';
const other = 'http://127.0.0.1:5173';

/** Sends a Host header that differs from the address it connects to, as after DNS rebinding. */
const askingFor = async (url: string, host: string, line = 'GET /cache?key=x HTTP/1.1'): Promise<string> => {
  const connection = await Connection.open(url);
  connection.write(`${line}\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
  await connection.closedAfter(5_000);
  return connection.received;
};

const bodyOf = (received: string): unknown => JSON.parse(received.slice(received.indexOf('\r\n\r\n') + 4));

describe('browser protection', () => {
  let doors: Doors;
  beforeAll(async () => {
    doors = await startDoors({ CORS_ORIGINS: `${shop},${other}`, HSTS_SECONDS: '31536000' });
  });
  afterAll(() => doors.stop());

  describe.each(doorNames)('at the %s', (name) => {
    const api = () => new Api(doors.urls[name]);

    it('sends security headers with API responses, errors and the documentation', async () => {
      for (const [path, policy, stored] of [
        ['/cache?key=x', "default-src 'none'; frame-ancestors 'none'", 'no-store'],
        ['/nothing', "default-src 'none'; frame-ancestors 'none'", 'no-store'],
        ['/%', "default-src 'none'; frame-ancestors 'none'", 'no-store'],
        [
          '/docs',
          expect.stringMatching(/^default-src 'none'; script-src 'self';.*frame-ancestors 'none'$/),
          expect.anything(),
        ],
      ] as const) {
        const { headers } = await exchange(doors.urls[name], { line: `GET ${path} HTTP/1.1` });
        expect({ path, ...Object.fromEntries(headers) }).toMatchObject({
          path,
          'x-content-type-options': 'nosniff',
          'x-frame-options': 'DENY',
          'referrer-policy': 'no-referrer',
          'content-security-policy': policy,
          'cache-control': stored,
          'strict-transport-security': 'max-age=31536000; includeSubDomains',
        });
        for (const unsaid of ['server', 'x-powered-by', 'via']) expect(headers.get(unsaid)).toBeNull();
      }
    });

    it('sends a content security policy with the response to a malformed request', async () => {
      const connection = await Connection.open(doors.urls[name]);
      connection.write('nonsense\r\n\r\n');
      await connection.closedAfter(5_000);
      expect(connection.received).toMatch(/^HTTP\/1.1 400 .*content-security-policy: default-src 'none'/s);
    });

    it('lets the configured origins read responses, and exposes each header once', async () => {
      for (const origin of [shop, other]) {
        const headers = { origin, 'sec-fetch-site': 'cross-site' };
        const answers = [
          await api().send('PUT', '/cache', { headers, body: { key: 'cors', value: 1 } }),
          await api().send('GET', '/cache?key=cors', { headers }),
          await api().send('GET', '/cache', { headers }),
          await api().send('GET', '/nothing', { headers }),
        ];
        expect(answers.map((it) => it.status)).toEqual([200, 200, 400, 404]);
        for (const it of answers) {
          expect(it.headers.get('access-control-allow-origin')).toBe(origin);
          expect(it.headers.get('vary')).toBe('Origin');
          expect(it.headers.get('access-control-allow-credentials')).toBeNull();
          const exposed = it.headers.get('access-control-expose-headers')?.split(', ');
          for (const field of ['ETag', 'Location', 'Idempotent-Replayed', 'RateLimit', 'Retry-After'])
            expect(exposed?.filter((it) => it === field)).toEqual([field]);
        }
      }
    });

    it.each([
      [400, { line: 'GET /% HTTP/1.1' }],
      [400, { line: `GET /problems/${'x'.repeat(2_000)} HTTP/1.1` }],
      [405, { line: 'PATCH /cache HTTP/1.1' }],
      [413, { line: 'PUT /cache HTTP/1.1', headers: [`Content-Length: ${10 * limits.bodyBytes}`] }],
      [431, { line: 'GET /cache HTTP/1.1', headers: Array.from({ length: limits.headers }, (_, at) => `X-${at}: x`) }],
    ])('lets the configured origins read a refusal: %i', async (status, request) => {
      const headers = [
        ...('headers' in request ? request.headers : []),
        `Origin: ${shop}`,
        'Content-Type: application/json',
      ];
      const answer = await exchange(doors.urls[name], { ...request, headers });
      expect([answer.status, answer.headers.get('access-control-allow-origin')]).toEqual([status, shop]);
      expect(answer.headers.get('access-control-expose-headers')).toContain('Retry-After');
    });

    it('answers CORS preflights of the configured origins without authentication', async () => {
      for (const path of ['/cache', '/orders', '/orders/1/cancel', '/nothing', `/problems/${'x'.repeat(2_000)}`]) {
        const headers = {
          origin: shop,
          'access-control-request-method': 'POST',
          'access-control-request-headers': 'x',
        };
        const answer = await api().send('OPTIONS', path, { headers });
        expect([path, answer.status, answer.text]).toEqual([path, 204, '']);
        expect(answer.headers.get('access-control-allow-origin')).toBe(shop);
        expect(answer.headers.get('access-control-allow-methods')).toContain('PATCH');
        for (const field of ['Authorization', 'Idempotency-Key', 'If-Match'])
          expect(answer.headers.get('access-control-allow-headers')).toContain(field);
      }
    });

    it.each([
      'https://evil.example',
      `${shop}.evil.example`,
      'https://SHOP.example',
      `${shop}:443`,
      'null',
      'http://shop.example',
    ])('refuses requests and preflights from the origin %s', async (origin) => {
      const headers = { origin, 'sec-fetch-site': 'cross-site' };
      const answer = await api().send('GET', '/cache?key=x', { headers });
      refused(answer, '403 forbidden');
      const preflight = { ...headers, 'access-control-request-method': 'GET' };
      const asked = await api().send('OPTIONS', '/cache', { headers: preflight });
      expect(asked.status).not.toBe(204);
      for (const it of [answer, asked]) {
        expect(it.headers.get('access-control-allow-origin')).toBeNull();
        expect(it.headers.get('vary')).toBe('Origin');
      }
    });

    it.each([
      'evil.example',
      'evil.example:3000',
      '0.0.0.0:3000',
      '127.0.0.1.evil.example',
      '[::ffff:7f00:1]',
      '192.168.0.1',
      'a@127.0.0.1',
      '',
    ])('answers 421 for the Host header %j', async (host) => {
      const received = await askingFor(doors.urls[name], host);
      expect(received).toMatch(/^HTTP\/1.1 421 /);
      expect(bodyOf(received)).toMatchObject({
        code: 'misdirected-request',
        detail: expect.stringContaining('ADMIN_KEY'),
      });
    });

    it.each(['/metrics', '/health/ready', '/health/live', '/problems/invalid-request'])(
      'answers 421 for %s under a foreign host, but serves it to cross-site links',
      async (path) => {
        for (const method of ['GET', 'HEAD'])
          expect(await askingFor(doors.urls[name], 'evil.example', `${method} ${path} HTTP/1.1`)).toMatch(
            /^HTTP\/1.1 421 /,
          );
        expect(await askingFor(doors.urls[name], 'localhost', `GET ${path} HTTP/1.1`)).toMatch(/^HTTP\/1.1 200 /);
        const headers = { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' };
        expect((await new Api(doors.urls[name]).send('GET', path, { headers })).status).toBe(200);
      },
    );

    it.each(['localhost', 'LOCALHOST:3000', '127.0.0.1', '127.8.9.1:80', '[::1]:3000'])(
      'accepts the loopback host %s',
      async (host) => {
        expect(await askingFor(doors.urls[name], host)).toMatch(/^HTTP\/1.1 404 /);
      },
    );
  });

  it('lets the configured origins read that a service behind the gateway is unavailable', async () => {
    const answer = await new Api(doors.urls.gateway).send('GET', '/orders', { headers: { origin: shop } });
    refused(answer, '503 unavailable');
    expect(answer.headers.get('access-control-allow-origin')).toBe(shop);
  });
});

describe('without CORS_ORIGINS and HSTS_SECONDS', () => {
  let doors: Doors;
  beforeAll(async () => {
    doors = await startDoors({ ADMIN_KEY: 'x'.repeat(40), SERVICE_SECRET: 'y'.repeat(40) });
  });
  afterAll(() => doors.stop());

  it.each(doorNames)('the %s sends no CORS or HSTS headers, and with ADMIN_KEY accepts any Host', async (name) => {
    const headers = { origin: shop, 'access-control-request-method': 'GET', authorization: `Bearer ${'x'.repeat(40)}` };
    for (const method of ['GET', 'OPTIONS']) {
      const answer = await new Api(doors.urls[name]).send(method, '/cache/stats', { headers });
      expect(answer.status).not.toBe(204);
      for (const field of answer.headers.keys()) expect(field).not.toMatch(/^access-control-|^vary$|^strict-transport/);
    }
    expect(await askingFor(doors.urls[name], 'shop.example')).toMatch(/^HTTP\/1.1 401 /);
  });
});
