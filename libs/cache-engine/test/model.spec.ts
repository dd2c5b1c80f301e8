import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { createClient } from '@redis/client';
import {
  RedisProxy,
  SeededRandom,
  redisOrSkip,
  startRedis,
  startRedisCluster,
  testSeed,
  until,
  type RedisCluster,
  type RedisServer,
} from '#testing';
import { CacheEngine, CacheUnavailable, type Found, type Namespace } from '../src/index.js';
import { History, type Lasting, type Value } from './history.js';

const describeRedis = await redisOrSkip(describe);

const isLong = 'fullRun' in globalThis;
const rounds = isLong ? 10 : 1;
const calmMs = isLong ? 8_000 : 3_000;
const faultyMs = isLong ? 8_000 : 4_000;
const silenceMs = 300;
const deadlineMs = 150;
/** How long one call may take on a busy machine. It may wait for a lease, and then for a load. */
const longestCallMs = 20_000;
const actorsPerNode = 8;

/** Names that would collide if a namespace and a key were only joined, or taken for patterns. */
const spaceNames = ['a', 'a:b', '*'];
const busyKeys = ['k', 'b:k'];
/** Each of them is changed seldom, so that there is time to notice that a value is old. */
const quietKeys = Array.from({ length: 6 }, (_, at) => `quiet ${at}`);
const keys = [...busyKeys, ...quietKeys];
const tags = ['t', 'k'];
/** Written once, and never touched after that. */
const untouched = { name: 'a:', key: 'k' };
/** Everything in it is exact: nothing in it is cleared or expires. */
const exactName = 'exact';
/** Nothing but counters, which are cleared. */
const clearedName = 'cleared';

interface Node {
  at: number;
  engine: CacheEngine;
  proxy?: RedisProxy;
  /** Whether Redis may be away for it. */
  isDisturbed: boolean;
  /** How many of its calls to Redis have failed, and when one was last seen to have. */
  failed: number;
  failedAt: number;
}

/** Loads take far less than their time limit, also on a busy machine. */
const longestHeldMs = 1_000;
/** For how long a failed call to Redis may bear on what is loaded: a little longer than a load may take. */
const failureLastsMs = 6_000;

/** Random concurrent calls at all nodes, and what they answered. */
class Calls {
  readonly history: History;
  readonly failures: string[] = [];
  private readonly held: { release: () => void; since: number }[] = [];
  private readonly leases = new Map<string, { lease: string; beganAt: number; tags: string[] }>();
  private isOver = false;
  /** Acknowledged sums, and what may have been added besides. */
  counted = 0;
  perhapsCounted = 0;
  registered = 0;
  perhapsRegistered = 0;
  taken = 0;
  perhapsTaken = 0;
  readonly counts = new Set<number>();
  away = 0;

  constructor(
    private readonly prefix: string,
    private readonly nodes: readonly Node[],
    private readonly random: SeededRandom,
  ) {
    this.history = new History(silenceMs);
  }

  async run(ms: number): Promise<void> {
    this.isOver = false;
    const endsAt = performance.now() + ms;
    const actors = this.nodes.flatMap((node) => [
      ...Array.from({ length: actorsPerNode }, () => this.act(node, endsAt)),
      this.act(node, endsAt, true),
    ]);
    const releasing = this.releaseNowAndThen();
    await Promise.all(actors);
    this.isOver = true;
    await releasing;
  }

  space<Kind = Value>(node: Node, name: string): Namespace<Kind> {
    return node.engine.namespace<Kind>(`${this.prefix}${name}`, { jitter: 0 });
  }

  /** @param isWatching only reads, so that it never waits for a load */
  private async act(node: Node, endsAt: number, isWatching = false): Promise<void> {
    const { random } = this;
    while (performance.now() < endsAt && this.failures.length + this.history.violations.length < 20) {
      const startedAt = performance.now();
      const name = random.pick(spaceNames);
      const [what, call] = isWatching
        ? [`watching ${name} at node ${node.at}`, () => this.getMany(node, name)]
        : this.anyCall(node, name);
      try {
        await call();
      } catch (error) {
        if (!(error instanceof CacheUnavailable)) this.failures.push(`${what}: ${String((error as Error).stack)}`);
        else if (!node.isDisturbed) this.failures.push(`${what}: ${String(error.cause)}`);
        this.away += 1;
      }
      this.failedLately(node);
      const ms = performance.now() - startedAt;
      if (ms > longestCallMs) this.failures.push(`${what} took ${Math.round(ms)} ms`);
      if (isWatching || random.next() < 0.5) await sleep(random.integer(0, 5));
    }
  }

