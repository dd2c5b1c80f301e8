import { once } from 'node:events';
import { Agent, request, type IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { changed, raw, startApp, type AppUnderTest } from './app-under-test.js';

let here: AppUnderTest;
beforeAll(async () => void (here = await startApp({ bodyLimitBytes: 4_096 })));
afterAll(() => here.app.close());

const post = (body: RequestInit['body'], headers: Record<string, string> = { 'content-type': 'application/json' }) =>
  fetch(`${here.url}/things`, {
    method: 'POST',
    body,
    headers,
    ...(body instanceof ReadableStream && { duplex: 'half' }),
  });

/** Checks what every problem document has, and returns the rest. */
const problem = async (response: Response, status: number, code: string): Promise<Record<string, unknown>> => {
  const body = (await response.json()) as Record<string, unknown>;
  expect({ status: response.status, code: body.code }).toEqual({ status, code });
  expect(response.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(response.headers.get('x-content-type-options')).toBe('nosniff');
  expect(body).toMatchObject({
    type: `/problems/${code}`,
    status,
    title: expect.any(String),
    detail: expect.any(String),
  });
  return body;
};

const pathsOf = (body: Record<string, unknown>): string[] =>
  (body.faults as { path: string }[]).map(({ path }) => path);

describe('a body', () => {
  it('is read as JSON, also with a charset or a byte order mark', async () => {
    for (const type of ['application/json', 'application/json; charset=utf-8', 'APPLICATION/JSON;Charset="UTF-8"']) {
      expect((await post('{"name":"ä"}', { 'content-type': type })).status).toBe(201);
    }
    expect((await post('\ufeff{"name":"a"}')).status).toBe(201);
  });

  it.each([
    ['a wrong type', '{"name":1}', ['name']],
    ['several faults', '{"name":"","size":0.5,"colour":"red"}', ['name', 'size', 'colour']],
    ['a missing member', '{}', ['name']],
    ['an array', '[]', ['']],
    ['null', 'null', ['']],
    ['a text', '"a"', ['']],
  ])('with %s is refused with the path of each fault', async (_, body, paths) => {
    expect(pathsOf(await problem(await post(body), 400, 'invalid-request'))).toEqual(paths);
  });

  it.each(['{', '{"name":tru}', '{"name":"a"} x', '{name:1}', '{"name":"\u0001"}', "{'name':1}"])(
    'that is not JSON is refused: %s',
    async (body) => {
      const { detail } = await problem(await post(body), 400, 'invalid-request');
      expect(detail).toMatch(/^The body is not valid JSON: .*(position \d+|Unexpected token '.'|Unexpected end)/);
    },
  );

  it('with invalid UTF-8 is refused', async () => {
    const body = Buffer.concat([Buffer.from('{"name":"'), Buffer.from([0xff, 0xfe]), Buffer.from('"}')]);
    expect((await problem(await post(body), 400, 'invalid-request')).detail).toContain('UTF-8');
  });

  it('with keys that could pollute a prototype is refused with their path', async () => {
    const refused = [
      ['{"name":"a","__proto__":{"x":1}}', '__proto__'],
      ['{"name":"a","data":[{"\\u005f_proto__":1}]}', 'data.0.__proto__'],
      ['{"name":"a","data":{"constructor":{"prototype":{}}}}', 'data.constructor.prototype'],
    ] as const;
    for (const [body, path] of refused) {
      expect(pathsOf(await problem(await post(body), 400, 'invalid-request'))).toEqual([path]);
    }
    const harmless = '{"name":"__proto__ and \\u005f","data":{"constructor":"Smith","prototype":1}}';
    expect((await post(harmless)).status).toBe(201);
  });

  it('with an integer that would lose precision is refused with its path', async () => {
    const refused = [
      ['{"name":"a","data":{"id":9007199254740993}}', 'data.id'],
      ['{"name":"a","data":[1,"9007199254740993",[-9223372036854775807]]}', 'data.2.0'],
      // Parsed without an error, but serialised as 9223372036854776000.
      ['{"name":"a","data":9223372036854775808}', 'data'],
    ] as const;
    for (const [body, path] of refused) {
      const { detail, ...rest } = await problem(await post(body), 400, 'invalid-request');
      expect([pathsOf(rest), detail]).toEqual([[path], expect.stringContaining('send it as a string')]);
    }
    const numbers =
      '9007199254740991,-9007199254740992,100000000000000000000,1e21,9007199254740993.5,0.12345678901234567890';
    const texts = '"9007199254740993","\\"9007199254740993","\\\\"';
    expect((await post(`{"name":"a","data":[${numbers},${texts}]}`)).status).toBe(201);
  });

  it('nested deeper than the limit is refused before it is parsed; brackets in strings do not count', async () => {
    const nested = (levels: number) => `{"name":"a","data":${'['.repeat(levels)}${']'.repeat(levels)}}`;
    expect((await post(nested(31))).status).toBe(201);
    // The second one would be refused by the parser as well, but with another detail.
    for (const body of [nested(32), '['.repeat(33)]) {
      const { detail } = await problem(await post(body), 400, 'invalid-request');
      expect(detail).toBe('The body is nested deeper than 32 levels.');
    }
    expect((await post(`{"name":"${'['.repeat(100)}\\"{{"}`)).status).toBe(201);
  });

  it('that is too large is refused, by its Content-Length or by what arrives', async () => {
    const body = `{"name":"${'a'.repeat(5_000)}"}`;
    await problem(await post(body), 413, 'payload-too-large');
    await problem(await post(new Blob([body]).stream()), 413, 'payload-too-large');
  });

  it('of another content type, or of none, is refused', async () => {
    const types = ['text/plain', 'application/x-www-form-urlencoded', 'application/merge-patch+json', 'nonsense'];
    for (const type of [...types, 'application/json; charset=latin1', 'multipart/form-data; boundary=x']) {
      await problem(await post('{"name":"a"}', { 'content-type': type }), 415, 'unsupported-media-type');
    }
    const untyped = await raw(
      here.port,
      'POST /things HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 12\r\n\r\n{"name":"a"}',
    );
    expect(untyped).toMatch(/^HTTP\/1\.1 415 /);
  });

  it('may be missing although a media type is given, with a length of 0 or without one', async () => {
    for (const length of ['', 'content-length: 0\r\n', 'transfer-encoding: chunked\r\n']) {
      const end = length.startsWith('transfer') ? '0\r\n\r\n' : '';
      const typed = `host: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n${length}\r\n${end}`;
      const required = await raw(here.port, `POST /things HTTP/1.1\r\n${typed}`);
      expect(required).toContain('a body of type application/json is required');
      const optional = await raw(here.port, `POST /things/1/close HTTP/1.1\r\n${typed}`);
      expect(optional).toContain('{"reason":null}');
      const foreign = await raw(here.port, `POST /things/1/close HTTP/1.1\r\n${typed.replace('json', 'pdf')}`);
      // Whether a chunked body is empty is known only once it is read.
      expect(foreign).toContain(length.startsWith('transfer') ? '"status":415' : '{"reason":null}');
    }
  });

  it('with a content coding is refused with Accept-Encoding: identity', async () => {
    const json = { 'content-type': 'application/json' };
    for (const coding of ['gzip', 'BR', 'identity, gzip']) {
      const response = await post('{"name":"a"}', { ...json, 'content-encoding': coding });
      await problem(response, 415, 'unsupported-media-type');
      expect(response.headers.get('accept-encoding')).toBe('identity');
    }
    expect((await post('{"name":"a"}', { ...json, 'content-encoding': 'Identity' })).status).toBe(201);
    expect((await fetch(`${here.url}/things/1`, { headers: { 'content-encoding': 'gzip' } })).status).toBe(200);
  });

  it('may be missing if the schema requires nothing, and is required otherwise', async () => {
    const close = (init: RequestInit) => fetch(`${here.url}/things/1/close`, { method: 'POST', ...init });
    expect((await close({})).status).toBe(200);
    expect((await close({ headers: { 'content-type': 'application/json' } })).status).toBe(200);
    expect((await close({ headers: { 'content-type': 'text/plain' } })).status).toBe(200);
    expect((await close({ body: '{"reason":"old"}', headers: { 'content-type': 'application/json' } })).status).toBe(
      200,
    );
    expect((await problem(await post(undefined), 400, 'invalid-request')).detail).toContain('body');
    expect((await problem(await post(''), 400, 'invalid-request')).detail).toContain('body');
  });
});

describe('a body with several forms', () => {
  const faultsOf = async (body: unknown) => {
    const response = await fetch(`${here.url}/trials/orders`, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    });
    return response.status === 200 ? [] : pathsOf(await problem(response, 400, 'invalid-request'));
  };

  it('is refused with the faults of the form that was meant', async () => {
    expect(await faultsOf({ customer_id: 'c', product_id: 'p', quantity: 1 })).toEqual([]);
    expect(await faultsOf({ customer_id: 'c', lines: [{ product_id: 'p', quantity: 1 }] })).toEqual([]);
    expect(await faultsOf({ customer_id: 'c', product_id: 'p', quantity: 0 })).toEqual(['quantity']);
    expect(await faultsOf({ customer_id: 'c', product_id: 'p' })).toEqual(['quantity']);
    expect(await faultsOf({ customer_id: 'c', lines: [] })).toEqual(['lines']);
    const lines = [{ product_id: '', quantity: 0 }, { product_id: true }, 7];
    expect(await faultsOf({ customer_id: 'c', lines })).toEqual([
      ...['lines.0.product_id', 'lines.0.quantity', 'lines.1.product_id', 'lines.1.quantity', 'lines.2'],
    ]);
    expect(await faultsOf({ lines: [{ product_id: 'p', quantity: 1 }], colour: 'red' })).toEqual([
      'customer_id',
      'colour',
    ]);
    expect(await faultsOf({ customer_id: {}, product_id: 'p', quantity: 1 })).toEqual(['customer_id']);
    expect(await faultsOf('no order')).toEqual(['']);
  });
});

describe('the message of a fault', () => {
  const messagesOf = async (body: unknown) => {
    const response = await fetch(`${here.url}/trials/orders`, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    });
    const { faults } = await problem(response, 400, 'invalid-request');
    return (faults as { message: string }[]).map(({ message }) => message);
  };
  const alias = { customer_id: 'c', product_id: 'p', quantity: 1 };

  it('is the same for every invalid value if the schema has a message', async () => {
    for (const quantity of [0, 1.5, 1_000_001, 2 ** 60, null, []]) {
      expect(await messagesOf({ ...alias, quantity })).toEqual(['must be a whole number from 1 to 1000000']);
    }
    for (const reference of ['', 'x'.repeat(129), 5, {}]) {
      expect(await messagesOf({ ...alias, reference })).toEqual(['must be a string of 1 to 128 characters']);
    }
    for (const customer_id of [2 ** 60, true]) {
      expect(await messagesOf({ ...alias, customer_id })).toEqual([
        'must be a string of 1 to 128 characters (no NUL, no unpaired surrogates) or an integer',
      ]);
    }
  });

  it('names what is expected if the schema has no message', async () => {
    expect(await messagesOf({ customer_id: 'c', lines: [] })).toEqual(['must have at least 1 item']);
    expect(await messagesOf({ customer_id: 'c', lines: 7 })).toEqual(['must be an array']);
    expect(await messagesOf({ customer_id: 'c', lines: [7] })).toEqual(['must be an object']);
    const adjustments = [{ kind: 'gift', label: 'l', amount_minor: 1 }];
    expect(await messagesOf({ ...alias, adjustments })).toEqual(['must be tax or shipping or discount']);
    expect(await messagesOf({ ...alias, metadata: 7 })).toEqual(['must be an object']);
  });

  it('names the body where there is no path that could', async () => {
    for (const body of ['no order', null, [alias]])
      expect(await messagesOf(body)).toEqual(['the body must be an object']);
  });

  it('says that a number is not to be in quotes', async () => {
    const told = 'must be a whole number from 1 to 1000000, not a string';
    expect(await messagesOf({ ...alias, quantity: '1' })).toEqual([told]);
    expect(await messagesOf({ customer_id: 'c', lines: [{ product_id: 'p', quantity: '1' }] })).toEqual([told]);
  });

  it('does not call a member unknown that only belongs to another form', async () => {
    const lines = [{ product_id: 'p', quantity: 1 }];
    expect(await messagesOf({ ...alias, lines })).toEqual(['cannot be combined with product_id or quantity']);
    expect(await messagesOf({ customer_id: 'c', lines, quantity: 1 })).toEqual(['cannot be combined with lines']);
    expect(await messagesOf({ customer_id: 'c', product_id: 'p', lines })).toEqual(['cannot be combined with lines']);
    expect(await messagesOf({ ...alias, lines, colour: 'red' })).toEqual([
      ...['cannot be combined with product_id or quantity', 'is not a known member'],
    ]);
  });
});

