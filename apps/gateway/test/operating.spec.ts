import { afterEach, describe, expect, it } from '@jest/globals';
import { readEnvironment } from '#config';
import { freePort, samplesIn } from '#testing';
import { gatewayEnvironment, upstreamsIn } from '#gateway';
import { allAt, jsonAnswer, startGateway, startUpstream, type FakeUpstream } from './servers.js';

const closing: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const upstream = async (answer: FakeUpstream['answer']): Promise<FakeUpstream> => {
  const started = await startUpstream(answer);
  closing.push(started.stop);
  return started;
};

const ready = (status: number, report: string): FakeUpstream['answer'] => {
  return ({ url }, response) => jsonAnswer(response, url === '/health/ready' ? status : 404, { status: report });
};
const nobody = async (): Promise<string> => `http://127.0.0.1:${await freePort()}`;

const gatewayTo = async (order: string, inventory: string, others: string) => {
  const gateway = await startGateway({ ...allAt(others), order, inventory });
  closing.push(gateway.close);
  return gateway;
};

describe('GET /health/ready', () => {
  it('is ok if all services are ready', async () => {
    const { url } = await upstream(ready(200, 'ok'));
    const answer = await fetch(`${(await gatewayTo(url, url, url)).url}/health/ready`);
    expect(answer.status).toBe(200);
    expect(answer.headers.get('cache-control')).toBe('no-store');
    const up = { status: 'up' };
    const details = { order: up, inventory: up, cache: up, payment: up, sales: up, webhooks: up };
    expect(await answer.json()).toMatchObject({ status: 'ok', details });
  });

  it('is degraded if only some services can be used, and shows the state of each', async () => {
    const [down, degraded] = await Promise.all([upstream(ready(503, 'error')), upstream(ready(200, 'degraded'))]);
    const answer = await fetch(`${(await gatewayTo(degraded.url, down.url, await nobody())).url}/health/ready`);
    expect(answer.status).toBe(200);
    expect(await answer.json()).toMatchObject({
      status: 'degraded',
      info: { order: { status: 'degraded' } },
      error: { inventory: { status: 'down' }, cache: { status: 'down' } },
      details: { order: { status: 'degraded' }, inventory: { status: 'down' }, cache: { status: 'down' } },
    });
  });

  it('fails if no service can be used, and recovers', async () => {
    let status = 503;
    const { url } = await upstream((_request, response) => jsonAnswer(response, status, { status: 'ok' }));
    const gateway = await gatewayTo(url, url, await nobody());
    const answer = await fetch(`${gateway.url}/health/ready`);
    expect([answer.status, ((await answer.json()) as { status: string }).status]).toEqual([503, 'error']);
    expect((await fetch(`${gateway.url}/health/live`)).status).toBe(200);
    status = 200;
    expect((await fetch(`${gateway.url}/health/ready`)).status).toBe(200);
  });
});

describe('GET /metrics', () => {
  it('contains the metrics of the gateway itself', async () => {
    const { url } = await upstream((_request, response) => jsonAnswer(response, 200, {}));
    const answer = await fetch(`${(await gatewayTo(url, url, url)).url}/metrics`);
    expect(answer.status).toBe(200);
    expect(samplesIn(await answer.text()).get('process_uptime_seconds')).toBeGreaterThan(0);
  });

  it('contains the health of the services', async () => {
    const [up, degraded] = await Promise.all([upstream(ready(200, 'ok')), upstream(ready(200, 'degraded'))]);
    const read = async (gateway: { url: string }) => samplesIn(await (await fetch(`${gateway.url}/metrics`)).text());
    const some = await read(await gatewayTo(up.url, degraded.url, await nobody()));
    for (const [name, is] of Object.entries({ order: 'up', inventory: 'degraded', cache: 'down', sales: 'down' }))
      for (const state of ['up', 'degraded', 'down'])
        expect([name, some.get(`health_check{health_check_name="${name}",health_state="${state}"}`)]).toEqual([
          name,
          Number(state === is),
        ]);
    expect(some.get('health_ready')).toBe(1);
    const alone = await nobody();
    expect((await read(await gatewayTo(alone, alone, alone))).get('health_ready')).toBe(0);
  });
});

describe('a closing gateway', () => {
  it('finishes requests in flight', async () => {
    const { promise: arrived, resolve: arrive } = Promise.withResolvers<void>();
    const { promise: goOn, resolve: release } = Promise.withResolvers<void>();
    const slow = await upstream(async (_request, response) => {
      arrive();
      await goOn;
      response.writeHead(200, { 'content-type': 'application/json' }).write('{"first":1,');
      setImmediate(() => response.end('"second":2}'));
    });
    const gateway = await startGateway(allAt(slow.url));
    const answer = fetch(`${gateway.url}/orders`, { method: 'POST', body: '{}' });
    await arrived;
    const closed = gateway.close();
    release();
    expect(await (await answer).json()).toEqual({ first: 1, second: 2 });
    await closed;
    await expect(fetch(`${gateway.url}/orders`)).rejects.toThrow();
  });
});

describe('the environment', () => {
  it('reports all missing services at once', () => {
    expect(() => readEnvironment(gatewayEnvironment, {})).toThrow(
      /ORDER_URL: .*\n.*INVENTORY_URL: .*\n.*CACHE_URL: .*\n.*PAYMENT_URL: .*\n.*SALES_URL: .*\n.*WEBHOOKS_URL: /,
    );
  });

  it.each([
    'order',
    'order:3001',
    'http://order,',
    'http://order,order',
    'ftp://order',
    'http://order/base',
    'http://order?x=1',
    'http://me:secret@order',
  ])('refuses %s as the address of a service', (given) => {
    const source = {
      ORDER_URL: given,
      INVENTORY_URL: 'http://i',
      CACHE_URL: 'http://c',
      PAYMENT_URL: 'http://p',
      SALES_URL: 'http://s',
      WEBHOOKS_URL: 'http://w',
    };
    expect(() => readEnvironment(gatewayEnvironment, source)).toThrow(/ORDER_URL: .*must/);
  });

  it('accepts one or several origins per service, with or without a trailing slash', () => {
    const source = {
      ORDER_URL: 'http://order:3001/',
      INVENTORY_URL: 'https://i.example, http://other:3002',
      CACHE_URL: 'http://[::1]:3003',
      PAYMENT_URL: 'http://payment:3004',
      SALES_URL: 'http://sales:3005',
      WEBHOOKS_URL: 'http://webhooks:3006',
    };
    expect(upstreamsIn(readEnvironment(gatewayEnvironment, source)).map(({ origins }) => origins)).toEqual([
      ['http://order:3001'],
      ['https://i.example', 'http://other:3002'],
      ['http://[::1]:3003'],
      ['http://payment:3004'],
      ['http://sales:3005'],
      ['http://webhooks:3006'],
    ]);
  });
});