  /** Lets loads end one by one, in any order, and holds none for too long. */
  private async releaseNowAndThen(): Promise<void> {
    const { held, random } = this;
    while (!this.isOver || held.length > 0) {
      if (held.length > 0 && (this.isOver || random.next() < 0.6))
        held.splice(random.integer(0, held.length - 1), 1)[0]!.release();
      while (held.length > 0 && held[0]!.since < performance.now() - longestHeldMs) held.shift()!.release();
      await sleep(held.length > 5 ? 0 : random.integer(0, 12));
    }
  }

  private hold(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (this.isOver) resolve();
    else this.held.push({ release: resolve, since: performance.now() });
    return promise;
  }

  private lasting(): Required<Lasting> & { tags: string[] } {
    const { random } = this;
    return {
      ttl: random.pick([60_000, 60_000, 60, Infinity]),
      grace: random.pick([0, 600]),
      tags: tags.filter(() => random.next() < 0.4),
    };
  }

  private anyCall(node: Node, name: string): [string, () => Promise<void>] {
    const { random } = this;
    const isRead = random.next() < 0.6;
    const key = random.pick(random.next() < 0.4 ? busyKeys : quietKeys);
    const calls: [number, string, () => Promise<void>][] = [
      [8, 'set', () => this.set(node, name, key)],
      [3, 'setMany', () => this.setMany(node, name)],
      [5, 'compareAndSet', () => this.compareAndSet(node, name, key)],
      [3, 'compareAndDelete', () => this.compareAndDelete(node, name, key)],
      [6, 'delete', () => this.delete(node, name, key)],
      [4, 'invalidateTags', () => this.invalidateTags(node, name)],
      [0.5, 'clear', () => this.clear(node, name)],
      [8, 'lease', () => this.lease(node, name, key)],
      [6, 'increment', () => this.increment(node)],
      [6, 'incrementCleared', () => this.incrementCleared(node)],
      [2, 'clearCounters', () => this.clear(node, clearedName)],
      [4, 'register', () => this.register(node)],
      [3, 'lock', () => this.lock(node)],
    ];
    const reads: typeof calls = [
      [30, 'getOrSet', () => this.getOrSet(node, name, key)],
      [12, 'find', () => this.find(node, name, key)],
      [8, 'get', () => this.get(node, name, key)],
      [6, 'getMany', () => this.getMany(node, name)],
    ];
    const some = isRead ? reads : calls;
    let left = random.next() * some.reduce((sum, [weight]) => sum + weight, 0);
    const [, what, call] = some.find(([weight]) => (left -= weight) < 0)!;
    return [`${what} of ${name} ${key} at node ${node.at}`, call];
  }

  /** While calls to Redis fail, `getOrSet` may serve what was invalidated unnoticed. */
  private failedLately(node: Node): boolean {
    const { unavailable } = node.engine.statistics;
    if (unavailable > node.failed) [node.failed, node.failedAt] = [unavailable, performance.now()];
    return performance.now() - node.failedAt < failureLastsMs;
  }

