import { Admission } from '#admission';
import { CleaveError } from '#contracts';
import {
  eventually,
  freePort,
  natsOrSkip,
  RedisProxy,
  redisOrSkip,
  SeededRandom,
  startNats,
  startRedis,
  testSeed,
} from '#testing';
import { expect, it } from '@jest/globals';
import { createClient } from '@redis/client';
import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import { getEventListeners } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { address, addressText, Messenger, type Address, type ContractClient } from '../src/index.js';
import { queueKeys } from '../src/redis-queue.js';
import { probeContract, startInstance, startProcess, type Instance } from './probe.js';

/** `npm run test:calls`: many seeds with many faults each, and longer ones. */
const isLong = 'fullRun' in globalThis;
const rounds = isLong ? 12 : 1;
const faultsInARound = isLong ? 30 : 6;

const patientMs = 8_000;
/** How much later than at its deadline a call may end, besides the delay of the event loop on a busy machine. */
const marginMs = 250;
/** How much earlier than at its deadline a call may end: clocks of two processes are compared in milliseconds. */
const earlyMs = 50;
/**
 * After the end of a fault, all instances get calls again, and answer them, within this time; usually within a second, and
 * where an instance was ejected several times, within six.
 */
const recoveryMs = 20_000;
/** A close that waits for something waits for up to ten seconds. */
const idleCloseMs = 9_000;

/** The result of each kind of call while nothing is broken. */
const expected = {
  plain: 'answered',
  slow: 'answered',
  'large request': 'answered',
  'large reply': 'answered',
  refused: 'out-of-stock',
  'too large request': 'payload-too-large',
  'too large reply': 'payload-too-large',
  late: 'deadline-exceeded',
  cancelled: 'cancelled',
} as const;
type Kind = keyof typeof expected;
const usualKinds: readonly Kind[] = [
  ...(['plain', 'plain', 'plain', 'plain', 'plain', 'plain', 'plain', 'plain', 'slow', 'slow', 'refused'] as const),
  ...(['large request', 'large reply', 'too large request', 'too large reply', 'late', 'cancelled'] as const),
];

interface Call {
  id: string;
  kind: Kind;
  operation: 'work' | 'workOnce';
  deadlineMs: number;
  /** Whether something that may fail calls was broken in its time. */
  isHarmed: boolean;
  tookMs: number;
  outcome: string;
  by?: string;
}

interface Running {
  name: string;
  close(): Promise<void>;
  /** Only of a process of its own. */
  kill?(): Promise<void>;
  pause?(signal: 'SIGSTOP' | 'SIGCONT'): void;
  local?: Instance;
}

interface Broker {
  pause(signal: 'SIGSTOP' | 'SIGCONT'): void;
  restart(): Promise<void>;
}

/** How callers reach instances. */
interface Way {
  name: string;
  /** Where each instance listens. An instance started in place of another one gets its address. */
  listen: readonly Address[];
  /** The address that leads to all of them. */
  at: Address;
  /** Breaks connections between callers and instances. */
  cut?(messengers: readonly Messenger[], random: SeededRandom): Promise<void>;
  proxies: readonly RedisProxy[];
  broker?: Broker;
  /** The application that makes and answers the calls. */
  whole?: Instance;
  /** How often an idempotent call may be carried out. @param deaths how many instances have died, or seemed to have */
  mostTimes(deaths: number): number;
  /** Fails if requests are left behind. */
  expectEmpty?(): Promise<void>;
  stop(): Promise<void>;
}

const slots = [0, 1, 2, 3];

const inProcess = async (): Promise<Way> => {
  const whole = await startInstance([]);
  const at = { scheme: 'in-process' } as const;
  return { name: 'in-process', listen: [], at, proxies: [], whole, mostTimes: () => 1, stop: () => whole.close() };
};

