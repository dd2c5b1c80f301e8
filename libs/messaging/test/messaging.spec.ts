import {
  freePort,
  natsOrSkip,
  redisOrSkip,
  selfSignedCertificate,
  startNats,
  startRedis,
  type NatsServer,
} from '#testing';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { ClientTCP } from '@nestjs/microservices';
import { createClient } from '@redis/client';
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { firstValueFrom } from 'rxjs';
import { address, Messenger, type Address } from '../src/index.js';
import { TcpServer } from '../src/tcp-server.js';
import {
  brokerSuite,
  codeOf,
  comparedCalls,
  contractSuite,
  farSuite,
  outcomes,
  sample,
  type Distance,
} from './contract-suite.js';
import { probeContract, startInstance, tcpAt, type Instance } from './probe.js';

const overTcp: Distance = {
  name: 'over TCP',
  place: async (instances) => {
    const ports = await Promise.all(Array.from({ length: instances }, freePort));
    return { listen: ports.map((port) => tcpAt(port)), at: tcpAt(...ports) };
  },
};

contractSuite({ name: 'in-process', place: async () => ({ listen: [], at: { scheme: 'in-process' } }) });
contractSuite(overTcp);
farSuite(overTcp);

describe('TCP', () => {
  let messenger: Messenger;
  const running: { close(): unknown }[] = [];
  beforeEach(() => {
    messenger = new Messenger();
  });
  afterEach(async () => {
    await messenger.onApplicationShutdown();
    for (const it of running.splice(0)) await it.close();
  });
  const start = async (port: number): Promise<Instance> => {
    const instance = await startInstance([tcpAt(port)]);
    running.push(instance);
    return instance;
  };
  /** A server that accepts connections and cuts them at the first request. */
  const startCutter = async (): Promise<{ port: number; asked: () => number }> => {
    let asked = 0;
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      sockets.add(socket);
      socket.once('data', () => {
        asked += 1;
        socket.destroy();
      });
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    running.push({
      close: () => {
        for (const socket of sockets) socket.destroy();
        server.close();
      },
    });
    return { port: (server.address() as AddressInfo).port, asked: () => asked };
  };

  it('calls another instance if one refuses the connection, even for an operation that is not idempotent', async () => {
    const port = await freePort();
    await start(port);
    const client = messenger.clientFor(probeContract, tcpAt(await freePort(), port), { balance: 'round-robin' });
    for (let call = 0; call < 6; call += 1) await client.call('once', { id: `${call}` });
  });

  it('repeats a request that was lost with its connection only if it is idempotent', async () => {
    const port = await freePort();
    const { journal } = await start(port);
    const cutter = await startCutter();
    const at = tcpAt(cutter.port, port);
    const outcomesOf = async (operation: 'once' | 'echo') => {
      const client = new Messenger();
      running.push({ close: () => client.onApplicationShutdown() });
      const { call } = client.clientFor(probeContract, at, { balance: 'round-robin' });
      // By round-robin, two calls reach both instances.
      const calls = [1, 2].map(() => (operation === 'once' ? call('once', { id: 'x' }) : call('echo', sample)));
      const codes = await Promise.all(calls.map(codeOf));
      return codes.map((code) => String(code ?? 'answered')).toSorted((a, b) => a.localeCompare(b));
    };
    expect(await outcomesOf('echo')).toEqual(['answered', 'answered']);
    expect(await outcomesOf('once')).toEqual(['answered', 'unavailable']);
    expect(cutter.asked()).toBe(2);
    expect(journal.carriedOut.filter((id) => id === 'x')).toHaveLength(1);
  });

  it('repeats an idempotent request over a second connection to a lone address, which may hide more instances', async () => {
    const cutter = await startCutter();
    const client = messenger.clientFor(probeContract, tcpAt(cutter.port));
    expect(await codeOf(client.call('ping', undefined))).toBe('unavailable');
    expect(cutter.asked()).toBe(2);
    expect(await codeOf(client.call('once', { id: 'x' }))).toBe('unavailable');
    expect(cutter.asked()).toBe(3);
  });

  it('reports that an HTTP port is the wrong one, and ends an HTTP connection to its own port', async () => {
    const rest = createHttpServer((_request, response) => void response.end()).listen(0, '127.0.0.1');
    await once(rest, 'listening');
    running.push(rest);
    const client = messenger.clientFor(probeContract, tcpAt((rest.address() as AddressInfo).port));
    await expect(client.call('ping', undefined)).rejects.toMatchObject({
      code: 'unavailable',
      cause: { message: expect.stringMatching(/another protocol.*_LISTEN/) },
    });

    const port = await freePort();
    await start(port);
    const signal = AbortSignal.timeout(60_000);
    await expect(fetch(`http://127.0.0.1:${port}/health/ready`, { signal })).rejects.toThrow('fetch failed');
  });

  it('closes a connection with another protocol, even if more data keeps coming', async () => {
    const port = await freePort();
    await start(port);
    const stranger = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    // The last write may meet a closed connection.
    const over = new Promise((resolve) => stranger.on('error', () => undefined).once('close', resolve));
    const talking = setInterval(() => stranger.write('x'), 20);
    try {
      stranger.resume();
      await over;
    } finally {
      clearInterval(talking);
      stranger.destroy();
    }
  });

  describe('to a caller without our client', () => {
    let caller: ClientTCP;
    let instance: Instance;
    const ask = (pattern: string, data: unknown): Promise<unknown> => firstValueFrom(caller.send(pattern, data));
    const meta = { tenant: 'default', remainingMs: 10_000 };

    beforeEach(async () => {
      const port = await freePort();
      instance = await start(port);
      caller = new ClientTCP({ host: '127.0.0.1', port });
      running.push({ close: () => caller.close() });
    });

    it('answers in the wire format, and refuses after the deadline', async () => {
      expect(
        await ask('probe.wait', { meta: { ...meta, remainingMs: 0 }, body: '{"id":"x"}' }).catch((it) => it),
      ).toEqual({
        code: 'deadline-exceeded',
        detail: 'probe.wait arrived too late and was not carried out',
        extensions: {},
      });
      // A real caller would have given up by then; this one waits longer than the deadline it sent.
      const late = ask('probe.wait', { meta: { ...meta, remainingMs: 20 }, body: '{"id":"late"}' }).catch((it) => it);
      await instance.journal.arrived('late');
      await new Promise((resolve) => setTimeout(resolve, 30));
      instance.journal.letGo('late');
      expect(await late).toMatchObject({ code: 'deadline-exceeded', detail: expect.stringContaining('too late') });
      instance.journal.letGo('x');
      expect(await ask('probe.wait', { meta, body: '{"id":"x"}' })).toBe('"x"');
    });

    it('refuses malformed, invalid and oversized requests', async () => {
      const refused = (data: unknown) => ask('probe.once', data).catch((error: unknown) => error);
      expect(await refused('nonsense')).toMatchObject({ code: 'invalid-request' });
      expect(await refused({ meta, body: '{' })).toMatchObject({ code: 'invalid-request' });
      expect(await refused({ meta, body: '{"id":1}' })).toMatchObject({
        code: 'invalid-request',
        extensions: { faults: [{ path: 'id' }] },
      });
      expect(await refused({ meta: {}, body: '{"id":"1"}' })).toMatchObject({ code: 'invalid-request' });
      expect(await refused({ meta, body: JSON.stringify({ id: 'x'.repeat(20_000) }) })).toMatchObject({
        code: 'payload-too-large',
        extensions: { bytes: 20_009, max_bytes: 20_000 },
      });
      expect(instance.journal.carriedOut).toEqual([]);
    });

    it('carries out neither events nor patterns in another form', async () => {
      await firstValueFrom(caller.emit('probe.once', { id: 'stolen' }), { defaultValue: undefined });
      const written = await ask('"probe.once"', { id: 'stolen' }).catch((error: unknown) => error);
      expect(written).toMatch(/no matching message handler/);
      expect(await ask('probe.once', { meta, body: '{"id":"asked"}' })).toBe('{"by":"one"}');
      expect(instance.journal.carriedOut).toEqual(['asked']);
    });

    it('still answers a request that arrives while it drains', async () => {
      const accepted = ask('probe.wait', { meta, body: '{"id":"held"}' });
      await instance.journal.arrived('held');
      const notice = once(caller.unwrap<Socket>(), 'message');
      const closed = instance.close();
      expect(await notice).toEqual([{ id: 'draining', isDisposed: true }]);
      expect(await ask('probe.once', { meta, body: '{"id":"in the drain"}' })).toBe('{"by":"one"}');
      instance.journal.letGo('held');
      expect(await accepted).toBe('"held"');
      await closed;
    });
  });

  it('listens at the first address of a host name, where callers look for it', async () => {
    const lookup = (host: string) => Promise.resolve(host === 'two.test' ? ['127.0.0.2', '127.0.0.3'] : []);
    const at = { host: 'two.test', port: await freePort() };
    const server = new TcpServer(at, {} as never, undefined, () => Promise.resolve(true), lookup);
    expect(await new Promise((resolve) => server.listen(resolve))).toBeUndefined();
    expect(server.unwrap<ReturnType<typeof createServer>>().address()).toMatchObject({
      address: '127.0.0.2',
      port: at.port,
    });
    await server.close();
  });

  it('explains why it cannot listen at an address', async () => {
    const port = await freePort();
    await start(port);
    await expect(startInstance([tcpAt(port)])).rejects.toThrow(
      `Cannot listen for messages at tcp://127.0.0.1:${port}: the port is in use; stop what uses it or choose another`,
    );
    await expect(startInstance([{ scheme: 'tcp', endpoints: [{ host: '203.0.113.1', port }] }])).rejects.toThrow(
      'this machine does not have that host address',
    );
    await expect(startInstance([tcpAt(1, 2)])).rejects.toThrow('must name exactly one host:port');
  });
});

