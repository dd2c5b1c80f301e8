import { Admission } from '#admission';
import { CleaveError } from '#contracts';
import { freePort, redisOrSkip, startRedis } from '#testing';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { ClientTCP } from '@nestjs/microservices';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { firstValueFrom } from 'rxjs';
import { Messenger, type Address, type ContractClient } from '../src/index.js';
import { loggedErrors, probeContract, startInstance, type Instance, type ProbeValues } from './probe.js';

type Client = ContractClient<typeof probeContract>;

const sample: ProbeValues = {
  text: 'snow ☃, a quote " and a backslash \\, \u2028',
  at: new Date('2026-11-23T01:02:03.004Z'),
  maybe: null,
  left_out: undefined,
  nested: { moments: [new Date(0), null], deep: { empty: [] } },
  anything: { undefined: undefined, date: new Date(1), list: [undefined, Number.NaN, -0], deep: { null: null } },
};

/** What became of a call, in a form that can be compared. */
async function outcomeOf(call: Promise<unknown>): Promise<unknown> {
  try {
    return { reply: await call };
  } catch (error) {
    const { code, detail, extensions, name } = error as CleaveError;
    return { isCleaveError: error instanceof CleaveError, name, code, detail, extensions };
  }
}

const codeOf = async (call: Promise<unknown>): Promise<unknown> => ((await outcomeOf(call)) as CleaveError).code;

/** The calls whose outcome must not depend on the distance. */
const comparedCalls: Record<string, (client: Client) => Promise<unknown>> = {
  values: (client) => client.call('echo', sample),
  'nothing at all': (client) => client.call('ping', undefined),
  'a listed refusal': (client) => client.call('refuse', { how: 'listed' }),
  'an unlisted refusal': (client) => client.call('refuse', { how: 'unlisted' }),
  'a crash': (client) => client.call('refuse', { how: 'crash' }),
  'an error that a filter turns': (client) => client.call('refuse', { how: 'teapot' }),
  'a refusal of a guard': (client) => client.call('refuse', { how: 'guard' }),
  'a neighbour that is away': (client) => client.call('refuse', { how: 'unavailable' }),
  'a reply that the contract forbids': (client) => client.call('refuse', { how: 'wrong-reply' }),
  'a request that the contract forbids': (client) => client.call('refuse', { how: 'badly' } as never),
  'a value without JSON': (client) => client.call('echo', { ...sample, anything: 1n }),
  'a request that is too large': (client) => client.call('fill', { length: 1, filling: 'é'.repeat(10_001) }),
  'a reply that is too large': (client) => client.call('fill', { length: 10_001 }),
  'a reply that just fits': (client) => client.call('fill', { length: 9_999 }),
  'an operation that nobody answers': (client) => client.call('orphan', {}),
  'an operation that is not in the contract': (client) => client.call('nonsense' as 'ping', undefined),
};
const outcomes: Record<string, Record<string, unknown>> = {};

/** A distance: how to find the place to listen at, and what is behind it. */
interface Distance {
  name: string;
  /** Where one or several instances listen, and the address that finds them all. */
  place(instances: number): Promise<{ listen: Address[]; at: Address }>;
}