const overTcp = async (): Promise<Way> => {
  const ports = await Promise.all(slots.map(freePort));
  const tcpAt = (...some: number[]): Address => address.parse(`tcp://${some.map((it) => `127.0.0.1:${it}`).join(',')}`);
  return {
    name: 'tcp',
    listen: ports.map((port) => tcpAt(port)),
    at: tcpAt(...ports),
    proxies: [],
    cut: async (messengers, random) => {
      const [{ targets }] = routesOf(random.pick(messengers)) as [PrivateParts];
      for (const { open } of random.shuffled(targets!.all.map(({ instance }) => instance)).slice(random.integer(0, 2)))
        for (const connection of open) connection.unwrap().resetAndDestroy();
    },
    mostTimes: () => slots.length,
    stop: () => Promise.resolve(),
  };
};

const throughProxies = async (scheme: string, port: number) => {
  const proxies = await Promise.all([RedisProxy.start(port), RedisProxy.start(port)]);
  const [at, there] = proxies.map(({ url }) => address.parse(url.replace('redis:', `${scheme}:`)));
  const stop = async () => void (await Promise.all(proxies.map((it) => it.stop())));
  const cut: Way['cut'] = async (_, random) => {
    const proxy = random.pick(proxies);
    proxy.down();
    await sleep(random.integer(0, 300));
    proxy.up();
  };
  return { proxies, cut, at: at!, listen: slots.map(() => there!), stop };
};

const overRedis = async (): Promise<Way> => {
  let redis = await startRedis();
  const { stop, ...way } = await throughProxies('redis', redis.port);
  return {
    name: 'redis',
    ...way,
    broker: {
      pause: (signal) => process.kill(redis.pid, signal),
      restart: async () => {
        await redis.kill();
        redis = await startRedis({ port: redis.port });
      },
    },
    mostTimes: (deaths) => 1 + deaths,
    expectEmpty: async () => {
      const hands = await createClient({ url: redis.url }).connect();
      const length = () => hands.xLen(queueKeys('probe').requests);
      await eventually(async () => expect(await length()).toBe(0), recoveryMs).finally(() => hands.destroy());
    },
    stop: async () => {
      await stop();
      await redis.stop();
    },
  };
};

const overNats = async (): Promise<Way> => {
  const nats = await startNats();
  const { stop, ...way } = await throughProxies('nats', nats.port);
  return {
    name: 'nats',
    ...way,
    broker: {
      pause: (signal) => process.kill(nats.pid!, signal),
      restart: async () => {
        await nats.kill();
        await nats.revive();
      },
    },
    mostTimes: () => 2,
    stop: async () => {
      await stop();
      await nats.stop();
    },
  };
};

/** Two callers and some instances, which are broken in several ways while calls are made. */
class Trial {
  readonly violations: string[] = [];
  private readonly messengers: readonly Messenger[];
  private readonly clients: ContractClient<typeof probeContract>[];
  private readonly running = new Map<number, Running>();
  private readonly calls: Call[] = [];
  private readonly open = new Set<Call>();
  private readonly carriedOutHere: string[] = [];
  private readonly faults: string[] = [];
  private isHarmed = true;
  private isOver = false;
  private deaths = 0;
  private started = 0;
  private readonly startedAt = performance.now();

  constructor(
    private readonly way: Way,
    private readonly random: SeededRandom,
    private readonly record: string,
  ) {
    const { whole } = way;
    this.messengers = whole ? [whole.messenger] : [new Messenger(), new Messenger()];
    const policies = ['least-loaded', 'round-robin'] as const;
    this.clients = this.messengers.map((it, at) =>
      it.clientFor(probeContract, way.at, { balance: policies[at] as (typeof policies)[number] }),
    );
  }

  async run(): Promise<void> {
    const { random } = this;
    const { whole } = this.way;
    if (whole) this.adopt(0, whole, 'one');
    else await Promise.all([this.start(0, true), this.start(1, false), this.start(2, false)]);
    await this.recover();
    this.isHarmed = false;
    const callers = Promise.all(Array.from({ length: 6 }, () => this.caller()));
    try {
      for (let fault = 0; fault < faultsInARound; fault += 1) {
        await sleep(random.integer(0, 300));
        const [name, isHarmful, breakIt] = random.pick(this.possible());
        const [another, isAlsoHarmful, breakAlso] = random.pick(this.possible());
        this.faults.push(name);
        if (isHarmful) await this.harm(breakIt);
        else if (isAlsoHarmful || another === name) await breakIt();
        else {
          this.faults.push(`at the same time ${another}`);
          await Promise.all([breakIt(), breakAlso()]);
        }
      }
      if (whole) {
        // Calls that begin from now on may be refused; those in progress are answered.
        this.isHarmed = true;
        await whole.close();
      }
    } finally {
      this.isOver = true;
      await callers;
      try {
        await this.check();
      } finally {
        await this.stop();
      }
    }
  }

