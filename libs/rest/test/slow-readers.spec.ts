import { once } from 'node:events';
import { createServer } from 'node:http';
import { connect, type AddressInfo, type Server, type Socket } from 'node:net';
import { Readable, duplexPair } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Controller, Get, Module, Post, StreamableFile } from '@nestjs/common';
import { z } from 'zod';
import { createRestApp, Endpoint, eventStream } from '#rest';
import { eventually } from '#testing';
import { Connections, lookMs } from '../src/connections.js';
import { logInto, raw, standStill } from './app-under-test.js';

const answerMs = 1_000;
const large = 'x'.repeat(64_000_000);

/** How many chunks of a stream, or how many things, were made. */
let made = 0;

const endless = function* () {
  for (;;) {
    made += 1;
    yield `data: ${'x'.repeat(100_000)}\n\n`;
  }
};

@Controller()
class LargeController {
  @Get('stream')
  @Endpoint({
    scope: 'open',
    summary: 'Follow',
    replies: { 200: { schema: z.string(), description: 'It', streamedAs: eventStream } },
    errors: [],
  })
  stream(): StreamableFile {
    return new StreamableFile(Readable.from(endless()), { type: eventStream });
  }

  @Get('alive')
  @Endpoint({
    scope: 'open',
    summary: 'Whether it lives',
    replies: { 200: { schema: z.string(), description: 'It does' } },
    errors: [],
    isAlwaysAdmitted: true,
  })
  alive(): string {
    return 'yes';
  }

  @Get('large')
  @Endpoint({ scope: 'open', summary: 'Much', replies: { 200: { schema: z.string(), description: 'It' } }, errors: [] })
  large(): string {
    return large;
  }

  @Post('made')
  @Endpoint({ scope: 'open', summary: 'Make', replies: { 201: { schema: z.string(), description: 'It' } }, errors: [] })
  make(): string {
    made += 1;
    return 'it';
  }
}

@Module({ controllers: [LargeController] })
class LargeModule {}

let port: number;
let server: Server;
let close: () => Promise<void>;
beforeAll(async () => {
  const connections = { answerMs, maxConnections: 20 };
  const app = await createRestApp(LargeModule, {
    ...{ logger: logInto([]), connections, corsOrigins: ['https://shop.example'] },
  });
  await app.listen(0, '127.0.0.1');
  server = app.getHttpServer();
  ({ port } = server.address() as AddressInfo);
  close = () => app.close();
});
afterAll(() => close());
beforeEach(() => void (made = 0));

/** Sends a request and reads nothing. @returns the socket, and promises of its end here and at the server */
const asking = async (path: string): Promise<{ socket: Socket; closed: Promise<unknown>; cut: Promise<void> }> => {
  const cut = new Promise<void>((resolve) =>
    server.once('connection', (served: Socket) => served.once('close', () => resolve())),
  );
  const socket = connect(port, '127.0.0.1').pause();
  const closed = once(socket, 'close');
  socket.on('error', () => socket.destroy());
  await once(socket, 'connect');
  socket.write(`GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`);
  return { socket, closed, cut };
};

describe('a client that does not read', () => {
  it.each(['/stream', '/large'])('of %s is disconnected, and nothing more is produced for it', async (path) => {
    const asked = await asking(path);
    let early: number;
    // Until the buffers in between are full, which takes longer on a busy machine.
    do {
      early = made;
      await sleep(300);
    } while (made > early);
    await asked.cut;
    // The client notices that only after it has read what came before.
    asked.socket.resume();
    await asked.closed;
    expect(made - early).toBeLessThanOrEqual(2);
    // Chunks of 100,000 bytes, and what of them was sent.
    expect(made).toBeLessThan(320);
    expect(asked.socket.bytesRead).toBeLessThan(32_000_000);
  });
});

describe('a client that reads slowly', () => {
  it('keeps its event stream', async () => {
    const { socket, closed } = await asking('/stream');
    const cutOff = closed.then(() => {
      throw new Error('The client was cut off.');
    });
    cutOff.catch(() => undefined);
    for (let times = 0; times < 60; times += 1) {
      await sleep(50);
      const before = socket.bytesRead;
      socket.resume();
      // Less would not always make the kernel tell the server that there is room again.
      while (socket.bytesRead < before + 1_000_000) await Promise.race([once(socket, 'data'), cutOff]);
      socket.pause();
    }
    expect(socket.destroyed).toBe(false);
    socket.destroy();
  });

  it('is disconnected before it has read a large answer that takes too long', async () => {
    const { socket, closed } = await asking('/large');
    const startedAt = performance.now();
    void closed.then(() => (isClosed = true));
    let isClosed = false;
    while (!isClosed && performance.now() - startedAt < 10_000) {
      await sleep(100);
      socket.read(200_000);
    }
    expect(isClosed).toBe(true);
    expect(socket.bytesRead).toBeLessThan(large.length);
  });
});

