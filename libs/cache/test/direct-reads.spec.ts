import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger, type NestInterceptor } from '@nestjs/common';
import { APP_INTERCEPTOR } from '@nestjs/core';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { CacheModule } from '#cache';
import { createService } from '#service';
import { Authenticator, keyTextOf, secretHashOf, type KeyDirectory, type KnownKey } from '#security';
import { samplesIn } from '#testing';
import type { Scope } from '#contracts';

Logger.overrideLogger(false);

const requestsPerHour = 5;

/** The key with this id and number, which may do what the scopes say. */
const keyOf = (number: number): { id: string; secret: string; text: string } => {
  const digits = number.toString(16);
  const [id, secret] = [`00000000-0000-4000-8000-${digits.padStart(12, '0')}`, digits.padStart(64, '0')];
  return { id, secret, text: keyTextOf(id, secret) };
};
const limited = keyOf(1);
const writer = keyOf(2);

const known = (number: number, ...scopes: Scope[]): [string, KnownKey] => {
  const { id, secret } = keyOf(number);
  const caller = { tenant: 'default', account: `a-${number}`, scopes: new Set(scopes), keyId: id, keyFamily: id };
  return [id, { caller, secretHash: secretHashOf(secret), validForMs: null }];
};

/** Every reader has its own count of requests. */
const firstReader = 100;
const readers = 200;
const keys = new Map([
  known(1, 'cache:read'),
  known(2, 'cache:write'),
  ...Array.from({ length: readers }, (_, at) => known(firstReader + at, 'cache:read')),
]);

const directory = (): KeyDirectory => ({
  find: (id) => Promise.resolve(keys.get(id)),
  hears: true,
  onChange: () => undefined,
});

interface Running {
  app: NestFastifyApplication;
  port: number;
}

const start = async (...more: { provide: string; useValue: unknown }[]): Promise<Running> => {
  const app = await createService({
    ...{ name: 'cache', HOST: '127.0.0.1', PORT: 0, ADMIN_KEY: ['the-admin-key-of-this-test-is-long-enough'] },
    ...{ RATE_LIMIT: { requests: requestsPerHour, perSeconds: 3_600 }, CORS_ORIGINS: ['https://shop.example'] },
    document: { title: 'Cache', description: '' },
    modules: [CacheModule.register({ CACHE_MAX_BYTES: 8_388_608 }), { module: class {}, providers: more }],
  });
  await app.listen(0, '127.0.0.1');
  app.get(Authenticator, { strict: false }).useKeys(directory());
  const { port } = app.getHttpServer().address() as AddressInfo;
  const url = `http://127.0.0.1:${port}/cache`;
  const headers = { authorization: `Bearer ${writer.text}`, 'content-type': 'application/json' };
  for (const put of [
    [
      { key: 'text', value: 'a text' },
      { key: 'null', value: null },
      { key: 'ä & b', value: { size: 3 } },
    ],
    [],
  ])
    await fetch(`${url}/batch`, { method: 'POST', headers, body: JSON.stringify({ put }) });
  const other = JSON.stringify({ namespace: 'other', put: [{ key: 'text', value: 'another text' }] });
  await fetch(`${url}/batch`, { method: 'POST', headers, body: other });
  return { app, port };
};

let direct: Running;
/** The same, with an interceptor that does nothing, so that Nest calls each handler. */
let byNest: Running;
beforeAll(async () => {
  const passing: NestInterceptor = { intercept: (_context, next) => next.handle() };
  direct = await start();
  byNest = await start({ provide: APP_INTERCEPTOR, useValue: passing });
});
afterAll(() => Promise.all([direct.app.close(), byNest.app.close()]));

/** Sends the bytes and reads until the server closes the connection. */
const exchange = async ({ port }: Running, request: string): Promise<string> => {
  const socket = connect(port, '127.0.0.1');
  let answer = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => void (answer += chunk));
  socket.on('error', () => socket.destroy());
  await once(socket, 'connect');
  socket.write(request);
  await once(socket, 'close');
  return answer;
};

/** Without what differs between two processes or two moments. */
const comparable = (answer: string): string =>
  answer
    .replaceAll(/^date: .*$/gim, 'date')
    .replaceAll(/^etag: "[^"]+"$/gim, 'etag')
    .replaceAll(/^ratelimit: "caller";r=(\d+);t=\d+$/gim, 'ratelimit $1')
    .replaceAll(/^retry-after: 3\d{3}$/gim, 'retry-after')
    .replaceAll(/"retry_after_ms":\d+/g, 'retry_after_ms')
    .replaceAll(/^x-request-id: [\da-f-]{36}$/gim, 'x-request-id');