  get summary(): string {
    const outcomes = Object.groupBy(this.calls, ({ outcome }) => outcome);
    const counts = Object.entries(outcomes).map(([outcome, some]) => `${outcome} ${some!.length}`);
    const ports = [this.way.at, ...this.way.listen].map(addressText);
    return `${this.way.name} (${ports.join(' ')}): ${this.faults.join(', ')}; ${counts.join(', ')}`;
  }

  private async start(slot: number, isProcess: boolean): Promise<void> {
    const { listen, name: way } = this.way;
    const at = listen[slot]!;
    const name = `${way} ${(this.started += 1)}`;
    if (isProcess) {
      this.running.set(slot, { name, ...(await startProcess(at, name, this.record)) });
    } else {
      this.adopt(slot, await startInstance([at], name), name);
    }
  }

  private adopt(slot: number, local: Instance, name: string): void {
    local.journal.onArrival = (id) => void this.carriedOutHere.push(id);
    this.running.set(slot, { name, local, close: () => local.close() });
  }

  /** What can be broken at present: its name, whether it may fail calls, and what breaks it and ends that again. */
  private possible(): [string, boolean, () => Promise<void>][] {
    const { random, running, way } = this;
    const processes = [...running].filter(([, { kill }]) => kill);
    const free = [...way.listen.keys()].filter((slot) => !running.has(slot));
    const isShared = running.size > 1;
    const forAWhile = async (begin: () => void, end: () => void, mostMs = 900): Promise<void> => {
      begin();
      await sleep(random.integer(0, mostMs));
      end();
    };
    const suspend = (them: { pause?(signal: 'SIGSTOP' | 'SIGCONT'): void }, mostMs?: number) =>
      forAWhile(
        () => them.pause!('SIGSTOP'),
        () => them.pause!('SIGCONT'),
        mostMs,
      );
    const found: [boolean, string, boolean, () => Promise<void>][] = [
      [isShared, 'an instance is stopped', false, () => this.drain(random.pick([...running.keys()]))],
      [isShared && processes.length > 0, 'an instance is killed', true, () => this.kill(random.pick(processes)[0])],
      [free.length > 0, 'an instance is added', false, () => this.add(random.pick(free))],
      [processes.length > 0, 'an instance is suspended', false, () => suspend(random.pick(processes)[1])],
      [true, 'there are many calls', false, () => this.crowd()],
      [way.listen.length > 0, 'the callers are busy', false, () => this.beBusy()],
      [way.cut !== undefined, 'connections are cut', true, () => way.cut!(this.messengers, random)],
      [
        way.proxies.length > 0,
        'nothing gets through',
        false,
        () => {
          const proxy = random.pick(way.proxies);
          return forAWhile(
            () => proxy.freeze(),
            () => proxy.thaw(),
          );
        },
      ],
      [way.broker !== undefined, 'the broker is suspended', false, () => suspend(way.broker!)],
      [way.broker !== undefined, 'the broker is killed', true, () => way.broker!.restart()],
      [
        isLong && way.broker !== undefined,
        'the broker is suspended for long',
        true,
        () => this.suspendForLong(suspend(way.broker!, 12_000)),
      ],
      [
        isLong && processes.length > 0,
        'an instance is suspended for long',
        true,
        () => this.suspendForLong(suspend(random.pick(processes)[1], 9_000)),
      ],
    ];
    return found.flatMap(([isPossible, ...fault]) => (isPossible ? [fault] : []));
  }