describe('a URL', () => {
  it('that does not exist is answered with 404, and an existing one with another method with 405', async () => {
    await problem(await fetch(`${here.url}/nothing`), 404, 'not-found');
    await problem(await fetch(`${here.url}/things/`, { method: 'DELETE' }), 404, 'not-found');
    const wrong = await fetch(`${here.url}/things/1?maker=2`, {
      method: 'PATCH',
      body: '{',
      headers: { 'content-type': 'x/y' },
    });
    await problem(wrong, 405, 'method-not-allowed');
    expect(wrong.headers.get('allow')?.split(', ').sort()).toEqual(['DELETE', 'GET', 'HEAD', 'PUT']);
    const options = await fetch(`${here.url}/things`, { method: 'OPTIONS' });
    expect(options.headers.get('allow')?.split(', ').sort()).toEqual(['GET', 'HEAD', 'POST']);
    expect(await raw(here.port, 'PROPFIND /things HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n')).toMatch(
      /^HTTP\/1\.1 405 /,
    );
  });

  it('that answers GET answers HEAD without a body', async () => {
    const response = await fetch(`${here.url}/things/1`, { method: 'HEAD' });
    expect([response.status, await response.text()]).toEqual([200, '']);
  });

  it('that is answered with 304 has no Content-Length', async () => {
    for (const method of ['GET', 'HEAD']) {
      const response = await fetch(`${here.url}/trials/unchanged`, { method });
      expect([response.status, response.headers.get('content-length')]).toEqual([304, null]);
    }
  });

  it.each([
    '/things/%',
    '/things/%zz',
    '/things/%ff',
    '/%E0%A4%A',
    '/things?maker=%',
    '/things?maker=%ff',
    '/nothing?%zz',
  ])('with malformed percent-encoding is refused: %s', async (path) => {
    const answer = await raw(here.port, `GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`);
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
    expect(answer).toContain('application/problem+json');
    expect(answer).toContain('"code":"invalid-request"');
  });

  it('can contain any id that can be stored', async () => {
    const ids = [
      'a/b',
      '85123A',
      'ä ö?&=#',
      '%25',
      '..;',
      '💡'.repeat(64),
      '/'.repeat(128),
      '__proto__',
      'constructor',
    ];
    for (const id of ids) {
      const response = await fetch(`${here.url}/things/${encodeURIComponent(id)}`);
      expect(await response.json()).toMatchObject({ name: id });
    }
  });

  it('with an id that cannot be stored is refused', async () => {
    for (const id of ['a%00b', 'a'.repeat(129), 'a'.repeat(3_000)]) {
      await problem(await fetch(`${here.url}/things/${id}`), 400, 'invalid-request');
    }
  });
});

