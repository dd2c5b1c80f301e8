import type { CleaveError } from '#contracts';
import { Metrics } from '#telemetry';
import { eventually, freePort, samplesIn } from '#testing';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { getEventListeners, once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { contractClient, type ContractClient } from '../src/client.js';
import { Messenger } from '../src/index.js';
import { TcpRoute, tcpTargets } from '../src/tcp-route.js';
import { probeContract, startInstance, startProcess, tcpAt, type Instance, type InstanceProcess } from './probe.js';

type Client = ContractClient<typeof probeContract>;

const closing: (() => unknown)[] = [];
let messenger: Messenger;

beforeEach(() => {
  messenger = new Messenger();
});
afterEach(async () => {
  await messenger.onApplicationShutdown();
  for (const close of closing.splice(0).reverse()) await close();
});

const start = async (port: number, host = '127.0.0.1', name = `${host}:${port}`): Promise<Instance> => {
  const instance = await startInstance([{ scheme: 'tcp', endpoints: [{ host, port }] }], name);
  closing.push(() => instance.close());
  return instance;
};

const startElsewhere = async (port: number): Promise<InstanceProcess> => {
  const elsewhere = await startProcess(tcpAt(port));
  closing.push(() => elsewhere.kill());
  return elsewhere;
};

const ports = (count: number): Promise<number[]> => Promise.all(Array.from({ length: count }, freePort));
const codeOf = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => 'answered',
    (error: CleaveError) => error.code,
  );

/** Callers that go on until they are stopped. */
const load = (callers: number, call: (id: string) => Promise<unknown>) => {
  const ids: string[] = [];
  const failures: CleaveError[] = [];
  let isOver = false;
  const caller = async () => {
    while (!isOver) {
      const id = `load ${ids.length}`;
      ids.push(id);
      await call(id).catch((error: CleaveError) => failures.push(error));
      // Without this, calls that fail at once would starve all others.
      await new Promise(setImmediate);
    }
  };
  const all = Promise.all(Array.from({ length: callers }, caller));
  const stop = async () => {
    isOver = true;
    await all;
  };
  const more = async (count: number) => {
    const enough = ids.length + count;
    await eventually(async () => expect(ids.length).toBeGreaterThan(enough));
  };
  return { ids, failures, stop, more };
};

const carriedOut = (instances: readonly Instance[]): string[] => instances.flatMap(({ journal }) => journal.carriedOut);