  private async drain(slot: number): Promise<void> {
    const leaving = this.running.get(slot);
    // Another fault of the same time may have chosen it, or have left no other instance.
    if (!leaving || this.running.size < 2) return;
    this.running.delete(slot);
    await leaving.close();
  }

  private async kill(slot: number): Promise<void> {
    const killed = this.running.get(slot)!;
    this.running.delete(slot);
    this.deaths += 1;
    await killed.kill!();
  }

  private async add(slot: number): Promise<void> {
    await this.start(slot, this.random.next() < 0.5);
  }

  /** Others may do the work of an instance that shows no sign of life for so long. */
  private async suspendForLong(suspension: Promise<void>): Promise<void> {
    this.deaths += this.running.size;
    await suspension;
  }

  /** Blocks the event loop of this process, somewhat later, so that it also meets other faults of the same time. */
  private async beBusy(): Promise<void> {
    await sleep(this.random.integer(0, 200));
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, this.random.integer(50, 250));
  }

  private async crowd(): Promise<void> {
    await Promise.all(Array.from({ length: 150 }, () => this.call('plain')));
  }

  /** Calls in the time of the fault, until its end and the recovery from it, may fail. */
  private async harm(breakIt: () => Promise<void>): Promise<void> {
    this.isHarmed = true;
    for (const call of this.open) call.isHarmed = true;
    await breakIt();
    await this.recover();
    this.isHarmed = false;
  }

  /** Waits until both callers are answered, by all instances. */
  private async recover(): Promise<void> {
    const giveUpAt = performance.now() + recoveryMs;
    const recovered = this.clients.map(async (client) => {
      const heard = new Set<string>();
      const missing = () => [...this.running.values()].map(({ name }) => name).filter((name) => !heard.has(name));
      for (let inARow = 0; inARow < 10 || missing().length > 0;) {
        if (performance.now() > giveUpAt) {
          this.violations.push(
            `after ${this.faults.at(-1) ?? 'the start'}, nothing was heard of ${missing().join(', ') || 'any'}`,
          );
          return;
        }
        const { outcome, by } = await this.call('plain', { client, operation: 'workOnce', deadlineMs: 2_000 });
        inARow = outcome === 'answered' ? inARow + 1 : 0;
        if (by !== undefined) heard.add(by);
        await sleep(5);
      }
    });
    await Promise.all(recovered);
  }

  private async caller(): Promise<void> {
    while (!this.isOver) {
      await this.call(this.random.pick(usualKinds));
      await sleep(this.random.integer(0, 30));
    }
  }

  private async call(
    kind: Kind,
    {
      client = this.random.pick(this.clients),
      operation = this.random.pick(['work', 'workOnce'] as const),
      deadlineMs = kind === 'late' ? this.random.integer(20, 300) : patientMs,
    } = {},
  ): Promise<Call> {
    const { random } = this;
    const id = `${this.way.name} call ${this.calls.length}`;
    const call: Call = { id, kind, operation, deadlineMs, isHarmed: this.isHarmed, tookMs: 0, outcome: '' };
    this.calls.push(call);
    this.open.add(call);
    const most = probeContract.operations.work.maxBytes;
    const large = random.integer(200_000, 1_300_000);
    const lengths: Partial<Record<Kind, number>> = { 'large reply': large, 'too large reply': most, refused: -1 };
    const texts: Partial<Record<Kind, number>> = { 'large request': large, 'too large request': most };
    const length = lengths[kind] ?? random.integer(0, 100);
    const text = 'y'.repeat(texts[kind] ?? random.integer(0, 100));
    const times: Partial<Record<Kind, number>> = { slow: random.integer(100, 900), late: 1_000, cancelled: 1_000 };
    const forMs = times[kind] ?? random.integer(0, 3);
    const caller = new AbortController();
    const { signal } = caller;
    if (kind === 'cancelled') setTimeout(() => caller.abort(), random.integer(0, 300));
    const startedAt = performance.now();
    try {
      const reply = await client.call(operation, { id, forMs, length, text }, { deadlineMs, signal });
      const isOwn = reply.id === id && reply.text.length === length;
      call.outcome = isOwn ? 'answered' : `the reply of ${reply.id}`;
      call.by = reply.by;
    } catch (error) {
      const { code, detail } = error as CleaveError;
      const isOwn = error instanceof CleaveError && (code !== 'out-of-stock' || detail === `refused ${id}`);
      call.outcome = isOwn ? code : String(error);
    }
    // While the machine is busy, the reply may be read before the timer that cancels the call has run.
    if (kind === 'cancelled' && !signal.aborted) call.kind = 'slow';
    call.tookMs = performance.now() - startedAt;
    this.open.delete(call);
    if (getEventListeners(signal, 'abort').length > 0) this.violations.push(`${id} leaves a listener at its signal`);
    return call;
  }

  private async check(): Promise<void> {
    const recorded = (await readFile(this.record, 'utf8')).split('\n');
    const times = new Map<string, number>();
    for (const id of [...recorded, ...this.carriedOutHere]) times.set(id, (times.get(id) ?? 0) + 1);
    let repeats = 0;
    for (const call of this.calls) {
      const { id, kind, outcome, deadlineMs, tookMs } = call;
      const carriedOut = times.get(id) ?? 0;
      const say = (what: string) =>
        this.violations.push(`${id} (${kind}, ${call.operation}, ${Math.round(tookMs)} of ${deadlineMs} ms): ${what}`);
      const allowed: string[] = [expected[kind], ...(call.isHarmed ? ['unavailable', 'deadline-exceeded'] : [])];
      if (!allowed.includes(outcome)) say(outcome);
      if (tookMs > deadlineMs + marginMs + longestDelayMs()) say('ended too late');
      if (outcome === 'deadline-exceeded' && tookMs < deadlineMs - earlyMs) say('was given up before its deadline');
      const mostTimes = call.operation === 'workOnce' ? 1 : this.way.mostTimes(this.deaths);
      if (carriedOut > mostTimes) say(`was carried out ${carriedOut} times`);
      if (['answered', 'out-of-stock'].includes(outcome) && carriedOut === 0) say('was answered without being done');
      if (kind === 'too large request' && carriedOut > 0) say('was carried out');
      repeats += Math.max(0, carriedOut - 1);
    }
    const seconds = (performance.now() - this.startedAt) / 1_000;
    const budget = 0.1 * this.calls.length + this.clients.length * (30 + 3 * seconds);
    if (repeats > budget) this.violations.push(`there were ${repeats} repeats, more than ${budget}`);
    await eventually(
      async () => expect(this.messengers.map(pendingIn)).toEqual(this.messengers.map(() => 0)),
      patientMs,
    );
    for (const { local } of this.running.values())
      if (local) await eventually(async () => expect(inProgressAt(local)).toBe(0), patientMs);
    await this.way.expectEmpty?.();
  }

  /** Each end of it is stopped first in turn. */
  private async stop(): Promise<void> {
    const closeInstances = async (): Promise<void> => {
      const startedAt = performance.now();
      await Promise.all([...this.running.values()].map((it) => it.close()));
      const tookMs = performance.now() - startedAt;
      if (tookMs > idleCloseMs) this.violations.push(`idle instances took ${Math.round(tookMs)} ms to close`);
    };
    const steps = [closeInstances, () => Promise.all(this.messengers.map((it) => it.onApplicationShutdown()))];
    for (const step of this.random.shuffled(steps)) await step();
    await this.way.stop();
  }
}