describe('a query', () => {
  it.each([
    ['', ['maker']],
    ['maker=a%00b', ['maker']],
    ['maker=m&limit=1&limit=2', ['limit']],
    ['maker=m&colour=green', ['colour']],
    ['maker=m&color=red&__proto__=1&constructor=2', ['color', '__proto__', 'constructor']],
    ['maker=m&limit=1e3', ['limit']],
    ['maker=m&limit=0', ['limit']],
    ['maker=m&limit=-1', ['limit']],
    ['maker=m&limit=', ['limit']],
  ])('is refused with the path of each fault: %s', async (query, paths) => {
    expect(pathsOf(await problem(await fetch(`${here.url}/things?${query}`), 400, 'invalid-request'))).toEqual(paths);
  });

  it('with an unknown parameter is refused with the names of the known ones', async () => {
    const { faults } = await problem(await fetch(`${here.url}/things?maker=m&color=red`), 400, 'invalid-request');
    expect(faults).toEqual([
      { path: 'color', message: 'is not a known parameter; known are colour, limit, cursor, maker' },
    ]);
  });

  it('that repeats a parameter is refused with that reason', async () => {
    for (const [query, path] of [
      ['maker=m&maker=n', 'maker'],
      ['maker=m&colour=red&colour=red', 'colour'],
    ]) {
      const { faults } = await problem(await fetch(`${here.url}/things?${query}`), 400, 'invalid-request');
      expect(faults).toEqual([{ path, message: 'is given more than once' }]);
    }
  });

  it('is refused by POST and DELETE that take none, before anything is changed, and ignored by GET', async () => {
    const json = { 'content-type': 'application/json' };
    const send = (method: string, path: string, body?: string) =>
      fetch(`${here.url}${path}`, { method, ...(body !== undefined && { body, headers: json }) });
    const faults = ['dry_run', '__proto__'].map((path) => ({
      path,
      message: 'is not a known parameter: this operation takes no query',
    }));
    changed.length = 0;
    for (const refused of [
      send('POST', '/things?dry_run=true&__proto__=1', '{"name":"a"}'),
      send('DELETE', '/things/a?dry_run&__proto__'),
    ])
      expect((await problem(await refused, 400, 'invalid-request')).faults).toEqual(faults);
    expect(changed).toEqual([]);
    expect((await send('POST', '/things?', '{"name":"a"}')).status).toBe(201);
    expect((await send('DELETE', '/things/b')).status).toBe(204);
    expect(changed).toEqual(['a', 'b']);
    expect((await send('GET', '/things/a?of=old')).status).toBe(200);
  });

  it('with a signed cursor continues at its position, and with a changed one is refused', async () => {
    const list = (query: string) => fetch(`${here.url}/things?maker=m&${query}`);
    const first = (await (await list('limit=9999')).json()) as { next_cursor: string };
    expect(first).toMatchObject({ data: [{ size: 200 }] });
    const second = await (await list(`cursor=${first.next_cursor}`)).json();
    expect(second).toMatchObject({ data: [{ size: 50, made_at: new Date(200).toISOString() }] });
    await problem(await list(`cursor=${first.next_cursor}A`), 400, 'invalid-cursor');
    await problem(await list('cursor='), 400, 'invalid-cursor');
  });
});

