import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Cleave } from '#sdk';
import { dropped, problem, ScriptedServer, silent, type Scripted } from './scripted-server.js';

const order = { customer_id: 'c', product_id: 'p', quantity: 1 };
/** A timeout for silent servers only: other answers may be delayed by a busy machine. */
const soon = { timeoutMs: 300 };
const done: Scripted = { status: 200, body: { order_id: 'o' } };

describe('a request', () => {
  let server: ScriptedServer;
  let cleave: Cleave;

  beforeAll(async () => {
    server = await ScriptedServer.start();
    cleave = new Cleave({ baseUrl: server.url });
  });
  afterAll(() => server.stop());

  const passing: [string, Scripted][] = [
    ['the connection ends', dropped],
    ['there is no answer in time', silent],
    [
      'the answer is truncated',
      (response) => {
        response.writeHead(201, { 'content-length': '100' });
        response.write('{"order_id"');
        setTimeout(() => response.destroy(), 20);
      },
    ],
    ['408', problem(408, 'request-timeout')],
    ['429', problem(429, 'too-many-requests')],
    ['502', problem(502, 'http-502')],
    ['503', problem(503, 'unavailable')],
    ['504', problem(504, 'http-504')],
    ['409 request-in-progress', problem(409, 'request-in-progress')],
  ];

  it.each(passing)('is retried under the same idempotency key: %s', async (_, failure) => {
    server.answers(failure, failure, done);
    expect(await cleave.orders.place(order, failure === silent ? soon : {})).toEqual({ order_id: 'o' });
    const keys = server.heard.map(({ headers }) => headers['idempotency-key']);
    expect(keys).toHaveLength(3);
    expect(new Set(keys).size).toBe(1);
    expect(keys[0]).toMatch(/^"[0-9a-f-]{36}"$/);
    expect(server.heard.map(({ body }) => body)).toEqual([order, order, order]);
  });

  it('has a new idempotency key for each call, unless one is given', async () => {
    server.answers(done, done, done);
    await cleave.orders.place(order);
    await cleave.orders.place(order);
    await cleave.orders.place(order, { idempotencyKey: 'say "a\\b"' });
    const keys = server.heard.map(({ headers }) => headers['idempotency-key']);
    expect(keys[0]).not.toBe(keys[1]);
    expect(keys[2]).toBe(String.raw`"say \"a\\b\""`);
  });

  it.each([
    ['a read', () => cleave.orders.get('o')],
    ['a PUT', () => cleave.products.put('p', { name: 'Mug', unit_price_minor: 1, currency: 'GBP' })],
    ['a DELETE', () => cleave.webhookEndpoints.delete('e')],
    ['a cancellation', () => cleave.orders.cancel('o')],
    ['a batch of products', () => cleave.products.putMany({ products: [] })],
    [
      'a conditional fulfilment with an idempotency key',
      () => cleave.orders.fulfil('o', {}, { headers: { 'If-Match': '"v1"' } }),
    ],
    ['a conditional cancellation', () => cleave.orders.cancel('o', {}, { headers: { 'If-Match': '"v1"' } })],
  ])('is retried if that is safe: %s', async (_, call) => {
    server.answers(dropped, problem(503, 'unavailable'), done);
    await call();
    expect(server.heard).toHaveLength(3);
  });

  it.each([
    ['incrementing a counter', () => cleave.cache.increment({ key: 'k' })],
    ['setting stock', () => cleave.stock.put('p', { on_hand: 1 })],
    ['setting stock in a batch', () => cleave.stock.putMany({ stock: [] })],
    ['creating an endpoint', () => cleave.webhookEndpoints.create({ url: 'https://example.com' })],
    ['rotating a secret', () => cleave.webhookEndpoints.rotateSecret('e')],
    ['a write under a lease', () => cleave.cache.put({ key: 'k', value: 1, lease: 'l' })],
    ['a conditional write', () => cleave.cache.put({ key: 'k', value: 1 }, { headers: { 'if-none-match': '*' } })],
  ])('is not retried if it may have taken effect, but is retried after 429: %s', async (_, call) => {
    for (const failure of [dropped, problem(503, 'unavailable')]) {
      server.answers(failure, done);
      await expect(call()).rejects.toMatchObject({ tries: 1 });
      expect(server.heard).toHaveLength(1);
    }
    server.answers(problem(429, 'too-many-requests'), done);
    await call();
    expect(server.heard).toHaveLength(2);
  });

  it.each([
    [400, 'invalid-request'],
    [401, 'unauthorized'],
    [404, 'order-not-found'],
    [409, 'out-of-stock'],
    [422, 'idempotency-key-reused'],
    [500, 'internal'],
  ])('is not retried after a final error: %i %s', async (status, code) => {
    server.answers(problem(status, code), done);
    await expect(cleave.orders.place(order)).rejects.toMatchObject({ status, code, tries: 1 });
    expect(server.heard).toHaveLength(1);
  });

  const elsewhere: [string, Scripted, object][] = [
    [
      'a redirect, which would make a POST a GET',
      (response) => response.writeHead(301, { location: 'https://example.com/orders' }).end(),
      { status: 301, code: 'http-301', detail: expect.stringContaining('to: https://example.com/orders') },
    ],
    [
      'a web page',
      (response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<h1>Welcome</h1>'),
      { status: 200, code: 'http-200', detail: expect.stringContaining('to: <h1>Welcome</h1>') },
    ],
    [
      'an empty answer',
      (response) => response.writeHead(201).end(),
      { status: 201, code: 'http-201', detail: expect.stringContaining('to: Created') },
    ],
  ];

  it.each(elsewhere)('fails at once if something other than the API answers: %s', async (_, answer, expected) => {
    const asks = [
      () => cleave.orders.place(order),
      () => cleave.orders.list().page(),
      () => cleave.events.follow().next(),
    ];
    for (const ask of asks) {
      server.answers(answer, answer);
      await expect(ask()).rejects.toMatchObject({ name: 'CleaveApiError', tries: 1, ...expected });
      expect(server.heard).toHaveLength(1);
    }
  });

  it('fails at once on a redirect in a browser, which tells neither its status nor its location', async () => {
    const opaque = new Cleave({ baseUrl: server.url, fetch: async () => Response.error() });
    const detail = expect.stringContaining('to: another place');
    await expect(opaque.orders.place(order)).rejects.toMatchObject({ code: 'http-0', tries: 1, detail });
  });

  it('to delete succeeds if a retry finds nothing, and fails if the first attempt finds nothing', async () => {
    const gone = problem(404, 'webhook-endpoint-not-found');
    server.answers(dropped, gone);
    expect(await cleave.webhookEndpoints.delete('e')).toBeUndefined();
    for (const before of [[], [problem(429, 'too-many-requests')]]) {
      server.answers(...before, gone);
      await expect(cleave.webhookEndpoints.delete('e')).rejects.toMatchObject({ code: 'webhook-endpoint-not-found' });
    }
    server.answers(dropped, problem(404, 'order-not-found'));
    await expect(cleave.orders.get('o')).rejects.toMatchObject({ code: 'order-not-found', tries: 2 });
  });

  it('is not retried if 503 is a regular answer, as for readiness', async () => {
    server.answers({ status: 503, body: { status: 'error' } }, done);
    await expect(cleave.health.ready()).rejects.toMatchObject({ status: 503, problem: { status: 'error' } });
    expect(server.heard).toHaveLength(1);
  });

  it.each([
    ['seconds', () => '1'],
    // HTTP dates have whole seconds, so this one is between one and two seconds away.
    ['a date', () => new Date(Date.now() + 2_000).toUTCString()],
  ])('waits as long as Retry-After says, in %s', async (_, retryAfter) => {
    server.answers((response) => {
      response.writeHead(503, { 'retry-after': retryAfter() }).end();
    }, done);
    await cleave.orders.place(order);
    const [first, second] = server.heard.map(({ at }) => at);
    expect(second! - first!).toBeGreaterThanOrEqual(990);
    expect(second! - first!).toBeLessThan(10_000);
  });

  it('fails with the last error after all retries', async () => {
    server.answers(dropped, problem(503, 'unavailable'), problem(503, 'deadline-exceeded'), done);
    await expect(cleave.orders.place(order, { retries: 2 })).rejects.toMatchObject({
      code: 'deadline-exceeded',
      tries: 3,
    });
    expect(server.heard).toHaveLength(3);
  });

  it('fails when its deadline is over, or at once if the wait would exceed it', async () => {
    server.answers(...Array<Scripted>(100).fill(silent));
    const startedAt = Date.now();
    // Long enough for several attempts, even if the machine pauses for a second.
    await expect(cleave.orders.get('o', { ...soon, deadlineMs: 2_500, retries: 99 })).rejects.toMatchObject({
      code: 'no-answer',
      status: undefined,
    });
    expect(Date.now() - startedAt).toBeLessThan(7_000);
    expect(server.heard.length).toBeGreaterThan(1);
    server.answers(problem(503, 'unavailable', { 'retry-after': '3600' }), done);
    await expect(cleave.orders.get('o')).rejects.toMatchObject({ code: 'unavailable', tries: 1 });
    expect(Date.now() - startedAt).toBeLessThan(10_000);
  });

  it('reports the network error if no server answers', async () => {
    const nobody = new Cleave({ baseUrl: 'http://127.0.0.1:1', retries: 0 });
    await expect(nobody.orders.get('o')).rejects.toMatchObject({
      code: 'no-answer',
      detail: expect.stringMatching(/ECONNREFUSED|bad port/i),
    });
  });

  it('rejects with the reason of its signal: before it is sent, in flight, and between attempts', async () => {
    const reason = new Error('enough');
    server.answers(silent, problem(503, 'unavailable', { 'retry-after': '30' }));
    await expect(cleave.orders.get('o', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(server.heard).toHaveLength(0);
    for (const timeoutMs of [10_000, 300]) {
      const controller = new AbortController();
      setTimeout(() => controller.abort(reason), 150);
      await expect(cleave.orders.get('o', { signal: controller.signal, timeoutMs })).rejects.toBe(reason);
    }
    expect(server.heard).toHaveLength(2);
  });

  it('is subject to timeout and signal while it waits for the API key', async () => {
    const reason = new Error('enough');
    const waiting = new Cleave({
      baseUrl: server.url,
      apiKey: () => new Promise(() => {}),
      timeoutMs: 100,
      retries: 1,
    });
    await expect(waiting.orders.get('o')).rejects.toMatchObject({
      code: 'no-answer',
      tries: 2,
      detail: expect.stringContaining('100 ms'),
    });
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 50);
    await expect(waiting.orders.get('o', { signal: controller.signal, timeoutMs: 60_000 })).rejects.toBe(reason);
    await expect(waiting.orders.get('o', { signal: controller.signal })).rejects.toBe(reason);
  });

  it('accepts infinite timeouts', async () => {
    server.answers(done);
    const patient = { timeoutMs: Infinity, deadlineMs: Infinity, retries: 0 };
    expect(await cleave.orders.get('o', patient)).toEqual({ order_id: 'o' });
  });
});

describe('invalid input', () => {
  const cleave = new Cleave({ baseUrl: 'http://127.0.0.1:1' });

  it.each(['localhost:3000', '127.0.0.1:3000', 'orders.example.com', ''])(
    'is refused at once: the base URL "%s"',
    (baseUrl) => {
      expect(() => new Cleave({ baseUrl })).toThrow(/^baseUrl must be a URL such as http:/);
    },
  );

  it.each([[undefined], [null], ['http://127.0.0.1:3000'], [{}]])('is refused at once: the options %j', (it) => {
    expect(() => new Cleave(it as never)).toThrow(
      /^baseUrl must be a URL such as http:.*, not undefined: new Cleave\({ baseUrl }\)$/,
    );
  });

  it.each(['', '.', '..', '\ud800'])('is refused at once: an id that cannot be in the path, "%s"', (id) => {
    for (const ask of [() => cleave.products.get(id), () => cleave.stock.put(id, { on_hand: 1 })])
      expect(ask).toThrow(TypeError);
  });

  it('is refused without a retry: headers and bodies that cannot be sent', async () => {
    const typeError = { name: 'TypeError' };
    await expect(cleave.orders.place(order, { idempotencyKey: '5 €' })).rejects.toMatchObject(typeError);
    await expect(cleave.orders.get('o', { headers: { 'not a name': '1' } })).rejects.toMatchObject(typeError);
    await expect(cleave.orders.place({ ...order, metadata: { big: 1n } })).rejects.toMatchObject(typeError);
  });
});