interface Sized {
  size: number;
}

/** What the routes of the transports hold of calls. */
interface PrivateParts {
  peer?: { awaited: Sized; offered: Sized };
  waiting?: Sized;
  targets?: {
    all: {
      inFlight: number;
      beingRead: number;
      instance: { unanswered: number; open: Set<{ awaited: Sized; unwrap(): Socket }> };
    }[];
  };
}

const routesOf = (messenger: Messenger): PrivateParts[] => [
  ...(messenger as unknown as { routes: Map<string, PrivateParts> }).routes.values(),
];

/** How many entries of calls a caller holds. */
const pendingIn = (messenger: Messenger): number =>
  routesOf(messenger).reduce((sum, route) => sum + entriesIn(route), 0);

const entriesIn = ({ peer, waiting, targets }: PrivateParts): number => {
  if (peer) return peer.awaited.size + peer.offered.size;
  if (waiting) return waiting.size;
  return (targets?.all ?? []).reduce((sum, { inFlight, beingRead, instance: { unanswered, open } }) => {
    const awaited = [...open].reduce((entries, it) => entries + it.awaited.size, 0);
    return sum + inFlight + beingRead + unanswered + awaited;
  }, 0);
};

const inProgressAt = ({ app }: Instance): number => {
  const limiters = app.get(Admission, { strict: false })['limiters'].values();
  return [...limiters].reduce((sum, { inFlight }) => sum + inFlight, 0);
};