  private async getOrSet(node: Node, name: string, key: string): Promise<void> {
    const { random, history } = this;
    const lasting = this.lasting();
    const kind = random.next();
    const isSlow = random.next() < 0.12;
    const startedAt = performance.now();
    const load = async (): Promise<Value | undefined> => {
      const beganAt = performance.now();
      const value = history.value(name, key, lasting);
      await this.hold();
      // Longer than others may go without hearing of an invalidation.
      if (isSlow) await sleep(3 * silenceMs);
      if (kind < 0.1) throw new SourceFailed();
      if (kind < 0.25) {
        history.absent(name, key, lasting, beganAt);
        return undefined;
      }
      history.loaded(value, beganAt);
      return value;
    };
    const options = {
      ...lasting,
      refreshBefore: random.next() < 0.3 ? 100_000 : undefined,
      timeouts: { hard: 5_000, soft: random.next() < 0.3 ? 20 : undefined },
    };
    let value: Value | undefined;
    try {
      value = await this.space(node, name).getOrSet(key, load, options);
    } catch (error) {
      if (error instanceof SourceFailed) return;
      throw error;
    }
    const mayBeOld = this.failedLately(node);
    history.read({ node: node.at, space: name, key, how: 'getOrSet', startedAt, mayBeOver: true, mayBeOld }, value);
  }

  private found(node: Node, name: string, key: string, how: string, startedAt: number, found: Found<Value>): void {
    const { value, version, tier, isStale } = found;
    const stale = { mayBeOver: isStale, mayBeOld: isStale };
    this.history.read({ node: node.at, space: name, key, how, startedAt, tier, version, ...stale }, value);
    if (isStale && !node.isDisturbed) this.failures.push(`${how} at node ${node.at} gave a stale value`);
  }

  private async find(node: Node, name: string, key: string): Promise<void> {
    const startedAt = performance.now();
    const found = await this.space(node, name).find(key);
    if (found) this.found(node, name, key, 'find', startedAt, found);
  }

  private async get(node: Node, name: string, key: string): Promise<void> {
    const startedAt = performance.now();
    const value = await this.space(node, name).get(key);
    if (value) this.history.read({ node: node.at, space: name, key, how: 'get', startedAt }, value);
  }

  private async getMany(node: Node, name: string): Promise<void> {
    const startedAt = performance.now();
    for (const [key, found] of await this.space(node, name).getMany(keys))
      this.found(node, name, key, 'getMany', startedAt, found);
  }

  private async set(node: Node, name: string, key: string): Promise<void> {
    const lasting = this.lasting();
    const value = this.history.value(name, key, lasting);
    const startedAt = performance.now();
    const { version } = await this.writing([value], this.space(node, name).set(key, value, lasting));
    this.history.written(value, { how: 'set', node: node.at, startedAt }, version);
  }

  private async setMany(node: Node, name: string): Promise<void> {
    const values = [...busyKeys, this.random.pick(quietKeys)].map((key) => {
      const lasting = this.lasting();
      return [key, this.history.value(name, key, lasting), lasting] as const;
    });
    const startedAt = performance.now();
    const all = values.map(([, value]) => value);
    const written = await this.writing(all, this.space(node, name).setMany(values));
    for (const [at, { version }] of written.entries())
      this.history.written(all[at]!, { how: 'setMany', node: node.at, startedAt }, version);
  }

  /** Notes that the values may still arrive if it is not known whether they were written. */
  private async writing<Outcome>(values: readonly Value[], call: Promise<Outcome>): Promise<Outcome> {
    try {
      return await call;
    } catch (error) {
      for (const value of values) this.history.perhapsWritten(value);
      throw error;
    }
  }

  private async compareAndSet(node: Node, name: string, key: string): Promise<void> {
    const lasting = this.lasting();
    const space = this.space(node, name);
    const seen = (await space.find(key))?.version ?? null;
    const value = this.history.value(name, key, lasting);
    const startedAt = performance.now();
    const outcome = await this.writing([value], space.compareAndSet(key, seen, value, lasting));
    if (outcome.isWritten)
      this.history.written(value, { how: 'compareAndSet', node: node.at, startedAt }, outcome.version);
  }

  private async compareAndDelete(node: Node, name: string, key: string): Promise<void> {
    const space = this.space(node, name);
    const seen = (await space.find(key))?.version ?? null;
    const startedAt = performance.now();
    const { isDeleted } = await space.compareAndDelete(key, seen);
    if (isDeleted)
      this.history.changed({ space: name, of: { key }, how: 'compareAndDelete', node: node.at, startedAt });
  }