function contractSuite({ name, place }: Distance): void {
  describe(`a call ${name}`, () => {
    const isNear = name === 'in-process';
    let instance: Instance;
    let far: Messenger | undefined;
    let client: Client;

    beforeAll(async () => {
      const { listen, at } = await place(1);
      instance = await startInstance(listen);
      far = isNear ? undefined : new Messenger();
      client = (far ?? instance.messenger).clientFor(probeContract, at);
    });
    afterAll(async () => {
      await far?.onApplicationShutdown();
      await instance.close();
    });
    beforeEach(() => {
      loggedErrors.length = 0;
    });

    it('brings back the typed reply', async () => {
      const reply = await client.call('echo', sample);
      expect(reply.at).toStrictEqual(sample.at);
      expect(reply.nested.moments).toStrictEqual([new Date(0), null]);
      expect(reply.anything).toStrictEqual({
        date: '1970-01-01T00:00:00.001Z',
        list: [null, null, 0],
        deep: { null: null },
      });
      expect(Object.hasOwn(reply, 'left_out')).toBe(false);
      expect(await client.call('ping', undefined)).toBeUndefined();
    });

    it.each(Object.keys(comparedCalls))('is compared over all distances: %s', async (which) => {
      const outcome = await outcomeOf((comparedCalls[which] as (client: Client) => Promise<unknown>)(client));
      (outcomes[which] ??= {})[name] = outcome;
      expect(outcome).toMatchObject('reply' in (outcome as object) ? {} : { isCleaveError: true });
    });

    it('is refused with the code, detail and extensions of the handler', async () => {
      expect(await outcomeOf(client.call('refuse', { how: 'listed' }))).toStrictEqual({
        isCleaveError: true,
        name: 'CleaveError',
        code: 'out-of-stock',
        detail: 'only 2 are left',
        extensions: {
          at: '1970-01-01T00:00:00.000Z',
          none: null,
          products: [{ product_id: 'a', available: 2 }],
        },
      });
    });

    it.each(['unlisted', 'crash', 'wrong-reply'] as const)(
      'tells the caller nothing of an unexpected failure (%s) and the log everything',
      async (how) => {
        const outcome = await outcomeOf(client.call('refuse', { how }));
        expect(outcome).toMatchObject({ code: 'internal', extensions: {} });
        expect(JSON.stringify(outcome)).not.toMatch(/secret|hunter2|fine/);
        expect(loggedErrors.join('\n')).toMatch(
          { unlisted: /order-not-found/, crash: /hunter2[^]*probe\.ts/, 'wrong-reply': /fine/ }[how],
        );
      },
    );

    it('says where a request is wrong, without sending it', async () => {
      const outcome = await outcomeOf(
        client.call('echo', { ...sample, at: 'today', nested: { moments: [] } } as never),
      );
      const { code, extensions } = outcome as CleaveError;
      expect(code).toBe('invalid-request');
      expect((extensions['faults'] as { path: string }[]).map(({ path }) => path)).toEqual(['at', 'nested.deep']);
    });

    it('passes through the pipeline of Nest', async () => {
      instance.journal.pipeline.length = 0;
      await client.call('echo', sample, { metadata: { tenant: 'acme' } });
      const pipes = instance.journal.pipeline.filter((step) => step === 'pipe').length;
      expect(pipes).toBeGreaterThan(0);
      expect(instance.journal.pipeline.filter((step) => step !== 'pipe')).toEqual([
        'guard sees acme',
        'interceptor sees a Date, a Date',
      ]);
    });

    it('carries the metadata', async () => {
      const deadlineAt = new Date(Date.now() + 5_000);
      const seen = await client.call(
        'metadata',
        {},
        {
          metadata: { tenant: 'acme', idempotencyKey: 'k 1', traceparent: '00-a-b-01', deadlineAt },
        },
      );
      expect(seen).toMatchObject({ tenant: 'acme', key: 'k 1', trace: '00-a-b-01' });
      // The clocks are one and the same here; the time on the way is what makes a difference.
      expect(Math.abs(seen.deadline_at.getTime() - deadlineAt.getTime())).toBeLessThan(2_000);
      expect(await client.call('metadata', {})).toMatchObject({ tenant: 'default', key: null, trace: null });
    });

    it('is refused at once where too many are under way, unless they are those of one process', async () => {
      const limiter = instance.app.get(Admission, { strict: false }).limiterOf('probe.ping');
      const entered = limiter.limit;
      for (let count = 0; count < entered; count += 1) limiter.enter();
      const outcome = await outcomeOf(client.call('ping', undefined));
      const refusal = { code: 'unavailable', extensions: { retry_after_ms: expect.any(Number) } };
      expect(outcome).toMatchObject(isNear ? { reply: undefined } : refusal);
      // What another operation takes is another matter.
      expect(await client.call('echo', sample)).toMatchObject({ text: sample.text });
      for (let count = 0; count < entered; count += 1) limiter.leave();
      expect(await outcomeOf(client.call('ping', undefined))).toStrictEqual({ reply: undefined });
      expect(limiter.inFlight).toBe(0);
    });

    it('is given up at the deadline, which can only be shortened', async () => {
      const waiting = client.call('wait', { id: `slow ${name}` }, { deadlineMs: 50 });
      expect(await outcomeOf(waiting)).toMatchObject({
        code: 'deadline-exceeded',
        detail: expect.stringContaining('50 ms'),
      });
      const soon = { metadata: { deadlineAt: new Date(Date.now() + 30) } };
      expect(await codeOf(client.call('wait', { id: `slow ${name}` }, soon))).toBe('deadline-exceeded');
      instance.journal.letGo(`slow ${name}`);
      const { deadline_at } = await client.call('metadata', {}, { deadlineMs: 3_600_000 });
      expect(deadline_at.getTime()).toBeLessThan(Date.now() + 60_000);
    });

    it('is not sent after its deadline', async () => {
      const before = instance.journal.carriedOut.length;
      const past = { metadata: { deadlineAt: new Date(Date.now() - 1) } };
      expect(await codeOf(client.call('once', { id: 'late' }, past))).toBe('deadline-exceeded');
      expect(instance.journal.carriedOut).toHaveLength(before);
    });

    it('keeps 200 concurrent ones apart', async () => {
      const texts = Array.from({ length: 200 }, (_, index) => `call ${index}`);
      const replies = await Promise.all(texts.map((text) => client.call('echo', { ...sample, text })));
      expect(replies.map(({ text }) => text)).toEqual(texts);
    });

    it('carries what is large, up to the limit of the operation', async () => {
      const text = '"\\☃'.repeat(150_000);
      expect((await client.call('flood', text)) === text).toBe(true);
    });

    it('finishes when the application closes meanwhile', async () => {
      const { listen, at } = await place(1);
      const leaving = await startInstance(listen);
      const messenger = isNear ? leaving.messenger : new Messenger();
      const leavingClient = messenger.clientFor(probeContract, at);
      const accepted = leavingClient.call('wait', { id: 'accepted' });
      await leaving.journal.arrived('accepted');
      const closed = leaving.close();
      leaving.journal.letGo('accepted');
      expect(await accepted).toBe('accepted');
      await closed;
      expect(await codeOf(leavingClient.call('ping', undefined))).toBe('unavailable');
      if (!isNear) await messenger.onApplicationShutdown();
    });
  });
}