/** The longest delay of the event loop so far, which delays deadlines as well. */
const delay = monitorEventLoopDelay({ resolution: 10 });
const longestDelayMs = (): number => delay.max / 1e6;

/** The timers, servers and processes that keep this process alive. */
const resources = (): string[] =>
  process
    .getActiveResourcesInfo()
    .filter((kind) => /^(?:Timeout|TCPServer|Pipe|Process)/.test(kind))
    .toSorted();

/** Sockets are told apart by who opened them: other tests of this process may have left clients that go on reconnecting. */
const trying = new AsyncLocalStorage<Set<Socket>>();
for (const channel of ['net.client.socket', 'net.server.socket'])
  subscribe(channel, (event) => trying.getStore()?.add((event as { socket: Socket }).socket));

/** The ends of the sockets that are still open, to find out whose they are. */
const openAmong = (sockets: ReadonlySet<Socket>): string[] =>
  [...sockets]
    .filter((it) => !it.destroyed)
    .map(({ localPort, remotePort, connecting, readyState, bytesRead, bytesWritten }) => {
      const state = `${connecting ? 'connecting' : readyState}, ${bytesRead} bytes read, ${bytesWritten} written`;
      return `${localPort} to ${remotePort}: ${state}`;
    });

const itWithServers = await natsOrSkip(await redisOrSkip(it));

itWithServers(
  'under random faults, each call ends in time with its own answer or a contract error, and is executed as often as allowed',
  async () => {
    const directory = await mkdtemp(join(tmpdir(), 'calls-'));
    const before = resources();
    const sockets = new Set<Socket>();
    trying.enterWith(sockets);
    delay.enable();
    for (let round = 0; round < rounds; round += 1) {
      const seed = testSeed() + round;
      const ways = await Promise.all([inProcess(), overTcp(), overRedis(), overNats()]);
      const trials = await Promise.all(
        ways.map(async (way, at) => {
          const record = join(directory, `${round}-${way.name}`);
          await writeFile(record, '');
          return new Trial(way, new SeededRandom(seed * ways.length + at), record);
        }),
      );
      const ended = await Promise.allSettled(trials.map((it) => it.run()));
      const failed = ended.flatMap((it) => (it.status === 'rejected' ? [String(it.reason)] : []));
      const violations = [...failed, ...trials.flatMap((it) => it.violations)];
      if (isLong || violations.length > 0)
        process.stderr.write(`TEST_SEED=${seed}\n${trials.map((it) => `  ${it.summary}\n`).join('')}`);
      expect(violations).toEqual([]);
    }
    delay.disable();
    await rm(directory, { recursive: true });
    // Earlier tests in this process may have left some that end meanwhile.
    const added = (): string[] => {
      const left = [...before];
      return resources().filter((kind) => left.splice(left.indexOf(kind), left.includes(kind) ? 1 : 0).length === 0);
    };
    const leftOver = () => ({ kinds: added(), sockets: openAmong(sockets) });
    await eventually(async () => expect(leftOver()).toEqual({ kinds: [], sockets: [] }), isLong ? 60_000 : 10_000);
    expect(sockets.size).toBeGreaterThan(0);
  },
  isLong ? 3_600_000 : undefined,
);