  private async delete(node: Node, name: string, key: string): Promise<void> {
    const all = this.random.next() < 0.8 ? [key] : keys.slice(0, 4);
    const startedAt = performance.now();
    await this.space(node, name).delete(...all);
    for (const it of all)
      this.history.changed({ space: name, of: { key: it }, how: 'delete', node: node.at, startedAt });
  }

  private async invalidateTags(node: Node, name: string): Promise<void> {
    const all = this.random.next() < 0.7 ? [this.random.pick(tags)] : tags;
    const startedAt = performance.now();
    await this.space(node, name).invalidateTags(...all);
    for (const tag of all)
      this.history.changed({ space: name, of: { tag }, how: 'invalidateTags', node: node.at, startedAt });
  }

  private async clear(node: Node, name: string): Promise<void> {
    const startedAt = performance.now();
    await this.space(node, name).clear();
    this.history.changed({ space: name, of: 'all', how: 'clear', node: node.at, startedAt });
  }

  /** Takes a lease, or fills one that any node has taken before. */
  private async lease(node: Node, name: string, key: string): Promise<void> {
    const { random, history, leases } = this;
    const place = JSON.stringify([name, key]);
    const known = leases.get(place);
    const space = this.space(node, name);
    if (known) {
      leases.delete(place);
      const { tags: ofLease, beganAt, lease } = known;
      const lasting = { ...this.lasting(), tags: ofLease };
      const value = history.value(name, key, lasting);
      const startedAt = performance.now();
      const filling = space.fillLeased(key, lease, value, lasting);
      // It may still arrive, but not after something that makes it old.
      const filled = await this.orPerhaps(filling, () => history.loaded(value, beganAt));
      if (filled) history.filled(value, beganAt, { how: 'lease', node: node.at, startedAt }, filled.version);
      return;
    }
    const { tags: ofLease } = this.lasting();
    const startedAt = performance.now();
    const leased = await space.findOrLease(key, random.pick([50, 2_000]), ofLease);
    if ('found' in leased) this.found(node, name, key, 'findOrLease', startedAt, leased.found);
    else if (leased.lease) leases.set(place, { lease: leased.lease, beganAt: performance.now(), tags: ofLease });
  }

  private async increment(node: Node): Promise<void> {
    const by = this.random.integer(1, 3);
    const counting = this.space(node, exactName).increment('n', by);
    const count = await this.orPerhaps(counting, () => (this.perhapsCounted += by));
    this.counted += by;
    if (this.counts.has(count)) this.failures.push(`the counter was twice ${count}`);
    this.counts.add(count);
  }

  private async incrementCleared(node: Node): Promise<void> {
    const startedAt = performance.now();
    const counting = { space: clearedName, startedAt, endedAt: Infinity };
    this.history.counting(counting);
    const count = await this.space(node, clearedName).increment('n');
    this.history.counted(counting, count);
  }

  /** Counts in a value, by compare-and-set. */
  private async register(node: Node): Promise<void> {
    const space = this.space<number>(node, exactName);
    const found = await space.find('register');
    if (found?.isStale) return;
    const next = (found?.value ?? 0) + 1;
    const setting = space.compareAndSet('register', found?.version ?? null, next);
    const { isWritten } = await this.orPerhaps(setting, () => (this.perhapsRegistered += 1));
    if (isWritten) this.registered += 1;
  }

  /** A lock that one at a time holds. */
  private async lock(node: Node): Promise<void> {
    const space = this.space<number>(node, exactName);
    const mayHaveFailed = () => (this.perhapsTaken += 1);
    const taken = await this.orPerhaps(space.compareAndSet('lock', null, node.at), mayHaveFailed);
    if (!taken.isWritten) return;
    this.taken += 1;
    // One that may be lost is not held any more.
    if (this.taken > 1 && this.perhapsTaken === 0) this.failures.push(`${this.taken} have the lock`);
    await sleep(this.random.integer(0, 3));
    this.taken -= 1;
    const { isDeleted } = await this.orPerhaps(space.compareAndDelete('lock', taken.version), mayHaveFailed);
    if (!isDeleted && this.perhapsTaken === 0) this.failures.push('the lock was taken from who had it');
  }

