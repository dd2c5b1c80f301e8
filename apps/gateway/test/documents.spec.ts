import { afterEach, describe, expect, it, jest } from '@jest/globals';
import type { OpenAPIObject } from '@nestjs/swagger';
import { freePort } from '#testing';
import { jsonAnswer, startGateway, startUpstream, type FakeUpstream, type RunningGateway } from './servers.js';

const closing: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const documentOf = (path: string, operationId: string, schemas: object = {}): object => ({
  openapi: '3.1.0',
  info: { title: operationId, version: '1' },
  paths: { [path]: { get: { operationId, responses: {} } } },
  components: { schemas },
});

const answeringProblem = (operationId: string, schema = 'Problem'): object => ({
  get: { operationId, responses: { 400: { $ref: `#/components/schemas/${schema}` } } },
});

const upstreamWith = async (document: () => object, port = 0): Promise<FakeUpstream> => {
  const upstream = await startUpstream(({ url }, response) => {
    if (url === '/openapi.json') jsonAnswer(response, 200, document());
    else jsonAnswer(response, 404, {});
  }, port);
  closing.push(upstream.stop);
  return upstream;
};

const start = async (urls: Parameters<typeof startGateway>[0], documents: object = {}): Promise<RunningGateway> => {
  const gateway = await startGateway(urls, { documents });
  closing.push(gateway.close);
  return gateway;
};

const documentFrom = async ({ url }: RunningGateway): Promise<OpenAPIObject> => {
  const answer = await fetch(`${url}/openapi.json`);
  expect(answer.status).toBe(200);
  return (await answer.json()) as OpenAPIObject;
};

const standard = async () => ({
  order: (await upstreamWith(() => documentOf('/orders', 'listOrders'))).url,
  inventory: (await upstreamWith(() => documentOf('/products', 'listProducts'))).url,
  cache: (await upstreamWith(() => documentOf('/cache', 'getCacheEntry'))).url,
  payment: (await upstreamWith(() => documentOf('/payments/webhooks/stripe', 'receiveStripeEvent'))).url,
  sales: (await upstreamWith(() => documentOf('/sales', 'listSales'))).url,
  webhooks: (await upstreamWith(() => documentOf('/webhook-endpoints', 'listWebhookEndpoints'))).url,
});

