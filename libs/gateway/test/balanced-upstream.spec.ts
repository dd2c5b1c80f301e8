import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { afterEach, beforeEach, expect, it } from '@jest/globals';
import { eventually, freePort } from '#testing';
import { BalancedUpstream } from '../src/balanced-upstream.js';

const servers: Server[] = [];
let upstream: BalancedUpstream;
/** The addresses that the name has; the whole of 127/8 is this machine. */
let addresses: readonly string[];

const start = async (host: string, port: number): Promise<void> => {
  const server = createServer((request, response) => response.end(`${host} as ${request.headers.host}`));
  servers.push(server.listen(port, host));
  await once(server, 'listening');
};

const answers = async (count: number): Promise<Set<string>> => {
  const texts = Array.from({ length: count }, async () => (await upstream.get('/', 10_000)).body.text());
  return new Set(await Promise.all(texts));
};

beforeEach(async () => {
  const port = await freePort();
  await start('127.0.0.1', port);
  await start('127.0.0.2', port);
  upstream = new BalancedUpstream(
    {
      name: 'order',
      origins: [`http://order.test:${port}`],
      balance: 'round-robin',
      prefixes: [],
      open: [],
      keyed: undefined,
    },
    { lookupMs: 20 },
    async () => addresses,
  );
});

afterEach(async () => {
  upstream.close();
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

it('reaches an instance at each address of a name, by that name, and follows when they change', async () => {
  const { port } = new URL(upstream.origins[0] as string);
  const from = (...hosts: string[]) => new Set(hosts.map((host) => `${host} as order.test:${port}`));
  addresses = ['127.0.0.1'];
  expect(await answers(4)).toEqual(from('127.0.0.1'));
  addresses = ['127.0.0.1', '127.0.0.2'];
  await eventually(async () => expect(await answers(4)).toEqual(from('127.0.0.1', '127.0.0.2')));
  addresses = ['127.0.0.2'];
  await eventually(async () => expect(await answers(4)).toEqual(from('127.0.0.2')));
});

it('asks each of them when asked to', async () => {
  addresses = ['127.0.0.1', '127.0.0.2', '127.0.0.3'];
  const each = await upstream.getFromEach('/', 10_000);
  expect(each.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'fulfilled', 'rejected']);
  for (const it of each) if (it.status === 'fulfilled') await it.value.body.dump();
});
