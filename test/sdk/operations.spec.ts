import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Cleave, CleaveApiError, resources, type Listing } from '#sdk';
import { problem, ScriptedServer } from './scripted-server.js';

interface Operation {
  operationId: string;
  parameters?: { in: string; name: string }[];
  requestBody?: unknown;
}

const { paths } = JSON.parse(readFileSync('docs/openapi.json', 'utf8')) as {
  paths: Record<string, Record<string, Operation>>;
};
const documented = Object.entries(paths).flatMap(([path, item]) =>
  Object.entries(item).map(([method, operation]) => ({ method: method.toUpperCase(), path, ...operation })),
);
const methods = Object.entries(resources).flatMap(([name, verbs]) =>
  Object.entries(verbs).map(([verb, id]) => ({ name, verb, id: id as string })),
);

describe('the methods of the client', () => {
  let server: ScriptedServer;
  let cleave: Cleave;

  beforeAll(async () => {
    server = await ScriptedServer.start();
    cleave = new Cleave({ baseUrl: `${server.url}/`, apiKey: () => Promise.resolve('k-1'), retries: 0 });
  });
  afterAll(() => server.stop());

  it('cover every operation of the OpenAPI document once, except an alias and the Stripe webhook', () => {
    const leftOut = ['placeOrderByAlias', 'receiveStripeEvent'];
    expect([...methods.map(({ id }) => id), ...leftOut].toSorted()).toEqual(
      documented.map(({ operationId }) => operationId).toSorted(),
    );
  });

  it.each(methods)('$name.$verb sends $id as documented', async ({ name, verb, id }) => {
    const { method, path, parameters = [], requestBody } = documented.find(({ operationId }) => operationId === id)!;
    const takes = (place: string): string[] => parameters.filter((it) => it.in === place).map((it) => it.name);
    const query = Object.fromEntries(takes('query').map((it) => [it, 'a b&c']));
    const input = requestBody ? { some: 'body' } : query;
    const args = [
      ...(path.includes('{') ? ['an id/with ?'] : []),
      ...(requestBody || takes('query').length > 0 ? [input] : []),
      { headers: { 'X-Own': 'yes' } },
    ];
    server.answers(problem(418, 'heard'));
    const call = (cleave as unknown as Record<string, Record<string, (...args: unknown[]) => unknown>>)[name]![verb]!;
    const asked = call(...args);
    const answer = asked instanceof Promise ? asked : (asked as Listing<unknown>).page();
    await expect(answer).rejects.toMatchObject({ code: 'heard', status: 418, tries: 1 });
    const [heard] = server.heard;
    const address = new URL(heard!.url, server.url);
    expect(heard!.method).toBe(method);
    expect(address.pathname).toBe(path.replace(/\{\w+\}/, 'an%20id%2Fwith%20%3F'));
    expect(Object.fromEntries(address.searchParams)).toEqual(query);
    expect(heard!.body).toEqual(requestBody ? { some: 'body' } : undefined);
    expect(heard!.headers).toMatchObject({ authorization: 'Bearer k-1', 'x-own': 'yes' });
    expect('idempotency-key' in heard!.headers).toBe(takes('header').includes('Idempotency-Key'));
  });

  it('refuse an empty or missing id', () => {
    server.answers();
    expect(() => cleave.orders.get('')).toThrow(TypeError);
    expect(() => cleave.orders.get(undefined as unknown as string)).toThrow('/orders/{id} needs an id, not undefined');
    expect(server.heard).toEqual([]);
  });

  it('resolve with the body of the answer, or with undefined if there is none', async () => {
    server.answers({ status: 200, body: { product_id: 'p' } }, { status: 204 });
    expect(await cleave.products.get('p')).toEqual({ product_id: 'p' });
    expect(await cleave.cache.delete({ key: 'k' })).toBeUndefined();
  });

  it('return the log level of the process, or that of each instance of a service', async () => {
    const instances = [
      { address: '10.0.0.1:3000', level: 'debug' },
      { address: '10.0.0.2:3000', why: 'ECONNREFUSED' },
    ];
    server.answers({ status: 200, body: { level: 'info' } }, { status: 200, body: { instances } });
    const level: string = (await cleave.health.logLevel()).level;
    expect(level).toBe('info');
    const found = (await cleave.health.logLevel({ service: 'order' })).instances;
    expect(found.map((it): string => ('level' in it ? it.level : it.why))).toEqual(['debug', 'ECONNREFUSED']);
    expect(server.heard.map(({ url }) => url)).toEqual(['/admin/log-level', '/admin/log-level?service=order']);
  });

  it('reject with the code, the problem document and the request id', async () => {
    server.answers({
      status: 409,
      body: { code: 'out-of-stock', detail: 'There are 2 of p.', status: 409, products: [{ product_id: 'p' }] },
      headers: { 'content-type': 'application/problem+json', 'x-request-id': 'r-1' },
    });
    const error = await cleave.orders.place({ customer_id: 'c', product_id: 'p', quantity: 3 }).catch((it) => it);
    expect(error).toBeInstanceOf(CleaveApiError);
    expect(error).toMatchObject({
      code: 'out-of-stock',
      detail: 'There are 2 of p.',
      message: 'out-of-stock: There are 2 of p.',
      status: 409,
      requestId: 'r-1',
      problem: { products: [{ product_id: 'p' }] },
      faults: [],
    });
  });

  it('reject with a code derived from the status if the answer is not a problem document', async () => {
    server.answers({ status: 404, body: { error: 'key not found' } }, (response) => {
      response.writeHead(502, { 'content-type': 'text/html' }).end('<h1>Bad gateway</h1>');
    });
    await expect(cleave.cache.get({ key: 'k' })).rejects.toMatchObject({ code: 'http-404', status: 404 });
    await expect(cleave.orders.get('o')).rejects.toMatchObject({ code: 'http-502', detail: '<h1>Bad gateway</h1>' });
    server.answers({ status: 304 });
    const unchanged = cleave.orders.get('o', { headers: { 'If-None-Match': '"v1"' } });
    await expect(unchanged).rejects.toMatchObject({ code: 'http-304', detail: 'Not Modified' });
  });

  it('read a list page by page, and no further than the caller iterates', async () => {
    const page = (data: number[], next: string | null) => ({ status: 200, body: { data, next_cursor: next } });
    server.answers(page([1, 2], 'a'), page([3], 'b'), page([4], null));
    const read: unknown[] = [];
    for await (const order of cleave.orders.list({ customer_id: 'c', limit: 2 })) read.push(order);
    expect(read).toEqual([1, 2, 3, 4]);
    expect(server.heard.map(({ url }) => url)).toEqual(
      ['', '&cursor=a', '&cursor=b'].map((cursor) => `/orders?customer_id=c&limit=2${cursor}`),
    );
    server.answers(page([1, 2], 'a'));
    for await (const _ of cleave.orders.list()) break;
    expect(server.heard).toHaveLength(1);
    server.answers(page([5], 'c'), page([], 'c'));
    const pages = [];
    for await (const { next_cursor } of cleave.events.list({ after: 'b' }).pages()) pages.push(next_cursor);
    expect(pages).toEqual(['c']);
    expect(server.heard.map(({ url }) => url)).toEqual(['/events?after=b', '/events?after=c']);
  });
});
