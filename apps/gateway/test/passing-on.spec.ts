import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { CacheModule } from '#cache';
import { limits } from '#contracts';
import { createService } from '#service';
import {
  allAt,
  jsonAnswer,
  raw,
  requestBytes,
  startGateway,
  startUpstream,
  type FakeUpstream,
  type RunningGateway,
} from './servers.js';

let order: FakeUpstream;
let inventory: FakeUpstream;
let payment: FakeUpstream;
let gateway: RunningGateway;
/** A real service, so that its refusals can be compared with those that come through the gateway. */
let cache: { url: string; close(): Promise<void> };

const startCache = async (): Promise<typeof cache> => {
  const app = await createService({
    name: 'cache',
    HOST: '127.0.0.1',
    PORT: 0,
    document: { title: 'Cache', description: '' },
    modules: [CacheModule.register({ CACHE_MAX_BYTES: 1_048_576 })],
  });
  await app.listen(0, '127.0.0.1');
  return { url: await app.getUrl(), close: () => app.close() };
};

beforeAll(async () => {
  [order, inventory, payment, cache] = await Promise.all([
    startUpstream(),
    startUpstream(),
    startUpstream(),
    startCache(),
  ]);
  gateway = await startGateway({
    order: order.url,
    inventory: inventory.url,
    cache: cache.url,
    payment: payment.url,
    sales: payment.url,
    webhooks: payment.url,
  });
});

afterAll(async () => {
  await gateway.close();
  await Promise.all([order.stop(), inventory.stop(), payment.stop(), cache.close()]);
});

beforeEach(() => {
  for (const upstream of [order, inventory, payment]) {
    upstream.received.length = 0;
    upstream.answer = (_request, response) => jsonAnswer(response, 200, {});
  }
});

describe('the route table', () => {
  it.each([
    ['/orders', () => order],
    ['/orders/1/history', () => order],
    ['/order', () => order],
    ['/products', () => inventory],
    ['/products/a%20b', () => inventory],
    ['/stock/batch', () => inventory],
    ['/payments/webhooks/stripe', () => payment],
    ['/sales/views', () => payment],
    ['/webhook-endpoints/1/test', () => payment],
    ['/webhook-deliveries/1', () => payment],
  ])('sends %s to its service', async (path, upstream) => {
    await fetch(gateway.url + path);
    expect(upstream().received.map(({ url }) => url)).toEqual([path]);
  });

  it.each(['/ordersx', '/nothing', '/orders.json'])('answers %s with 404 itself', async (path) => {
    const answer = await fetch(gateway.url + path);
    expect(answer.status).toBe(404);
    expect(answer.headers.get('content-type')).toContain('application/problem+json');
    expect(await answer.json()).toMatchObject({ code: 'not-found', status: 404 });
    expect([...order.received, ...inventory.received]).toEqual([]);
  });
});

