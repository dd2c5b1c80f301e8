import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually, samplesIn, testSeed } from '#testing';
import { closedLoop } from '../bench/driver/closed-loop.js';
import { openLoop } from '../bench/driver/open-loop.js';
import { Templates } from '../bench/driver/templates.js';
import { Api, ok, refused, type Answer, type Order } from '../support/api.js';
import { Ledger } from '../support/ledger.js';
import type { Caught } from '../support/postgres-proxy.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { startShape, type Shape } from '../support/shapes.js';

/** The admission limit of a process that has not measured its capacity yet. */
const startingLimit = 1_000;

/**
 * Bytes sent to a server on this machine that it has not read yet, as the kernel counts them.
 *
 * @see https://www.kernel.org/doc/Documentation/networking/proc_net_tcp.txt
 */
const unread = async (baseUrl: string): Promise<number> => {
  const port = `:${Number(new URL(baseUrl).port).toString(16).toUpperCase().padStart(4, '0')}`;
  const tables = await Promise.all(['tcp', 'tcp6'].map((it) => readFile(`/proc/net/${it}`, 'utf8')));
  return tables
    .flatMap((table) => table.trim().split('\n').slice(1))
    .map((row) => row.trim().split(/\s+/))
    .filter(([, , , state]) => state === '01')
    .reduce((sum, [, local, remote, , queues]) => {
      const [toSend = 0, toRead = 0] = queues!.split(':').map((it) => Number.parseInt(it, 16));
      return sum + (local!.endsWith(port) ? toRead : 0) + (remote!.endsWith(port) ? toSend : 0);
    }, 0);
};