/** What holds only where modules can be apart. */
function farSuite({ name, place }: Distance): void {
  describe(`instances reached ${name}`, () => {
    let messenger: Messenger;
    const running: Instance[] = [];
    const start = async (listen: Address, as: string): Promise<Instance> => {
      const instance = await startInstance([listen], as);
      running.push(instance);
      return instance;
    };

    beforeEach(() => {
      messenger = new Messenger();
    });
    afterEach(async () => {
      await messenger.onApplicationShutdown();
      await Promise.all(running.splice(0).map((instance) => instance.close()));
    });

    it('share the work, and each request is carried out once', async () => {
      const { listen, at } = await place(2);
      const one = await start(listen[0] as Address, 'one');
      const two = await start(listen[1] as Address, 'two');
      const client = messenger.clientFor(probeContract, at);
      const ids = Array.from({ length: 300 }, (_, index) => `${index}`);
      const replies = await Promise.all(ids.map((id) => client.call('once', { id })));
      expect(new Set(replies.map(({ by }) => by))).toEqual(new Set(['one', 'two']));
      const carriedOut = [...one.journal.carriedOut, ...two.journal.carriedOut];
      expect(carriedOut.sort()).toEqual([...ids].sort());
    });

    it('come and go under load without a request lost or repeated', async () => {
      const { listen, at } = await place(2);
      const [here, there] = listen as [Address, Address];
      const instances = [await start(here, 'one'), await start(there, 'two')];
      const client = messenger.clientFor(probeContract, at);
      let next = 0;
      let isOver = false;
      const sent: string[] = [];
      const caller = async () => {
        while (!isOver) {
          const id = `load ${(next += 1)}`;
          sent.push(id);
          await client.call('once', { id });
        }
      };
      const callers = Promise.all(Array.from({ length: 20 }, caller));
      const reached = (journal: Instance['journal'], count: number) =>
        Promise.race([
          callers,
          (async () => {
            while (journal.carriedOut.length < count) await new Promise(setImmediate);
          })(),
        ]);
      await reached((instances[0] as Instance).journal, 50);
      await (instances[0] as Instance).close();
      const back = await start(here, 'one again');
      instances.push(back);
      await (instances[1] as Instance).close();
      await reached(back.journal, 50);
      isOver = true;
      await callers;
      const carriedOut = instances.flatMap(({ journal }) => journal.carriedOut);
      expect(carriedOut.sort()).toEqual([...sent].sort());
    });

    it('are unavailable at once while there is none, and found again when they are back', async () => {
      const { listen, at } = await place(1);
      const [here] = listen as [Address];
      const client = messenger.clientFor(probeContract, at);
      expect(await codeOf(client.call('ping', undefined))).toBe('unavailable');
      const first = await start(here, 'first');
      await client.call('once', { id: 'a' });
      await first.close();
      expect(await codeOf(client.call('ping', undefined))).toBe('unavailable');
      const second = await start(here, 'second');
      expect(await client.call('once', { id: 'b' })).toEqual({ by: 'second' });
      expect(second.journal.carriedOut).toEqual(['b']);
    });

    it('are not asked for a module by another name', async () => {
      const { listen, at } = await place(1);
      await start(listen[0] as Address, 'one');
      const stranger = messenger.clientFor({ ...probeContract, name: 'stranger' }, at);
      expect(['internal', 'unavailable']).toContain(await codeOf(stranger.call('ping', undefined)));
    });

    it('share the connections of one client', async () => {
      const { listen, at } = await place(1);
      await start(listen[0] as Address, 'one');
      const clients = [messenger.clientFor(probeContract, at), messenger.clientFor(probeContract, at)];
      await Promise.all(clients.map((client) => client.call('ping', undefined)));
      expect((messenger as unknown as { routes: Map<string, unknown> }).routes.size).toBe(1);
    });
  });
}

