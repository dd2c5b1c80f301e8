import { spawnSync } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, request, type ClientRequest, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text as textOf } from 'node:stream/consumers';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { problem } from '#contracts';
import { eventually, orSkip } from '#testing';
import { Daemon } from '../cluster/daemon.js';
import { AppProcess } from '../support/app-process.js';
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

const answerTo = async (sent: ClientRequest): Promise<[IncomingMessage, string]> => {
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  return [answer, await textOf(answer)];
};

/** The configuration of the containers at a port of this machine. */
const configurationAt = async (port: number): Promise<string> =>
  (await readFile('docker/haproxy.cfg', 'utf8')).replace('bind :8080', `bind 127.0.0.1:${port}`);

/** The same with the addresses of this test, whose gateways have different ports. */
const hereOf = async (port: number, gateways: number[]): Promise<string> =>
  (await configurationAt(port)).replace(
    / {2}server-template (\S+)- 10 gateway:3000( check)? resolvers names init-addr none/g,
    (_, name, check = '') =>
      gateways.map((at, index) => `  server ${name}-${index + 1} 127.0.0.1:${at}${check}`).join('\n'),
  );

/** Answers every query for an IPv4 address with that of this machine, and every other with nothing. */
const startNameServer = async (): Promise<Socket> => {
  const server = createSocket('udp4', (query, { address, port }) => {
    const questionAt = 12;
    const typeAt = query.indexOf(0, questionAt) + 1;
    const question = query.subarray(questionAt, typeAt + 4);
    const isForAddress = query.readUInt16BE(typeAt) === 1;
    const head = Buffer.from([...query.subarray(0, 2), 0x81, 0x80, 0, 1, 0, Number(isForAddress), 0, 0, 0, 0]);
    // The name is that at byte 12; an address of the Internet, valid for one second, in four bytes.
    const answer = Buffer.from([0xc0, questionAt, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    server.send(Buffer.concat([head, question, ...(isForAddress ? [answer] : [])]), port, address);
  });
  await once(server.bind(0, '127.0.0.1'), 'listening');
  return server;
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

  it('has a configuration that HAProxy accepts without warnings', () => {
    const { status, stderr } = spawnSync('haproxy', ['-c', '-f', 'docker/haproxy.cfg'], { encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, expect.not.stringMatching(/ALERT|WARNING/)]);
  });

  /** Sends the path unchanged. Only the gateway adds a request id to its responses, which shows who has answered. */
  const asked = async (method: string, path: string, at = edge) => {
    const { hostname, port } = new URL(at);
    const sent = request({ hostname, port, method, path, agent: false });
    sent.end(method === 'POST' ? '{}' : undefined);
    const [{ statusCode, headers }, body] = await answerTo(sent);
    return { isOfGateway: headers['x-request-id'] !== undefined, status: statusCode, headers, body };
  };

  it('forwards every path of the OpenAPI document except /admin/log-level and /metrics', async () => {
    const { paths } = JSON.parse(await readFile('docs/openapi.json', 'utf8')) as { paths: object };
    const refused: string[] = [];
    for (const path of ['/', '/docs', '/docs/swagger-ui-init.js', '/openapi.json', ...Object.keys(paths)])
      if (!(await asked('GET', path.replaceAll(/\{\w+\}/g, 'some-id'))).isOfGateway) refused.push(path);
    expect(refused.toSorted()).toEqual(['/admin/log-level', '/metrics']);
  });

  it.each(['/order', '/orders?limit=1', '/%6Frders', '/stock/a%2Fb', '/sales/'])('forwards %s', async (path) => {
    const { isOfGateway, status } = await asked('GET', path);
    expect([isOfGateway, status]).toEqual([true, (await asked('GET', path, urls[0])).status]);
  });

  it.each([
    ...['/metrics', '/%6Detrics', '/METRICS', '/metrics/', '/metrics?x', '//metrics', '/./metrics', '/%256Detrics'],
    ...['/admin/log-level', '/ADMIN/log-level', '/admin'],
    ...['/nothing', '/ordersx', '/Orders', '/orders;x', '//orders', '/.env', '/%zz'],
  ])('answers %s itself, with the 404 of the gateway', async (path) => {
    const known = await asked('GET', '/nothing', urls[0]);
    expect(known).toMatchObject({ isOfGateway: true, status: 404 });
    const { detail: _, ...members } = problem.parse(JSON.parse(known.body));
    const same = [
      'cache-control',
      'content-security-policy',
      'referrer-policy',
      'x-content-type-options',
      'x-frame-options',
    ];
    for (const method of ['GET', 'HEAD', 'POST', 'OPTIONS']) {
      const answer = await asked(method, path);
      expect(answer).toMatchObject({ isOfGateway: false, status: 404 });
      expect(answer.headers['content-type']).toBe('application/problem+json');
      for (const name of same) expect([name, answer.headers[name]]).toEqual([name, known.headers[name]]);
      if (method === 'HEAD') expect(answer.body).toBe('');
      else expect(problem.parse(JSON.parse(answer.body))).toMatchObject(members);
    }
  });

  it('drains and adds gateways under load without a failed request', async () => {
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

describeWithHaproxy('HAProxy in front of one gateway', () => {
  const received: string[] = [];
  let isReady = true;
  let server: Server;
  let nameServer: Socket;
  let haproxy: Daemon;
  let folder: string;
  let edge: string;

  beforeAll(async () => {
    server = createServer(({ method, url, socket }, response) => {
      if (url === '/health/ready') return void response.writeHead(isReady ? 200 : 503).end('{}');
      if (url === '/cache/stats') return void response.end('{}');
      received.push(`${method} ${url}`);
      socket.destroy();
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const [port] = await servicePorts(1);
    folder = await mkdtemp(join(tmpdir(), 'cleave-edge-'));
    const file = join(folder, 'haproxy.cfg');
    nameServer = await startNameServer();
    const found = (await configurationAt(port!))
      .replaceAll('gateway:3000', `gateway:${(server.address() as AddressInfo).port}`)
      .replace('parse-resolv-conf', `nameserver here 127.0.0.1:${nameServer.address().port}`);
    await writeFile(file, found);
    haproxy = new Daemon('haproxy', ['haproxy', '-db', '-f', file], { folder });
    await haproxy.start();
    edge = `http://127.0.0.1:${port}`;
    await eventually(async () => expect((await fetch(`${edge}/health/ready`)).status).toBe(200));
  });
  afterAll(async () => {
    await haproxy?.kill('SIGTERM');
    nameServer?.close();
    server?.closeAllConnections();
    server?.close();
    if (folder) await rm(folder, { recursive: true });
  });

  it('forwards requests to it even if it is not ready and there is no other', async () => {
    isReady = false;
    await eventually(async () => expect(haproxy.output).toMatch(/gateway-1 is DOWN, reason/));
    expect((await fetch(`${edge}/cache/stats`)).status).toBe(200);
    received.length = 0;
    expect((await fetch(`${edge}/stock/batch`, { method: 'POST', body: '{}' })).status).toBe(502);
    expect(received).toEqual(['POST /stock/batch']);
    isReady = true;
    await eventually(async () => expect(haproxy.output).toMatch(/gateway-1 is UP, reason/));
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
  ])('retries only requests that are safe or take an idempotency key (%s): %s %s', async (isRepeated, method, path) => {
    received.length = 0;
    // HAProxy closes the connection after such a response, so each request uses a new one.
    const sent = request(edge + path, { method, headers: { 'idempotency-key': '"k"' }, agent: false });
    sent.end(method === 'GET' ? undefined : '{}');
    const [answer] = await answerTo(sent);
    expect(answer.statusCode).toBe(502);
    expect(new Set(received)).toEqual(new Set([`${method} ${path}`]));
    expect(received.length > 1).toBe(isRepeated);
  });
});
