import { connect, createServer } from 'node:net';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from '@jest/globals';
import { StartupServer } from '#rest';
import { eventually, freePort } from '#testing';
import { standStill } from './app-under-test.js';

const forEver = new Promise<never>(() => {});

it('the startup server answers health checks for an app that starts slowly, until it is closed', async () => {
  const at = { HOST: '127.0.0.1', PORT: await freePort() };
  const room = new StartupServer(
    at,
    () => [{ name: 'order-database', why: 'It starts. Wait for it.' }, { name: 'other' }],
    10,
  );
  void room.during(forEver);
  const ready = await eventually(() => fetch(`http://127.0.0.1:${at.PORT}/health/ready`));
  expect([ready.status, await ready.json()]).toMatchObject([
    503,
    { error: { 'order-database': { status: 'down', message: 'It starts. Wait for it.' }, other: { status: 'down' } } },
  ]);
  for (const method of ['GET', 'HEAD'])
    expect((await fetch(`http://127.0.0.1:${at.PORT}/health/live`, { method })).status).toBe(200);
  await room.close();
  await expect(fetch(`http://127.0.0.1:${at.PORT}/health/live`)).rejects.toThrow('fetch failed');
});

it('the startup server answers with CORS headers to the allowed origins', async () => {
  const origin = 'https://shop.example';
  const at = { HOST: '127.0.0.1', PORT: await freePort(), corsOrigins: [origin] };
  const room = new StartupServer(at, () => [], 0);
  void room.during(forEver);
  const ask = (method: string, headers: Record<string, string>) =>
    eventually(() => fetch(`http://127.0.0.1:${at.PORT}/orders`, { method, headers }));
  const refused = await ask('POST', { origin });
  expect([refused.status, refused.headers.get('access-control-allow-origin')]).toEqual([503, origin]);
  expect(refused.headers.get('access-control-expose-headers')).toContain('Retry-After');
  const asked = await ask('OPTIONS', { origin, 'access-control-request-method': 'POST' });
  expect([asked.status, asked.headers.get('access-control-allow-methods')]).toEqual([
    204,
    expect.stringContaining('POST'),
  ]);
  const other = await ask('POST', { origin: 'https://evil.example' });
  expect([other.headers.get('access-control-allow-origin'), other.headers.get('vary')]).toEqual([null, 'Origin']);
  await room.close();
});

it('the startup server does not listen after it was closed, at whatever moment that was', async () => {
  const at = { HOST: 'localhost', PORT: await freePort() };
  for (const [opensAfterMs, closedAfterMs] of [
    [10, 10],
    [10, 0],
    [10, 11],
    [0, 0],
  ] as const) {
    const room = new StartupServer(at, () => [], opensAfterMs);
    void room.during(forEver);
    // This may be while the name is being resolved in order to listen.
    await sleep(closedAfterMs);
    await room.close();
    // The next server must find the address free.
    const next = createServer().listen(at.PORT, at.HOST);
    await once(next, 'listening');
    next.close();
    await once(next, 'close');
    await sleep(50);
    await expect(fetch(`http://localhost:${at.PORT}/health/live`)).rejects.toThrow('fetch failed');
  }
});

it('the startup server answers what has arrived when it is closed, and frees its address at once', async () => {
  const at = { HOST: '127.0.0.1', PORT: await freePort() };
  const room = new StartupServer(at, () => [], 0);
  void room.during(forEver);
  await eventually(() => fetch(`http://127.0.0.1:${at.PORT}/health/live`));
  const request = 'POST /keys HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n';
  const sent = Array.from({ length: 10 }, () => connect(at.PORT, at.HOST));
  const [silent, late] = [connect(at.PORT, at.HOST), connect(at.PORT, at.HOST)];
  await Promise.all([...sent, silent, late].map((socket) => once(socket, 'connect')));
  for (const socket of sent) socket.write(request);
  // As after an app was started, which leaves no time to look for connections.
  await room.close();
  late.write(request);
  standStill(2_000);
  const next = createServer().listen(at.PORT, at.HOST);
  await once(next, 'listening');
  for (const socket of [...sent, late]) expect(await text(socket)).toContain('503 Service Unavailable');
  // A client that sends nothing does not keep it open.
  await once(silent.resume(), 'close');
  next.close();
});

it('the startup server rejects if it cannot listen', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const at = { HOST: '127.0.0.1', PORT: (other.address() as { port: number }).port };
  await expect(new StartupServer(at, () => [], 0).during(forEver)).rejects.toThrow(
    `Cannot serve REST at 127.0.0.1:${at.PORT}`,
  );
  other.close();
});