describe('instances over TCP', () => {
  it('are restarted one by one under load, and each request is carried out once', async () => {
    const at = await ports(3);
    const running = await Promise.all(at.map((port) => start(port)));
    const all = [...running];
    const client = messenger.clientFor(probeContract, tcpAt(...at));
    const calls = load(24, (id) => client.call('once', { id }));
    for (const [index, port] of at.entries()) {
      await calls.more(200);
      await (running[index] as Instance).close();
      await calls.more(200);
      const renewed = await start(port);
      all.push(renewed);
      await eventually(async () => expect(renewed.journal.carriedOut.length).toBeGreaterThan(0));
    }
    await calls.stop();
    expect(calls.failures).toEqual([]);
    expect(carriedOut(all).toSorted()).toEqual(calls.ids.toSorted());
  });

  it('that are drained wait for requests of a caller that was too busy to notice', async () => {
    const at = await ports(2);
    const leaving = await startElsewhere(at[0] as number);
    await start(at[1] as number);
    const client = messenger.clientFor(probeContract, tcpAt(...at), { balance: 'round-robin' });
    const ask = () => Promise.all(Array.from({ length: 4 }, () => codeOf(client.call('once', { id: 'x' }))));
    const answered = Array<string>(4).fill('answered');
    expect(await ask()).toEqual(answered);
    const closed = leaving.close();
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
    expect(await ask()).toEqual(answered);
    await closed;
  });

  it('that are killed fail no idempotent request, and of the others at most those in flight', async () => {
    const at = await ports(3);
    const [victim] = await Promise.all([
      startElsewhere(at[0] as number),
      start(at[1] as number),
      start(at[2] as number),
    ]);
    const client = messenger.clientFor(probeContract, tcpAt(...at));
    const repeatable = load(8, () => client.call('ping', undefined));
    const others = load(8, (id) => client.call('once', { id }));
    await Promise.all([repeatable.more(200), others.more(200)]);
    await victim.kill();
    await Promise.all([repeatable.more(200), others.more(200)]);
    await Promise.all([repeatable.stop(), others.stop()]);
    expect(repeatable.failures).toEqual([]);
    expect(others.failures.length).toBeLessThanOrEqual(8);
    expect(new Set(others.failures.map(({ code }) => code))).toEqual(
      new Set(others.failures.length > 0 ? ['unavailable'] : []),
    );
  });

  it('that hang are left out after some calls, and used again when they respond', async () => {
    const at = await ports(2);
    const [hanging, other] = await Promise.all([startElsewhere(at[0] as number), start(at[1] as number)]);
    const client = messenger.clientFor(probeContract, tcpAt(...at), { balance: 'round-robin' });
    const ask = (deadlineMs?: number) => client.call('once', { id: 'x' }, deadlineMs ? { deadlineMs } : {});
    const askers = (count: number, deadlineMs?: number) =>
      Promise.all(Array.from({ length: count }, () => codeOf(ask(deadlineMs))));
    expect(new Set(await askers(10))).toEqual(new Set(['answered']));
    hanging.pause('SIGSTOP');
    const codes = await askers(12, 3_000);
    expect(codes.filter((code) => code === 'deadline-exceeded').length).toBeGreaterThanOrEqual(6);
    expect(new Set(await askers(50))).toEqual(new Set(['answered']));
    const before = other.journal.carriedOut.length;
    hanging.pause('SIGCONT');
    await eventually(async () => expect((await ask()).by).toBe('process'));
    expect(other.journal.carriedOut.length).toBeGreaterThan(before);
  });

  it('are reached over another connection if one stays silent, even if each caller gives up early', async () => {
    const port = await freePort();
    await start(port);
    let connections = 0;
    const way = await listening((socket) => {
      connections += 1;
      // Simulates a machine that is gone without closing the connection, whose address another one has taken over.
      if (connections === 1) socket.resume();
      else leadOn(socket, port);
    });
    const client = messenger.clientFor(probeContract, tcpAt(way));
    const ask = (): Promise<string> => codeOf(client.call('once', { id: 'x' }, { deadlineMs: 1_500 }));
    expect(await ask()).toBe('deadline-exceeded');
    await eventually(async () => expect(await ask()).toBe('answered'));
    expect(connections).toBe(2);
  });

  it('keep the connection of an answered probe, but no listeners of the probe', async () => {
    const port = await freePort();
    await start(port);
    let connections = 0;
    const way = await listening((socket) => {
      connections += 1;
      leadOn(socket, port);
    });
    const at = [{ host: '127.0.0.1', port: way }];
    const targets = tcpTargets({ name: 'probe', at }, 1_000);
    closing.push(() => targets.close());
    const [instance] = targets.instances as [(typeof targets.instances)[number]];

    const probing = new AbortController();
    await instance.probe(probing.signal);
    expect(getEventListeners(probing.signal, 'abort')).toEqual([]);
    // Simulates the timeout of the probe, which passes afterwards.
    probing.abort();
    await instance.probe(AbortSignal.timeout(5_000));
    expect(connections).toBe(1);
  });

  it('get no repeats from a caller that stops meanwhile', async () => {
    const port = await freePort();
    const { journal } = await start(port);
    let connections = 0;
    const onConnection = (socket: Socket) => {
      connections += 1;
      leadOn(socket, port);
    };
    const at = tcpAt(await listening(onConnection), await listening(onConnection));
    const stopping = new Messenger();
    const client = stopping.clientFor(probeContract, at, { balance: 'round-robin' });
    const ids = ['one', 'two'];
    const calls = ids.map((id) => codeOf(client.call('wait', { id })));
    await Promise.all(ids.map((id) => journal.arrived(id)));
    await stopping.onApplicationShutdown();
    await new Promise((resolve) => setTimeout(resolve, 100));
    for (const id of ids) journal.letGo(id);
    expect(await Promise.all(calls)).toEqual(['unavailable', 'unavailable']);
    expect(connections).toBe(2);
  });

  it('that are slow get less than a quarter of the requests of others', async () => {
    const at = await ports(3);
    const [slow, ...fast] = await Promise.all(at.map((port) => start(port)));
    const client = messenger.clientFor(probeContract, tcpAt(await delayed(at[0] as number, 1_000), ...at.slice(1)));
    const calls = load(6, (id) => client.call('once', { id }));
    await calls.more(2_000);
    await calls.stop();
    expect(calls.failures).toEqual([]);
    for (const { journal } of fast)
      expect((slow as Instance).journal.carriedOut.length).toBeLessThan(journal.carriedOut.length / 4);
  });

  it('that fail every request at once get less than 2 % of them', async () => {
    const at = await ports(3);
    const others = await Promise.all([start(at[1] as number), start(at[2] as number)]);
    // An instance with another secret, and a different service that was configured as an instance by mistake.
    for (const failing of [await startRefusing(at[0] as number), await startStranger()]) {
      const client = messenger.clientFor(probeContract, tcpAt(failing, at[1] as number, at[2] as number));
      const calls = load(12, (id) => client.call('once', { id }));
      await calls.more(3_000);
      await calls.stop();
      expect(calls.failures.length).toBeGreaterThan(0);
      expect(calls.failures.length).toBeLessThan(calls.ids.length / 50);
    }
    expect(others.every(({ journal }) => journal.carriedOut.length > 0)).toBe(true);
  });

  it('that are alive but not ready get no requests until they are ready', async () => {
    const at = await ports(2);
    const leaving = await start(at[0] as number);
    await start(at[1] as number);
    const client = messenger.clientFor(probeContract, tcpAt(...at));
    const calls = load(4, (id) => client.call('once', { id }));
    await eventually(async () => expect(leaving.journal.carriedOut.length).toBeGreaterThan(0));
    await leaving.close();
    let isReady = false;
    let asked = 0;
    const canServe = async (): Promise<boolean> => {
      asked += 1;
      return isReady;
    };
    const back = await startInstance([tcpAt(at[0] as number)], 'back', [], undefined, canServe);
    closing.push(() => back.close());
    await eventually(async () => expect(asked).toBeGreaterThan(1));
    expect(back.journal.carriedOut).toEqual([]);
    isReady = true;
    await eventually(async () => expect(back.journal.carriedOut.length).toBeGreaterThan(0));
    await calls.stop();
    expect(calls.failures).toEqual([]);
  });

  const onLinux = process.platform === 'linux' ? it : it.skip;
  onLinux('keep connections alive by TCP, to notice callers that are gone', async () => {
    const port = await freePort();
    await start(port);
    const client = messenger.clientFor(probeContract, tcpAt(port));
    await client.call('ping', undefined);
    await eventually(async () => expect(await timersOf(port)).toEqual(['keepalive']));
  });

  it('that are all dead get few more attempts than there are requests', async () => {
    const cutters = await Promise.all([startCutter(), startCutter(), startCutter()]);
    const metrics = new Metrics();
    const measured = new Messenger(metrics);
    closing.push(
      () => measured.onApplicationShutdown(),
      () => metrics.stop(),
    );
    const client = measured.clientFor(probeContract, tcpAt(...cutters.map(({ port }) => port)));
    const begunAt = performance.now();
    const requests = 600;
    for (let round = 0; round < requests / 20; round += 1) {
      const codes = await Promise.all(Array.from({ length: 20 }, () => codeOf(client.call('ping', undefined))));
      expect(new Set(codes)).toEqual(new Set(['unavailable']));
    }
    const seconds = (performance.now() - begunAt) / 1_000;
    const samples = samplesIn((await metrics.read()).text);
    const of = 'balancing_service="probe"';
    const over = 'network_transport="tcp"';
    expect(samples.get(`balancing_targets{${of},balancing_state="ejected",${over}}`)).toBe(3);
    expect(samples.get(`balancing_ejections_total{${of},${over}}`)).toBeGreaterThanOrEqual(3);
    const retries = samples.get(`balancing_retries_total{${of},${over}}`) as number;
    expect(retries).toBeGreaterThan(0);
    expect(retries).toBeLessThanOrEqual(requests * 0.1 + 30 + 3 * seconds + 1);
    const asked = cutters.reduce((sum, cutter) => sum + cutter.asked(), 0);
    expect(asked).toBeLessThanOrEqual(requests + retries);
    expect(samples.get(`balancing_refused_total{balancing_reason="budget",${of},${over}}`)).toBeGreaterThan(0);
  });
});

