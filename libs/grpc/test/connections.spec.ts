import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { credentials, loadPackageDefinition, type ServiceError } from '@grpc/grpc-js';
import { loadFileDescriptorSetFromBuffer } from '@grpc/proto-loader';
import { afterEach, expect, it } from '@jest/globals';
import { Admission } from '#admission';
import { Authenticator } from '#security';
import { RequestLog } from '#telemetry';
import { freePort } from '#testing';
import { healthDescriptors } from '../src/generated/health-descriptors.js';
import { GrpcServer } from '../src/grpc-server.js';

interface HealthClient {
  check(request: object, options: object, answered: (error: ServiceError | null) => void): void;
  watch(request: object): NodeJS.ReadableStream & { cancel(): void };
  close(): void;
}

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

/** Answers for its health alone, which is all that is asked here. */
const startServer = async (ageMs: number): Promise<number> => {
  const port = await freePort();
  const service = { package: 'grpc.health.v1', name: 'Health', descriptors: healthDescriptors };
  const scopes = { Check: 'operator', List: 'operator', Watch: 'operator' } as const;
  const admission = new Admission();
  const server = new GrpcServer(
    `127.0.0.1:${port}`,
    { ...service, scopes },
    admission,
    new Authenticator(),
    new RequestLog(),
    undefined,
    undefined,
    ageMs,
  );
  const started = await server.createClient();
  closing.push(
    () => admission.onApplicationShutdown(),
    () => started.forceShutdown(),
  );
  return port;
};

/** What stands in front of several instances and gives each connection to the next one. */
const startDoor = async (ports: readonly number[]): Promise<{ port: number; taken: number[] }> => {
  const taken: number[] = [];
  const sockets = new Set<Socket>();
  const door = createServer((socket) => {
    const port = ports[taken.length % ports.length] as number;
    taken.push(port);
    const onward = connect(port, '127.0.0.1');
    for (const it of [socket, onward]) sockets.add(it.on('error', () => it.destroy()));
    socket.pipe(onward).pipe(socket);
  }).listen(0, '127.0.0.1');
  closing.push(() => {
    door.close();
    for (const it of sockets) it.destroy();
  });
  await once(door, 'listening');
  return { port: (door.address() as AddressInfo).port, taken };
};

it('callers that stay find instances that have joined, and no call of theirs fails', async () => {
  const ports = [await startServer(200)];
  const door = await startDoor(ports);
  const definition = loadFileDescriptorSetFromBuffer(Buffer.from(healthDescriptors, 'base64'));
  const { grpc } = loadPackageDefinition(definition) as never as {
    grpc: { health: { v1: { Health: new (at: string, with_: unknown) => HealthClient } } };
  };
  const client = new grpc.health.v1.Health(`127.0.0.1:${door.port}`, credentials.createInsecure());
  closing.push(() => client.close());
  const watched = client.watch({});
  const hasEnded = new Promise((resolve) => watched.on('error', resolve).on('end', resolve)).then(() => true);
  watched.resume();

  const [failures, until]: [string[], number] = [[], performance.now() + 2_000];
  const check = (): Promise<void> =>
    new Promise((resolve) =>
      client.check({}, { deadline: Date.now() + 5_000 }, (error) => {
        if (error) failures.push(error.message);
        resolve();
      }),
    );
  const caller = async (): Promise<void> => {
    while (performance.now() < until) await check();
  };
  await check();
  ports.push(await startServer(200));
  await Promise.all(Array.from({ length: 8 }, caller));
  expect(failures).toEqual([]);
  expect(new Set(door.taken)).toEqual(new Set(ports));
  // Who follows is not cut off.
  expect(await Promise.race([hasEnded, Promise.resolve(false)])).toBe(false);
  watched.cancel();
});