describe('a request', () => {
  it.each([
    ['/orders?a=1&a=2&b=%00&c=a+b&d=a%20b&e=%C3%A4%F0%9F%98%80&f&g=&=h&&i=%26%3D%3F#'.replace('#', '')],
    ['/orders?x=?&y=a/b'],
    ['/orders?'],
    ['/orders/a%2Fb%20c%C3%A4%00?q=1'],
    ['/orders/'],
    ['/orders/%E2%82%AC/%25'],
    ['/orders/a..b/.c/d..e'],
  ])('keeps its URL: %s', async (path) => {
    await raw(gateway.url, requestBytes(`GET ${path}`));
    expect(order.received.map(({ url }) => url)).toEqual([path]);
  });

  it('can have a backslash in its URL, which is encoded', async () => {
    await raw(gateway.url, requestBytes('GET /orders/a\\b'));
    expect(order.received.map(({ url }) => url)).toEqual(['/orders/a%5Cb']);
  });

  it.each(['/orders/../stock', '/orders/.', '/orders/%2e/a', '/orders/a%2F..%2Fb', '/orders/..%5Cb', '/orders/..a'])(
    'is refused if its path has dot segments, also encoded, or a segment that begins with two dots: %s',
    async (path) => {
      const answer = await raw(gateway.url, requestBytes(`GET ${path}`));
      expect(answer.status).toBe(400);
      expect(JSON.parse(answer.body)).toMatchObject({ code: 'invalid-request', detail: expect.stringContaining('..') });
      expect([...order.received, ...inventory.received]).toEqual([]);
    },
  );

  it.each([
    ['/orders/a#%zz', '/orders/a'],
    ['/orders?a=1#b?c', '/orders?a=1'],
    ['/orders#/../metrics', '/orders'],
  ])('loses its fragment: %s', async (path, passed) => {
    const answer = await raw(gateway.url, requestBytes(`GET ${path}`));
    expect([answer.status, ...order.received.map(({ url }) => url)]).toEqual([200, passed]);
  });

  it.each(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE'])(
    'keeps its method: %s',
    async (method) => {
      await raw(gateway.url, requestBytes(`${method} /orders`));
      expect(order.received.map((it) => it.method)).toEqual([method]);
    },
  );

  it.each([
    ['unusual JSON', 'application/json', Buffer.from('{ "a" :\n1.0, "a": 2, "\\u00e4": 1e400 }')],
    ['JSON with parameters', 'application/json; charset=utf-8', Buffer.from('{}')],
    ['invalid JSON', 'application/json', Buffer.from('{"a":')],
    ['invalid UTF-8', 'application/json', Buffer.from([0x22, 0xff, 0xc3, 0x22])],
    ['another type', 'text/plain; charset=latin1', Buffer.from('hello')],
    ['bytes', 'application/octet-stream', Buffer.from([0, 1, 2, 255])],
  ])('keeps its body: %s', async (_name, type, body) => {
    await raw(
      gateway.url,
      requestBytes('POST /orders', [`content-type: ${type}`, `content-length: ${body.length}`], body),
    );
    expect(order.received).toHaveLength(1);
    expect(order.received[0]!.body.equals(body)).toBe(true);
    expect(order.received[0]!.headers).toMatchObject({ 'content-type': type, 'content-length': String(body.length) });
  });

  it('keeps a body without a content type, and a chunked one', async () => {
    await raw(gateway.url, requestBytes('POST /orders', ['content-length: 2'], '{}'));
    const chunked = ['transfer-encoding: chunked', 'content-type: application/json'];
    await raw(gateway.url, requestBytes('PUT /orders', chunked, '1\r\n{\r\n1\r\n}\r\n0\r\n\r\n'));
    expect(order.received.map(({ body }) => body.toString())).toEqual(['{}', '{}']);
    expect(order.received[0]!.headers['content-type']).toBeUndefined();
  });

  it('loses its body if the method has none', async () => {
    await raw(gateway.url, requestBytes('GET /orders', ['content-type: application/json', 'content-length: 2'], '{}'));
    expect(order.received).toHaveLength(1);
    expect(order.received[0]!.headers['content-length']).toBeUndefined();
  });

  it('keeps its header fields, except hop-by-hop ones', async () => {
    const kept = { 'idempotency-key': '"k,1"', 'if-match': '"v1"', 'x-request-id': 'r-1', accept: 'application/json' };
    const dropped = ['keep-alive: timeout=5', 'te: trailers', 'proxy-authorization: Basic eDp5', 'x-secret: 1'];
    const fields = Object.entries(kept).map(([name, value]) => `${name}: ${value}`);
    const bytes = requestBytes('GET /orders', [...fields, ...dropped]).toString();
    await raw(gateway.url, Buffer.from(bytes.replace('connection: close', 'connection: close, x-secret')));
    const [{ headers }] = order.received as [(typeof order.received)[0]];
    expect(headers).toMatchObject(kept);
    expect(Object.keys(headers)).not.toEqual(
      expect.arrayContaining([expect.stringMatching(/^(keep-alive|te|proxy-authorization|x-secret)$/)]),
    );
  });

  it.each(['idempotency-key', 'If-Match, close', 'Content-Type', 'X-Forwarded-For', 'close,cleave-caller'])(
    'is refused if its Connection field names a field that must not be dropped: %s',
    async (named) => {
      const bytes = requestBytes('POST /orders', ['idempotency-key: "k"']).toString();
      const answer = await raw(gateway.url, Buffer.from(bytes.replace('connection: close', `connection: ${named}`)));
      expect([answer.status, JSON.parse(answer.body)]).toMatchObject([400, { code: 'invalid-request' }]);
      expect(order.received).toEqual([]);
    },
  );

  it('cannot inject header fields into the forwarded request', async () => {
    for (const value of ['a%0d%0ax-evil: 1', 'a\\r\\nx-evil: 1', '"a"; x-evil: 1', '\u00e4\u0085x-evil: 1']) {
      order.received.length = 0;
      await raw(gateway.url, requestBytes(`GET /orders?a=${encodeURIComponent(value)}`, [`x-own: ${value}`]));
      expect(order.received).toHaveLength(1);
      expect(order.received[0]!.headers['x-evil']).toBeUndefined();
      expect(order.received[0]!.headers['x-own']).toBe(value);
    }
    await raw(gateway.url, requestBytes('GET /orders', ['x-own: a\rx-evil: 1']));
    expect(order.received).toHaveLength(1);
  });

  it('is forwarded with X-Forwarded-For, -Host and -Proto', async () => {
    await raw(gateway.url, requestBytes('GET /orders'));
    await raw(gateway.url, requestBytes('GET /orders', ['x-forwarded-for: 10.1.1.1', 'x-forwarded-proto: https']));
    expect(order.received[0]!.headers).toMatchObject({
      host: new URL(order.url).host,
      'x-forwarded-for': '127.0.0.1',
      'x-forwarded-host': 'localhost',
      'x-forwarded-proto': 'http',
    });
    expect(order.received[1]!.headers).toMatchObject({
      'x-forwarded-for': '10.1.1.1, 127.0.0.1',
      'x-forwarded-proto': 'https',
    });
  });

  it('loses a request to upgrade', async () => {
    const bytes = requestBytes('GET /orders', ['upgrade: websocket']).toString();
    await raw(gateway.url, Buffer.from(bytes.replace('connection: close', 'connection: close, upgrade')));
    expect(order.received).toHaveLength(1);
    expect(order.received[0]!.headers.upgrade).toBeUndefined();
  });

  it('gets 100 Continue if it expects that', async () => {
    const socket = connect(gateway.port, '127.0.0.1').setEncoding('utf8');
    const fields = ['expect: 100-continue', 'content-type: application/json', 'content-length: 2'];
    socket.write(requestBytes('POST /orders', fields));
    const [interim] = (await once(socket, 'data')) as [string];
    expect(interim).toMatch(/^HTTP\/1.1 100 /);
    socket.write('{}');
    const [answer] = (await once(socket, 'data')) as [string];
    expect(answer).toMatch(/^HTTP\/1.1 200 /);
    socket.destroy();
    expect(order.received.map(({ body }) => body.toString())).toEqual(['{}']);
  });
});