describe('a request that is not valid HTTP', () => {
  it.each([
    ['an unknown method', 'BREW / HTTP/1.1\r\nhost: localhost\r\n\r\n', 400],
    ['no HTTP', 'hello\r\n\r\n', 400],
    [
      'two values of Content-Length',
      'POST /things HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}',
      400,
    ],
    [
      'Content-Length and Transfer-Encoding',
      'POST /things HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n',
      400,
    ],
    [
      'a bad chunk',
      'POST /things HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n',
      400,
    ],
    [
      'too large a header',
      `GET / HTTP/1.1\r\nhost: localhost\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`,
      431,
      'headers-too-large',
    ],
    [
      'too many header fields',
      `GET /things/1 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n${'x: 1\r\n'.repeat(99)}\r\n`,
      431,
      'headers-too-large',
    ],
    ['two hosts', 'GET /things/1 HTTP/1.1\r\nhost: localhost\r\nHost: b\r\nconnection: close\r\n\r\n', 400],
    [
      'two credentials',
      'GET /things/1 HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer a\r\nAUTHORIZATION: Bearer b\r\nconnection: close\r\n\r\n',
      400,
    ],
    [
      'a Connection field that names If-Match',
      'GET /things/1 HTTP/1.1\r\nhost: localhost\r\nconnection: close, If-Match\r\n\r\n',
      400,
    ],
    ['no host', 'GET /things/1 HTTP/1.1\r\nconnection: close\r\n\r\n', 400],
    [
      'an unknown expectation',
      'GET /things/1 HTTP/1.1\r\nhost: localhost\r\nexpect: foo\r\n\r\n',
      417,
      'expectation-failed',
    ],
  ])('is refused with a problem document: %s', async (_, text, status, code = 'invalid-request') => {
    const answer = await raw(here.port, text);
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(answer).toContain('content-type: application/problem+json');
    expect(answer).toContain('x-content-type-options: nosniff');
    expect(JSON.parse(answer.slice(answer.indexOf('\r\n\r\n')))).toMatchObject({ status, code });
  });
});