  private async orPerhaps<Outcome>(call: Promise<Outcome>, perhaps: () => void): Promise<Outcome> {
    try {
      return await call;
    } catch (error) {
      perhaps();
      throw error;
    }
  }

  async begin(): Promise<void> {
    const { name, key } = untouched;
    const lasting = { ttl: Infinity };
    const value = this.history.value(name, key, lasting);
    await this.space(this.nodes[0]!, name).set(key, value);
    this.history.loaded(value, performance.now());
  }

  /** Compares what must be exact, once nothing disturbs it any more. */
  async end(): Promise<void> {
    // After that, every node has heard of everything.
    await sleep(silenceMs);
    for (const node of this.nodes)
      await until(async () => {
        try {
          await this.compareExactly(node);
          return true;
        } catch (error) {
          // On a busy machine, a short deadline may be missed.
          if (error instanceof CacheUnavailable && node.isDisturbed) return false;
          throw error;
        }
      });
  }

  private async compareExactly(node: Node): Promise<void> {
    const { name, key } = untouched;
    expect((await this.space(node, name).find(key))?.value).toMatchObject({ space: name, key });
    const exact = this.space<number>(node, exactName);
    const count = await exact.increment('n', 0);
    expect(count).toBeGreaterThanOrEqual(this.counted);
    expect(count).toBeLessThanOrEqual(this.counted + this.perhapsCounted);
    const registered = (await exact.get('register')) ?? 0;
    expect(registered).toBeGreaterThanOrEqual(this.registered);
    expect(registered).toBeLessThanOrEqual(this.registered + this.perhapsRegistered);
  }

  assertGood(): void {
    expect([...this.failures, ...this.history.violations].slice(0, 8)).toEqual([]);
  }
}

class SourceFailed extends Error {}

/** A connection that is none of a cache. */
interface People {
  sendCommand(words: string[]): Promise<unknown>;
  scriptFlush(): Promise<unknown>;
}

/** Little room, so that hardly any value stays in the process: the versions of tags take 64 KiB of it. */
const narrowBytes = 65_536 + 3_000;

const engineAt = (url: string, limits: { deadlineMs: number; silenceMs: number }, maxBytes?: number): CacheEngine =>
  new CacheEngine({ redis: { url, ...limits }, maxBytes, complain: () => undefined }).start();

const untilHeard = (engine: CacheEngine): Promise<void> =>
  until(
    async () =>
      engine.isL1Used &&
      (await engine.ping().then(
        () => true,
        () => false,
      )),
  );

let nodes: Node[] = [];
afterEach(async () => {
  for (const { engine } of nodes) engine.stop();
  for (const { proxy } of nodes) await proxy?.stop();
  nodes = [];
});

const addNode = async (url: string, limits: { deadlineMs: number; silenceMs: number }, proxy?: RedisProxy) => {
  const at = nodes.length;
  const engine = engineAt(proxy?.url ?? url, limits, at === 2 ? narrowBytes : undefined);
  nodes.push({ at, engine, ...(proxy && { proxy }), isDisturbed: false, failed: 0, failedAt: -Infinity });
  await untilHeard(engine);
};

const statistics = (of: (it: CacheEngine['statistics']) => number): number =>
  nodes.reduce((sum, { engine }) => sum + of(engine.statistics), 0);

/** Nothing fails, so every call must succeed, and every answer must be right. */
const runCalmly = async (random: SeededRandom): Promise<void> => {
  const calls = new Calls(randomUUID(), nodes, random);
  await calls.begin();
  await calls.run(calmMs);
  calls.assertGood();
  await calls.end();
  // A run in which little happens would show nothing.
  expect(calls.history.checked).toBeGreaterThan(100);
  // On a busy machine, some of it may not happen within a short time.
  if (!isLong) return;
  for (const total of ['l1Hits', 'l2Hits', 'staleHits', 'sharedLoads', 'awaitedLoads', 'fillsRefused'] as const)
    expect([total, statistics((it) => it[total])]).not.toEqual([total, 0]);
  expect(statistics((it) => it.earlyRefreshes)).toBeGreaterThan(0);
  expect(statistics((it) => it.l1.promotionsRefused)).toBeGreaterThan(0);
  expect(nodes[2]!.engine.statistics.l1.evictions).toBeGreaterThan(0);
};

