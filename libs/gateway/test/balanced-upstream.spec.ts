import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { connect, createServer as createNetServer, type AddressInfo, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Controller, Get, Logger, Module, Post } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { z } from 'zod';
import { HealthModule } from '#health';
import { createRestApp, Endpoint, fullHeader } from '#rest';
import { eventually, freePort } from '#testing';
import { Authenticator, anybody } from '#security';
import { BalancedUpstream, NotReached } from '../src/balanced-upstream.js';
import { UpstreamLogs } from '../src/upstream-logs.js';

const servers: Server[] = [];
let upstream: BalancedUpstream;
/** The addresses that the name resolves to; the whole of 127/8 is this machine. */
let addresses: readonly string[];

const start = async (host: string, port: number): Promise<void> => {
  const server = createServer((request, response) => response.end(`${host} as ${request.headers.host}`));
  servers.push(server.listen(port, host));
  await once(server, 'listening');
};

const answers = async (count: number): Promise<Set<string>> => {
  const texts = Array.from({ length: count }, async () => (await upstream.get('/', 10_000)).body.text());
  return new Set(await Promise.all(texts));
};

beforeEach(async () => {
  const port = await freePort();
  await start('127.0.0.1', port);
  await start('127.0.0.2', port);
  upstream = new BalancedUpstream(
    {
      name: 'order',
      origins: [`http://order.test:${port}`],
      balance: 'round-robin',
      prefixes: [],
      open: [],
      keyed: undefined,
    },
    { lookupMs: 20 },
    async () => addresses,
  );
});