it('an HTTP/1.0 request without a Host is answered', async () => {
  expect(await raw(here.port, 'GET /things/1 HTTP/1.0\r\n\r\n')).toMatch(/^HTTP\/1\.1 200 /);
});

it.each([
  ['http://a/things/1', 200],
  ['HTTPS://a:1/things/1?x=/', 200],
  ['http://a?b/things/1', 404],
  ['http://a', 302],
  ['http:///things/1', 400],
  ['ftp://a/things/1', 404],
  ['a:/things/1', 400],
  ['*', 404],
])('a request for the target %s is answered with %s', async (target, status) => {
  const answer = await raw(here.port, `GET ${target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`);
  expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
  expect(answer).toContain('x-content-type-options: nosniff');
});

it('the adapter refuses to use the hooks of Nest that it leaves out', () => {
  const adapter = here.app.getHttpAdapter() as unknown as Record<string, () => void>;
  for (const name of ['enableCors', 'registerSecurityHook', 'setOnRequestHook', 'setOnResponseHook'])
    expect(() => adapter[name]!()).toThrow('has no hook');
});

describe('a traceparent', () => {
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  const sent = async (init?: RequestInit) => (await fetch(`${here.url}/trials/trace`, init)).json();
  const body = { method: 'POST', body: '{"a":1}' };
  const json = { 'content-type': 'application/json' };

  it('is the current trace of the request, before and after its body is read', async () => {
    expect(await sent({ headers: { traceparent } })).toEqual({ trace: traceparent });
    expect(await sent({ ...body, headers: { ...json, traceparent } })).toEqual({ body: { a: 1 }, trace: traceparent });
  });

  it('does not leak to the next request on the connection', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const traces: unknown[] = [];
    for (const headers of [{ traceparent }, {}, { ...json, traceparent }, json]) {
      const method = 'content-type' in headers ? 'POST' : 'GET';
      const asked = request(`${here.url}/trials/trace`, { agent, method, headers });
      asked.flushHeaders();
      // The body is sent later, so that it is read in another turn of the event loop than the head.
      await once(here.app.getHttpServer(), 'request');
      asked.end(method === 'POST' ? '{}' : undefined);
      const [answer] = (await once(asked, 'response')) as [IncomingMessage];
      traces.push((JSON.parse(await text(answer)) as { trace: unknown }).trace);
    }
    agent.destroy();
    expect(traces).toEqual([traceparent, null, traceparent, null]);
  });
});