describe('a host name', () => {
  const at = { host: 'probe.test', port: 0 };
  /** The addresses that the name resolves to; the whole of 127/8 is this machine. */
  let addresses: readonly string[] | Error;
  const lookUp = async (): Promise<readonly string[]> => {
    if (addresses instanceof Error) throw addresses;
    return addresses;
  };
  const clientOf = (port: number, options: { maxInFlight?: number; lookupMs?: number } = {}): Client => {
    const targets = tcpTargets(
      { name: 'probe', at: [{ ...at, port }], policy: 'round-robin', lookup: lookUp, lookupMs: 20, ...options },
      2_000_000,
    );
    closing.push(() => targets.close());
    return contractClient(probeContract, new TcpRoute(targets));
  };
  const whoAnswers = async (client: Client, calls = 12): Promise<Set<string>> => {
    const replies = await Promise.all(Array.from({ length: calls }, () => client.call('once', { id: 'x' })));
    return new Set(replies.map(({ by }) => by));
  };

  it('leads to an instance at each of its addresses, which may change while calls run', async () => {
    const port = await freePort();
    const one = await start(port, '127.0.0.1', 'one');
    await start(port, '127.0.0.2', 'two');
    addresses = ['127.0.0.1'];
    const client = clientOf(port);
    expect(await whoAnswers(client)).toEqual(new Set(['one']));

    const running = client.call('wait', { id: 'running' });
    await one.journal.arrived('running');
    addresses = ['127.0.0.1', '127.0.0.2'];
    await eventually(async () => expect(await whoAnswers(client)).toEqual(new Set(['one', 'two'])));

    addresses = ['127.0.0.2'];
    await eventually(async () => expect(await whoAnswers(client)).toEqual(new Set(['two'])));
    one.journal.letGo('running');
    expect(await running).toBe('running');

    addresses = new Error('the server for names is away');
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(await whoAnswers(client)).toEqual(new Set(['two']));
  });

  it('is looked up at once if none of its instances can be reached', async () => {
    const port = await freePort();
    await start(port, '127.0.0.2', 'two');
    addresses = ['127.0.0.1'];
    const client = clientOf(port, { lookupMs: 3_600_000 });
    expect(await codeOf(client.call('ping', undefined))).toBe('unavailable');
    addresses = ['127.0.0.2'];
    await eventually(async () => expect(await codeOf(client.call('ping', undefined))).toBe('answered'));
  });

  it('without an address fails calls with that cause, and is looked up again', async () => {
    const port = await freePort();
    await start(port);
    addresses = new Error('getaddrinfo ENOTFOUND probe.test');
    const client = clientOf(port);
    await expect(client.call('ping', undefined)).rejects.toMatchObject({
      code: 'unavailable',
      cause: { message: expect.stringContaining('ENOTFOUND probe.test') },
    });
    addresses = ['127.0.0.1'];
    await eventually(async () => expect(await codeOf(client.call('ping', undefined))).toBe('answered'));
  });

  it('of this machine is resolved by the system', async () => {
    const port = await freePort();
    await start(port);
    const client = messenger.clientFor(probeContract, { scheme: 'tcp', endpoints: [{ host: 'localhost', port }] });
    for (let call = 0; call < 5; call += 1) expect(await codeOf(client.call('ping', undefined))).toBe('answered');
  });

  it('has a limit of calls in flight to each instance, beyond which calls are refused', async () => {
    const port = await freePort();
    const instances = [await start(port, '127.0.0.1'), await start(port, '127.0.0.2')];
    addresses = ['127.0.0.1', '127.0.0.2'];
    const client = clientOf(port, { maxInFlight: 2 });
    const waiting = Array.from({ length: 4 }, (_, index) => client.call('wait', { id: `${index}` }));
    await expect(client.call('once', { id: 'too much' })).rejects.toMatchObject({
      code: 'unavailable',
      detail: expect.stringMatching(/was not sent, repeat it/),
    });
    for (const { journal } of instances) for (let index = 0; index < 4; index += 1) journal.letGo(`${index}`);
    await Promise.all(waiting);
    expect(instances.map(({ journal }) => journal.carriedOut.length)).toEqual([2, 2]);
    expect(await codeOf(client.call('once', { id: 'now' }))).toBe('answered');
  });
});

