import { Admission } from '#admission';
import { CleaveError } from '#contracts';
import { ServiceSecrets } from '#security';
import { eventually } from '#testing';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import {
  addressText,
  awaitedBrokers,
  isNotAnswered,
  Messenger,
  type Address,
  type ContractClient,
} from '../src/index.js';
import { Signing } from '../src/signing.js';
import {
  loggedErrors,
  loggedWarnings,
  probeContract,
  startInstance,
  startProcess,
  type Instance,
  type ProbeValues,
} from './probe.js';

type Client = ContractClient<typeof probeContract>;

export const sample: ProbeValues = {
  text: 'snow ☃, a quote " and a backslash \\, \u2028',
  at: new Date('2026-11-23T01:02:03.004Z'),
  maybe: null,
  left_out: undefined,
  nested: { moments: [new Date(0), null], deep: { empty: [] } },
  anything: { undefined: undefined, date: new Date(1), list: [undefined, Number.NaN, -0], deep: { null: null } },
};

/** The outcome of a call in a comparable form. */
async function outcomeOf(call: Promise<unknown>): Promise<unknown> {
  try {
    return { reply: await call };
  } catch (error) {
    const { code, detail, extensions, name } = error as CleaveError;
    return { isCleaveError: error instanceof CleaveError, name, code, detail, extensions };
  }
}

export const codeOf = async (call: Promise<unknown>): Promise<unknown> => ((await outcomeOf(call)) as CleaveError).code;