/** Sends requests on one connection without waiting for responses. @returns the statuses of those that were answered */
const pipelined = async (baseUrl: string, bodies: readonly string[]): Promise<number[]> => {
  const { hostname, port } = new URL(baseUrl);
  const socket = connect({ host: hostname, port: Number(port) });
  const head = `POST /orders HTTP/1.1\r\nHost: ${hostname}\r\nContent-Type: application/json\r\n`;
  const requests = bodies.map((body, at) => {
    const last = at === bodies.length - 1 ? 'Connection: close\r\n' : '';
    return `${head}${last}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
  });
  socket.write(requests.join(''));
  const received: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => received.push(chunk));
  // A connection whose requests hang for too long is reset.
  socket.on('error', () => undefined);
  await new Promise((resolve) => socket.once('close', resolve));
  return [
    ...Buffer.concat(received)
      .toString()
      .matchAll(/HTTP\/1\.1 (\d{3}) /g),
  ].map(([, status]) => Number(status));
};

describe('more orders than fit in the queue', () => {
  let shape: ProxiedShape;
  let api: Api;

  beforeAll(async () => {
    // A batch that hangs for too long is abandoned, and a sweep releases what it reserves in the end.
    shape = await startProxied('one database', { ORDER_HOLD_MS: '20000', ORDER_SWEEP_MS: '500' });
    api = new Api(shape.baseUrl);
  });
  afterAll(() => shape?.stop());

  it('are refused with 503 without effect, while queued orders are placed', async () => {
    const product_id = await api.product({ onHand: 1_000_000 });
    const order = { customer_id: 'c', product_id, quantity: 1 };
    // The database hangs, so that all requests have to wait.
    const standing: Caught[] = [];
    const letGo = shape.proxies.inventory.each({ statement: 'inventory-reserve', moment: 'before' }, 1, (caught) =>
      standing.push(caught),
    );
    const each = Array.from({ length: 110 }, () => JSON.stringify(order));
    const waiting: Promise<number[]>[] = [];

    // Adds more requests than are abandoned with hanging batches, but no faster than the server reads them. A probe without
    // a response has found room in the queue.
    const probes: Promise<Answer<Order>>[] = [];
    let refusal: Answer<Order> | undefined;
    while (!refusal) {
      for (let burst = 0; burst < 4; burst++) waiting.push(pipelined(shape.baseUrl, each));
      ok(await api.send('GET', '/health/live'), 200);
      const probe = api.place(order);
      probes.push(probe);
      refusal = await Promise.race([probe, setTimeout(50, undefined)]);
    }
    refused(refusal, '503 unavailable');
    expect(Number(refusal.headers.get('retry-after'))).toBeGreaterThan(0);
    // Requests that do not need a batch are still answered.
    expect(await api.stock(product_id)).toMatchObject({ reserved: 0 });

    // Once the database responds, requests that are read later would find room.
    while ((await unread(shape.baseUrl)) > 0) ok(await api.send('GET', '/health/live'), 200);
    // Once more, for requests that were read but not processed yet.
    ok(await api.send('GET', '/health/live'), 200);
    letGo();
    for (const caught of standing) caught.pass();
    const statuses = [...(await Promise.all(waiting)).flat(), ...(await Promise.all(probes)).map((it) => it.status)];
    const placed = statuses.filter((it) => it === 201).length;
    expect(placed).toBeGreaterThan(0);
    expect(placed).toBeLessThanOrEqual(startingLimit);
    expect(statuses).toHaveLength(waiting.length * each.length + probes.length);
    expect(statuses.filter((it) => it === 503)).toHaveLength(statuses.length - placed);
    const told = samplesIn(await (await fetch(`${shape.baseUrl}/metrics`)).text());
    expect(told.get('admission_shed_total{class="write"}')).toBeGreaterThan(0);
    ok(await api.place(order), 201);
    const ledger = new Ledger(shape);
    await eventually(async () => expect(await ledger.violations({ holdsMayWait: false })).toEqual([]));
    await ledger.expectInvariants({ holdsMayWait: false });
    expect(await api.stock(product_id)).toMatchObject({ reserved: placed + 1 });
  });
});

describe('more orders than the process can handle', () => {
  let shape: Shape;
  let api: Api;

  beforeAll(async () => {
    shape = await startShape('monolith');
    api = new Api(shape.baseUrl);
  });
  afterAll(() => shape?.stop());

  it('are each placed or refused with 503 and Retry-After, and the stock is exact', async () => {
    const product_id = await api.product({ onHand: 1_000_000_000 });
    const body = JSON.stringify({ customer_id: 'c', product_id, quantity: 1 });
    const orders = new Templates({ method: 'POST', paths: ['/orders'], bodies: [body] });
    const load = { requests: 'orders', targets: [shape.baseUrl], seed: testSeed() };

    const peak = await closedLoop(orders, { ...load, callers: 64, durationMs: 2_000 });
    expect(peak.failures).toEqual({});
    const perSecond = (4 * peak.acknowledged) / 2;
    const open = await openLoop(orders, { ...load, callers: 1_200, durationMs: 4_000, perSecond });
    const many = await closedLoop(orders, { ...load, callers: 1_280, durationMs: 5_000, honoursRetryAfter: true });

    for (const { acknowledged, failures } of [open, many]) {
      expect(acknowledged).toBeGreaterThan(0);
      // Anything else is wrong: a refusal without Retry-After, no response, or a cut connection.
      expect(Object.keys(failures).filter((it) => it !== '503')).toEqual([]);
    }
    ok(await api.place({ customer_id: 'c', product_id, quantity: 1 }), 201);
    const placed = peak.acknowledged + open.acknowledged + many.acknowledged + 1;
    const ledger = new Ledger(shape);
    await eventually(async () => expect(await ledger.violations({ holdsMayWait: false })).toEqual([]));
    expect(await api.stock(product_id)).toMatchObject({ reserved: placed });
    const told = samplesIn(await (await fetch(`${shape.baseUrl}/metrics`)).text());
    const shed = (open.failures['503'] ?? 0) + (many.failures['503'] ?? 0);
    expect(told.get('admission_shed_total{class="write"}')).toBeLessThanOrEqual(shed);
    expect(told.get('admission_in_flight{class="write"}')).toBe(0);
    const counted = [...told].filter(
      ([name]) =>
        name.startsWith('http_server_request_duration_seconds_count{') &&
        name.includes('http_route="/orders"') &&
        name.includes('http_response_status_code="503"'),
    );
    // There are none if a busy machine keeps the callers too slow to be refused.
    expect(counted.reduce((sum, [, count]) => sum + count, 0)).toBe(shed);
  });
});