it('an application does not start without a module that is configured as in-process', async () => {
  const absent = { ...probeContract, name: 'inventory' };
  await expect(startInstance([], 'one', [probeContract, absent])).rejects.toThrow(
    'inventory is configured as in-process:, but it does not run in this process. Set INVENTORY_AT to the address where it runs.',
  );
  const { close } = await startInstance([], 'one', [probeContract]);
  await close();
});

const describeWithRedis = await redisOrSkip(describe);

describeWithRedis('Redis', () => {
  let redis: Awaited<ReturnType<typeof startRedis>>;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(async () => {
    await redis.stop();
  });
  let database = 0;
  const overRedis: Distance = {
    name: 'over Redis',
    place: async (instances) => {
      const at: Address = { scheme: 'redis', url: `${redis.url}/${(database += 1) % 16}` };
      return { listen: Array.from({ length: instances }, () => at), at };
    },
  };
  contractSuite(overRedis);
  farSuite(overRedis);
  describe('requests', () => {
    it('cannot be listened for if Redis refuses the password', () => {
      const at = address.parse(redis.url.replace('//', '//somebody:wrong@'));
      return expect(startInstance([at])).rejects.toThrow(
        /^Cannot listen for messages at redis:.*WRONGPASS.*: correct the user and the password in its address$/,
      );
    });

    it('cannot be listened for if the certificate of Redis is not trusted', async () => {
      const certificate = await selfSignedCertificate();
      const hands = createClient({ url: redis.url });
      try {
        await hands.connect();
        const { cert, key } = certificate.files;
        const port = await freePort();
        await hands.configSet({ 'tls-cert-file': cert, 'tls-key-file': key, 'tls-auth-clients': 'no' });
        await hands.configSet('tls-port', String(port));
        await expect(startInstance([address.parse(`rediss://127.0.0.1:${port}`)])).rejects.toThrow(
          /^Cannot listen for messages at rediss:.*self-signed certificate.*NODE_EXTRA_CA_CERTS$/,
        );
      } finally {
        hands.destroy();
        await certificate.remove();
      }
    });

    brokerSuite(async () => {
      let own = await startRedis();
      const { port, url } = own;
      return {
        at: address.parse(url),
        kill: () => own.kill(),
        revive: async () => {
          own = await startRedis({ port });
        },
      };
    });
  });
});

