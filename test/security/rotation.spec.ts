import { setTimeout as sleep } from 'node:timers/promises';
import { NestFactory } from '@nestjs/core';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { cacheContract, scopes, type IssuedKey } from '#contracts';
import { MessagingModule, Messenger, address } from '#messaging';
import { ServiceSecrets } from '#security';
import { testDatabase, type TestDatabase } from '#testing';
import { Api, ok, refused } from '../support/api.js';
import { AppProcess } from '../support/app-process.js';
import { fresh } from '../support/fresh.js';
import { servicePorts } from '../support/shapes.js';
import { bearer } from './world.js';

const old = {
  admin: 'the-admin-key-that-is-in-use-since-the-start',
  secret: 'the secret that is in use since the start',
};
const next = {
  admin: 'the-admin-key-that-is-to-take-its-place-then',
  secret: 'the secret that is to take its place then',
};
/** As docs/operations.md says: each stage is rolled out everywhere before the next one. */
const stages = [[old], [old, next], [next, old], [next]];

let database: TestDatabase;
let ports: number[];
const running = new Map<number, AppProcess>();
const ended: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  [database, ports] = await Promise.all([testDatabase(), servicePorts(6)]);
});
afterAll(async () => {
  for (const end of ended) await end();
  await Promise.all([...running.values()].map((it) => it.stop()));
  await database.stop();
});

/** Retries calls that exceed their deadline on a busy machine. */
const patiently = async <Result>(ask: () => Promise<Result>, attempts = 20): Promise<Result> => {
  try {
    return await ask();
  } catch (error) {
    if (attempts === 0 || (error as { code?: unknown }).code !== 'deadline-exceeded') throw error;
    return patiently(ask, attempts - 1);
  }
};

it('secrets are rotated by rolling restarts of two gateways and two services, without a failed request', async () => {
  const [gateways, caches, messages] = [ports.slice(0, 2), ports.slice(2, 4), ports.slice(4, 6)];
  const places = caches.map((port) => `http://127.0.0.1:${port}`).join();
  const urls = Object.fromEntries(
    ['ORDER', 'INVENTORY', 'CACHE', 'PAYMENT', 'SALES', 'WEBHOOKS'].map((it) => [`${it}_URL`, places]),
  );
  const start = async (app: 'gateway' | 'cache', port: number, stage: (typeof stages)[number]): Promise<void> => {
    const secrets = { SERVICE_SECRET: stage.map((it) => it.secret).join() };
    const own: Record<string, string> =
      app === 'cache'
        ? { CACHE_LISTEN: `tcp://127.0.0.1:${messages[caches.indexOf(port)]}` }
        : { ...urls, ACCESS_DATABASE_URL: database.url, ADMIN_KEY: stage.map((it) => it.admin).join() };
    const process = new AppProcess(app, { ...own, ...secrets, HOST: '127.0.0.1', PORT: String(port) });
    running.set(port, process);
    process.spawn();
    await process.untilReady(`http://127.0.0.1:${port}/health/ready`);
  };
  const askedBy = async ([first, ...others]: (typeof stages)[number]) => {
    const secrets = new ServiceSecrets([first!, ...others].map((it) => it.secret));
    const app = await NestFactory.createApplicationContext(MessagingModule.forRoot({ secrets }), { logger: false });
    ended.push(() => app.close());
    const at = address.parse(`tcp://${messages.map((port) => `127.0.0.1:${port}`).join()}`);
    return app.get(Messenger).clientFor(cacheContract, at);
  };

  await Promise.all(caches.map((port) => start('cache', port, stages[0]!)));
  await Promise.all(gateways.map((port) => start('gateway', port, stages[0]!)));
  // The gateways that a load balancer would use: it skips the one about to stop.
  let behind = gateways.map((port) => new Api(`http://127.0.0.1:${port}`));
  let [admin, asking] = [old.admin, [await askedBy(stages[0]!)]];
  const made = { name: 'x', scopes };
  const { key } = ok(await behind[0]!.send<IssuedKey>('POST', '/keys', { ...bearer(admin), body: made }), 201);

  const failures: unknown[] = [];
  let [answered, isOver] = [0, false];
  const repeat = async (request: (turn: number) => Promise<number | undefined>): Promise<void> => {
    for (let turn = 0; !isOver; turn += 1) {
      const status = await request(turn).catch((error: unknown) => void failures.push(error));
      if (status !== undefined && status !== 200) failures.push(status);
      answered += 1;
      await sleep(10);
    }
  };
  const gatewayFor = (turn: number): Api => behind[turn % behind.length]!;
  const wanted = fresh('key');
  const put = { ...bearer(key), body: { key: wanted, value: 1 } };
  const load = [
    ...[0, 1, 2].map(() => repeat(async (turn) => (await gatewayFor(turn).send('PUT', '/cache', put)).status)),
    repeat(async (turn) => (await gatewayFor(turn).send('GET', '/keys', bearer(admin))).status),
    repeat(async (turn) => {
      await patiently(() => asking[turn % asking.length]!.call('get', { key: wanted }));
      return undefined;
    }),
  ];
  try {
    for (const stage of stages.slice(1)) {
      // Callers are rolled as well: old and new ones run at the same time.
      asking = [asking.at(-1)!, await askedBy(stage)];
      for (const at of [0, 1]) {
        behind = [new Api(`http://127.0.0.1:${gateways[1 - at]}`)];
        await Promise.all(
          (['gateway', 'cache'] as const).map(async (app) => {
            const port = (app === 'gateway' ? gateways : caches)[at]!;
            const { code } = await running.get(port)!.kill('SIGTERM');
            expect(code).toBe(0);
            await start(app, port, stage);
          }),
        );
      }
      behind = gateways.map((port) => new Api(`http://127.0.0.1:${port}`));
      const before = answered;
      while (answered < before + 100) await sleep(10);
      admin = stage[0]!.admin;
    }
  } finally {
    isOver = true;
    await Promise.all(load);
  }
  expect(failures).toEqual([]);
  for (const api of behind) refused(await api.send('GET', '/keys', bearer(old.admin)), '401 unauthenticated');
  const late = await askedBy([old]);
  await expect(late.call('get', { key: wanted })).rejects.toMatchObject({ code: 'internal' });
});
