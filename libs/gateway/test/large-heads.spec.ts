import { once } from 'node:events';
import { request, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { limits } from '#contracts';
import { passingOn } from '#gateway';
import { createService, type Service } from '#service';

Logger.overrideLogger(false);

const ADMIN_KEY = 'the-admin-key-of-this-test-is-long-enough';
const SERVICE_SECRET = ['a-secret-of-32-characters-or-more'];
const here = { HOST: '127.0.0.1', PORT: 0, SERVICE_SECRET };

const apps: NestFastifyApplication[] = [];
const listen = async (service: Service): Promise<number> => {
  const app = await createService(service);
  apps.push(app);
  await app.listen(0, '127.0.0.1');
  return (app.getHttpServer().address() as AddressInfo).port;
};

let port: number;
beforeAll(async () => {
  const document = { title: 'Order', description: '' };
  const order = await listen({ ...here, name: 'order', document, modules: [] });
  const origins = [`http://127.0.0.1:${order}`];
  const upstream = { prefixes: ['/orders'], open: [], keyed: undefined, balance: 'random', origins } as const;
  port = await listen({
    ...{ ...here, ADMIN_KEY: [ADMIN_KEY], name: 'gateway', from: 'callers', document },
    ...passingOn([{ name: 'order', ...upstream }]),
  });
});
afterAll(async () => {
  for (const app of apps.splice(0).toReversed()) await app.close();
});

const ask = async (headers: Record<string, string>, path = '/orders/x'): Promise<[number, string]> => {
  const asked = request({
    port,
    host: '127.0.0.1',
    path,
    headers: { authorization: `Bearer ${ADMIN_KEY}`, ...headers },
  });
  const [answer] = (await once(asked.end(), 'response')) as [IncomingMessage];
  const { detail } = JSON.parse(await text(answer)) as { detail: string };
  return [answer.statusCode!, detail];
};

const fields = (count: number): Record<string, string> =>
  Object.fromEntries(Array.from({ length: count }, (_, at) => [`x-field-${at}`, 'x']));

/** An answer of the service or of the gateway; never the service's refusal of a head that the gateway has enlarged. */
const expected = [
  [404, expect.stringMatching(/^There is nothing at/)],
  [431, expect.stringMatching(/^With the header fields that the gateway adds/)],
];

it('the gateway refuses a head that its own header fields make too large, and forwards smaller ones', async () => {
  const answers = {
    // Host, Authorization and Connection are sent as well.
    byFields: await Promise.all(Array.from({ length: 18 }, (_, less) => ask(fields(limits.headers - 3 - less)))),
    byBytes: await Promise.all(
      Array.from({ length: 40 }, (_, at) => ask({ 'x-long': 'x'.repeat(limits.headerBytes - 300 - 100 * at) })),
    ),
    byHost: await Promise.all(
      [7_000, 14_000, 15_700, 15_900, 16_000].map((length) => ask({ host: 'h'.repeat(length) })),
    ),
    byPath: await Promise.all(
      [1_000, 5_000, 9_000, 14_000].map((length) => ask({}, `/orders/${'"<>'.repeat(length / 3)}`)),
    ),
  };
  for (const [by, all] of Object.entries(answers)) {
    const statuses = new Set(all.map(([status]) => status));
    expect([by, [...statuses].toSorted((one, other) => one - other)]).toEqual([by, [404, 431]]);
    for (const [status, detail] of all) expect(expected).toContainEqual([status, detail]);
  }
});