const seeds = Array.from({ length: rounds }, (_, round) => testSeed() + round);

describeRedis('three processes over a cluster of three masters, with random concurrent calls', () => {
  let cluster: RedisCluster;
  beforeAll(async () => {
    cluster = await startRedisCluster();
  });
  afterAll(() => cluster?.stop());

  it.each(seeds)('keep the documented promises (seed %i)', async (seed) => {
    for (const _ of [0, 1, 2]) await addNode(cluster.url, { silenceMs, deadlineMs: 5_000 });
    await runCalmly(new SeededRandom(seed));
  });
});

describeRedis('three processes over one Redis, with random concurrent calls', () => {
  let redis: RedisServer;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis?.stop());

  /** One without a proxy, and two whose answers and notifications come when they like. */
  const start = async (random: SeededRandom, limits: { deadlineMs: number; silenceMs: number }): Promise<void> => {
    for (const at of [0, 1, 2]) {
      const proxy = at === 0 ? undefined : await RedisProxy.start(redis.port);
      await addNode(redis.url, limits, proxy);
      if (proxy) proxy.jitterMs = () => (random.next() < 0.3 ? random.integer(0, 25) : 0);
    }
  };

  it.each(seeds)('keep the documented promises (seed %i)', async (seed) => {
    const random = new SeededRandom(seed);
    await start(random, { silenceMs, deadlineMs: 5_000 });
    await runCalmly(random);
  });

  it.each(seeds)('keep the documented promises during random faults, and recover from them (seed %i)', async (seed) => {
    const random = new SeededRandom(seed);
    await start(random, { silenceMs, deadlineMs });
    const calls = new Calls(randomUUID(), nodes, random);
    await calls.begin();
    const people = await createClient({ url: redis.url }).connect();
    try {
      const endsAt = performance.now() + faultyMs;
      // The deadlines are short, so on a busy machine any call may miss them, also once nothing fails any more.
      for (const node of nodes) node.isDisturbed = true;
      const running = calls.run(faultyMs);
      while (performance.now() < endsAt) await anyFault(random, people);
      await running;
      calls.assertGood();
      // What is still held back arrives now, or never.
      for (const { proxy } of nodes) proxy?.thaw();
      await Promise.all(nodes.map(({ engine }) => untilHeard(engine)));
      await sleep(2 * silenceMs);
      calls.history.settle();
      if (isLong) expect(calls.away).toBeGreaterThan(0);
    } finally {
      people.destroy();
    }
    await calls.run(calmMs);
    calls.assertGood();
    await calls.end();
  });

  const anyFault = async (random: SeededRandom, people: People): Promise<void> => {
    const proxy = random.pick(nodes.slice(1)).proxy!;
    const ms = random.pick([20, deadlineMs / 2, 2 * deadlineMs, 3 * silenceMs]);
    switch (random.integer(0, 6)) {
      case 0:
        proxy.down();
        await sleep(ms);
        proxy.up();
        break;
      case 1:
        proxy.freeze();
        await sleep(ms);
        proxy.thaw();
        break;
      case 2:
        // The connections stay half open, and new ones are made.
        proxy.strand();
        await sleep(ms);
        break;
      case 3:
        process.kill(redis.pid, 'SIGSTOP');
        await sleep(ms);
        process.kill(redis.pid, 'SIGCONT');
        break;
      case 4: {
        // The connections that tell of changes end, and the others go on.
        const clients = await people.sendCommand(['CLIENT', 'LIST']);
        for (const line of String(clients).split('\n'))
          if (/ flags=\S*B/.test(line)) await people.sendCommand(['CLIENT', 'KILL', 'ID', /^id=(\d+)/.exec(line)![1]!]);
        break;
      }
      case 5:
        // What is written has its effect, and its answer is lost.
        proxy.holdBack('EVALSHA');
        await sleep(ms);
        proxy.down();
        proxy.up();
        proxy.thaw();
        break;
      default:
        // The scripts must be sent again.
        await people.scriptFlush();
    }
    await sleep(random.integer(0, silenceMs));
  };
});
