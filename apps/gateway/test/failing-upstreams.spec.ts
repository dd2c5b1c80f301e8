import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { freePort } from '#testing';
import { allAt, startGateway, startUpstream, type FakeUpstream, type RunningGateway } from './servers.js';

let order: FakeUpstream;
let gateway: RunningGateway;
/** Accepts connections and lets a test handle them byte by byte. */
let inventory: { url: string; onConnection: (socket: Socket) => void; stop(): void };

const startTcp = async (): Promise<typeof inventory> => {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => socket.destroy()).on('close', () => sockets.delete(socket)));
    tcp.onConnection(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const tcp = {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    onConnection: (_socket: Socket) => {},
    stop: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
  return tcp;
};

beforeAll(async () => {
  [order, inventory] = await Promise.all([startUpstream(), startTcp()]);
  const nobody = `http://127.0.0.1:${await freePort()}`;
  gateway = await startGateway(
    { ...allAt(nobody), order: order.url, inventory: inventory.url },
    { proxy: { answerTimeoutMs: 400 } },
  );
});

afterAll(async () => {
  await gateway.close();
  inventory.stop();
  await order.stop();
});

beforeEach(() => {
  order.received.length = 0;
  order.answer = (_request, response) => void response.end('{}');
});

const expectProblem = async (answer: Response, code: string, detail: RegExp): Promise<void> => {
  expect(answer.status).toBe(503);
  expect(answer.headers.get('content-type')).toContain('application/problem+json');
  expect(answer.headers.get('retry-after')).toMatch(/^\d+$/);
  expect(await answer.json()).toMatchObject({ code, type: `/problems/${code}`, detail: expect.stringMatching(detail) });
};

describe('a service', () => {
  it('that does not run is unavailable, and the answer says that the request had no effect', async () => {
    const answer = await fetch(`${gateway.url}/cache?key=a`);
    await expectProblem(answer, 'unavailable', /^The cache service cannot be reached\. .*no effect/);
  });

  it('with an unknown host name is unavailable', async () => {
    const url = 'http://nowhere.invalid';
    const other = await startGateway(allAt(url));
    await expectProblem(
      await fetch(`${other.url}/orders`, { method: 'POST', body: '{}' }),
      'unavailable',
      /cannot be reached/,
    );
    await other.close();
  });

  it('that does not answer in time exceeds the deadline, and the request may have taken effect', async () => {
    order.answer = () => {};
    const answer = await fetch(`${gateway.url}/orders`, { method: 'POST' });
    await expectProblem(answer, 'deadline-exceeded', /may have taken effect/);
    expect(order.received).toHaveLength(1);
  });

  it('that stops in the middle of its answer makes the answer fail', async () => {
    order.answer = (_request, response) => void response.writeHead(200, { 'content-length': '9' }).write('{"half":');
    const answer = await fetch(`${gateway.url}/orders`);
    await expect(answer.text()).rejects.toThrow();
  });

  it('that speaks another protocol is unavailable', async () => {
    inventory.onConnection = (socket) => void socket.end('SSH-2.0-OpenSSH_9.2\r\n');
    await expectProblem(await fetch(`${gateway.url}/stock/a`), 'unavailable', /failed before it answered/);
  });

  it('is used as soon as it starts, and is unavailable again once it stops', async () => {
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const other = await startGateway(allAt(url));
    await expectProblem(await fetch(`${other.url}/orders`), 'unavailable', /cannot be reached/);
    const late = await startUpstream(undefined, port);
    expect((await fetch(`${other.url}/orders`)).status).toBe(200);
    await late.stop();
    await expectProblem(await fetch(`${other.url}/orders`), 'unavailable', /cannot be reached/);
    await other.close();
  });
});

describe('a request whose connection breaks before the answer', () => {
  /** Breaks the first connection once the request has arrived, and answers all others. */
  const breakOnce = (): { requests: string[] } => {
    const seen = { requests: [] as string[] };
    inventory.onConnection = (socket) => {
      socket.on('data', (data: Buffer) => {
        seen.requests.push(data.toString());
        if (seen.requests.length === 1) socket.destroy();
        else socket.end('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}');
      });
    };
    return seen;
  };

  const keyed = (method: string, body: string): RequestInit => ({
    method,
    body,
    headers: { 'idempotency-key': '"k"' },
  });

  it.each<[string, string, RequestInit]>([
    ['GET', '/stock/a', { method: 'GET' }],
    ['GET with If-None-Match', '/products/a', { method: 'GET', headers: { 'if-none-match': '"v1"' } }],
    ['PUT', '/products/a', { method: 'PUT', body: '{"name":"a"}' }],
    ['POST with an Idempotency-Key', '/stock/a/adjustments', keyed('POST', '{"delta":1}')],
  ])('is retried once: %s', async (_name, path, request) => {
    const seen = breakOnce();
    const answer = await fetch(gateway.url + path, request);
    expect(answer.status).toBe(200);
    expect(seen.requests).toHaveLength(2);
    if (request.body) for (const received of seen.requests) expect(received).toContain(request.body);
  });

  it.each<[string, string, RequestInit]>([
    ['POST', '/stock/a/adjustments', { method: 'POST', body: '{"delta":1}' }],
    ['PATCH', '/products/a', { method: 'PATCH', body: '{}' }],
    ['PUT with If-Match', '/products/a', { method: 'PUT', body: '{}', headers: { 'if-match': '"v1"' } }],
    ['PUT with If-None-Match: *', '/products/a', { method: 'PUT', body: '{}', headers: { 'if-none-match': '*' } }],
    ['PUT of a stock count', '/stock/a', { method: 'PUT', body: '{"on_hand":1}' }],
    ['PUT of a stock count at a percent-encoded path', '/%73tock/a', { method: 'PUT', body: '{"on_hand":1}' }],
    ['PUT of a stock count with a key that is not read', '/stock/a', keyed('PUT', '{"on_hand":1}')],
    ['POST of stock counts with a key that is not read', '/stock/batch', keyed('POST', '{"stock":[]}')],
  ])('is not retried: %s', async (_name, path, request) => {
    const seen = breakOnce();
    const answer = await fetch(gateway.url + path, request);
    await expectProblem(answer, 'unavailable', /failed before it answered.*may have taken effect/);
    expect(seen.requests).toHaveLength(1);
  });

  it('is not retried if the service does not read idempotency keys', async () => {
    const counters = await startGateway({ ...allAt(inventory.url), order: order.url });
    const seen = breakOnce();
    const counted = keyed('POST', '{"increment":1}');
    await expectProblem(await fetch(`${counters.url}/cache/counters`, counted), 'unavailable', /may have taken effect/);
    expect(seen.requests).toHaveLength(1);
    await counters.close();
  });

  it('may have taken effect even if the retry reaches no instance', async () => {
    const nobody = `http://127.0.0.1:${await freePort()}`;
    const other = await startGateway({ ...allAt(nobody), inventory: `${inventory.url},${nobody}` });
    inventory.onConnection = (socket) => void socket.on('data', () => socket.destroy());
    // Whichever instance is chosen first, one of these requests is sent before the other instance refuses it.
    for (let times = 0; times < 4; times += 1)
      await expectProblem(
        await fetch(`${other.url}/stock/a`),
        'unavailable',
        /failed before it answered.*may have taken effect/,
      );
    await other.close();
  });

  it('is not retried a second time', async () => {
    let connections = 0;
    inventory.onConnection = (socket) => {
      connections += 1;
      socket.on('data', () => socket.destroy());
    };
    await expectProblem(await fetch(`${gateway.url}/stock/a`), 'unavailable', /failed before it answered/);
    expect(connections).toBe(2);
  });
});
