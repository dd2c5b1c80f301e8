import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { scopes, type IssuedKey } from '#contracts';
import { RedisProxy, testDatabase, type TestDatabase } from '#testing';
import { Api, ok } from '../support/api.js';
import { AppProcess } from '../support/app-process.js';
import { GrpcApi } from '../support/grpc.js';
import { servicePorts } from '../support/shapes.js';
import { bearer } from './world.js';

const admin = 'the-admin-key-of-this-test-is-long-enough';
const lifeMs = 8_000;
/** By then both streams are established. */
const settledMs = 2_000;

let database: TestDatabase;
/** A proxy between the process and the database of its keys. */
let between: RedisProxy;
let process: AppProcess;
let api: Api;
let grpc: GrpcApi;
beforeAll(async () => {
  database = await testDatabase();
  const url = new URL(database.url);
  between = await RedisProxy.start(Number(url.port));
  url.port = new URL(between.url).port;
  const [port, grpcPort] = await servicePorts(2);
  process = new AppProcess('monolith', {
    ...{ DATABASE_URL: database.url, ACCESS_DATABASE_URL: url.href, PORT: String(port) },
    ...{ ADMIN_KEY: admin, ORDER_GRPC_LISTEN: `127.0.0.1:${grpcPort}` },
  });
  process.spawn();
  api = new Api(`http://127.0.0.1:${port}`);
  grpc = new GrpcApi(`127.0.0.1:${grpcPort}`);
  await process.untilReady(`${api.baseUrl}/health/ready`);
});
afterAll(async () => {
  grpc?.close();
  await process?.stop();
  await between?.stop();
  await database?.stop();
});

const keyUntil = async (expires_at: string | null): Promise<string> => {
  const body = { name: 'x', scopes, expires_at };
  return ok(await api.send<IssuedKey>('POST', '/keys', { ...bearer(admin), body }), 201).key;
};

/** Follows events over REST and gRPC, and tells how each stream ends. */
const following = async (credential: string) => {
  const gone = new AbortController();
  const headers = { accept: 'text/event-stream', authorization: `Bearer ${credential}` };
  const response = await fetch(`${api.baseUrl}/events`, { headers, signal: gone.signal });
  expect(response.status).toBe(200);
  const rest = response.body!.pipeTo(new WritableStream()).then(
    () => 'ended',
    () => 'ended',
  );
  const calls = grpc.stream('WatchEvents', {}, { metadata: { authorization: `Bearer ${credential}` } }).refusal();
  return { ended: [rest, calls.then(({ code }) => code)], leave: () => gone.abort() };
};

it('event streams end when their key expires, even while the database of keys is unreachable', async () => {
  const [short, long] = [await keyUntil(new Date(Date.now() + lifeMs).toISOString()), await keyUntil(null)];
  const ending = await following(short);
  const lasting = await following(long);
  await sleep(settledMs);
  between.down();
  const outcome = (of: typeof ending): Promise<string[]> =>
    Promise.all(of.ended.map((it) => Promise.race([it, sleep(lifeMs + 3_000, 'goes on')])));
  expect(await Promise.all([ending, lasting].map(outcome))).toEqual([
    ['ended', 'UNAUTHENTICATED'],
    ['goes on', 'goes on'],
  ]);
  lasting.leave();
  between.up();
});
