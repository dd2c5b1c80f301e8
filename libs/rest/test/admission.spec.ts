import { once } from 'node:events';
import { Agent, IncomingMessage, request } from 'node:http';
import { connect } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Controller, Get, Module } from '@nestjs/common';
import { Admission, type Limiter } from '#admission';
import { Endpoint, createRestApp, fullHeader } from '#rest';
import { Authenticator } from '#security';
import { logInto, raw, slow, startApp, type AppUnderTest } from './app-under-test.js';

@Controller('guarded')
class GuardedController {
  @Get()
  @Endpoint({ scope: 'operator', summary: 'Read', replies: { 200: { description: 'It' } }, errors: [] })
  guarded(): void {}
}

@Module({ controllers: [GuardedController] })
class GuardedModule {}

let running: AppUnderTest;
let reads: Limiter;
let writes: Limiter;

beforeEach(async () => {
  Object.assign(slow, { entered: Promise.withResolvers(), release: Promise.withResolvers() });
  running = await startApp();
  const admission = running.app.get(Admission);
  reads = admission.limiterOf('read');
  writes = admission.limiterOf('write');
});
afterEach(() => running.app.close());

/**
 * Fills the limiter.
 *
 * @returns a function that makes room for one more request
 */
const fill = (limiter: Limiter): (() => void) => {
  let entered = 0;
  while (limiter.inFlight < limiter.limit) entered = limiter.enter();
  return () => limiter.leave(entered);
};

const post = (path: string, body: string): Promise<Response> =>
  fetch(running.url + path, { method: 'POST', headers: { 'content-type': 'application/json' }, body });

const until = async (isSo: () => boolean): Promise<void> => {
  while (!isSo()) await new Promise(setImmediate);
};

describe('requests over the limit', () => {
  it('are refused with 503 and Retry-After before their bodies are parsed', async () => {
    const makeRoom = fill(writes);
    const answer = await post('/things', 'no JSON at all');
    expect(answer.status).toBe(503);
    expect(answer.headers.get('content-type')).toContain('application/problem+json');
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff');
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
    // Marked as full, so that it is not mistaken for an instance that lacks a dependency.
    expect(answer.headers.get(fullHeader)).toBe('requests');
    expect(await answer.json()).toMatchObject({
      type: '/problems/unavailable',
      code: 'unavailable',
      detail: expect.stringContaining('Retry-After'),
    });
    expect(writes.shed).toBe(1);
    makeRoom();
    expect((await post('/things', '{"name":"a box"}')).status).toBe(201);
  });

  it('do not block requests of the other kind, always admitted ones, the docs or a 404', async () => {
    fill(writes);
    expect((await fetch(`${running.url}/things/box`)).status).toBe(200);
    fill(reads);
    expect((await fetch(`${running.url}/things/box`)).status).toBe(503);
    expect((await fetch(`${running.url}/things/box`, { method: 'HEAD' })).status).toBe(503);
    expect((await fetch(`${running.url}/trials/watched`)).status).toBe(200);
    expect((await fetch(`${running.url}/docs`)).status).toBe(200);
    expect((await fetch(`${running.url}/nowhere`)).status).toBe(404);
  });

  it('keep their connections open', async () => {
    const makeRoom = fill(writes);
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const ports: (number | undefined)[] = [];
    for (const wanted of [503, 503, 201]) {
      if (wanted === 201) makeRoom();
      const headers = { 'content-type': 'application/json' };
      const sent = request(`${running.url}/things`, { agent, method: 'POST', headers }).end('{"name":"a box"}');
      const [answer] = (await once(sent, 'response')) as [IncomingMessage];
      ports.push(answer.socket.localPort);
      await once(answer.resume(), 'end');
      expect(answer.statusCode).toBe(wanted);
    }
    expect(new Set(ports).size).toBe(1);
    agent.destroy();
  });

  it('are all answered when hundreds are pipelined', async () => {
    fill(reads);
    const one = 'GET /things/box HTTP/1.1\r\nHost: localhost\r\n';
    const each = async () => {
      const text = await raw(running.port, `${`${one}\r\n`.repeat(99)}${one}Connection: close\r\n\r\n`);
      return text.match(/HTTP\/1\.1 503 /g)?.length;
    };
    expect(await Promise.all(Array.from({ length: 5 }, each))).toEqual([100, 100, 100, 100, 100]);
    expect(reads.shed).toBe(500);
  });

  it('are refused even if the limit was reached only while their body was being sent', async () => {
    const head = 'POST /things HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n';
    const socket = connect(running.port, '127.0.0.1').setEncoding('utf8');
    let answer = '';
    socket.on('data', (chunk: string) => void (answer += chunk));
    socket.write(`${head}Content-Length: 16\r\n\r\n`);
    // An answer on another connection shows that the head has been read.
    expect((await post('/things', '{"name":"a box"}')).status).toBe(201);
    fill(writes);
    socket.write('{"name":"a box"}');
    await once(socket, 'close');
    expect(answer).toMatch(/^HTTP\/1\.1 503 /);
  });
});