describe('an answer', () => {
  it('keeps its status, header fields and body', async () => {
    const headers = {
      'content-type': 'application/json; charset=utf-8',
      location: '/orders/1',
      etag: '"v1"',
      'idempotent-replayed': 'true',
      'retry-after': '7',
      'set-cookie': ['a=1', 'b=2'],
      'x-own': 'ä',
    };
    order.answer = (_request, response) => void response.writeHead(201, headers).end('{"ok": true }');
    const answer = await fetch(`${gateway.url}/order`, { method: 'POST' });
    expect(answer.status).toBe(201);
    for (const [name, value] of Object.entries(headers))
      expect(answer.headers.get(name)).toBe([value].flat().join(', '));
    expect(await answer.text()).toBe('{"ok": true }');
  });

  it.each([204, 304, 404, 418, 500, 502, 503])('with the status %i is passed on, without a retry', async (status) => {
    order.answer = (_request, response) => void response.writeHead(status, { etag: '"v1"' }).end();
    const answer = await fetch(`${gateway.url}/orders/1`);
    expect([answer.status, answer.headers.get('etag')]).toEqual([status, '"v1"']);
    // A service's refusal is not retried.
    expect(order.received).toHaveLength(1);
  });

  it('with the status 304 keeps the Content-Length of the answer that was not sent, and does not break the connection', async () => {
    order.answer = (_request, response) =>
      void response.writeHead(304, { etag: '"v1"', 'content-length': '1234' }).end();
    const request = requestBytes('GET /orders/1').toString().replace('connection: close\r\n', '');
    const answer = await raw(gateway.url, Buffer.concat([Buffer.from(request), requestBytes('GET /orders/2')]));
    expect([answer.status, answer.headers['etag'], answer.headers['content-length']]).toEqual([304, '"v1"', '1234']);
    expect(answer.body).toMatch(/^HTTP\/1.1 304 /);
  });

  it('to HEAD keeps its Content-Length', async () => {
    order.answer = (_request, response) => void response.writeHead(200, { 'content-length': '1234' }).end();
    const answer = await fetch(`${gateway.url}/orders/1`, { method: 'HEAD' });
    expect(answer.headers.get('content-length')).toBe('1234');
  });

  it('loses its hop-by-hop header fields', async () => {
    order.answer = (_request, response) =>
      void response.writeHead(200, { connection: 'close, x-hop', 'x-hop': '1', 'keep-alive': 'timeout=3' }).end('{}');
    const answer = await fetch(`${gateway.url}/orders`);
    expect(answer.headers.get('x-hop')).toBeNull();
    expect(answer.headers.get('connection')).toBe('keep-alive');
    expect(answer.headers.get('keep-alive')).not.toBe('timeout=3');
  });

  it('loses the CORS headers of the service', async () => {
    const headers = {
      'access-control-allow-origin': '*',
      'access-control-allow-credentials': 'true',
      'x-frame-options': 'ALLOW',
    };
    order.answer = (_request, response) => void response.writeHead(200, headers).end('{}');
    const answer = await fetch(`${gateway.url}/orders`, { headers: { origin: 'https://shop.example' } });
    expect([...answer.headers.keys()].filter((it) => it.startsWith('access-control-'))).toEqual([]);
  });

  it('is cancelled at the service if the caller disconnects', async () => {
    const [asked, gone] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    order.answer = (_request, response) => {
      response.once('close', () => gone.resolve());
      asked.resolve();
    };
    const caller = connect(gateway.port, '127.0.0.1');
    caller.write(requestBytes('GET /orders'));
    await asked.promise;
    caller.destroy();
    await gone.promise;
    order.answer = (_request, response) => jsonAnswer(response, 200, {});
    expect((await fetch(`${gateway.url}/orders`)).status).toBe(200);
  });

  it('is cancelled at the service if the caller does not read it', async () => {
    const impatient = await startGateway(allAt(order.url), { HTTP_ANSWER_MS: 500 });
    const { promise: gone, resolve } = Promise.withResolvers<void>();
    let written = 0;
    order.answer = (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      const part = 'x'.repeat(100_000);
      const write = (): void => {
        while (!response.destroyed && response.write(part)) written += part.length;
      };
      response.on('drain', write).once('close', resolve);
      write();
    };
    const socket = connect(impatient.port, '127.0.0.1').pause();
    socket.write(requestBytes('GET /events'));
    await gone;
    expect(written).toBeLessThan(64_000_000);
    socket.destroy();
    await impatient.close();
  });

  it('is streamed', async () => {
    const { promise: goOn, resolve } = Promise.withResolvers<void>();
    order.answer = async (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n');
      await goOn;
      response.end('data: 2\n\n');
    };
    const answer = await fetch(`${gateway.url}/orders`);
    const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
    expect((await reader.read()).value).toBe('data: 1\n\n');
    resolve();
    expect((await reader.read()).value).toBe('data: 2\n\n');
  });

  it('that breaks off does not appear complete', async () => {
    order.answer = (_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.write('{"half":', () => response.destroy());
    };
    const answer = await fetch(`${gateway.url}/orders`);
    await expect(answer.text()).rejects.toThrow();
  });
});