const tcpAt = (...ports: number[]): Address => ({
  scheme: 'tcp',
  endpoints: ports.map((port) => ({ host: '127.0.0.1', port })),
});

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
  /** A neighbour that takes connections and cuts them as soon as something is asked. */
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

  it('asks another instance when one refuses the connection, whatever the operation', async () => {
    const port = await freePort();
    await start(port);
    const client = messenger.clientFor(probeContract, tcpAt(await freePort(), port), { balance: 'round-robin' });
    for (let call = 0; call < 6; call += 1) await client.call('once', { id: `${call}` });
  });

  it('repeats a request that was lost on the way only where that is safe', async () => {
    const port = await freePort();
    const { journal } = await start(port);
    const cutter = await startCutter();
    const at = tcpAt(cutter.port, port);
    const outcomesOf = async (operation: 'once' | 'echo') => {
      const client = new Messenger();
      running.push({ close: () => client.onApplicationShutdown() });
      const { call } = client.clientFor(probeContract, at, { balance: 'round-robin' });
      // Two calls in turn reach both instances.
      const calls = [1, 2].map(() => (operation === 'once' ? call('once', { id: 'x' }) : call('echo', sample)));
      const codes = await Promise.all(calls.map(codeOf));
      return codes.map((code) => String(code ?? 'answered')).toSorted((a, b) => a.localeCompare(b));
    };
    expect(await outcomesOf('echo')).toEqual(['answered', 'answered']);
    expect(await outcomesOf('once')).toEqual(['answered', 'unavailable']);
    expect(cutter.asked()).toBe(2);
    expect(journal.carriedOut.filter((id) => id === 'x')).toHaveLength(1);
  });

  it('opens a second connection to a lone address, behind which others may be', async () => {
    const cutter = await startCutter();
    const client = messenger.clientFor(probeContract, tcpAt(cutter.port));
    expect(await codeOf(client.call('ping', undefined))).toBe('unavailable');
    expect(cutter.asked()).toBe(2);
    expect(await codeOf(client.call('once', { id: 'x' }))).toBe('unavailable');
    expect(cutter.asked()).toBe(3);
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

    it('answers in the form that is agreed', async () => {
      expect(
        await ask('probe.wait', { meta: { ...meta, remainingMs: 0 }, body: '{"id":"x"}' }).catch((it) => it),
      ).toEqual({
        code: 'deadline-exceeded',
        detail: 'probe.wait arrived too late and was not carried out',
        extensions: {},
      });
      instance.journal.letGo('x');
      expect(await ask('probe.wait', { meta, body: '{"id":"x"}' })).toBe('"x"');
    });

    it('refuses what is not a request', async () => {
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

    it('still answers what arrives while it drains', async () => {
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

  it('says what is wrong with a place to listen at', async () => {
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

it('an application does not start without a module that is said to be in-process', async () => {
  const absent = { ...probeContract, name: 'inventory' };
  await expect(startInstance([], 'one', [probeContract, absent])).rejects.toThrow(
    'inventory is said to be in-process:, but it does not run in this process. Set INVENTORY_AT to where it runs.',
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
});

describe('the distance', () => {
  it.each(Object.keys(comparedCalls))('makes no difference to the outcome: %s', (which) => {
    const [first, ...others] = Object.entries(outcomes[which] ?? {});
    expect(others.length).toBeGreaterThan(0);
    for (const [, outcome] of others) expect(outcome).toStrictEqual(first?.[1]);
  });
});
