import { once } from 'node:events';
import { connect, type AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from '@jest/globals';
import { CacheModule } from '#cache';
import { StartupServer, fullHeader } from '#rest';
import { createService } from '#service';
import { eventually, freePort, samplesIn } from '#testing';
import { allAt, jsonAnswer, requestBytes, startGateway, startUpstream, type FakeUpstream } from './servers.js';

const closing: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const upstream = async (answer?: FakeUpstream['answer'], port = 0): Promise<FakeUpstream> => {
  const started = await startUpstream(answer, port);
  let isStopped = false;
  const { stop } = started;
  started.stop = async () => {
    if (!isStopped) await stop();
    isStopped = true;
  };
  closing.push(started.stop);
  return started;
};

const gatewayTo = async (urls: readonly string[], options: Parameters<typeof startGateway>[1] = {}) => {
  const gateway = await startGateway(allAt(urls.join(',')), options);
  closing.push(gateway.close);
  return gateway;
};

/** A real service, which drains long enough for its callers to close their connections. */
const startCache = async (port: number): Promise<{ close(): Promise<void> }> => {
  const app = await createService(
    {
      ...{ name: 'cache', HOST: '127.0.0.1', PORT: port },
      document: { title: 'Cache', description: '' },
      modules: [CacheModule.register({ CACHE_MAX_BYTES: 1_048_576 })],
    },
    { drainDelayMs: 60_000 },
  );
  await app.listen(port, '127.0.0.1');
  let closed: Promise<void> | undefined;
  const close = () => (closed ??= app.close());
  closing.push(close);
  return { close };
};

/** Callers that send requests until they are stopped; every answer other than 200 counts as a failure. */
const load = (callers: number, ask: () => Promise<Response>) => {
  const failures: unknown[] = [];
  let answered = 0;
  let isOver = false;
  const caller = async () => {
    while (!isOver) {
      const answer = await ask();
      const text = await answer.text();
      if (answer.status !== 200) failures.push([answer.status, text]);
      answered += 1;
    }
  };
  const all = Promise.all(Array.from({ length: callers }, caller));
  const more = async (count: number) => {
    const enough = answered + count;
    await eventually(async () => expect(answered).toBeGreaterThan(enough));
  };
  const stop = async () => {
    isOver = true;
    await all;
  };
  return { failures, more, stop };
};

/** A request without an idempotency key, which must not be retried. */
const post = (url: string, path: string) =>
  fetch(url + path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"get":["a"]}' });

const received = ({ received: all }: FakeUpstream): number => all.length;

describe('instances behind the gateway', () => {
  it('are restarted one by one under load without a failed request', async () => {
    const ports = await Promise.all([freePort(), freePort(), freePort()]);
    const running = await Promise.all(ports.map(startCache));
    const gateway = await gatewayTo(ports.map((port) => `http://127.0.0.1:${port}`));
    const calls = load(12, () => post(gateway.url, '/cache/batch'));
    for (const [index, port] of ports.entries()) {
      await calls.more(100);
      await running[index]?.close();
      await calls.more(100);
      running[index] = await startCache(port);
    }
    await calls.more(100);
    await calls.stop();
    expect(calls.failures).toEqual([]);
  });

  it('may crash: no retryable request fails, and of others only those in flight to the instance', async () => {
    const [victim, ...others] = await Promise.all([upstream(), upstream(), upstream()]);
    const gateway = await gatewayTo([victim.url, ...others.map(({ url }) => url)]);
    const repeatable = load(6, () => fetch(`${gateway.url}/orders`));
    const rest = load(6, () => post(gateway.url, '/orders'));
    await Promise.all([repeatable.more(100), rest.more(100)]);
    await victim.stop();
    await Promise.all([repeatable.more(100), rest.more(100)]);
    await Promise.all([repeatable.stop(), rest.stop()]);
    expect(repeatable.failures).toEqual([]);
    expect(rest.failures.length).toBeLessThanOrEqual(6);
  });

  it('that refuse connections make no request fail, not even a POST, and are used once they run', async () => {
    const port = await freePort();
    const other = await upstream();
    const gateway = await gatewayTo([`http://127.0.0.1:${port}`, other.url]);
    for (let request = 0; request < 6; request += 1) expect((await post(gateway.url, '/orders')).status).toBe(200);
    const late = await upstream(undefined, port);
    await eventually(async () => {
      await post(gateway.url, '/orders');
      expect(received(late)).toBeGreaterThan(0);
    });
  });

  it('that do not answer get no more requests after some, until they answer again', async () => {
    const hanging = await upstream(() => {});
    // Slow enough that the first, concurrent requests are split evenly: an ejection takes three that are late.
    const other = await upstream((_request, response) => void setTimeout(() => response.end('{}'), 200));
    const gateway = await gatewayTo([hanging.url, other.url], { proxy: { answerTimeoutMs: 1_000 } });
    const posts = (count: number) => Promise.all(Array.from({ length: count }, () => post(gateway.url, '/orders')));
    const statuses = new Set((await posts(12)).map(({ status }) => status));
    expect(statuses).toEqual(new Set([200, 503]));
    await eventually(async () => {
      const before = received(hanging);
      await posts(20);
      expect(received(hanging)).toBe(before);
    });
    hanging.answer = (_request, response) => void response.end('{}');
    await eventually(async () => {
      const before = received(hanging);
      await posts(4);
      expect(received(hanging)).toBeGreaterThan(before);
    });
  });

  it('that are slow get few requests', async () => {
    const slow = await upstream((_request, response) => void setTimeout(() => response.end('{}'), 200));
    const others = await Promise.all([upstream(), upstream()]);
    const gateway = await gatewayTo([slow.url, ...others.map(({ url }) => url)]);
    const calls = load(4, () => fetch(`${gateway.url}/orders`));
    await calls.more(400);
    await calls.stop();
    for (const other of others) expect(received(slow)).toBeLessThan(received(other) / 3);
  });

  it('that fail every request at once get hardly any requests until they recover', async () => {
    const failing = await upstream((_request, response) => jsonAnswer(response, 503, { code: 'unavailable' }));
    const others = await Promise.all([upstream(), upstream()]);
    const gateway = await gatewayTo([failing.url, ...others.map(({ url }) => url)]);
    const calls = load(6, () => fetch(`${gateway.url}/orders`));
    await calls.more(1_000);
    await calls.stop();
    expect(calls.failures.length).toBeGreaterThan(0);
    expect(calls.failures.length).toBeLessThan(20);
    failing.answer = (_request, response) => void response.end('{}');
    await eventually(async () => {
      const before = received(failing);
      for (let request = 0; request < 6; request += 1) await fetch(`${gateway.url}/orders`);
      expect(received(failing)).toBeGreaterThan(before);
    });
  });

  it('with different names for one address are separate', async () => {
    const both = await upstream();
    const { port } = new URL(both.url);
    const gateway = await gatewayTo([both.url, `http://localhost:${port}`]);
    for (let request = 0; request < 30; request += 1) await fetch(`${gateway.url}/orders`);
    const hosts = new Set(both.received.map(({ headers }) => headers.host));
    expect(hosts).toEqual(new Set([`127.0.0.1:${port}`, `localhost:${port}`]));
  });

  it('that are overloaded are not ejected', async () => {
    const busy: FakeUpstream['answer'] = (_request, response) => {
      response.setHeader(fullHeader, 'requests');
      jsonAnswer(response, 503, { code: 'unavailable' });
    };
    const both = await Promise.all([upstream(busy), upstream(busy)]);
    const gateway = await gatewayTo(both.map(({ url }) => url));
    for (let request = 0; request < 30; request += 1) {
      const answer = await post(gateway.url, '/orders');
      expect([answer.status, answer.headers.get(fullHeader)]).toEqual([503, null]);
    }
    expect(both.reduce((sum, it) => sum + received(it), 0)).toBe(30);
    const samples = samplesIn(await (await fetch(`${gateway.url}/metrics`)).text());
    expect(samples.get('balancing_ejections_total{balancing_service="order",network_transport="http"}')).toBe(0);
  });

  it('that are starting make no request fail, not even a POST, and are used once they have started', async () => {
    const port = await freePort();
    const room = new StartupServer({ HOST: '127.0.0.1', PORT: port }, () => [{ name: 'order-database' }], 0);
    closing.push(() => room.close());
    void room.during(new Promise(() => {}));
    await eventually(async () => expect((await fetch(`http://127.0.0.1:${port}/orders`)).status).toBe(503));
    const gateway = await gatewayTo([`http://127.0.0.1:${port}`, (await upstream()).url]);
    for (let request = 0; request < 12; request += 1) expect((await post(gateway.url, '/orders')).status).toBe(200);
    await room.close();
    const started = await upstream(undefined, port);
    await eventually(async () => {
      expect((await post(gateway.url, '/orders')).status).toBe(200);
      expect(received(started)).toBeGreaterThan(0);
    });
  });

  it('that answer with Connection: close get no more requests', async () => {
    const ending = await upstream((_request, response) => void response.setHeader('connection', 'close').end('{}'));
    const other = await upstream();
    const gateway = await gatewayTo([ending.url, other.url]);
    for (let request = 0; request < 30; request += 1) expect((await post(gateway.url, '/orders')).status).toBe(200);
    expect(received(ending)).toBeLessThanOrEqual(1);
  });

  it('are not ejected because of the answers to HEAD', async () => {
    const both = await Promise.all([upstream(), upstream()]);
    const gateway = await gatewayTo(both.map(({ url }) => url));
    for (let request = 0; request < 6; request += 1)
      expect((await fetch(`${gateway.url}/orders`, { method: 'HEAD' })).status).toBe(200);
    const samples = samplesIn(await (await fetch(`${gateway.url}/metrics`)).text());
    expect(samples.get('balancing_ejections_total{balancing_service="order",network_transport="http"}')).toBe(0);
  });

  it('get at most maxInFlight requests each, and further requests are refused at once', async () => {
    const { promise: goOn, resolve: release } = Promise.withResolvers<void>();
    const waiting: FakeUpstream['answer'] = async (_request, response) => {
      await goOn;
      response.end('{}');
    };
    const both = [await upstream(waiting), await upstream(waiting)];
    const gateway = await gatewayTo(
      both.map(({ url }) => url),
      { proxy: { maxInFlight: 1 } },
    );
    const taken = [post(gateway.url, '/orders'), post(gateway.url, '/orders')];
    await eventually(async () => expect(both.map(received)).toEqual([1, 1]));
    const refused = await post(gateway.url, '/orders');
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, expect.stringMatching(/^\d+$/)]);
    expect(await refused.json()).toMatchObject({
      code: 'unavailable',
      detail: expect.stringMatching(/not sent, repeat/),
    });
    release();
    expect((await Promise.all(taken)).map(({ status }) => status)).toEqual([200, 200]);
  });

  it('are free for other requests while a caller does not read an answer', async () => {
    const large = Buffer.alloc(64_000_000);
    const one = await upstream(({ url }, response) => void response.end(url === '/orders/large' ? large : '{}'));
    const gateway = await gatewayTo([one.url], { proxy: { maxInFlight: 1 } });
    const reader = connect(gateway.port, '127.0.0.1');
    reader.write(requestBytes('GET /orders/large'));
    await once(reader, 'readable');
    expect((await fetch(`${gateway.url}/orders`)).status).toBe(200);
    reader.destroy();
  });

  it('that are all dead get few retries, limited by a budget', async () => {
    const cutting: FakeUpstream['answer'] = (_request, response) => void response.destroy();
    const dead = await Promise.all([upstream(cutting), upstream(cutting), upstream(cutting)]);
    const gateway = await gatewayTo(dead.map(({ url }) => url));
    const begunAt = performance.now();
    for (let round = 0; round < 30; round += 1) {
      const answers = await Promise.all(Array.from({ length: 10 }, () => fetch(`${gateway.url}/orders`)));
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([503]));
    }
    const seconds = (performance.now() - begunAt) / 1_000;
    const asked = dead.reduce((sum, it) => sum + received(it), 0);
    expect(asked).toBeGreaterThan(300);
    expect(asked).toBeLessThanOrEqual(330 + 30 + 3 * seconds + 1);
    const samples = samplesIn(await (await fetch(`${gateway.url}/metrics`)).text());
    const of = 'balancing_service="order"';
    const over = 'network_transport="http"';
    expect(samples.get(`balancing_retries_total{${of},${over}}`)).toBe(asked - 300);
    expect(samples.get(`balancing_targets{${of},balancing_state="ejected",${over}}`)).toBe(3);
    expect(samples.get(`balancing_refused_total{balancing_reason="budget",${of},${over}}`)).toBeGreaterThan(0);
  });

  it('make a service degraded if some are down, and its document is read from one that is up', async () => {
    const answer: FakeUpstream['answer'] = ({ url }, response) =>
      url === '/openapi.json'
        ? jsonAnswer(response, 200, { openapi: '3.1.0', paths: {}, components: {} })
        : jsonAnswer(response, 200, { status: 'ok' });
    const gateway = await gatewayTo([(await upstream(answer)).url, `http://127.0.0.1:${await freePort()}`]);
    const health = await fetch(`${gateway.url}/health/ready`);
    expect(health.status).toBe(200);
    expect(await health.json()).toMatchObject({ status: 'degraded', details: { order: { status: 'degraded' } } });
    const document = (await (await fetch(`${gateway.url}/openapi.json`)).json()) as { info: { description: string } };
    expect(document.info.description).not.toContain('cannot be reached');
  });

  it('can be configured as localhost', async () => {
    const { server } = await upstream();
    const gateway = await gatewayTo([`http://localhost:${(server.address() as AddressInfo).port}`]);
    for (let request = 0; request < 4; request += 1) expect((await post(gateway.url, '/orders')).status).toBe(200);
  });

  it.each([
    ['round-robin', 10, 10],
    ['least-loaded', 0, 4],
  ] as const)('are chosen by the configured policy: %s', async (policy, least, most) => {
    const slow = await upstream((_request, response) => void setTimeout(() => response.end('{}'), 40));
    const quick = await upstream();
    const gateway = await gatewayTo([slow.url, quick.url], { ORDER_BALANCE: policy });
    for (let request = 0; request < 20; request += 1) await (await fetch(`${gateway.url}/orders`)).text();
    expect(received(slow) + received(quick)).toBe(20);
    expect(received(slow)).toBeGreaterThanOrEqual(least);
    expect(received(slow)).toBeLessThanOrEqual(most);
  });
});