describe('GET /openapi.json', () => {
  it('merges the documents of the services with that of the gateway', async () => {
    const document = await documentFrom(await start(await standard()));
    expect(Object.keys(document.paths).toSorted()).toEqual([
      '/admin/log-level',
      '/cache',
      '/health/live',
      '/health/ready',
      '/metrics',
      '/orders',
      '/payments/webhooks/stripe',
      '/problems/{code}',
      '/products',
      '/sales',
      '/webhook-endpoints',
    ]);
    expect(document.info.description).not.toContain('missing');
  });

  it('omits a service that cannot be reached, says so, and includes it later', async () => {
    const port = await freePort();
    const urls = { ...(await standard()), cache: `http://127.0.0.1:${port}` };
    const gateway = await start(urls, { freshMs: 0 });
    const without = await documentFrom(gateway);
    expect(without.paths['/cache']).toBeUndefined();
    expect(without.info.description).toMatch(/missing here.*: cache\./);
    await upstreamWith(() => documentOf('/cache', 'getCacheEntry'), port);
    const complete = await documentFrom(gateway);
    expect(complete.paths['/cache']).toBeDefined();
    expect(complete.info.description).not.toContain('missing');
  });

  it('keeps the last known document of a service that has stopped', async () => {
    const gone = await startUpstream((_request, response) => jsonAnswer(response, 200, documentOf('/cache', 'get')));
    const gateway = await start({ ...(await standard()), cache: gone.url }, { freshMs: 0 });
    const before = await documentFrom(gateway);
    expect(before.paths['/cache']).toBeDefined();
    await gone.stop();
    expect(await documentFrom(gateway)).toEqual(before);
  });

  it('does not wait long for a service that does not answer', async () => {
    const silent = await startUpstream(() => {});
    closing.push(silent.stop);
    const gateway = await start({ ...(await standard()), cache: silent.url }, { timeoutMs: 100 });
    expect((await documentFrom(gateway)).info.description).toMatch(/missing here/);
    await documentFrom(gateway);
    // The recent failure is reused, so nothing waits again.
    expect(silent.received).toHaveLength(1);
  });

  it.each<[string, FakeUpstream['answer']]>([
    ['an error', (_request, response) => jsonAnswer(response, 500, {})],
    ['no JSON', (_request, response) => void response.end('<html>')],
    ['no document', (_request, response) => jsonAnswer(response, 200, null)],
    ['another address', (_request, response) => void response.writeHead(302, { location: '/' }).end()],
  ])('omits a service that answers with %s', async (_name, answer) => {
    const odd = await startUpstream(answer);
    closing.push(odd.stop);
    const document = await documentFrom(await start({ ...(await standard()), cache: odd.url }));
    expect(document.info.description).toMatch(/missing here.*: cache\./);
  });

  it('follows changes of a service', async () => {
    let version = 1;
    const cache = await upstreamWith(() => documentOf(`/cache/${version}`, 'get'));
    const gateway = await start({ ...(await standard()), cache: cache.url }, { freshMs: 0 });
    expect((await documentFrom(gateway)).paths['/cache/1']).toBeDefined();
    version = 2;
    expect(Object.keys((await documentFrom(gateway)).paths)).toContain('/cache/2');
  });

  it('follows changes of a service even if the clock is set back', async () => {
    let version = 1;
    const cache = await upstreamWith(() => documentOf(`/cache/${version}`, 'get'));
    const gateway = await start({ ...(await standard()), cache: cache.url }, { freshMs: 0 });
    await documentFrom(gateway);
    const clock = jest.spyOn(Date, 'now').mockReturnValue(Date.now() - 3_600_000);
    try {
      version = 2;
      expect(Object.keys((await documentFrom(gateway)).paths)).toContain('/cache/2');
    } finally {
      clock.mockRestore();
    }
  });

  it('fetches a document once for concurrent and later requests while it is fresh', async () => {
    const cache = await upstreamWith(() => documentOf('/cache', 'get'));
    const gateway = await start({ ...(await standard()), cache: cache.url }, { freshMs: 60_000 });
    await Promise.all([documentFrom(gateway), documentFrom(gateway), documentFrom(gateway)]);
    await documentFrom(gateway);
    expect(cache.received).toHaveLength(1);
  });

  it('renames schemas that differ between services under one name, and says so', async () => {
    const other = { Problem: { type: 'string' }, HealthReport: { type: 'string' } };
    const document = { ...documentOf('/cache', 'get', other), paths: { '/cache': answeringProblem('get') } };
    const gateway = await start({ ...(await standard()), cache: (await upstreamWith(() => document)).url });
    const merged = await documentFrom(gateway);
    expect(merged.components!.schemas).toMatchObject({
      Problem: { type: 'object' },
      cache_Problem: { type: 'string' },
    });
    expect(merged.components!.schemas).not.toHaveProperty('cache_HealthReport');
    expect(merged.paths['/cache']).toEqual(answeringProblem('get', 'cache_Problem'));
    expect(merged.info.description).toMatch(/different versions.*: cache_Problem\./);
  });
});

describe('GET /docs', () => {
  it('shows Swagger UI with the merged document', async () => {
    const gateway = await start(await standard());
    const page = await fetch(`${gateway.url}/docs`);
    expect(page.headers.get('content-type')).toContain('text/html');
    expect(await page.text()).toContain('swagger-ui');
    const script = await (await fetch(`${gateway.url}/docs/swagger-ui-init.js`)).text();
    expect(script).toContain('"listOrders"');
    expect(script).toContain('"getCacheEntry"');
    const bundle = await fetch(`${gateway.url}/docs/swagger-ui-bundle.js`);
    expect([bundle.status, bundle.headers.get('content-type')]).toEqual([200, expect.stringContaining('javascript')]);
    await bundle.body!.cancel();
  });
});
