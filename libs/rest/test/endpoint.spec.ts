import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Controller, Get, Module } from '@nestjs/common';
import { Endpoint, createRestApp } from '#rest';
import { documentOf, logInto, raw, startApp, type AppUnderTest } from './app-under-test.js';

type Json = Record<string, unknown>;

@Controller('scoped')
class ScopedController {
  @Get()
  @Endpoint({ scope: 'orders:read', summary: 'Read', replies: { 200: { description: 'It' } }, errors: [] })
  readScoped(): void {}
}

@Module({ controllers: [ScopedController] })
class ScopedModule {}

let here: AppUnderTest;
beforeAll(async () => void (here = await startApp()));
afterAll(() => here.app.close());

describe('a reply', () => {
  const make = (headers: Record<string, string> = {}) =>
    fetch(`${here.url}/things`, {
      method: 'POST',
      body: '{"name":"box"}',
      headers: { 'content-type': 'application/json', ...headers },
    });

  it('is encoded by the schema of its status', async () => {
    const response = await make();
    expect(response.status).toBe(201);
    expect(await response.json()).toEqual({ name: 'box', size: 1, made_at: '1970-01-01T00:00:00.000Z', note: null });
    expect(response.headers.get('etag')).toBe('"v1"');
    expect(response.headers.get('content-type')).toBe('application/json; charset=utf-8');
  });

  it('may be a declared 404 that is not a problem document', async () => {
    const response = await fetch(`${here.url}/trials/misses`);
    expect([response.status, await response.text()]).toEqual([404, '{"error":"key not found"}']);
  });

  it('without a schema has no body', async () => {
    const response = await fetch(`${here.url}/things/1`, { method: 'DELETE' });
    expect([response.status, await response.text()]).toEqual([204, '']);
  });

  it('that does not match its schema, or whose status is not declared, is logged and answered with 500', async () => {
    for (const path of ['lies', 'strays']) {
      const response = await fetch(`${here.url}/trials/${path}`);
      expect(await response.json()).toMatchObject({ status: 500, code: 'internal' });
    }
    expect(here.log.join('\n')).toMatch(
      /GET \/trials\/lies answered 200 with a body that does not match its schema: size: /,
    );
    expect(here.log.join('\n')).toContain('GET /trials/strays answered 202, which its @Endpoint does not declare');
  });
});

describe('an Idempotency-Key', () => {
  const keySeen = async (...headers: [string, string][]) => {
    const response = await fetch(`${here.url}/things`, {
      method: 'POST',
      body: '{"name":"box"}',
      headers: [['content-type', 'application/json'], ...headers],
    });
    const body = (await response.json()) as Json;
    return response.status === 201 ? body.note : body.code;
  };
  const key = (value: string): [string, string] => ['Idempotency-Key', value];

  it.each([
    ['"8e03978e-40d5"', '8e03978e-40d5'],
    ['8e03978e-40d5', '8e03978e-40d5'],
    ['  "a, b; c"  ', 'a, b; c'],
    ['"say \\"hi\\" \\\\"', 'say "hi" \\'],
    ['a:b/c=d', 'a:b/c=d'],
    [`"${'k'.repeat(255)}"`, 'k'.repeat(255)],
  ])('of the form %s is accepted', async (header, seen) => {
    expect(await keySeen(key(header))).toBe(seen);
  });

  it.each([
    '',
    '""',
    '"a',
    'a"',
    'a b',
    'a,b',
    '"a\\b"',
    '"a";v=1',
    '"ä"',
    'ä',
    'k'.repeat(256),
    `"${'k'.repeat(256)}"`,
  ])('of the form %j is refused', async (header) => {
    expect(await keySeen(key(Buffer.from(header).toString('latin1')))).toBe('invalid-idempotency-key');
  });

  it('may be missing only if it is optional, and may be given only once', async () => {
    expect(await keySeen()).toBe(null);
    const required = await fetch(`${here.url}/things/1`, {
      method: 'PUT',
      body: '{"name":"box"}',
      headers: { 'content-type': 'application/json' },
    });
    expect(await required.json()).toMatchObject({ status: 400, code: 'idempotency-key-required' });
    // Joined with a comma, they look like one quoted key.
    const twice = ['idempotency-key: "a', 'idempotency-key: b"'].join('\r\n');
    const answer = await raw(
      here.port,
      `POST /things HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n${twice}\r\ncontent-length: 0\r\n\r\n`,
    );
    expect(answer).toContain('invalid-idempotency-key');
  });
});