describe('a refusal before the framework', () => {
  it('equals a refusal by the framework', async () => {
    fill(reads);
    fill(writes);
    const headers = { 'x-request-id': 'mine' };
    const early = await fetch(`${running.url}/things?limit=1`, { headers });
    const late = await fetch(`${running.url}/things/box`, { headers });
    // Headers are iterated in alphabetical order.
    const told = ({ headers: all }: Response) => [...all].filter(([name]) => !['date', 'retry-after'].includes(name));
    expect(early.status).toBe(503);
    expect(told(early)).toEqual(told(late));
    expect(told(early)).toContainEqual(['x-request-id', 'mine']);
    expect(Number(early.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
    expect(await early.json()).toEqual(await late.json());
    const other = await post('/things', '{}');
    expect(other.headers.get('x-request-id')).toMatch(/^[\da-f-]{36}$/);
  });

  it('discards a body that follows it, and what looks like a request or a header in there', async () => {
    fill(writes);
    const next = `GET /things/box HTTP/1.1\r\nHost: localhost\r\n${'A: b\r\n'.repeat(40)}Connection: close\r\n\r\n`;
    const body = 'GET /things/other HTTP/1.1\r\nHost: localhost\r\n\r\n';
    const head = 'POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n';
    const chunked = `${body.length.toString(16)}\r\n${body}\r\n0\r\n`;
    for (const [field, rest] of [
      [`Content-Length: ${body.length}`, body],
      ['Transfer-Encoding: chunked', `${chunked}X-Request-Id: of-a-trailer\r\n\r\n`],
    ]) {
      const socket = connect(running.port, '127.0.0.1').setEncoding('utf8');
      let answers = '';
      socket.on('data', (text: string) => void (answers += text));
      socket.write(`${head}${field}\r\n\r\n`);
      // The refusal does not wait for the body.
      await until(() => answers.includes('\r\n\r\n'));
      for (const part of [rest!.slice(0, 7), rest!.slice(7) + next]) {
        socket.write(part);
        // An answer on another connection shows that this part has been read.
        await fetch(`${running.url}/things/box`);
      }
      await once(socket, 'close');
      expect(answers.match(/HTTP\/1\.1 \d+/g)).toEqual(['HTTP/1.1 503', 'HTTP/1.1 200']);
      expect(answers).not.toContain('of-a-trailer');
    }
  });

  it('makes use of a method of Node that saves the stream of its body', () => {
    expect(IncomingMessage.prototype).toHaveProperty('_dumpAndCloseReadable');
  });

  it('is left to the framework for requests with an Origin, which get CORS headers', async () => {
    const { app, url } = await startApp({ corsOrigins: ['https://shop.example'] });
    fill(app.get(Admission).limiterOf('read'));
    const answer = await fetch(`${url}/things?limit=1`, { headers: { origin: 'https://shop.example' } });
    expect([answer.status, answer.headers.get('access-control-allow-origin')]).toEqual([503, 'https://shop.example']);
    await app.close();
  });

  it('does not apply to requests that lack the required credentials', async () => {
    const authenticator = new Authenticator({ ADMIN_KEY: ['x'.repeat(32)], from: 'callers' });
    const app = await createRestApp(GuardedModule, { logger: logInto([]), authenticator });
    await app.listen(0, '127.0.0.1');
    const url = `${await app.getUrl()}/guarded`;
    const limiter = app.get(Admission).limiterOf('read');
    fill(limiter);
    expect((await fetch(url)).status).toBe(401);
    expect(limiter.shed).toBe(0);
    expect((await fetch(url, { headers: { authorization: `Bearer ${'x'.repeat(32)}` } })).status).toBe(503);
    await app.close();
  });

  it('does not apply to ambiguous requests, which get 400 and a closed connection', async () => {
    fill(reads);
    const ambiguous = 'GET /things?limit=1 HTTP/1.1\r\nHost: localhost\r\nHost: elsewhere\r\n\r\n';
    const answer = await raw(running.port, ambiguous);
    expect(answer).toMatch(/^HTTP\/1\.1 400 [^]*\r\nconnection: close\r\n/i);
    expect(reads.shed).toBe(0);
  });

  it('closes the connection if the app is closing', async () => {
    const { app, port } = await startApp({ drainDelayMs: 2_000 });
    fill(app.get(Admission).limiterOf('read'));
    const watching = connect(port, '127.0.0.1');
    await once(watching, 'connect');
    const closing = app.close();
    const answer = await raw(port, 'GET /things?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n');
    expect(answer).toMatch(/^HTTP\/1\.1 503 [^]*\r\nconnection: close\r\n/i);
    watching.destroy();
    await closing;
  });
});

describe('a request in flight', () => {
  it('counts until it is answered', async () => {
    const answer = post('/trials/held', '{}');
    await slow.entered.promise;
    expect(writes.inFlight).toBe(1);
    slow.release.resolve();
    expect((await answer).status).toBe(201);
    expect(writes.inFlight).toBe(0);
  });

  it('counts until its work ends, even if the client has disconnected', async () => {
    const socket = connect(running.port, '127.0.0.1');
    socket.write('POST /trials/held HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n');
    await slow.entered.promise;
    socket.destroy();
    const connections = (): Promise<number> =>
      new Promise((resolve) =>
        running.app.getHttpServer().getConnections((_: unknown, count: number) => resolve(count)),
      );
    while ((await connections()) > 0) await new Promise(setImmediate);
    expect(writes.inFlight).toBe(1);
    slow.release.resolve();
    await until(() => writes.inFlight === 0);
  });

  it('does not count while its body is being sent, or as an open event stream', async () => {
    const uploading = connect(running.port, '127.0.0.1');
    uploading.write(
      'POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n',
    );
    const following = await fetch(`${running.url}/trials/events`);
    expect(following.status).toBe(200);
    expect([reads.inFlight, writes.inFlight]).toEqual([0, 0]);
    await following.body!.cancel();
    uploading.destroy();
  });

  it.each([
    ['an answer that fails', '/trials/lies', 500],
    ['a refusal', '/things?limit=x&maker=', 400],
  ])('no longer counts after %s', async (_, path, status) => {
    expect((await fetch(running.url + path)).status).toBe(status);
    expect((await post('/things', '{')).status).toBe(400);
    expect([reads.inFlight, writes.inFlight]).toEqual([0, 0]);
  });
});