it('every answer has X-Content-Type-Options: nosniff', async () => {
  for (const path of ['/things/1', '/nothing', '/trials/refuses', '/docs']) {
    const answer = await fetch(here.url + path);
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff');
  }
});

it('bodies with a million levels or thousands of faults are refused without harm to the next request', async () => {
  const { app, url, log } = await startApp();
  try {
    const send = (body: string) =>
      fetch(`${url}/trials/orders`, { method: 'POST', body, headers: { 'content-type': 'application/json' } });
    for (const body of [
      ...['['.repeat(1_000_000), '{"a":'.repeat(200_000)],
      `{"customer_id":"c","metadata":${'['.repeat(500_000)}${']'.repeat(500_000)}}`,
    ])
      expect((await problem(await send(body), 400, 'invalid-request')).detail).toMatch(/nested deeper than 32 levels/);
    const lines = (count: number) => `{"customer_id":"c","lines":[${'{},'.repeat(count - 1)}{}]}`;
    const { faults, detail } = await problem(await send(lines(2_000)), 400, 'invalid-request');
    expect([(faults as unknown[]).length, detail]).toEqual([100, 'lines.0.product_id: is required (and 3999 more)']);
    expect(pathsOf(await problem(await send(lines(100_000)), 400, 'invalid-request'))).toEqual(['lines']);
    expect((await send('{"customer_id":"c","product_id":"p","quantity":1}')).status).toBe(200);
    expect(log.filter((line) => /fail|Error/.test(line))).toEqual([]);
  } finally {
    await app.close();
  }
});

it('pages of an allowed origin can read why their body was not read to its end', async () => {
  const origin = 'https://shop.example';
  const { app, port } = await startApp({ corsOrigins: [origin], connections: { requestMs: 500 } });
  try {
    const head = (from: string, field: string) =>
      `POST /things HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\norigin: ${from}\r\n${field}\r\n\r\n`;
    for (const [status, field, body] of [
      [408, 'content-length: 20', '{'],
      [400, 'transfer-encoding: chunked', 'x\r\n'],
    ] as const) {
      const answer = (await raw(port, head(origin, field), body)).toLowerCase();
      expect(answer).toMatch(new RegExp(`^http/1.1 ${status} `));
      expect(answer).toContain(`access-control-allow-origin: ${origin}\r\n`);
      const other = (await raw(port, head('https://evil.example', field), body)).toLowerCase();
      expect(other).not.toContain('access-control-allow-origin');
    }
  } finally {
    await app.close();
  }
});

it('invalid requests are not logged as errors', () => {
  expect(here.log.filter((line) => /fail|Error/.test(line))).toEqual([]);
});