/** Calls whose outcome must be the same over every transport. */
export const comparedCalls: Record<string, (client: Client) => Promise<unknown>> = {
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
export const outcomes: Record<string, Record<string, unknown>> = {};

/** A transport: where to listen, and which address leads there. */
export interface Distance {
  name: string;
  /** Addresses for one or several instances to listen at, and the address that leads to all of them. */
  place(instances: number): Promise<{ listen: Address[]; at: Address }>;
}

export function contractSuite({ name, place }: Distance): void {
  describe(`a call ${name}`, () => {
    const isNear = name === 'in-process';
    let instance: Instance;
    let far: Messenger | undefined;
    let client: Client;
    let at: Address;
    const secret = 'known to both sides, and to nobody else';

    beforeAll(async () => {
      const found = await place(1);
      at = found.at;
      instance = await startInstance(found.listen, 'one', [], secret);
      far = isNear ? undefined : new Messenger(undefined, new Signing(new ServiceSecrets([secret])));
      client = (far ?? instance.messenger).clientFor(probeContract, at);
    });
    afterAll(async () => {
      await far?.onApplicationShutdown();
      await instance.close();
    });
    beforeEach(() => {
      loggedErrors.length = 0;
    });

    it('returns the typed reply', async () => {
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

    it.each(Object.keys(comparedCalls))('is recorded for a comparison of all transports: %s', async (which) => {
      const outcome = await outcomeOf((comparedCalls[which] as (client: Client) => Promise<unknown>)(client));
      (outcomes[which] ??= {})[name] = outcome;
      expect(outcome).toMatchObject('reply' in (outcome as object) ? {} : { isCleaveError: true });
    });

    it('without a handler is distinguished from one that fails', async () => {
      const calls = [client.call('orphan', {}), client.call('refuse', { how: 'crash' })];
      const failures = await Promise.all(calls.map((call) => call.catch((error: unknown) => error)));
      expect(failures.map(isNotAnswered)).toEqual([true, false]);
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
      'hides an unexpected failure (%s) from the caller, and logs all of it',
      async (how) => {
        const outcome = await outcomeOf(client.call('refuse', { how }));
        expect(outcome).toMatchObject({ code: 'internal', extensions: {} });
        expect(JSON.stringify(outcome)).not.toMatch(/secret|hunter2|fine/);
        expect(loggedErrors.join('\n')).toMatch(
          { unlisted: /order-not-found/, crash: /hunter2[^]*probe\.ts/, 'wrong-reply': /fine/ }[how],
        );
      },
    );

    it('reports which fields of a request are invalid', async () => {
      const outcome = await outcomeOf(
        client.call('echo', { ...sample, at: 'today', nested: { moments: [] } } as never),
      );
      const { code, extensions } = outcome as CleaveError;
      expect(code).toBe('invalid-request');
      expect((extensions['faults'] as { path: string }[]).map(({ path }) => path)).toEqual(['at', 'nested.deep']);
    });

    it('passes through guards, pipes and interceptors of Nest', async () => {
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
      // Both sides have the same clock here; only the time in transit makes a difference. The operation has five more seconds.
      expect(Math.abs(seen.deadline_at.getTime() - deadlineAt.getTime())).toBeLessThan(4_500);
      expect(await client.call('metadata', {})).toMatchObject({ tenant: 'default', key: null, trace: null });
    });

    it('over the network is rejected without a signature or with that of another secret', async () => {
      if (isNear) return;
      const strangers: [string, Signing | undefined][] = [
        ['is not signed', undefined],
        ['is signed with another secret', new Signing(new ServiceSecrets(['known to nobody who is asked anything']))],
      ];
      for (const [why, theirs] of strangers) {
        const stranger = new Messenger(undefined, theirs);
        const before = [...instance.journal.carriedOut];
        const outcome = await outcomeOf(stranger.clientFor(probeContract, at).call('once', { id: 'x' }));
        expect(outcome).toMatchObject({ code: 'internal', detail: expect.stringContaining(why) });
        expect(instance.journal.carriedOut).toEqual(before);
        await stranger.onApplicationShutdown();
      }
    });

    it('is refused while its operation is at the limit, unless it stays in one process', async () => {
      const limiter = instance.app.get(Admission, { strict: false }).limiterOf('probe.ping');
      const entered = Array.from({ length: limiter.limit }, () => limiter.enter());
      const outcome = await outcomeOf(client.call('ping', undefined));
      const refusal = { code: 'unavailable', extensions: { retry_after_ms: expect.any(Number) } };
      expect(outcome).toMatchObject(isNear ? { reply: undefined } : refusal);
      // Each operation has a limiter of its own.
      expect(await client.call('echo', sample)).toMatchObject({ text: sample.text });
      for (const at of entered) limiter.leave(at);
      expect(await outcomeOf(client.call('ping', undefined))).toStrictEqual({ reply: undefined });
      expect(limiter.inFlight).toBe(0);
    });

    it('fails at its deadline, which a caller can only shorten', async () => {
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

    it('fails without being carried out if its deadline has passed', async () => {
      const before = instance.journal.carriedOut.length;
      const past = { metadata: { deadlineAt: new Date(Date.now() - 1) } };
      expect(await codeOf(client.call('once', { id: 'late' }, past))).toBe('deadline-exceeded');
      expect(instance.journal.carriedOut).toHaveLength(before);
    });

    it('gets its own reply among 200 concurrent ones', async () => {
      const texts = Array.from({ length: 200 }, (_, index) => `call ${index}`);
      const replies = await Promise.all(texts.map((text) => client.call('echo', { ...sample, text })));
      expect(replies.map(({ text }) => text)).toEqual(texts);
    });

    it('carries large values, once, up to the limit of the operation', async () => {
      const text = '"\\☃'.repeat(150_000);
      expect((await client.call('flood', text)) === text).toBe(true);
      // JSON adds two quotes to a string.
      const most = 'x'.repeat(probeContract.operations.flood.maxBytes - 2);
      const before = instance.journal.carriedOut.length;
      expect((await client.call('flood', most)) === most).toBe(true);
      expect(await codeOf(client.call('flood', `${most}x`))).toBe('payload-too-large');
      expect(instance.journal.carriedOut.slice(before)).toEqual(['flood']);
    });

    it('is rejected when it is aborted, while others go on', async () => {
      const [given, kept, never] = ['given up', 'kept', 'never'].map((it) => `${it} ${name}`) as [
        string,
        string,
        string,
      ];
      const caller = new AbortController();
      const { signal } = caller;
      const givenUp = outcomeOf(client.call('wait', { id: given }, { signal }));
      const goingOn = client.call('wait', { id: kept }, { signal: new AbortController().signal });
      await Promise.all([given, kept].map((id) => instance.journal.arrived(id)));
      caller.abort();
      expect(await givenUp).toMatchObject({ isCleaveError: true, code: 'cancelled' });
      // The late reply of the cancelled call is dropped.
      instance.journal.letGo(given);
      expect((await client.call('echo', sample)).text).toBe(sample.text);
      instance.journal.letGo(kept);
      expect(await goingOn).toBe(kept);
      expect(await codeOf(client.call('once', { id: never }, { signal }))).toBe('cancelled');
      expect(instance.journal.carriedOut).not.toContain(never);
    });

    it('is finished before the application closes, which then refuses others', async () => {
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

/** What only holds for modules in separate processes. */
export function farSuite({ name, place }: Distance): void {
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

    it('cannot be called if signing fails, and the caller gets the cause', async () => {
      const { listen, at } = await place(1);
      await start(listen[0] as Address, 'one');
      const signing = new Signing(new ServiceSecrets(['s'.repeat(32)]), () => {
        throw new Error('there is no clock');
      });
      const unable = new Messenger(undefined, signing);
      const call = unable.clientFor(probeContract, at).call('ping', undefined, { deadlineMs: 2_000 });
      await expect(call).rejects.toMatchObject({
        code: 'unavailable',
        detail: 'probe.ping could not be called. Try again shortly.',
        cause: new Error('there is no clock'),
      });
      await unable.onApplicationShutdown();
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

    it('stop and start under load without a lost or repeated request', async () => {
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

    /** An instance that fails every `work`, and is not ready, until the test says otherwise. */
    const startFailing = async (listen: Address, as: string) => {
      const state = { isFailing: true, isReady: false, asked: 0, arrived: 0 };
      const canServe = async (): Promise<boolean> => {
        state.asked += 1;
        return state.isReady;
      };
      const instance = await startInstance([listen], as, [], undefined, canServe);
      running.push(instance);
      instance.journal.onArrival = () => {
        state.arrived += 1;
        if (state.isFailing) throw new CleaveError('unavailable', `${as} has lost its database`);
      };
      return Object.assign(state, { close: instance.close });
    };
    const callsOf = (client: Client) => {
      let calls = 0;
      const work = (): Promise<{ by: string }> =>
        client.call('work', { id: `${(calls += 1)}`, forMs: 0, length: 0, text: '' });
      const failures = async (count: number, callers = 8): Promise<string[]> => {
        const found: string[] = [];
        const caller = async () => {
          for (let call = 0; call < count / callers; call += 1)
            await work().catch(({ detail }: CleaveError) => found.push(detail));
        };
        await Promise.all(Array.from({ length: callers }, caller));
        return found;
      };
      return { work, failures };
    };

    it('that fail every request at once get less than 1 in 40 requests', async () => {
      const { listen, at } = await place(2);
      await start(listen[0] as Address, 'working');
      // Refuses the requests, because it has another secret.
      running.push(await startInstance([listen[1] as Address], 'failing', [], 'another secret, of 32 characters'));
      const found = await callsOf(messenger.clientFor(probeContract, at)).failures(3_000);
      expect(found.length).toBeGreaterThan(0);
      expect(found.length).toBeLessThan(75);
    });

    it('that have failed several requests get none while they are not ready, and then get some again', async () => {
      const { listen, at } = await place(2);
      await start(listen[0] as Address, 'working');
      const failing = await startFailing(listen[1] as Address, 'failing');
      const { work, failures } = callsOf(messenger.clientFor(probeContract, at));
      // Twice: when it is first asked, requests may still be on their way.
      await eventually(async () => {
        await failures(50);
        expect(failing.asked).toBeGreaterThan(1);
      });
      const before = failing.arrived;
      expect(await failures(500)).toEqual([]);
      expect(failing.arrived).toBe(before);
      Object.assign(failing, { isFailing: false, isReady: true });
      await eventually(async () => expect((await work()).by).toBe('failing'));
      expect(await failures(200)).toEqual([]);
    });

    it('that all fail are called nevertheless', async () => {
      const { listen, at } = await place(2);
      const both = [
        await startFailing(listen[0] as Address, 'one'),
        await startFailing(listen[1] as Address, 'two'),
      ] as const;
      const { failures } = callsOf(messenger.clientFor(probeContract, at));
      const found = await failures(400);
      expect(found).toHaveLength(400);
      expect(new Set(found.map((it) => it.replace(/^(?:one|two) /, '')))).toEqual(new Set(['has lost its database']));
      for (const it of both) it.isFailing = false;
      await eventually(async () => expect(await failures(8)).toEqual([]));
    });

    it('that have failed get the requests when the last working one stops', async () => {
      const { listen, at } = await place(2);
      const working = await start(listen[0] as Address, 'working');
      const failing = await startFailing(listen[1] as Address, 'failing');
      const { work, failures } = callsOf(messenger.clientFor(probeContract, at));
      await eventually(async () => {
        await failures(50);
        expect(failing.asked).toBeGreaterThan(0);
      });
      failing.isFailing = false;
      const closed = working.close();
      expect(await failures(100, 2)).toEqual([]);
      await closed;
      expect((await work()).by).toBe('failing');
    });

    it('are unavailable while there is none, and found again when one is back', async () => {
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

    it('that are killed lose no idempotent request, and no other request is repeated', async () => {
      const { listen, at } = await place(2);
      const killed = await startProcess(listen[0] as Address);
      const { journal } = await start(listen[1] as Address, 'other');
      const client = messenger.clientFor(probeContract, at, { balance: 'round-robin' });
      const calls: Promise<unknown>[] = [];
      // The other instance answers at once; requests to the one that is killed stay there.
      const untilOneIsHeld = async (ask: (id: string) => Promise<unknown>): Promise<number> => {
        const first = calls.length;
        const held = killed.hasGot((id) => Number(id) >= first).then(Number);
        const aMoment = () => new Promise<undefined>((resolve) => setTimeout(resolve, 20, undefined));
        for (;;) {
          const id = `${calls.length}`;
          journal.letGo(id);
          calls.push(ask(id));
          const found = await Promise.race([held, aMoment()]);
          if (found !== undefined) return found;
        }
      };
      const repeatable = await untilOneIsHeld((id) => client.call('wait', { id }));
      const unrepeatable = await untilOneIsHeld((id) => codeOf(client.call('waitOnce', { id }, { deadlineMs: 2_000 })));
      await killed.kill();
      expect(await calls[repeatable]).toBe(`${repeatable}`);
      expect(['unavailable', 'deadline-exceeded']).toContain(await calls[unrepeatable]);
      await Promise.all(calls);
      expect(journal.carriedOut).not.toContain(`${unrepeatable}`);
    });

    it('do not answer calls to a module of another name', async () => {
      const { listen, at } = await place(1);
      await start(listen[0] as Address, 'one');
      const stranger = messenger.clientFor({ ...probeContract, name: 'stranger' }, at);
      expect(['internal', 'unavailable']).toContain(await codeOf(stranger.call('ping', undefined)));
    });

    it('are reached over one route by all clients of a messenger', async () => {
      const { listen, at } = await place(1);
      await start(listen[0] as Address, 'one');
      const clients = [messenger.clientFor(probeContract, at), messenger.clientFor(probeContract, at)];
      await Promise.all(clients.map((client) => client.call('ping', undefined)));
      expect((messenger as unknown as { routes: Map<string, unknown> }).routes.size).toBe(1);
    });
  });
}

/** A broker that requests go through, on a port of its own. */
export interface Broker {
  at: Address;
  kill(): Promise<void>;
  /** Starts it again on the same port. */
  revive(): Promise<void>;
}

export function brokerSuite(startBroker: () => Promise<Broker>): void {
  it('fail as unavailable while the server is dead, and succeed again when it is back', async () => {
    const broker = await startBroker();
    const instance = await startInstance([broker.at]);
    const messengers = [new Messenger(), new Messenger()] as const;
    const [{ call }, { call: askEarly }] = [
      messengers[0].clientFor(probeContract, broker.at),
      messengers[1].clientFor(probeContract, broker.at),
    ];
    const isBack = async (ping: typeof call) => {
      while ((await codeOf(ping('ping', undefined))) !== undefined) await new Promise((next) => setTimeout(next, 10));
    };
    await call('ping', undefined);
    const held = codeOf(call('wait', { id: 'in flight' }));
    await instance.journal.arrived('in flight');
    const isReached = instance.brokers.get(broker.at.scheme)!;
    expect([instance.brokers.size, isReached()]).toEqual([1, true]);
    await broker.kill();
    expect(await held).toBe('unavailable');
    expect(await codeOf(call('ping', undefined))).toBe('unavailable');
    // A client that calls for the first time while the broker is dead also reaches it later.
    expect(await codeOf(askEarly('ping', undefined))).toBe('unavailable');
    instance.journal.letGo('in flight');
    await eventually(async () => expect(isReached()).toBe(false));
    await broker.revive();
    await isBack(call);
    await eventually(async () => expect(isReached()).toBe(true));
    await isBack(askEarly);
    // An instance can also be stopped while the broker is dead.
    await broker.kill();
    await instance.close();
    await Promise.all(messengers.map((it) => it.onApplicationShutdown()));
  });

  it('are served once the server is up, for which the start waits and logs that it does', async () => {
    const { at, kill, revive } = await startBroker();
    await kill();
    const starting = startInstance([at]);
    await eventually(async () => expect([...awaitedBrokers().keys()]).toEqual([at.scheme]));
    await eventually(async () => expect(loggedWarnings.join()).toContain(addressText(at)));
    await revive();
    const instance = await starting;
    expect([...awaitedBrokers().keys()]).toEqual([]);
    const messenger = new Messenger();
    await messenger.clientFor(probeContract, at).call('ping', undefined);
    await messenger.onApplicationShutdown();
    await instance.close();
    await kill();
  });
}
