import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it } from '@jest/globals';
import { Module, type LoggerService } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { CleaveError } from '#contracts';
import { HealthModule, Readiness } from '#health';
import { createRestApp, openApiDocument, type RestAppOptions } from '#rest';
import { eventually } from '#testing';

@Module({ imports: [HealthModule] })
class Root {}

let app: NestFastifyApplication;
const log: string[] = [];
const write = (...parts: unknown[]): void => void log.push(parts.map(String).join(' '));
const logger: LoggerService = { log: write, warn: write, error: write };

const start = async (drainDelayMs = 0, connections: RestAppOptions['connections'] = {}) => {
  log.length = 0;
  app = await createRestApp(Root, { logger, drainDelayMs, connections });
  await app.listen(0, '127.0.0.1');
  return app.get(Readiness);
};

afterEach(() => app.close());

/** The result of a check is cached for a second. */
const keptMs = (): Promise<void> => sleep(1_050);

const ask = async (path: string) => {
  const { port } = app.getHttpServer().address() as { port: number };
  const response = await fetch(`http://127.0.0.1:${port}/health/${path}`);
  return {
    status: response.status,
    body: (await response.json()) as Record<string, unknown>,
    headers: response.headers,
  };
};

it('a service without checks is live and ready', async () => {
  await start();
  const empty = { status: 'ok', info: {}, error: {}, details: {} };
  expect(await ask('live')).toMatchObject({ status: 200, body: empty });
  const ready = await ask('ready');
  expect(ready).toMatchObject({ status: 200, body: empty });
  expect(ready.headers.get('cache-control')).toBe('no-store');
});

it('readiness shows the message of a failed check to callers, and its cause in the log only', async () => {
  const readiness = await start();
  const cause = new Error('database "orders" does not exist');
  readiness.add('database', async () => {
    throw new CleaveError('unavailable', 'There is no such database. Restore it.', {}, { cause });
  });
  const { body } = await ask('ready');
  expect(body['error']).toMatchObject({
    database: { status: 'down', message: 'There is no such database. Restore it.' },
  });
  expect(log.filter((line) => line.includes('database cannot be used'))).toEqual([
    expect.stringContaining('There is no such database. Restore it. (Error: database "orders" does not exist)'),
  ]);
});

it('a service is not ready while a check fails, names that check without its error, and stays live', async () => {
  const readiness = await start();
  let broken = true;
  readiness.add('database', async () => {
    if (broken) throw new Error('no route to postgres://cleave:hunter2@db.internal/orders');
  });
  readiness.add('cache', async () => {});
  const { status, body } = await ask('ready');
  expect(status).toBe(503);
  expect(body).toMatchObject({
    status: 'error',
    info: { cache: { status: 'up' } },
    error: { database: { status: 'down' } },
    details: { cache: { status: 'up' }, database: { status: 'down' } },
  });
  expect(JSON.stringify(body)).not.toMatch(/hunter2|db\.internal/);
  expect((await ask('live')).status).toBe(200);
  await ask('ready');
  const told = log.filter((line) => line.includes('database cannot be used'));
  expect(told).toEqual([expect.stringContaining('no route to postgres://')]);
  broken = false;
  await keptMs();
  expect((await ask('ready')).status).toBe(200);
  expect(log.join('\n')).toContain('database can be used again');
});

it('a service is live but not ready at the limit of connections, because it would refuse requests', async () => {
  const readiness = await start(0, { maxConnections: 1 });
  readiness.add('database', async () => {});
  const { port } = app.getHttpServer().address() as { port: number };
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  const connections = { status: 'down', message: expect.stringContaining('The maximum number of connections') };
  expect(await ask('ready')).toMatchObject({
    status: 503,
    body: { status: 'error', error: { connections }, details: { connections } },
  });
  expect((await ask('live')).status).toBe(200);
  socket.destroy();
  await eventually(async () => expect((await ask('ready')).status).toBe(200));
});

it('a service is ready while a check is degraded, and shows its details', async () => {
  const readiness = await start();
  let count = 0;
  readiness.add('branches', async () => ({ isDegraded: count > 1, details: { count } }));
  for (const [status, states] of [
    ['ok', 'up'],
    ['ok', 'up'],
    ['degraded', 'degraded'],
    ['degraded', 'degraded'],
  ] as const) {
    expect(await ask('ready')).toMatchObject({
      status: 200,
      body: { status, details: { branches: { status: states, count } } },
    });
    await keptMs();
    count += 1;
  }
});

it('a check runs once a second at most, whatever the number of requests', async () => {
  const readiness = await start();
  let asked = 0;
  readiness.add('database', async () => {
    asked += 1;
    await sleep(20);
  });
  const startedAt = performance.now();
  const answers = await Promise.all(Array.from({ length: 50 }, () => ask('ready')));
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
  expect(await readiness.canServe()).toBe(true);
  // Answering them all may have taken longer than a second.
  expect(asked).toBeLessThanOrEqual(1 + Math.floor((performance.now() - startedAt) / 1_000));
  const before = asked;
  await keptMs();
  await ask('ready');
  expect(asked).toBe(before + 1);
});

it('a service is not ready if a check times out or throws synchronously', async () => {
  const readiness = await start();
  readiness.add('hangs', () => new Promise(() => {}));
  readiness.add('throws', () => {
    throw new Error('at once');
  });
  const { status, body } = await ask('ready');
  expect([status, Object.keys(body.error as object)]).toEqual([503, ['hangs', 'throws']]);
  expect(JSON.stringify(body.error)).toContain('timeout of 2000ms exceeded');
});

it('a service is live but not ready while it shuts down', async () => {
  const readiness = await start(60_000);
  readiness.add('database', async () => {});
  expect((await ask('ready')).status).toBe(200);
  const stillConnected = connect((app.getHttpServer().address() as { port: number }).port, '127.0.0.1');
  await once(stillConnected, 'connect');
  const closing = app.close();
  while (!readiness.shuttingDown) await new Promise(setImmediate);
  expect(await ask('ready')).toMatchObject({
    status: 503,
    body: { status: 'shutting_down', info: { database: { status: 'up' } } },
  });
  expect((await ask('live')).status).toBe(200);
  stillConnected.destroy();
  await closing;
});

it('two checks of the same name are refused', async () => {
  const readiness = await start();
  readiness.add('database', async () => {});
  expect(() => readiness.add('database', async () => {})).toThrow('called database already');
});

it('the OpenAPI document describes the readiness endpoint', async () => {
  await start();
  const { paths, components } = openApiDocument(app, { title: 'Health', description: '' });
  const { get: ready } = paths['/health/ready']!;
  expect(ready).toMatchObject({ operationId: 'getReadiness', tags: ['health'] });
  expect(Object.keys(ready!.responses)).toEqual(['200', '400', '500', '503']);
  expect(ready!.responses[503]).toMatchObject({
    content: { 'application/json': { schema: { $ref: '#/components/schemas/HealthReport' } } },
  });
  expect(Object.keys(components!.schemas!)).toContain('HealthReport');
});
