import { once } from 'node:events';
import { connect, constants, type ClientHttp2Session, type Http2Server, type Settings } from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, credentials, status as Code, type Server } from '@grpc/grpc-js';
import { afterEach, expect, it } from '@jest/globals';
import { Controller, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { GrpcMethod } from '@nestjs/microservices';
import { interval, mergeMap, type Observable } from 'rxjs';
import { Admission } from '#admission';
import { Authenticator } from '#security';
import { RequestLog } from '#telemetry';
import { eventually, freePort } from '#testing';
import { messagesIn } from '../src/definition.js';
import { GrpcServer, type GrpcClientLimits } from '../src/grpc-server.js';

const text = (id: number) => ({ type: 'string', id });
const many = (type: string, id: number) => ({ rule: 'repeated', type, id });
const { Files } = messagesIn({
  nested: {
    Files: { fields: { file: many('File', 1) } },
    File: {
      fields: {
        name: text(1),
        package: text(2),
        message: many('Named', 4),
        service: many('Service', 6),
        syntax: text(12),
      },
    },
    Named: { fields: { name: text(1) } },
    Service: { fields: { name: text(1), method: many('Method', 2) } },
    Method: { fields: { name: text(1), asks: text(2), answers: text(3), isStream: { type: 'bool', id: 6 } } },
  },
});
const method = (name: string, isStream: boolean) => {
  const type = '.probe.Nothing';
  return { name, asks: type, answers: type, isStream };
};
const probe = {
  ...{ name: 'probe.proto', package: 'probe', syntax: 'proto3', message: [{ name: 'Nothing' }] },
  service: [{ name: 'Probe', method: [method('Wait', false), method('Follow', true)] }],
};
const service = {
  ...{ package: 'probe', name: 'Probe', scopes: { Wait: 'operator' as const, Follow: 'operator' as const } },
  descriptors: Files!.serialize({ file: [probe] }).toString('base64'),
};

const pingEveryMs = 200;

/** Sends keepalive pings at an interval that a test can wait for, and counts them. */
class PingingServer extends GrpcServer {
  pings = 0;

  override async createClient(): Promise<Server> {
    const server = Object.assign(await super.createClient(), { keepaliveTimeMs: pingEveryMs });
    for (const listening of (server['http2Servers'] as Map<Http2Server, unknown>).keys())
      listening.on('session', (session) => {
        const ping = session.ping.bind(session) as (...given: unknown[]) => boolean;
        session.ping = (...given: unknown[]) => {
          this.pings += 1;
          return ping(...given);
        };
      });
    return server;
  }
}

let arrived: () => void;
let answered: Promise<unknown>;

@Controller()
class ProbeController {
  @GrpcMethod('Probe', 'Wait')
  async wait(): Promise<object> {
    arrived();
    await answered;
    return {};
  }

  /** More than a client can read. */
  @GrpcMethod('Probe', 'Follow')
  follow(): Observable<object> {
    return interval(1).pipe(mergeMap(() => Array.from({ length: 100 }, () => ({}))));
  }
}

@Module({ controllers: [ProbeController] })
class ProbeModule {}

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const start = async (
  limits: Partial<GrpcClientLimits> = {},
  authenticator = new Authenticator(),
): Promise<{ at: string; server: PingingServer }> => {
  const at = `127.0.0.1:${await freePort()}`;
  const admission = new Admission();
  const asked = [at, service, admission, authenticator, new RequestLog(), undefined, undefined] as const;
  const server = new PingingServer(...asked, { maxConnections: 100, requestMs: 60_000, answerMs: 60_000, ...limits });
  const app = await NestFactory.createMicroservice(ProbeModule, { strategy: server, logger: false });
  closing.push(
    async () => admission.onApplicationShutdown(),
    () => app.close(),
  );
  await app.listen();
  return { at, server };
};

/** The outcome of a call on a new connection: 'answered', or the name of the status. */
const wait = (at: string): Promise<string> => {
  const client = new Client(at, credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
  closing.push(async () => client.close());
  const none = Buffer.alloc(0);
  return new Promise((resolve) =>
    client.makeUnaryRequest(...(['/probe.Probe/Wait', () => none, () => none, none] as const), (error) =>
      resolve(error ? Code[error.code] : 'answered'),
    ),
  );
};

it('a call in flight is answered while the server drains, even if keepalive pings are due meanwhile', async () => {
  const { at, server } = await start();
  const hasArrived = new Promise<void>((resolve) => (arrived = resolve));
  const { promise, resolve: answer } = Promise.withResolvers<void>();
  answered = promise;
  const waited = wait(at);
  await hasArrived;
  await eventually(async () => expect(server.pings).toBeGreaterThan(0));
  const draining = server.drain();
  await sleep(4 * pingEveryMs);
  answer();
  await draining;
  expect(await waited).toBe('answered');
});

it('a call that its client has not ended gets its status when the server drains', async () => {
  const { at, server } = await start();
  const client = new Client(at, credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
  closing.push(async () => client.close());
  const as = (bytes: Buffer) => bytes;
  const call = client.makeBidiStreamRequest(reflection, as, as);
  const ended = new Promise((resolve) => call.once('error', resolve));
  call.write(messageOf(4, 'probe.Probe').subarray(5));
  await once(call, 'data');
  await server.drain();
  expect(await ended).toMatchObject({ code: Code.UNAVAILABLE });
});

it('a connection beyond the limit is refused with UNAVAILABLE', async () => {
  const { at } = await start({ maxConnections: 1 });
  const hasArrived = new Promise<void>((resolve) => (arrived = resolve));
  const { promise, resolve: answer } = Promise.withResolvers<void>();
  answered = promise;
  const first = wait(at);
  await hasArrived;
  expect(await wait(at)).toBe('UNAVAILABLE');
  answer();
  expect(await first).toBe('answered');
});

const connectTo = (at: string, settings: Settings = {}): ClientHttp2Session => {
  const client = connect(`http://${at}`, { settings });
  client.on('error', () => undefined);
  closing.push(async () => client.destroy());
  return client;
};

const reflection = '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo';
const healthWatch = '/grpc.health.v1.Health/Watch';

/** A call on a connection of its own, with what is sent of its message. */
const begin = (at: string, sent: Buffer, settings: Settings = {}, path?: string, more?: object) =>
  beginOn(connectTo(at, settings), sent, path, more);

const beginOn = (client: ClientHttp2Session, sent: Buffer, path = '/probe.Probe/Wait', more: object = {}) => {
  const request = client.request({
    ...{ ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' },
    ...more,
  });
  request.on('error', () => undefined).resume();
  request.write(sent);
  return request;
};

/** The beginning of a message of half a megabyte. */
const unfinished = Buffer.concat([Buffer.from([0, 0, 8, 0, 0]), Buffer.alloc(500_000)]);

it('a caller without a key is refused before its message has arrived', async () => {
  const { at } = await start({}, new Authenticator({ ADMIN_KEY: ['k'.repeat(32)] }));
  const [headers] = (await once(begin(at, unfinished), 'response')) as [Record<string, string>];
  expect(headers['grpc-status']).toBe(String(Code.UNAUTHENTICATED));
});

it('a refused call ends although its client goes on sending', async () => {
  const { at } = await start({}, new Authenticator({ ADMIN_KEY: ['k'.repeat(32)] }));
  const call = begin(at, unfinished.subarray(0, 100));
  await once(call, 'close');
  expect(call.rstCode).toBe(constants.NGHTTP2_NO_ERROR);
});

it.each([healthWatch, '/probe.Probe/Wait', '/no.Service/Method'])(
  'a call with more than 16 KiB of headers is ended: %s',
  async (path) => {
    const { at } = await start();
    const more = { a: Array<string>(10).fill('v'.repeat(2_000)) };
    const call = begin(at, Buffer.alloc(5), {}, path, more);
    await new Promise((resolve) => call.once('close', resolve));
    expect(call.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM);
  },
);

it('a call whose message does not arrive in time is cancelled', async () => {
  const { at } = await start({ requestMs: 500 });
  const call = begin(at, unfinished);
  await once(call, 'close');
  expect(call.rstCode).toBe(constants.NGHTTP2_CANCEL);
});

it('a call whose message has arrived may take longer than a message and an answer may', async () => {
  const requestMs = 2_000;
  const { at } = await start({ requestMs, answerMs: 1_000 });
  const hasArrived = new Promise<void>((resolve) => (arrived = resolve));
  const { promise, resolve: answer } = Promise.withResolvers<void>();
  answered = promise;
  const waited = wait(at);
  await hasArrived;
  await sleep(requestMs + 500);
  answer();
  expect(await waited).toBe('answered');
});

it('a call whose answer is not read in time is cancelled', async () => {
  const { at } = await start({ answerMs: 500 });
  arrived = () => undefined;
  answered = Promise.resolve();
  const call = begin(at, Buffer.alloc(5), { initialWindowSize: 0 });
  call.end();
  await once(call, 'close');
  expect(call.rstCode).toBe(constants.NGHTTP2_CANCEL);
});

it('a stream that is read is not cancelled, even if the waiting message always has the same size', async () => {
  const answerMs = 3_000;
  const { at } = await start({ answerMs });
  const empty = Buffer.alloc(5);
  // One message fills the window, so that the next one waits until the client has read it.
  const call = begin(at, empty, { initialWindowSize: empty.length }, '/probe.Probe/Follow');
  call.end();
  let bytes = 0;
  call.on('data', (some: Buffer) => (bytes += some.length));
  await sleep(answerMs + 1_500);
  expect(bytes).toBeGreaterThan(0);
  expect([call.closed, call.rstCode]).toEqual([false, constants.NGHTTP2_NO_ERROR]);
});

it.each(['596H', '597H', '720H', '99999999H', '2147484S', '35792M'])(
  'a call with a deadline of %s is answered, even if no timer can wait that long',
  async (timeout) => {
    const { at } = await start();
    arrived = () => undefined;
    answered = Promise.resolve();
    const call = begin(at, Buffer.alloc(5), {}, '/probe.Probe/Wait', { 'grpc-timeout': timeout });
    call.end();
    const [trailers] = (await once(call, 'trailers')) as [Record<string, string>];
    expect(trailers['grpc-status']).toBe(String(Code.OK));
  },
);

/** A message with one string. */
const messageOf = (id: number, value: string): Buffer => {
  const [head, bytes] = [Buffer.alloc(5), Buffer.from(value)];
  const field = Buffer.from([id * 8 + 2, (bytes.length % 128) | 128, bytes.length >> 7]);
  head.writeUInt32BE(field.length + bytes.length, 1);
  return Buffer.concat([head, field, bytes]);
};

it.each([
  ['reflection requests', reflection, Buffer.concat(Array<Buffer>(2_000).fill(messageOf(4, 'probe.Probe')))],
  ['an unfinished reflection request', reflection, unfinished],
  ['a health check of a name without end', healthWatch, unfinished],
])('a call without a key that sends much is ended: %s', async (_, path, sent) => {
  const { at } = await start({}, new Authenticator({ ADMIN_KEY: ['k'.repeat(32)] }));
  const call = begin(at, sent, { initialWindowSize: 0 }, path);
  await new Promise((resolve) => call.once('close', resolve));
  expect(call.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM);
});

it('of calls without a key on one connection that together send much, all but one are ended', async () => {
  const { at } = await start();
  const client = connectTo(at, { initialWindowSize: 0 });
  // Empty messages, each of which reflection answers, and nobody reads the answers.
  const calls = Array.from({ length: 10 }, () => beginOn(client, Buffer.alloc(10_000), reflection));
  const ended = () => calls.filter((call) => call.closed);
  await eventually(() => expect(ended()).toHaveLength(calls.length - 1));
  for (const call of ended()) expect(call.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM);
});

it('of calls without a key on one connection, so many are ended that the headers of the others are small', async () => {
  const { at, server } = await start();
  const client = connectTo(at);
  const more = { a: 'v'.repeat(5_000) };
  const calls = Array.from({ length: 20 }, () => beginOn(client, Buffer.alloc(5), healthWatch, more));
  await eventually(() => expect(calls.filter((call) => call.closed)).toHaveLength(calls.length - 3));
  expect(server['endless'].size).toBe(3);
});

it('as many health checks as a connection has streams may be open, as of the clients behind a proxy', async () => {
  const { at, server } = await start();
  const client = new Client(at, credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
  closing.push(async () => client.close());
  const [none, as] = [Buffer.alloc(0), (bytes: Buffer) => bytes];
  let answers = 0;
  const refusals: unknown[] = [];
  for (let count = 0; count < 1_000; count += 1) {
    const call = client.makeServerStreamRequest(healthWatch, as, as, none);
    call.once('data', () => (answers += 1)).on('error', (error) => refusals.push(error));
  }
  await eventually(async () => expect(answers + refusals.length).toBe(1_000));
  expect(refusals).toEqual([]);
  expect(server['endless'].size).toBe(1_000);
});

it('a connection may send any number of calls without a key, one after the other', async () => {
  const { at } = await start();
  const client = connectTo(at);
  for (let count = 0; count < 40; count += 1) {
    const call = beginOn(client, messageOf(4, 'x'.repeat(1_000)), reflection);
    await once(call, 'response');
    call.close(constants.NGHTTP2_CANCEL);
    await once(call, 'close');
    expect(call.rstCode).toBe(constants.NGHTTP2_CANCEL);
  }
});

it('names whose health was watched are forgotten when nobody watches them any more', async () => {
  const { at, server } = await start();
  const watched = server['health']['watchers'] as Map<string, unknown>;
  const calls = Array.from({ length: 5 }, (_, count) => {
    const call = begin(at, messageOf(1, `name-${count}`), {}, healthWatch);
    call.end();
    return call;
  });
  await eventually(async () => expect(watched.size).toBe(calls.length));
  for (const call of calls) call.close(constants.NGHTTP2_CANCEL);
  await eventually(async () => expect(watched.size).toBe(0));
});
