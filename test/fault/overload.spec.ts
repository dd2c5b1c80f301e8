import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Api, ok, refused, type Answer, type Order } from '../support/api.js';
import { Ledger } from '../support/ledger.js';
import type { Caught } from '../support/postgres-proxy.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';

/** What may wait for a batch, and what two batches take at most. */
const mostWaiting = 5_000;
const mostInFlight = 2 * 250;

/** Requests sent one after the other on one connection without waiting, and the status of each answer. */
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
  await once(socket, 'close');
  return [
    ...Buffer.concat(received)
      .toString()
      .matchAll(/HTTP\/1\.1 (\d{3}) /g),
  ].map(([, status]) => Number(status));
};

describe('more orders than can wait', () => {
  let shape: ProxiedShape;
  let api: Api;

  beforeAll(async () => {
    shape = await startProxied('one database');
    api = new Api(shape.baseUrl);
  });
  afterAll(() => shape?.stop());

  it('are refused at once and leave nothing, and those that wait are placed', async () => {
    const product_id = await api.product({ onHand: 1_000_000 });
    const order = { customer_id: 'c', product_id, quantity: 1 };
    // The database stands still: whatever comes has to wait.
    const standing: Caught[] = [];
    const letGo = shape.proxies.inventory.each({ statement: 'inventory-reserve', moment: 'before' }, 1, (caught) =>
      standing.push(caught),
    );
    const connections = 56;
    const each = Array.from({ length: (mostWaiting + mostInFlight) / 50 }, () => JSON.stringify(order));
    const waiting = Array.from({ length: connections }, () => pipelined(shape.baseUrl, each));

    // One that is not answered has found room and waits like the others.
    const probes: Promise<Answer<Order>>[] = [];
    let refusal: Answer<Order> | undefined;
    while (!refusal) {
      const probe = api.place(order);
      probes.push(probe);
      refusal = await Promise.race([probe, setTimeout(100, undefined)]);
    }
    refused(refusal, '503 unavailable');
    expect(Number(refusal.headers.get('retry-after'))).toBeGreaterThan(0);
    // What needs no batch goes on.
    expect(await api.stock(product_id)).toMatchObject({ reserved: 0 });

    letGo();
    for (const caught of standing) caught.pass();
    const statuses = [...(await Promise.all(waiting)).flat(), ...(await Promise.all(probes)).map((it) => it.status)];
    expect(statuses).toHaveLength(connections * each.length + probes.length);
    const placed = statuses.filter((it) => it === 201).length;
    expect(placed).toBeGreaterThanOrEqual(mostWaiting);
    expect(placed).toBeLessThanOrEqual(mostWaiting + mostInFlight);
    expect(statuses.filter((it) => it === 503)).toHaveLength(statuses.length - placed);
    expect(await api.stock(product_id)).toMatchObject({ reserved: placed });
    ok(await api.place(order), 201);
    await new Ledger(shape).expectInvariants({ holdsMayWait: false });
  });
});