describe('the answer through the gateway equals that of the service', () => {
  const json = 'content-type: application/json';
  const sized = (body: Buffer | string): string => `content-length: ${Buffer.byteLength(body)}`;
  const tooLarge = Buffer.alloc(limits.bodyBytes + 1, 0x20);
  const notUtf8 = Buffer.concat([Buffer.from('{"key":"'), Buffer.from([0xff]), Buffer.from('","value":1}')]);
  const chunked = (body: Buffer): Buffer =>
    Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from('\r\n0\r\n\r\n')]);
  const deep = `{"key":"k","value":${'['.repeat(64)}${']'.repeat(64)}}`;

  it.each<[string, number, Buffer]>([
    [
      'a value',
      200,
      requestBytes('PUT /cache', [json, sized('{"key":"a b+ä","value":1}')], '{"key":"a b+ä","value":1}'),
    ],
    ['a hit', 200, requestBytes('GET /cache?key=a+b%2B%C3%A4')],
    ['a miss', 404, requestBytes('GET /cache?key=nothing')],
    ['a key with NUL', 404, requestBytes('GET /cache?key=%00')],
    ['a key that is repeated', 400, requestBytes('GET /cache?key=a&key=b')],
    ['a key that is missing', 400, requestBytes('GET /cache')],
    ['a query that cannot be decoded', 400, requestBytes('GET /cache?key=%ff')],
    ['a path that cannot be decoded', 400, requestBytes('GET /cache/%zz')],
    ['an unknown path below it', 404, requestBytes('GET /cache/unknown')],
    ['a method that is not answered', 405, requestBytes('PATCH /cache')],
    ['the method TRACE', 405, requestBytes('TRACE /cache')],
    ['invalid UTF-8', 400, requestBytes('PUT /cache', [json, sized(notUtf8)], notUtf8)],
    ['invalid JSON', 400, requestBytes('PUT /cache', [json, sized('{"key":')], '{"key":')],
    ['deep JSON', 400, requestBytes('PUT /cache', [json, sized(deep)], deep)],
    ['no body', 400, requestBytes('PUT /cache', [json, 'content-length: 0'])],
    ['another type', 415, requestBytes('PUT /cache', ['content-type: text/plain', sized('{}')], '{}')],
    ['no type', 415, requestBytes('PUT /cache', [sized('{}')], '{}')],
    ['another charset', 415, requestBytes('PUT /cache', [`${json}; charset=latin1`, sized('{}')], '{}')],
    ['an invalid type', 415, requestBytes('PUT /cache', ['content-type: json', sized('{}')], '{}')],
    ['a large body', 413, requestBytes('PUT /cache', [json, sized(tooLarge)], tooLarge)],
    ['a large body announced', 413, requestBytes('PUT /cache', [json, sized(tooLarge)])],
    [
      'a large body in chunks',
      413,
      requestBytes('PUT /cache', [json, 'transfer-encoding: chunked'], chunked(tooLarge)),
    ],
  ])('%s: %i', async (_name, status, bytes) => {
    const direct = await raw(cache.url, bytes);
    const passed = await raw(gateway.url, bytes);
    expect(direct.status).toBe(status);
    const comparable = ({ status, headers, body }: typeof direct) => ({
      status,
      type: headers['content-type'],
      allow: headers['allow'],
      // The version of an entry changes with every write.
      body: body.replaceAll(/"version":"[^"]*"/g, ''),
    });
    expect(comparable(passed)).toEqual(comparable(direct));
  });
});