describe('If-Match', () => {
  const put = async (ifMatch?: string) => {
    const response = await fetch(`${here.url}/things/1`, {
      method: 'PUT',
      body: '{"name":"box"}',
      headers: { 'content-type': 'application/json', 'idempotency-key': 'k', ...(ifMatch && { 'if-match': ifMatch }) },
    });
    const body = (await response.json()) as Json;
    return body.code ?? body.size;
  };

  it('accepts a version or *, and is optional', async () => {
    expect(await put('"v3"')).toBe(3);
    expect(await put('*')).toBe(0);
    expect(await put()).toBe(0);
  });

  it('accepts a list, in which foreign tags match nothing and malformed ones are refused', async () => {
    for (const tags of ['"v1", "v2"', '"v1","v2"', ', "v1"\t,, "v2" ,', 'W/"v3", "v1", "v02", "a,b", "v2"'])
      expect(await put(tags)).toBe(12);
    for (const tags of ['W/"v3", W/"v4"', '"v3,v4"', '"v03", "3"']) expect(await put(tags)).toBe('precondition-failed');
    for (const tags of ['"v1" "v2"', '"v1", v2', '"v1", *', '*, "v1"', '"v1", "', ',', '"v1";"v2"'])
      expect(await put(tags)).toBe('invalid-request');
  });

  it('with a foreign tag matches nothing; with a malformed one it is refused', async () => {
    for (const tag of ['W/"v3"', '"3"', '"v"', '"v3.5"', '"v03"', '"v0"', '""'])
      expect(await put(tag)).toBe('precondition-failed');
    for (const tag of ['v3', '3', '"v3', 'w/"v3"']) expect(await put(tag)).toBe('invalid-request');
  });
});

