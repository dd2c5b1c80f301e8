import { setTimeout as sleep } from 'node:timers/promises';
import type { CleaveError } from '#contracts';
import type { NatsAddress } from '#nats';
import { eventually, freePort, natsOrSkip, startNats, type NatsServer } from '#testing';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { connect, type Msg, type NatsConnection } from '@nats-io/transport-node';
import { address, Messenger, type ContractClient } from '../src/index.js';
import {
  carriedSubject,
  decodeFrame,
  encodeFrame,
  group,
  presentSubject,
  requestSubject,
  type Frame,
} from '../src/nats-peer.js';
import { loggedErrors, probeContract, startInstance, startProcess, type Instance } from './probe.js';

const failureOf = (call: Promise<unknown>): Promise<CleaveError> =>
  call.then(
    () => Promise.reject(new Error('it was answered')),
    (error: CleaveError) => error,
  );

const describeWithNats = await natsOrSkip(describe);

describeWithNats('requests over NATS', () => {
  let nats: NatsServer;
  let monitor: string;
  let at: NatsAddress;
  let hands: NatsConnection;
  let messenger: Messenger;
  let client: ContractClient<typeof probeContract>;
  const running: { close(): Promise<unknown> }[] = [];
  const start = async (there = at): Promise<Instance> => {
    const instance = await startInstance([there]);
    running.push(instance);
    return instance;
  };
  /** The number of subscriptions of each connection, except the test's own. */
  const subscriptions = async (): Promise<number[]> => {
    const { connections } = (await (await fetch(`${monitor}/connz`)).json()) as {
      connections: { name?: string; subscriptions: number }[];
    };
    return connections.filter(({ name }) => name !== 'hands').map((it) => it.subscriptions);
  };

  beforeAll(async () => {
    const port = await freePort();
    monitor = `http://127.0.0.1:${port}`;
    nats = await startNats({ config: `http: "127.0.0.1:${port}"` });
    at = address.parse(nats.url) as NatsAddress;
    hands = await connect({ servers: [...at.servers], name: 'hands' });
  });
  afterAll(async () => {
    await hands.close();
    await nats.stop();
  });
  beforeEach(() => {
    loggedErrors.length = 0;
    messenger = new Messenger();
    client = messenger.clientFor(probeContract, at);
  });
  afterEach(async () => {
    await messenger.onApplicationShutdown();
    await Promise.all(running.splice(0).map((it) => it.close()));
  });

  it('and replies may be 16 times the maximum payload of NATS, and are carried out once', async () => {
    const [one, other] = [await start(), await start()];
    expect(hands.info?.max_payload).toBe(1_048_576);
    const most = 'x'.repeat(probeContract.operations.torrent.maxBytes - 2);
    const small = client.call('once', { id: 'meanwhile' });
    expect((await client.call('torrent', most)) === most).toBe(true);
    await small;
    const carriedOut = [one, other].flatMap(({ journal }) => journal.carriedOut);
    expect(carriedOut.filter((it) => it === 'torrent')).toHaveLength(1);
    expect((await failureOf(client.call('torrent', `${most}x`))).code).toBe('payload-too-large');
  });

  it('respect a smaller maximum payload of the server', async () => {
    const strict = await startNats({ config: 'max_payload: 2048' });
    running.push({ close: () => strict.stop() });
    const there = address.parse(strict.url) as NatsAddress;
    await start(there);
    const { call } = messenger.clientFor(probeContract, there);
    const texts = Array.from({ length: 20 }, (_, at) => 'x'.repeat(at * 1_000));
    expect(await Promise.all(texts.map((text) => call('flood', text)))).toEqual(texts);
  });

  it('use one subscription per client, and leave none behind', async () => {
    const instance = await start();
    await Promise.all(Array.from({ length: 50 }, (_, id) => client.call('once', { id: `${id}` })));
    await client.call('flood', 'x'.repeat(3_000_000));
    const inboxOfClient = 1;
    const requests = ['requests', 'those of the last resort', 'its own'];
    const ofInstance = ['inbox', ...requests, 'who is present', 'what is carried'].length;
    expect((await subscriptions()).toSorted((a, b) => a - b)).toEqual([inboxOfClient, ofInstance]);
    await instance.close();
    await messenger.onApplicationShutdown();
    while ((await subscriptions()).length > 0) await new Promise((resolve) => setTimeout(resolve, 10));
    expect(loggedErrors).toEqual([]);
  });

  it('that are cancelled leave nothing in memory, even large ones', async () => {
    const instance = await start();
    const caller = new AbortController();
    const held = client.call('wait', { id: 'held' }, { signal: caller.signal });
    await instance.journal.arrived('held');
    const large = client.call('torrent', 'x'.repeat(8_000_000), { signal: caller.signal });
    await client.call('ping', undefined);
    caller.abort();
    expect((await failureOf(held)).code).toBe('cancelled');
    expect((await failureOf(large)).code).toBe('cancelled');
    const [route] = (messenger as unknown as { routes: Map<string, unknown> }).routes.values();
    const { awaited, offered } = (route as { peer: Record<'awaited' | 'offered', { size: number }> }).peer;
    expect([awaited.size, offered.size]).toEqual([0, 0]);
    instance.journal.letGo('held');
    await client.call('ping', undefined);
  });

  it('are refused if there is no instance, or if the last one is killed while it handles them', async () => {
    expect((await failureOf(client.call('once', { id: '1' }))).detail).toMatch(/^No instance of probe takes requests/);
    const last = await startProcess(at);
    const got = last.hasGot(() => true);
    const failure = failureOf(client.call('waitOnce', { id: '1' }));
    await got;
    await last.kill();
    expect(await failure).toMatchObject({
      code: 'unavailable',
      detail: expect.stringContaining('lost with the last one'),
    });
  });

  it('that are idempotent are answered in time although one instance is suspended', async () => {
    const [still] = await Promise.all([startProcess(at), start()]);
    try {
      const asked = (count: number) =>
        Promise.allSettled(Array.from({ length: count }, () => client.call('ping', undefined)));
      await asked(10);
      still.pause('SIGSTOP');
      const failed = (await asked(60)).filter((it) => it.status === 'rejected');
      expect(failed.map((it) => (it.reason as CleaveError).detail)).toEqual([]);
    } finally {
      still.pause('SIGCONT');
      await still.kill();
    }
  });

  it('that are idempotent are sent to the group once more if no instance reports that it is present', async () => {
    const silent = { callback: () => undefined };
    const [asked, lookedFor] = [carriedSubject('probe'), presentSubject('probe')].map((it) =>
      hands.subscribe(it, silent),
    );
    const lost = new Promise<void>((resolve) =>
      hands.subscribe(requestSubject('probe.ping'), { queue: group, max: 1, callback: () => resolve() }),
    );
    await hands.flush();
    const answer = client.call('ping', undefined, { deadlineMs: 9_000 });
    await lost;
    // Simulates an instance of an older version, which does not say that it is present.
    const callback = (_: unknown, message: Msg): void => void message.respond(encodeFrame({}));
    hands.subscribe(requestSubject('probe.ping'), { queue: group, max: 1, callback });
    await answer;
    asked!.unsubscribe();
    lookedFor!.unsubscribe();
  });

  it('are all answered by an instance that has failed, and lost its connection before it got another one', async () => {
    const own = await startNats();
    running.push({ close: () => own.stop() });
    const there = address.parse(own.url) as NatsAddress;
    const { promise: isAsked, resolve } = Promise.withResolvers<void>();
    const canServe = async (): Promise<boolean> => {
      resolve();
      return true;
    };
    const instance = await startInstance([there], 'one', [], undefined, canServe);
    running.push(instance);
    instance.journal.onArrival = () => {
      throw new Error('it has lost its database');
    };
    const before = new Messenger();
    running.push({ close: () => before.onApplicationShutdown() });
    const { call } = before.clientFor(probeContract, there);
    for (let failed = 0; failed < 5; failed += 1) await failureOf(call('wait', { id: 'failing' }));
    await isAsked;
    const isReached = instance.brokers.get(there.scheme)!;
    await own.kill();
    await eventually(async () => expect(isReached()).toBe(false));
    await own.revive();
    await eventually(async () => expect(isReached()).toBe(true));
    const after = messenger.clientFor(probeContract, there);
    const calls = Array.from({ length: 50 }, (_, id) => after.call('once', { id: `${id}` }));
    expect(await Promise.all(calls)).toEqual(calls.map(() => ({ by: 'one' })));
  });

  it('are not taken over from an instance that is slow or shutting down', async () => {
    const slow = await start();
    const held = client.call('wait', { id: 'held' });
    await slow.journal.arrived('held');
    const other = await start();
    const isAskedAfter = (): Promise<void> =>
      new Promise((resolve) => hands.subscribe('cleave.carried.probe', { max: 1, callback: () => resolve() }));
    // Twice: when the second question is asked, the answer to the first one has been evaluated.
    for (const _ of ['first', 'second']) await isAskedAfter();
    const leaving = slow.close();
    for (const _ of ['first', 'second']) await isAskedAfter();
    slow.journal.letGo('held');
    expect(await held).toBe('held');
    expect(other.journal.carriedOut).toEqual([]);
    await leaving;
  });

  describe('of a caller without our client', () => {
    const ask = async (operation: string, message: Uint8Array | string): Promise<Frame> =>
      decodeFrame((await hands.request(requestSubject(`probe.${operation}`), message, { timeout: 30_000 })).data);
    const meta = { tenant: 'default', remainingMs: 10_000 };

    it('are answered in the wire format', async () => {
      await start();
      expect(await ask('once', encodeFrame({ meta }, '{"id":"x"}'))).toEqual({ head: {}, body: '{"by":"one"}' });
    });

    it('are refused or ignored if they are malformed', async () => {
      const { journal } = await start();
      const whole = [encodeFrame({}), encodeFrame({ meta }), encodeFrame({ meta: 1 }, '{"id":"x"}')];
      for (const nonsense of ['', '\n', 'x', '1\n', 'null\n{}', ...whole]) {
        const { head } = await ask('once', nonsense);
        expect(head['err']).toMatchObject({ code: 'invalid-request' });
      }
      const offer = { at: 'nowhere', bytes: 1_000_000_000, withinMs: 10_000 };
      expect((await ask('once', encodeFrame({ offer }))).head['err']).toMatchObject({ code: 'payload-too-large' });
      hands.publish('cleave.carried.probe', 'nonsense');
      hands.publish(requestSubject('probe.once'), 'without an address for the answer');
      await client.call('ping', undefined);
      expect(journal.carriedOut).toEqual([]);
    });

    /** Offers as much as may be fetched at once, and never delivers it. @returns one more such message */
    const offerMuch = (): Buffer => {
      const offer = { at: 'cleave.test.silent', bytes: 16_777_216, withinMs: 1_000 };
      hands.subscribe(offer.at, { callback: () => undefined });
      for (let asked = 0; asked < 8; asked += 1) {
        hands.publish(requestSubject('probe.once'), encodeFrame({ offer }), { reply: `cleave.test.${asked}` });
      }
      return encodeFrame({ offer });
    };

    it('are refused while pending offers use up the memory for large requests, and taken again afterwards', async () => {
      await start();
      expect((await ask('once', offerMuch())).head['err']).toMatchObject({ code: 'unavailable' });
      // A request in one message needs no fetching, and once the offers have expired, there is room for others.
      expect(await ask('once', encodeFrame({ meta }, '{"id":"y"}'))).toEqual({ head: {}, body: '{"by":"one"}' });
      const large = 'x'.repeat(2_000_000);
      await eventually(async () => expect((await client.call('torrent', large)) === large).toBe(true));
    });

    it('are refused with a malformed offer, which does not change the memory limit', async () => {
      await start();
      const right = { at: 'cleave.test.silent', bytes: 1, withinMs: 1_000 };
      const wrong = [null, 1, {}, { ...right, at: 'two words' }, { ...right, bytes: '1' }, { ...right, bytes: -1 }];
      for (const offer of wrong) {
        const { head } = await ask('once', encodeFrame({ offer }));
        expect(head['err']).toMatchObject({ code: 'invalid-request' });
      }
      expect((await ask('once', offerMuch())).head['err']).toMatchObject({ code: 'unavailable' });
    });

    it('do not break a client that gets a malformed offer as a reply that it does not expect', async () => {
      const heard = new Promise<string>((resolve) =>
        hands.subscribe(requestSubject('probe.*'), { max: 1, callback: (_, { reply }) => resolve(String(reply)) }),
      );
      await hands.flush();
      const caller = new AbortController();
      const failure = failureOf(client.call('ping', undefined, { signal: caller.signal }));
      const inbox = (await heard).replace(/\.[^.]*$/, '');
      caller.abort();
      await failure;
      hands.publish(`${inbox}.unasked`, encodeFrame({ offer: {} }), { reply: 'nobody' });
      await hands.flush();
      await start();
      await client.call('ping', undefined);
    });

    /** An instance that has just left its group. */
    const startFailed = async (): Promise<Instance> => {
      const instance = await start();
      instance.journal.onArrival = () => {
        throw new Error('it has lost its database');
      };
      for (let failed = 0; failed < 5; failed += 1) await failureOf(client.call('wait', { id: 'failing' }));
      return instance;
    };

    it('are taken again by an instance that has failed, even if the first one since then could not be received', async () => {
      await startFailed();
      let timesFetched = 0;
      const offer = { at: 'cleave.test.gone', bytes: 1_000_000, withinMs: 10_000 };
      const callback = (_: unknown, message: Msg): void => {
        timesFetched += 1;
        message.respond('');
      };
      hands.subscribe(offer.at, { callback });
      await eventually(async () => {
        hands.publish(requestSubject('probe.once'), encodeFrame({ offer }), { reply: 'nobody' });
        await hands.flush();
        expect(timesFetched).toBeGreaterThan(0);
      });
      await eventually(async () => {
        expect(await ask('once', encodeFrame({ meta }, '{"id":"z"}'))).toEqual({ head: {}, body: '{"by":"one"}' });
      });
    });

    it('are taken again by an instance that has failed, even if the first one since then never ends', async () => {
      const { journal } = await startFailed();
      journal.onArrival = () => undefined;
      let isHeld = false;
      void journal.arrived('held').then(() => (isHeld = true));
      await eventually(async () => {
        hands.publish(requestSubject('probe.wait'), encodeFrame({ meta }, '{"id":"held"}'), { reply: 'nobody' });
        await hands.flush();
        expect(isHeld).toBe(true);
      });
      await eventually(async () => {
        expect(await ask('once', encodeFrame({ meta }, '{"id":"z"}'))).toEqual({ head: {}, body: '{"by":"one"}' });
      });
      journal.letGo('held');
    });

    it('are taken about one a second by an instance that has failed, while those that it takes end too late', async () => {
      const { journal } = await startFailed();
      let taken = 0;
      journal.onArrival = (id) => {
        taken += 1;
        void sleep(1_300).then(() => journal.letGo(id));
      };
      const late = { ...meta, remainingMs: 700 };
      const begun = performance.now();
      for (let published = 0; taken === 0 || performance.now() - begun < 12_000; published += 1) {
        const request = encodeFrame({ meta: late }, JSON.stringify({ id: `late ${published}` }));
        hands.publish(requestSubject('probe.wait'), request, { reply: 'nobody' });
        await sleep(20);
      }
      // Not one a second exactly: what arrives before NATS has heard that one is enough is taken as well.
      expect(taken).toBeLessThan((4 * (performance.now() - begun)) / 1_000);
    });

    it('are not carried out if the content they offer is gone', async () => {
      const { journal } = await start();
      const offer = { at: 'nowhere', bytes: 1_000_000, withinMs: 10_000 };
      hands.publish(requestSubject('probe.once'), encodeFrame({ offer }), { reply: 'nobody' });
      await client.call('ping', undefined);
      expect(journal.carriedOut).toEqual([]);
    });
  });
});