/** Listens on a free port until the end of the test. */
const listening = async (onConnection: (socket: Socket) => void): Promise<number> => {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => socket.destroy()));
    onConnection(socket);
  }).listen(0, '127.0.0.1');
  closing.push(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
};

/** An instance with another secret, so that it refuses the signatures of its callers. */
const startRefusing = async (port: number): Promise<number> => {
  const instance = await startInstance([tcpAt(port)], 'refusing', [], 'another secret, of 32 characters');
  closing.push(() => instance.close());
  return port;
};

/** A message server that has none of these operations. */
const startStranger = async (): Promise<number> => {
  const err = '"err":"There is no matching message handler defined in the remote service."';
  return listening((socket) => {
    socket.on('data', (data: Buffer) => {
      for (const [, id] of data.toString().matchAll(/"id":"(\d+)"/g)) {
        const answer = `{"id":"${id}",${err},"isDisposed":true}`;
        socket.write(`${answer.length}#${answer}`);
      }
    });
  });
};

/** The TCP timers of the connections accepted at a port, from Linux' `/proc/net/tcp`. */
const timersOf = async (port: number): Promise<string[]> => {
  const [, ...connections] = (await readFile('/proc/net/tcp', 'utf8')).trim().split('\n');
  return connections.flatMap((line) => {
    const [, local = '', , state, , timer = ''] = line.trim().split(/\s+/);
    const isTaken = local.endsWith(`:${port.toString(16).toUpperCase().padStart(4, '0')}`) && state === '01';
    return isTaken ? [timer.startsWith('02') ? 'keepalive' : 'none'] : [];
  });
};

/** Accepts connections and cuts them at the first request. */
const startCutter = async (): Promise<{ port: number; asked: () => number }> => {
  let asked = 0;
  const port = await listening((socket) => {
    socket.on('data', (data: Buffer) => {
      asked += data.toString().split('"probe.ping"').length - 1;
      setImmediate(() => socket.destroy());
    });
  });
  return { port, asked: () => asked };
};

/** Forwards a connection to another port, with a delay for requests. */
const leadOn = (socket: Socket, port: number, delayMs = 0): void => {
  const onward = connect(port, '127.0.0.1').on('error', () => socket.destroy());
  socket
    .on('data', (data: Buffer) => setTimeout(() => onward.write(data), delayMs))
    .on('close', () => onward.destroy());
  onward.pipe(socket);
};

/** The port of a proxy to another port that delays requests. */
const delayed = (port: number, delayMs: number): Promise<number> =>
  listening((socket) => leadOn(socket, port, delayMs));