describe('the OpenAPI document', () => {
  let document: Json;
  beforeAll(async () => void (document = (await (await fetch(`${here.url}/openapi.json`)).json()) as Json));

  const operation = (path: string, method: string): Json => {
    const item = (document.paths as Record<string, Record<string, Json>>)[path];
    return item?.[method] ?? {};
  };
  const refsIn = (value: unknown): string[] =>
    [...JSON.stringify(value).matchAll(/"\$ref":"([^"]*)"/g)].map((it) => it[1]!);

  it('is OpenAPI 3.1 without dangling references or unused components', () => {
    expect(document.openapi).toBe('3.1.0');
    const schemas = (document.components as { schemas: Json }).schemas;
    const refs = refsIn(document);
    expect(refs.every((ref) => ref.replace('#/components/schemas/', '') in schemas)).toBe(true);
    for (const id of Object.keys(schemas)) expect(refs).toContain(`#/components/schemas/${id}`);
    expect(Object.keys(schemas)).toEqual(Object.keys(schemas).toSorted());
    expect(JSON.stringify(document)).not.toMatch(/\$defs|\$schema|"nullable"/);
  });

  it('describes request bodies, with examples', () => {
    const make = operation('/things', 'post');
    expect(make.operationId).toBe('makeThing');
    expect(make.tags).toEqual(['things']);
    expect(make.requestBody).toEqual({
      required: true,
      content: {
        'application/json': {
          schema: { $ref: '#/components/schemas/ThingRequest' },
          examples: { example: { value: { name: 'a box', size: 3 } } },
        },
      },
    });
    expect(make.parameters).toEqual([
      expect.objectContaining({ name: 'Idempotency-Key', in: 'header', required: false }),
    ]);
    const order = operation('/trials/orders', 'post').requestBody as Json;
    expect(order).toMatchObject({
      content: {
        'application/json': {
          examples: {
            PlaceOrderOfOneProduct: { value: { quantity: 1 } },
            PlaceOrderOfLines: { value: { lines: [{}, {}] } },
          },
        },
      },
    });
    expect((operation('/things/{id}/close', 'post').requestBody as Json).required).toBe(false);
  });

  it('describes query, path and header parameters', () => {
    expect(operation('/things', 'get').parameters).toEqual([
      {
        name: 'colour',
        in: 'query',
        required: false,
        description: 'Only those of this colour.',
        schema: { type: 'string', enum: ['red', 'blue'] },
      },
      { name: 'limit', in: 'query', required: false, schema: { type: 'string' } },
      { name: 'cursor', in: 'query', required: false, schema: { type: 'string' } },
      {
        name: 'maker',
        in: 'query',
        required: true,
        schema: { type: 'string', minLength: 1, maxLength: 128, example: 'm-1' },
      },
    ]);
    expect(operation('/things/{id}', 'put').parameters).toEqual(
      expect.arrayContaining([
        { name: 'id', in: 'path', required: true, schema: { type: 'string', minLength: 1, maxLength: 128 } },
        expect.objectContaining({ name: 'Idempotency-Key', in: 'header', required: true }),
        expect.objectContaining({ name: 'If-Match', in: 'header', required: false }),
      ]),
    );
  });

  it('describes responses, with an example of each error code', () => {
    const responses = operation('/things', 'post').responses as Record<string, Json>;
    expect(Object.keys(responses)).toEqual(['201', '400', '409', '413', '415', '500', '503']);
    expect(responses['201']).toMatchObject({
      headers: { Location: {}, ETag: {}, 'Idempotent-Replayed': {} },
      content: { 'application/json': { schema: { $ref: '#/components/schemas/Thing' } } },
    });
    expect(responses['409']).toMatchObject({
      content: {
        'application/problem+json': {
          schema: { $ref: '#/components/schemas/Problem' },
          examples: { 'out-of-stock': { value: { status: 409 } }, 'illegal-transition': { value: { status: 409 } } },
        },
      },
    });
    expect(Object.keys(operation('/things/{id}', 'get').responses as Json)).toEqual([
      '200',
      '400',
      '404',
      '500',
      '503',
    ]);
    expect(operation('/trials/misses', 'get').responses).toMatchObject({
      404: { content: { 'application/json': {} } },
    });
    expect((document.components as { schemas: Record<string, Json> }).schemas.Thing).toMatchObject({
      properties: { made_at: { type: 'string', format: 'date-time' }, note: { type: ['string', 'null'] } },
      required: ['name', 'size', 'made_at', 'note'],
    });
  });

  it('is deterministic', () => {
    expect(JSON.stringify(documentOf(here.app))).toBe(JSON.stringify(documentOf(here.app)));
  });

  it('lists paths in the order of the tags, then as their controllers declare them', () => {
    const paths = document.paths as Record<string, Json>;
    const first = ['/things', '/things/{id}', '/things/{id}/close', '/problems/{code}'];
    expect(Object.keys(paths).slice(0, first.length)).toEqual(first);
    expect(Object.keys(paths['/things']!)).toEqual(['post', 'get']);
  });

  it('lists the errors that every endpoint can return', () => {
    const { 503: away } = operation('/things/{id}', 'get').responses as Record<string, Json>;
    expect(away).toMatchObject({
      content: { 'application/problem+json': { examples: { unavailable: {}, 'deadline-exceeded': {} } } },
    });
  });

  it('lists the errors of authentication and rate limits, with their headers, for scoped operations', async () => {
    const app = await createRestApp(ScopedModule, { logger: logInto([]) });
    const { paths } = documentOf(app);
    await app.close();
    expect(paths['/scoped']!.get!.responses).toMatchObject({
      401: { headers: { 'WWW-Authenticate': {} } },
      403: { headers: { 'WWW-Authenticate': {} } },
      429: { headers: { 'Retry-After': {} } },
      503: { headers: { 'Retry-After': {} } },
    });
  });

  it('is reached from /, which redirects to /docs and is not part of the document', async () => {
    for (const method of ['GET', 'HEAD']) {
      const root = await fetch(`${here.url}/`, { method, redirect: 'manual' });
      expect([root.status, root.headers.get('location')]).toEqual([302, '/docs']);
    }
    expect(document.paths).not.toHaveProperty('/');
  });

  it('is shown by Swagger UI, which loads no assets from other hosts', async () => {
    const page = await fetch(`${here.url}/docs`);
    const html = await page.text();
    expect([page.status, page.headers.get('content-type')]).toEqual([200, expect.stringContaining('text/html')]);
    expect(html).not.toMatch(/(?:src|href)="?(?:https?:)?\/\//);
    const assets = [...html.matchAll(/(?:src|href)="(\.\/[^"]+)"/g)].map(([, path]) => path!);
    expect(assets.length).toBeGreaterThan(3);
    for (const path of assets) {
      const asset = await fetch(new URL(path, `${here.url}/docs`));
      expect([asset.status, (await asset.arrayBuffer()).byteLength > 0]).toEqual([200, true]);
    }
    expect(await (await fetch(`${here.url}/docs/swagger-ui-init.js`)).text()).toContain('"validatorUrl": null');
    const nothing = await fetch(`${here.url}/docs/nothing`);
    expect([nothing.status, await nothing.json()]).toEqual([404, expect.objectContaining({ code: 'not-found' })]);
    expect((await fetch(`${here.url}/docs/nothing`, { method: 'POST' })).status).toBe(405);
  });
});
