import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, request, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { orSkip } from '#testing';
import { Daemon } from '../cluster/daemon.js';
import { AppProcess } from '../support/app-process.js';
import { eventually } from '../support/eventually.js';
import type { Load } from '../support/load.js';
import { startScaled } from '../support/scaled-shapes.js';
import { servicePorts, type Shape } from '../support/shapes.js';
import { acknowledged, expectAnswers, Trial } from '../support/trial.js';
import { Visits } from '../support/visits.js';

const describeWithHaproxy = orSkip(
  spawnSync('haproxy', ['-v']).status === 0,
  describe,
  'There is no HAProxy for the tests: install it (apt-get install haproxy)',
);

const thinkMs = 100;
/** The very file of the containers, but for where things are: here the gateways differ by their port. */
const hereOf = async (port: number, gateways: number[]): Promise<string> => {
  const text = await readFile('docker/haproxy.cfg', 'utf8');
  const servers = gateways.map((at, index) => `server gateway-${index + 1} 127.0.0.1:${at} check`);
  return text
    .replace('bind :8080', `bind 127.0.0.1:${port}`)
    .replace(/server-template gateway- 10 \S+ check resolvers names init-addr none/, servers.join('\n  '));
};

describeWithHaproxy('HAProxy at the edge', () => {
  let shape: Shape;
  let trial: Trial;
  let edge: string;
  let haproxy: Daemon;
  let folder: string;
  let urls: string[];
  let gateways: AppProcess[];
  const start = async (which: number): Promise<void> => {
    gateways[which]!.spawn();
    await gateways[which]!.untilReady(`${urls[which]}/health/ready`);
  };

  beforeAll(async () => {
    shape = await startScaled();
    const [port, ...ports] = await servicePorts(3);
    urls = ports.map((it) => `http://127.0.0.1:${it}`);
    const services = Object.fromEntries(
      ['order', 'inventory', 'cache', 'payment', 'sales', 'webhooks'].map((name) => [
        `${name.toUpperCase()}_URL`,
        shape.services.find((it) => it.name === name || it.name === `${name}-1`)!.url,
      ]),
    );
    gateways = ports.map((it) => new AppProcess('gateway', { ...services, HOST: '127.0.0.1', PORT: String(it) }));
    await Promise.all([start(0), start(1)]);
    folder = await mkdtemp(join(tmpdir(), 'cleave-edge-'));
    const file = join(folder, 'haproxy.cfg');
    await writeFile(file, await hereOf(port!, ports));
    haproxy = new Daemon('haproxy', ['haproxy', '-db', '-f', file], { folder });
    await haproxy.start();
    edge = `http://127.0.0.1:${port}`;
    await eventually(async () => {
      if (!haproxy.isRunning) throw new Error(`HAProxy ended: ${haproxy.output}`);
      for (const path of ['/products', '/orders', '/cache/stats', '/sales', '/webhook-endpoints', '/health/ready'])
        expect([path, (await fetch(`${edge}${path}`)).status]).toEqual([path, 200]);
    });
    trial = new Trial({ ...shape, baseUrl: edge, entrances: [edge] });
  });
  afterAll(async () => {
    await haproxy?.kill('SIGTERM');
    const complaints = await Promise.all((gateways ?? []).map((it) => it.stop()));
    await shape?.stop();
    if (folder) await rm(folder, { recursive: true });
    expect(complaints.filter(Boolean)).toEqual([]);
  });

  it('is configured as HAProxy takes it', () => {
    const { status, stderr } = spawnSync('haproxy', ['-c', '-f', 'docker/haproxy.cfg'], { encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, expect.not.stringMatching(/ALERT|WARNING/)]);
  });

  it.each(['/metrics', '/%6Detrics', '/METRICS', '/metrics/', '/metrics?x'])('shows nobody %s', async (path) => {
    const answer = await fetch(`${edge}${path}`);
    expect(answer.status).toBe(404);
    expect(await answer.text()).not.toContain('process_');
  });

  it('drains and adds gateways under load, and no request fails', async () => {
    await trial.stock();
    const visited = await trial.api.product({ onHand: 1_000_000 });
    const load = trial.load(thinkMs);
    const visits = new Visits([edge], 6, visited);
    const goOn = async (of: Load, count = 50): Promise<void> => {
      const before = acknowledged(of.attempts).length;
      await of.until(() => acknowledged(of.attempts).length > before + count);
    };
    await goOn(load);
    for (const which of [0, 1, 0]) {
      expect(await gateways[which]!.kill('SIGTERM')).toEqual({ code: 0, signal: null });
      await goOn(load);
      await start(which);
      await goOn(load);
    }
    await visits.end();
    expectAnswers(await load.end(), [201, 409]);
    expect(visits.failures).toEqual([]);
    await visits.expectKept(trial.api, trial.ledger, 1_000_000);
    await trial.settle();
  });
});

describeWithHaproxy('HAProxy before gateways that break off', () => {
  const received: string[] = [];
  let server: Server;
  let haproxy: Daemon;
  let folder: string;
  let edge: string;

  beforeAll(async () => {
    server = createServer(({ method, url, socket }, response) => {
      if (url === '/health/ready') return void response.end('{}');
      received.push(`${method} ${url}`);
      socket.destroy();
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const [port] = await servicePorts(1);
    folder = await mkdtemp(join(tmpdir(), 'cleave-edge-'));
    const file = join(folder, 'haproxy.cfg');
    await writeFile(file, await hereOf(port!, [(server.address() as AddressInfo).port]));
    haproxy = new Daemon('haproxy', ['haproxy', '-db', '-f', file], { folder });
    await haproxy.start();
    edge = `http://127.0.0.1:${port}`;
    await eventually(async () => expect((await fetch(`${edge}/health/ready`)).status).toBe(200));
  });
  afterAll(async () => {
    await haproxy?.kill('SIGTERM');
    server?.closeAllConnections();
    server?.close();
    if (folder) await rm(folder, { recursive: true });
  });

  it.each<[boolean, string, string]>([
    [true, 'GET', '/stock/a'],
    [true, 'POST', '/orders'],
    [true, 'POST', '/order'],
    [true, 'POST', '/orders/o-1/returns'],
    [true, 'POST', '/stock/a/adjustments'],
    [false, 'PUT', '/stock/a'],
    [false, 'POST', '/stock/batch'],
    [false, 'POST', '/dead-letters/d-1/retry'],
    [false, 'POST', '/cache/counters'],
  ])('asks again (%s), of what carries a key: %s %s', async (isRepeated, method, path) => {
    received.length = 0;
    // HAProxy ends the connection with such an answer: each request has one of its own.
    const sent = request(edge + path, { method, headers: { 'idempotency-key': '"k"' }, agent: false });
    sent.end(method === 'GET' ? undefined : '{}');
    const [answer] = (await once(sent, 'response')) as [IncomingMessage];
    answer.resume();
    expect(answer.statusCode).toBe(502);
    expect(new Set(received)).toEqual(new Set([`${method} ${path}`]));
    expect(received.length > 1).toBe(isRepeated);
  });
});