afterEach(async () => {
  upstream.close();
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

it('reaches an instance at each address of a host name, by that name, and follows changes', async () => {
  const { port } = new URL(upstream.origins[0] as string);
  const from = (...hosts: string[]) => new Set(hosts.map((host) => `${host} as order.test:${port}`));
  addresses = ['127.0.0.1'];
  expect(await answers(4)).toEqual(from('127.0.0.1'));
  addresses = ['127.0.0.1', '127.0.0.2'];
  await eventually(async () => expect(await answers(4)).toEqual(from('127.0.0.1', '127.0.0.2')));
  addresses = ['127.0.0.2'];
  await eventually(async () => expect(await answers(4)).toEqual(from('127.0.0.2')));
});

it('sends a request to each instance, and returns the outcome of each', async () => {
  addresses = ['127.0.0.1', '127.0.0.2', '127.0.0.3'];
  const each = await upstream.getFromEach('/', 10_000);
  expect(each.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'fulfilled', 'rejected']);
  for (const it of each) if (it.status === 'fulfilled') await it.value.body.dump();
});

it('reports the log level of an instance, or that it answered without a known one', async () => {
  const [one, other] = [{ level: 'debug' }, {}].map((body) => createServer((_, it) => it.end(JSON.stringify(body))));
  servers.push(one!.listen(0, '127.0.0.1'), other!.listen(0, '127.0.0.1'));
  await Promise.all([once(one!, 'listening'), once(other!, 'listening')]);
  const at = [one!, other!].map((it) => `127.0.0.1:${(it.address() as AddressInfo).port}`);
  const origins = at.map((it) => `http://${it}`);
  const logs = new BalancedUpstream({
    ...{ name: 'cache', origins, balance: 'round-robin', prefixes: [], open: [], keyed: undefined },
  });
  try {
    expect(await new UpstreamLogs([logs], new Authenticator()).ask('cache', anybody)).toEqual([
      { address: at[0], level: 'debug' },
      { address: at[1], why: expect.stringContaining('no known log level') },
    ]);
  } finally {
    logs.close();
  }
});

it('repeats a request that a full instance refused, even if its address was removed meanwhile', async () => {
  const { port } = new URL(upstream.origins[0]!);
  const asked = Promise.withResolvers<ServerResponse>();
  const full = createServer(({ method }, response) => {
    if (method === 'POST') asked.resolve(response);
    else response.end();
  }).listen(Number(port), '127.0.0.3');
  servers.push(full);
  await once(full, 'listening');
  addresses = ['127.0.0.3'];
  const request = { method: 'POST', path: '/', origin: upstream.origins[0]!, headers: {} } as const;
  const answered = upstream.dispatcher.request(request).then(({ body }) => body.text());
  void answered.catch(() => undefined);
  const response = await asked.promise;
  addresses = ['127.0.0.2'];
  await eventually(async () => expect(await answers(1)).toEqual(new Set([`127.0.0.2 as order.test:${port}`])));
  response.writeHead(503, { [fullHeader]: 'connections', connection: 'close', 'content-length': '2' }).flushHeaders();
  // If the gateway does not wait for the body, it closes the connection as soon as it has read the head.
  await Promise.race([once(response, 'close'), sleep(200)]);
  response.end('{}');
  expect(await answered).toBe(`127.0.0.2 as order.test:${port}`);
});

it('tries no further instance after the answer timeout, however many there are', async () => {
  // A set, because the instances that were tried are also probed.
  const tried = new Set<string | undefined>();
  // Connecting takes until its timeout: the TLS handshake is never answered.
  const mute = createNetServer((socket) => {
    tried.add(socket.localAddress);
    socket.on('error', () => undefined).resume();
  }).listen(0);
  await once(mute, 'listening');
  const origins = [`https://order.test:${(mute.address() as AddressInfo).port}`];
  const hosts = Array.from({ length: 12 }, (_, at) => `127.0.0.${at + 1}`);
  const slow = new BalancedUpstream(
    { name: 'order', origins, balance: 'round-robin', prefixes: [], open: [], keyed: undefined },
    { connectTimeoutMs: 100, answerTimeoutMs: 500 },
    async () => hosts,
  );
  try {
    await expect(slow.get('/', 60_000)).rejects.toThrow(NotReached);
    expect(tried.size).toBeLessThanOrEqual(6);
  } finally {
    slow.close();
    mute.close();
  }
}, 60_000);

/** How often each endpoint was called. */
const made = { full: 0, other: 0 };

const instanceOf = (name: keyof typeof made) => {
  const endpoint = { scope: 'open', summary: 'It', errors: [] } as const;
  const schema = z.string();

  @Controller('things')
  class Things {
    @Get()
    @Endpoint({ ...endpoint, replies: { 200: { schema, description: 'It' } } })
    read(): string {
      return name;
    }

    @Post()
    @Endpoint({ ...endpoint, replies: { 201: { schema, description: 'It' } } })
    make(): string {
      made[name] += 1;
      return name;
    }
  }

  @Module({ imports: [HealthModule], controllers: [Things] })
  class Instance {}
  return Instance;
};

describe('an instance that refuses requests', () => {
  const log: string[] = [];
  const write = (...parts: unknown[]): void => void log.push(parts.map(String).join(' '));
  const logger = { log: write, warn: write, error: write };
  let apps: NestFastifyApplication[];
  let sockets: Socket[];
  let things: BalancedUpstream;

  const startEach = async (limits: [keyof typeof made, number][]): Promise<string[]> => {
    for (const [name, maxConnections] of limits) {
      const app = await createRestApp(instanceOf(name), { logger, connections: { maxConnections } });
      apps.push(app);
      await app.listen(0, '127.0.0.1');
    }
    return apps.map((app) => `http://127.0.0.1:${(app.getHttpServer().address() as AddressInfo).port}`);
  };

  const upstreamAt = (origins: string[]): BalancedUpstream =>
    new BalancedUpstream({ name: 'order', origins, balance: 'round-robin', prefixes: [], open: [], keyed: undefined });

  const fill = async (origin: string): Promise<void> => {
    const socket = connect(Number(new URL(origin).port), '127.0.0.1').on('error', () => undefined);
    await once(socket, 'connect');
    sockets.push(socket);
  };

  const send = async (
    method: 'GET' | 'POST',
    path = '/things',
    content: { headers?: Record<string, string>; body?: string | Readable } = {},
  ): Promise<[number, string]> => {
    const { statusCode, body } = await things.dispatcher.request({
      ...{ method, path, origin: things.origins[0]!, headers: {} },
      ...content,
    });
    return [statusCode, await body.text()];
  };

  beforeEach(() => {
    log.length = 0;
    apps = [];
    sockets = [];
    Object.assign(made, { full: 0, other: 0 });
    Logger.overrideLogger(logger);
  });
  afterEach(async () => {
    things.close();
    for (const socket of sockets) socket.destroy();
    await Promise.all(apps.map((app) => app.close()));
    Logger.overrideLogger(false);
  });

  it('at its limit of connections has them carried out once by another, is not logged as stopping, and is used again', async () => {
    const [full, other] = await startEach([
      ['full', 1],
      ['other', 100],
    ]);
    things = upstreamAt([full!, other!]);
    await fill(full!);
    for (let times = 0; times < 4; times += 1) {
      expect(await send('POST')).toEqual([201, 'other']);
      expect(await send('GET')).toEqual([200, 'other']);
    }
    expect(made).toEqual({ full: 0, other: 4 });
    expect(log.join('\n')).not.toContain('shutting down');
    for (const socket of sockets) socket.destroy();
    await eventually(async () => expect(await send('GET')).toEqual([200, 'full']));
  });

  it.each([
    ['of another content type', 415, 'text/plain', 'a mug'],
    ['of another character set', 415, 'application/json; charset=iso-8859-1', '{}'],
    ['that is not JSON', 400, 'application/json', '{'],
    ['that is too large', 413, 'application/json', 'x'.repeat(2 ** 20 + 1)],
  ])('is not treated as stopping if it refuses a body %s', async (_, status, type, text) => {
    things = upstreamAt(await startEach([['other', 100]]));
    // Chunked, so that only the instance finds out how long it is.
    const content = () => ({ headers: { 'content-type': type }, body: Readable.from([text]) });
    for (let times = 0; times < 2; times += 1) expect((await send('POST', '/things', content()))[0]).toBe(status);
    expect(await send('GET')).toEqual([200, 'other']);
    expect(log.join('\n')).not.toMatch(/shutting down|gets no more requests/);
  });

  it('does not replace the error of an instance that was tried before, and broke the connection, by its refusal', async () => {
    const breaking = createServer(({ socket }) => socket.destroy()).listen(0, '127.0.0.1');
    servers.push(breaking);
    await once(breaking, 'listening');
    const [full] = await startEach([['full', 1]]);
    things = upstreamAt([`http://127.0.0.1:${(breaking.address() as AddressInfo).port}`, full!]);
    await fill(full!);
    for (let times = 0; times < 3; times += 1)
      await expect(send('GET')).rejects.toThrow(/other side closed|ECONNRESET/);
  });

  it('without having heard them has them carried out behind the same address, and explains its refusal otherwise', async () => {
    const [origin] = await startEach([['other', 100]]);
    const { port } = new URL(origin!);
    const refusal = `HTTP/1.1 503 Service Unavailable\r\n${fullHeader}: connections\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`;
    let refusals = 1;
    // As an address with several instances behind it, of which one closes its connections.
    const front = createNetServer((socket) => {
      sockets.push(socket.on('error', () => undefined));
      if (refusals > 0) {
        refusals -= 1;
        socket.end(refusal);
      } else socket.pipe(connect(Number(port), '127.0.0.1').on('error', () => undefined)).pipe(socket);
    }).listen(0, '127.0.0.1');
    await once(front, 'listening');
    things = upstreamAt([`http://127.0.0.1:${(front.address() as AddressInfo).port}`]);
    try {
      expect(await send('POST')).toEqual([201, 'other']);
      for (const socket of sockets) socket.destroy();
      refusals = Number.POSITIVE_INFINITY;
      await eventually(() =>
        expect(send('POST')).rejects.toMatchObject({ code: 'unavailable', extensions: { retry_after_ms: 1_000 } }),
      );
      expect(made.other).toBe(1);
    } finally {
      front.close();
    }
  });

  it('refuses with its own 503 if it is alone, and serves requests when it has room again', async () => {
    const [full] = await startEach([['full', 1]]);
    things = upstreamAt([full!]);
    await fill(full!);
    const [status, text] = await send('POST');
    expect([status, JSON.parse(text)]).toEqual([503, expect.objectContaining({ code: 'unavailable' })]);
    expect(text).toContain('The maximum number of connections');
    expect((await send('GET', '/nothing'))[0]).toBe(404);
    expect(log.join('\n')).not.toMatch(/shutting down|gets no more requests/);
    for (const socket of sockets) socket.destroy();
    await eventually(async () => expect(await send('POST')).toEqual([201, 'full']));
  });
});