const get = (target: string, ...headers: string[]): string =>
  [`GET ${target} HTTP/1.1`, 'Host: localhost', ...headers, 'Connection: close', '', ''].join('\r\n');

let used = 0;
/** The header of a reader whose count has not begun yet. */
const fresh = (): string => {
  used += 1;
  return `Authorization: Bearer ${keyOf(firstReader + used).text}`;
};

/** What a client sees is the same for both. */
const bothAnswer = async (request: string): Promise<string> => {
  const answers = [await exchange(direct, request), await exchange(byNest, request)].map(comparable);
  expect(answers[0]).toBe(answers[1]);
  return answers[0]!;
};

describe('GET /cache, called directly and by Nest,', () => {
  it.each([
    ['a hit', '/cache?key=text', 200, '{"value":"a text"}'],
    ['a cached null', '/cache?key=null', 200, '{"value":null}'],
    ['an encoded key', '/cache?key=%C3%A4%20%26%20b', 200, '{"value":{"size":3}}'],
    ['a plus sign', '/cache?key=%C3%A4+%26+b', 200, '{"value":{"size":3}}'],
    ['the namespace by its name', '/cache?key=text&namespace=default', 200, '{"value":"a text"}'],
    ['another namespace', '/cache?key=text&namespace=other', 200, '{"value":"another text"}'],
    ['a miss', '/cache?key=nothing', 404, '{"error":"key not found"}'],
    ['a miss in another namespace', '/cache?key=null&namespace=other', 404, '{"error":"key not found"}'],
    ['an absolute target', 'http://localhost/cache?key=text', 200, '{"value":"a text"}'],
    ['a fragment', '/cache?key=text#part', 200, '{"value":"a text"}'],
    ['no query', '/cache', 400, '"path":"key"'],
    ['an empty key', '/cache?key=', 400, '"path":"key"'],
    ['a repeated key', '/cache?key=text&key=null', 400, 'is given more than once'],
    ['an unknown member', '/cache?key=text&ttl=3', 400, '"path":"ttl"'],
    ['several faults', '/cache?namespace=&ttl=3', 400, 'and 2 more'],
    ['an empty namespace', '/cache?key=text&namespace=', 400, '"path":"namespace"'],
    ['a key that is too long', `/cache?key=${'k'.repeat(3_000)}`, 400, '"path":"key"'],
    ['a key with a NUL', '/cache?key=a%00b', 404, '{"error":"key not found"}'],
    ['a percent sign alone', '/cache?key=%', 400, 'percent sign'],
    ['bytes that are not UTF-8', '/cache?key=%ff', 400, 'percent sign'],
    ['a slash at the end', '/cache/?key=text', 404, '"code":"not-found"'],
    ['a target without a slash', '*cache?key=text', 404, '"code":"not-found"'],
  ])('answers %s alike', async (_, target, status, part) => {
    const answer = await bothAnswer(get(target, fresh()));
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(answer).toContain(part);
  });

  it.each([
    ['an id of the request', ['X-Request-Id: a-request'], 'x-request-id: a-request'],
    ['an id that is not accepted', ['X-Request-Id: a request'], 'x-request-id'],
    ['an id sent twice', ['X-Request-Id: a', 'X-Request-Id: b'], 'x-request-id'],
    ['an origin whose pages may read', ['Origin: https://shop.example'], 'access-control-allow-origin'],
    ['a foreign origin', ['Origin: https://other.example'], 'vary: Origin'],
    ['a trace', ['Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'], '200 OK'],
    ['If-None-Match with another version', ['If-None-Match: "other"'], '{"value":"a text"}'],
    ['If-None-Match: *', ['If-None-Match: *'], '304 Not Modified'],
    ['a malformed If-None-Match', ['If-None-Match: other'], '{"value":"a text"}'],
    ['a body', ['Content-Length: 2\r\nX-Rest: 1'], '{"value":"a text"}'],
    ['a content coding without a body', ['Content-Encoding: gzip'], '{"value":"a text"}'],
    ['a media type without a body', ['Content-Type: application/json'], '{"value":"a text"}'],
    ['a repeated Authorization', [`Authorization: Bearer ${limited.text}`], 'must be sent only once'],
    ['a repeated Host', ['Host: other'], 'must be sent only once'],
    ['a Connection that names Host', ['Connection: Host'], 'must not name Host'],
    ['an Expect', ['Expect: something'], '417'],
    ['a page of another site', ['Sec-Fetch-Site: cross-site'], '{"value":"a text"}'],
  ])('treats %s alike', async (_, headers, part) => {
    const body = headers[0]!.startsWith('Content-Length') ? '{}' : '';
    expect(await bothAnswer(get('/cache?key=text', fresh(), ...headers) + body)).toContain(part);
  });

  it('answers 304 alike to the version that the client has', async () => {
    for (const it of [direct, byNest]) {
      const etag = /^etag: (.*)$/im.exec(await exchange(it, get('/cache?key=text', fresh())))![1]!;
      for (const tags of [etag, `W/${etag}`, `"a", ${etag}`]) {
        const answer = comparable(await exchange(it, get('/cache?key=text', fresh(), `If-None-Match: ${tags}`)));
        expect(answer).toMatch(/^HTTP\/1.1 304 Not Modified\r\n/);
        expect(answer).toMatch(/\r\n\r\n$/);
        expect(answer).toContain('\r\netag\r\n');
        expect(answer).not.toMatch(/content-length/i);
      }
    }
  });

  it('answers HEAD alike: with the header of GET, and without a body', async () => {
    for (const target of ['/cache?key=text', '/cache?key=nothing', '/cache?key=']) {
      const inGet = await bothAnswer(get(target, fresh()));
      const inHead = await bothAnswer(get(target, fresh()).replace('GET', 'HEAD'));
      expect(inHead).toBe(inGet.slice(0, inGet.indexOf('\r\n\r\n') + 4));
    }
    const unchanged = get('/cache?key=text', fresh(), 'If-None-Match: *').replace('GET', 'HEAD');
    expect(await bothAnswer(unchanged)).toMatch(/^HTTP\/1.1 304 /);
  });

  it.each([
    ['no credential', [], 401],
    ['an unknown key', [`Authorization: Bearer ${keyOf(9_999).text}`], 401],
    ['a key with another secret', [`Authorization: Bearer ${keyTextOf(keyOf(1).id, 'f'.repeat(64))}`], 401],
    ['another scheme', ['Authorization: Basic YTpi'], 401],
    ['a signed caller without a secret', ['Cleave-Caller: x.1.y'], 401],
    ['a key without the scope', [`Authorization: Bearer ${writer.text}`], 403],
    ['the ADMIN_KEY', ['Authorization: Bearer the-admin-key-of-this-test-is-long-enough'], 403],
  ])('refuses %s alike', async (_, headers, status) => {
    const answer = await bothAnswer(get('/cache?key=text', ...headers));
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(answer).toMatch(/^www-authenticate: Bearer/im);
  });

  it('refuses HTTP/1.1 without a Host alike, and answers HTTP/1.0 without one', async () => {
    const bare = (version: string): string =>
      `GET /cache?key=text HTTP/${version}\r\n${fresh()}\r\nconnection: close\r\n\r\n`;
    expect(await bothAnswer(bare('1.1'))).toContain('must have a header Host');
    expect(await bothAnswer(bare('1.0'))).toContain('{"value":"a text"}');
  });

  it('refuses alike what is over the rate limit', async () => {
    const ask = () => bothAnswer(get('/cache?key=text', `Authorization: Bearer ${limited.text}`));
    for (let left = requestsPerHour - 1; left >= 0; left -= 1) expect(await ask()).toContain(`ratelimit ${left}`);
    const refused = await ask();
    expect(refused).toMatch(/^HTTP\/1.1 429 /);
    expect(refused).toContain('"code":"too-many-requests"');
  });

  it('answers pipelined requests alike, in their order', async () => {
    const [one, other] = [fresh(), fresh()];
    const open = (target: string, reader: string): string =>
      get(target, reader).replace('Connection: close', 'Connection: keep-alive');
    const all = open('/cache?key=text', one) + open('/cache?key=nothing', one) + get('/cache?key=null', other);
    const answer = await bothAnswer(all);
    expect([...answer.matchAll(/HTTP\/1.1 (\d+)/g)].map(([, it]) => it)).toEqual(['200', '404', '200']);
  });

  it('is measured alike', async () => {
    const counted = async ({ app }: Running): Promise<Record<string, number>> => {
      const text = await (await fetch(`${await app.getUrl()}/metrics`)).text();
      const isCompared =
        /^(?:http_server_request_duration_seconds_count|admission_(?:shed_total|in_flight)|cache_reads)/;
      return Object.fromEntries([...samplesIn(text)].filter(([name]) => isCompared.test(name)));
    };
    const of = await counted(direct);
    expect(of).toEqual(await counted(byNest));
    const hits = Object.entries(of).find(([name]) =>
      name.includes('http_response_status_code="200",http_route="/cache"'),
    );
    expect(hits?.[1]).toBeGreaterThan(20);
  });
});
