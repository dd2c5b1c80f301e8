import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from '@jest/globals';
import { Controller, Get, Module, StreamableFile } from '@nestjs/common';
import { z } from 'zod';
import { createRestApp, Endpoint, eventStream } from '#rest';
import { Authenticator, KeyDirectory, keyTextOf, secretHashOf, type KnownKey } from '#security';
import { eventually } from '#testing';
import { Connections } from '../src/connections.js';
import { logInto } from './app-under-test.js';

const secret = 'a'.repeat(64);
const credential = keyTextOf('01234567-89ab-cdef-0123-456789abcdef', secret);

/** Keys whose lookup is slow and never cached. */
class SlowKeys extends KeyDirectory {
  override readonly hears = false;
  finds = 0;
  readonly asked = Promise.withResolvers<void>();
  readonly goOn = Promise.withResolvers<void>();

  override async find(): Promise<KnownKey> {
    this.finds += 1;
    this.asked.resolve();
    await this.goOn.promise;
    const caller = { tenant: 'default', account: 'default', scopes: new Set(['events:read'] as const) };
    return { caller, secretHash: secretHashOf(secret), validForMs: null };
  }

  override onChange(): void {}
}

@Controller()
class FollowedController {
  @Get('followed')
  @Endpoint({
    scope: 'events:read',
    summary: 'Follow',
    replies: { 200: { schema: z.string(), description: 'It', streamedAs: eventStream } },
    errors: [],
  })
  followed(): StreamableFile {
    return new StreamableFile(new Readable({ read: () => undefined }), { type: eventStream });
  }
}

@Module({ controllers: [FollowedController] })
class FollowedModule {}

it('a client that disconnects before its stream begins is authenticated once only', async () => {
  const keys = new SlowKeys();
  const authenticator = new Authenticator({ ADMIN_KEY: ['x'.repeat(32)], from: 'callers' });
  authenticator.useKeys(keys);
  const app = await createRestApp(FollowedModule, { logger: logInto([]), authenticator });
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as AddressInfo;
  const socket = connect(port, '127.0.0.1');
  socket.write(`GET /followed HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${credential}\r\n\r\n`);
  await keys.asked.promise;
  socket.destroy();
  const connected = (): Promise<number> =>
    new Promise((resolve) => app.getHttpServer().getConnections((_: unknown, count: number) => resolve(count)));
  await eventually(async () => expect(await connected()).toBe(0));
  keys.goOn.resolve();
  await sleep(2_500);
  expect(keys.finds).toBe(1);
  await app.close();
});

it('a stream whose client has disconnected before it begins is not counted', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const connections = new Connections(server, { answerMs: 60_000, maxConnections: 10 }, '');
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  socket.write('GET / HTTP/1.1\r\nhost: localhost\r\n\r\n');
  const [, answer] = (await once(server, 'request')) as [unknown, ServerResponse];
  socket.destroy();
  await once(answer, 'close');
  connections.noteStream(answer);
  expect(connections.streams.size).toBe(0);
  server.close();
  await once(server, 'close');
});