const describeWithNats = await natsOrSkip(describe);

describeWithNats('NATS', () => {
  let nats: NatsServer;
  let accounts = 0;
  beforeAll(async () => {
    const names = Array.from({ length: 16 }, (_, account) => `place-${account}`);
    const config = names.map((it) => `${it}: { users: [{ user: "${it}", password: "p@ss" }] }`).join('\n');
    nats = await startNats({ config: `accounts: {\n${config}\n}` });
  });
  afterAll(() => nats.stop());
  /** Each account is isolated from the others, which separates the tests. */
  const overNats: Distance = {
    name: 'over NATS',
    place: async (instances) => {
      const at = address.parse(nats.url.replace('//', `//place-${(accounts += 1) % 16}:p%40ss@`));
      return { listen: Array.from({ length: instances }, () => at), at };
    },
  };
  contractSuite(overNats);
  farSuite(overNats);
  describe('requests', () => {
    const started: NatsServer[] = [];
    afterAll(() => Promise.all(started.map((it) => it.stop())));

    it('cannot be listened for if NATS refuses the password', () => {
      const at = address.parse(nats.url.replace('//', '//place-1:wrong@'));
      return expect(startInstance([at])).rejects.toThrow(
        /^Cannot listen for messages at nats:.*Authorization Violation: correct the user and the password, or the token/i,
      );
    });

    it('cannot be listened for if the certificate of NATS is not trusted', async () => {
      const certificate = await selfSignedCertificate();
      const { cert, key } = certificate.files;
      const secured = await startNats({ config: `tls { cert_file: "${cert}", key_file: "${key}" }` });
      try {
        await expect(startInstance([address.parse(secured.url)])).rejects.toThrow(
          /^Cannot listen for messages at nats:.*self-signed certificate.*NODE_EXTRA_CA_CERTS/,
        );
      } finally {
        await secured.stop();
        await certificate.remove();
      }
    });

    brokerSuite(async () => {
      const own = await startNats();
      started.push(own);
      return { at: address.parse(own.url), kill: () => own.kill(), revive: () => own.revive() };
    });
  });
});

describe('the transport', () => {
  it.each(Object.keys(comparedCalls))('makes no difference to the outcome: %s', (which) => {
    const [first, ...others] = Object.entries(outcomes[which] ?? {});
    expect(others.length).toBeGreaterThan(0);
    for (const [, outcome] of others) expect(outcome).toStrictEqual(first?.[1]);
  });
});