it('a client is not cut off because the process has stood still', async () => {
  const http = createServer((_, response) => void response.write('the beginning'));
  const limitMs = 10 * lookMs;
  const connections = new Connections(http, { answerMs: limitMs, maxConnections: 1 }, '');
  await once(http.listen(0, '127.0.0.1'), 'listening');
  const client = connect((http.address() as AddressInfo).port, '127.0.0.1');
  client.write('GET / HTTP/1.1\r\nhost: localhost\r\n\r\n');
  await once(client, 'data');
  await sleep(lookMs);
  standStill(limitMs);
  await sleep(lookMs);
  expect(connections.size).toBe(1);
  client.destroy();
  http.close();
});

/** Opens connections one after the other, which send nothing. */
const connected = async (count: number): Promise<Socket[]> => {
  const sockets: Socket[] = [];
  for (let left = count; left > 0; left -= 1) {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => socket.destroy());
    await once(socket.resume(), 'connect');
    sockets.push(socket);
  }
  return sockets;
};

/** The whole answer until the connection is closed. */
const ask = (path: string, more = ''): Promise<string> =>
  raw(port, `HEAD ${path} HTTP/1.1\r\nhost: localhost\r\n${more}\r\n`);

describe('at the limit of connections', () => {
  let sockets: Socket[];
  beforeEach(async () => void (sockets = await connected(20)));
  afterEach(async () => {
    for (const socket of sockets) socket.destroy();
    await eventually(async () => expect(await ask('/large', 'connection: close\r\n')).toContain(' 200 OK'));
  });

  it('a further connection is refused with 503 and Retry-After', async () => {
    const answer = await ask('/large');
    expect(answer).toContain(' 503 Service Unavailable');
    expect(answer.toLowerCase()).toContain('retry-after: 1\r\n');
    expect(answer.toLowerCase()).toContain('connection: close\r\n');
  });

  it.each(['HEAD /nothing', 'GET /%zz', 'DELETE /alive', 'OPTIONS /large', 'POST /large'])(
    'every answer on a further connection closes it: %s',
    async (line) => {
      const more = 'origin: https://shop.example\r\naccess-control-request-method: GET\r\ncontent-length: 0\r\n';
      const asked = raw(port, `${line} HTTP/1.1\r\nhost: localhost\r\n${more}\r\n`);
      const answer = await Promise.race([asked, sleep(30_000, 'nothing, or not to its end', { ref: false })]);
      expect(answer.toLowerCase()).toContain('connection: close\r\n');
      expect(answer.toLowerCase()).toContain('cleave-full: connections\r\n');
    },
  );

  it('200 simultaneous connections are all refused with 503, and no request is processed', async () => {
    // Their requests may not have been read yet when the next connections are accepted.
    let left = 200;
    const letIn = new Promise<void>((resolve) => server.on('connection', () => (left -= 1) === 0 && resolve()));
    const each = Array.from({ length: left }, async () => {
      const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true }).setEncoding('utf8');
      let answer = '';
      socket.on('data', (chunk: string) => void (answer += chunk)).on('error', ({ message }) => (answer += message));
      const closed = once(socket, 'close');
      await letIn;
      socket.end('POST /made HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}');
      await closed;
      return answer;
    });
    const answers = await Promise.all(each);
    for (const answer of answers) {
      expect(answer).toMatch(/^HTTP\/1\.1 503 Service Unavailable\r\n/);
      expect(answer.toLowerCase()).toContain('cleave-full: connections\r\n');
      expect(answer.toLowerCase()).toContain('retry-after: 1\r\n');
      expect(answer.toLowerCase()).toContain('connection: close\r\n');
      expect(answer.toLowerCase()).toContain('cache-control: no-store\r\n');
    }
    expect(made).toBe(0);
  });

  it('an always admitted endpoint answers on further connections', async () => {
    for (let times = 0; times < 100; times += 1) expect(await ask('/alive')).toContain(' 200 OK');
  });

  it('silent further connections do not block an always admitted endpoint and do not accumulate', async () => {
    sockets.push(...(await connected(200)));
    expect(await ask('/alive')).toContain(' 200 OK');
    await eventually(async () => expect(sockets.filter((it) => !it.closed).length).toBeLessThanOrEqual(20 + 32));
    // Connections that were there before are not closed to make room.
    expect(sockets.slice(0, 20).filter((socket) => socket.closed)).toEqual([]);
  });
});

it('refused connections that stay open are limited to 1,000, and soon to 32', async () => {
  const http = createServer();
  const limits = { answerMs: 60_000, maxConnections: 0 };
  const connections = new Connections(http, limits, 'HTTP/1.1 503 Service Unavailable\r\n\r\n');
  for (let left = 1_200; left > 0; left -= 1) http.emit('connection', duplexPair()[0]);
  expect(connections.size).toBe(1_000);
  await eventually(async () => expect(connections.size).toBe(32));
});
