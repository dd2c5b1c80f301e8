import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { createClient } from '@redis/client';
import { SeededRandom, redisOrSkip, startRedisCluster, until, type RedisCluster } from '#testing';
import { CacheEngine, CacheUnavailable, cacheManagerOf, type Namespace } from '../src/index.js';

const describeRedis = await redisOrSkip(describe);

const deadlineMs = 300;
const silenceMs = 1_000;
/** How long one call may take on a busy machine, of which waiting for Redis is the smallest part. */
const longestCallMs = 5_000;
const nodeTimeoutMs = 1_000;
/** The master that is killed, and one that is not. */
const [dying, living] = [2, 0];

/** The result of a call, or its CacheUnavailable. Fails if the call takes too long or throws anything else. */
const outcomeOf = async <T>(call: () => Promise<T>): Promise<T | CacheUnavailable> => {
  const startedAt = performance.now();
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof CacheUnavailable)) throw error;
    return error;
  } finally {
    expect(performance.now() - startedAt).toBeLessThan(longestCallMs);
  }
};

const isAway = (outcome: unknown): boolean => outcome instanceof CacheUnavailable;

/** Reads and writes continuously, and records what was acknowledged and when. */
class Traffic {
  /** The values in the source. */
  readonly source = new Map<string, number>();
  /** When Redis acknowledged a write, and the oldest value that may be served after that. */
  private readonly acknowledged = new Map<string, { at: number; value: number }[]>();
  private readonly random = new SeededRandom();
  private readonly working: Promise<void>[] = [];
  private isOver = false;
  reads = 0;
  readonly violations: string[] = [];

  constructor(
    private readonly here: Namespace<number>,
    private readonly there: Namespace<number>,
    keys: readonly string[],
  ) {
    // Each key has one writer, so that it is known which value is newer.
    for (const key of keys) this.working.push(this.write(key));
    for (let reader = 0; reader < 8; reader += 1) this.working.push(this.read(keys));
  }

  async end(): Promise<void> {
    this.isOver = true;
    await Promise.all(this.working);
  }

  /** The last value acknowledged. */
  latest(key: string): number {
    return this.acknowledged.get(key)?.at(-1)?.value ?? 0;
  }

  /** Waits until every key has been written to Redis since this call. */
  async written(): Promise<void> {
    const since = performance.now();
    await until(() => [...this.source.keys()].every((key) => (this.acknowledged.get(key)?.at(-1)?.at ?? 0) > since));
  }

  private async write(key: string): Promise<void> {
    for (let value = 1; !this.isOver; value += 1) {
      this.source.set(key, value);
      const written = await outcomeOf(() => this.here.set(key, value, { ttl: 600_000 }));
      if (!isAway(written)) {
        const list = this.acknowledged.get(key) ?? [];
        this.acknowledged.set(key, [...list, { at: performance.now(), value }]);
      }
      await sleep(this.random.integer(20, 200));
    }
  }

  private async read(keys: readonly string[]): Promise<void> {
    while (!this.isOver) {
      const key = this.random.pick(keys);
      const isHere = this.random.next() < 0.5;
      const space = isHere ? this.here : this.there;
      const at = performance.now();
      const given = await outcomeOf(() =>
        this.random.next() < 0.5 ? space.get(key) : space.getOrSet(key, () => this.source.get(key), { ttl: 600_000 }),
      );
      this.reads += 1;
      // The process that wrote a value must not serve an older one; others may not have been notified yet.
      const known = at - (isHere ? 0 : silenceMs);
      const least = this.acknowledged.get(key)?.findLast((it) => it.at < known)?.value ?? 0;
      if (typeof given === 'number' && given < least)
        this.violations.push(`${key} was ${given} ${isHere ? 'here' : 'there'}, ${least} had been written`);
      await sleep(this.random.integer(1, 10));
    }
  }
}

describeRedis.each([
  ['the others keep serving', true],
  ['the others reject everything', false],
])('a cache over a cluster with a killed master, where %s', (_, isPartial) => {
  let cluster: RedisCluster;
  const engines: CacheEngine[] = [];
  beforeEach(async () => {
    cluster = await startRedisCluster({ nodeTimeoutMs, isPartial });
  });
  afterEach(async () => {
    for (const engine of engines.splice(0)) engine.stop();
    await cluster.stop();
  });

  const nodeOf = async (name: string): Promise<{ engine: CacheEngine; space: Namespace<number> }> => {
    const redis = { url: cluster.url, deadlineMs, silenceMs };
    const engine = new CacheEngine({ redis, complain: () => undefined }).start();
    engines.push(engine);
    const space = engine.namespace<number>(name, { jitter: 0 });
    await until(async () => engine.isL1Used && !isAway(await outcomeOf(() => engine.ping())));
    return { engine, space };
  };

  /** A namespace whose own version lies on the given master: reading any of its keys requires that version. */
  const nameOn = async (at: number): Promise<string> => {
    for (;;) {
      const name = randomUUID();
      if (await cluster.isOn(at, `{${name}:}`)) return name;
    }
  };

  const keysOf = async (name: string): Promise<{ lost: string[]; kept: string[] }> => {
    const [lost, kept]: [string[], string[]] = [[], []];
    for (let at = 0; lost.length < 5 || kept.length < 5; at += 1)
      ((await cluster.isOn(dying, `{${name}:k ${at}}`)) ? lost : kept).push(`k ${at}`);
    return { lost, kept };
  };

  /** Waits until the other masters consider it dead, or back. */
  const othersSee = async (isDead: boolean): Promise<void> => {
    const client = await createClient({ url: cluster.servers[living]!.url }).connect();
    try {
      await until(
        async () => isDead !== (await client.sendCommand<string>(['CLUSTER', 'INFO'])).includes('cluster_slots_fail:0'),
      );
    } finally {
      client.destroy();
    }
  };

  it('answers every call in time, serves no outdated value, and recovers by itself', async () => {
    const name = await nameOn(living);
    const [here, there] = [await nodeOf(name), await nodeOf(name)];
    const { lost, kept } = await keysOf(name);
    const traffic = new Traffic(here.space, there.space, [...lost, ...kept]);
    await until(() => traffic.reads > 500);

    try {
      await cluster.kill(dying);
      await until(() => !here.engine.isL1Used && !there.engine.isL1Used);
      await othersSee(true);
      for (const { engine, space } of [here, there]) {
        for (const key of lost) {
          expect(await outcomeOf(() => space.get(key))).toBeInstanceOf(CacheUnavailable);
          const least = traffic.latest(key);
          // Possibly from a load of the traffic that this call has joined.
          expect(await outcomeOf(() => space.getOrSet(key, () => traffic.source.get(key)))).toBeGreaterThanOrEqual(
            least,
          );
        }
        for (const key of kept) {
          if (!isPartial) expect(await outcomeOf(() => space.get(key))).toBeInstanceOf(CacheUnavailable);
          // A call may be late on a busy machine.
          else await until(async () => typeof (await outcomeOf(() => space.get(key))) === 'number');
        }
        expect(engine.isL1Used).toBe(false);
      }

      await cluster.restart(dying);
      await othersSee(false);
      await until(() => here.engine.isL1Used && there.engine.isL1Used);
      await traffic.written();
    } finally {
      await traffic.end();
    }
    expect(traffic.violations).toEqual([]);
    for (const { space } of [here, there])
      for (const key of [...lost, ...kept]) {
        // The value written last is in Redis, and in the process once it is read.
        await until(async () => (await space.find(key))?.tier === 'l1');
        expect(await space.get(key)).toBe(traffic.source.get(key));
      }
  });

  it('loads from the source while the version of the namespace is unavailable', async () => {
    const name = await nameOn(dying);
    const { engine, space } = await nodeOf(name);
    const { kept } = await keysOf(name);
    for (const key of kept) await until(() => outcomeOf(() => space.set(key, 1)).then((it) => !(it instanceof Error)));
    await cluster.kill(dying);
    await until(() => !engine.isL1Used);
    for (const key of kept) {
      expect(await outcomeOf(() => space.getOrSet(key, () => 2))).toBe(2);
      // Whether the namespace was cleared is unknown now.
      expect(await outcomeOf(() => space.get(key))).toBeInstanceOf(CacheUnavailable);
    }
    await cluster.restart(dying);
    await until(() => engine.isL1Used);
    for (const key of kept) {
      await until(async () => (await outcomeOf(() => space.getOrSet(key, () => 3))) === 3);
      await until(async () => (await outcomeOf(() => space.get(key))) === 3);
    }
  });
});

describeRedis('a cache over a cluster with an unavailable master', () => {
  let cluster: RedisCluster;
  let engine: CacheEngine;
  let complaints: string[] = [];
  afterEach(async () => {
    complaints = [];
    engine?.stop();
    await cluster?.stop();
  });

  /** @returns a namespace whose version lies on a living master, a key on that master, and one on the dying one */
  const started = async (longestMs = deadlineMs): Promise<{ space: Namespace<number>; kept: string; lost: string }> => {
    const textOn = async (at: number, nameOf: (text: string) => string): Promise<string> => {
      for (;;) {
        const text = randomUUID();
        if (await cluster.isOn(at, nameOf(text))) return text;
      }
    };
    const name = await textOn(living, (text) => `{${text}:}`);
    const kept = await textOn(living, (text) => `{${name}:${text}}`);
    const lost = await textOn(dying, (text) => `{${name}:${text}}`);
    const redis = { url: cluster.url, deadlineMs: longestMs, silenceMs };
    engine = new CacheEngine({ redis, complain: (message) => complaints.push(message) }).start();
    return { space: engine.namespace<number>(name, { jitter: 0 }), kept, lost };
  };

  it('names the master whose invalidations it does not receive', async () => {
    cluster = await startRedisCluster({ isPartial: true });
    await started();
    await until(() => engine.isL1Used);
    complaints = [];
    await cluster.kill(dying);
    const lost = 'Invalidations from Redis are not received';
    await until(() => complaints.some((it) => it.startsWith(lost)));
    const { port } = cluster.servers[dying]!;
    expect(complaints.find((it) => it.startsWith(lost))).toContain(`(127.0.0.1:${port}: `);
  });

  it('loads without waiting for a lease if the version of a tag is unavailable', async () => {
    cluster = await startRedisCluster({ isPartial: true });
    const { space, kept, lost } = await started();
    await until(() => engine.isL1Used);
    await cluster.kill(dying);
    await until(() => !engine.isL1Used);
    await until(async () => !isAway(await outcomeOf(() => space.find(kept))));
    const startedAt = performance.now();
    // The tag lies on the dead master, and the key itself on a living one.
    for (let load = 0; load < 5; load += 1)
      expect(await outcomeOf(() => space.getOrSet(kept, () => load, { tags: [lost] }))).toBe(load);
    // It has never waited for a lease to expire.
    expect(performance.now() - startedAt).toBeLessThan(2_000);
  });

  it('reads several keys at once, with stale values for those that are unavailable', async () => {
    cluster = await startRedisCluster({ isPartial: true });
    const { space, kept, lost } = await started();
    await until(() => engine.isL1Used);
    await until(async () => !isAway(await outcomeOf(() => space.set(lost, 1))));
    await until(async () => (await space.find(lost))?.tier === 'l1');
    await space.set(kept, 2);
    await cluster.kill(dying);
    await until(() => !engine.isL1Used);
    await until(async () => !isAway(await outcomeOf(() => space.find(kept))));
    await space.set(kept, 3);
    const found = await space.getMany([lost, kept]);
    expect(found.get(lost)).toMatchObject({ value: 1, isStale: true });
    expect(found.get(kept)).toMatchObject({ value: 3, isStale: false });
    const others = Array.from({ length: 60 }, (_, at) => `k ${at}`);
    expect(await outcomeOf(() => space.getMany([lost, kept, ...others]))).toBeInstanceOf(CacheUnavailable);
    // For `mget` a miss is acceptable: unavailable keys are misses, and nothing stale is served.
    const manager = cacheManagerOf(space);
    const told: unknown[] = [];
    manager.on('mget', (it) => told.push(it));
    expect(await manager.mget([lost, kept])).toEqual([undefined, 3]);
    expect(told).toEqual([{ keys: [lost, kept], error: expect.any(CacheUnavailable) }]);
  });

  it('reads several keys at once, even if the tag of one is unavailable', async () => {
    cluster = await startRedisCluster({ isPartial: true });
    const { space, kept, lost } = await started();
    await until(() => engine.isL1Used);
    // In the same slot as the key that becomes unavailable.
    await until(async () => !isAway(await outcomeOf(() => space.set('tagged', 1, { tags: [lost] }))));
    await until(async () => !isAway(await outcomeOf(() => space.set(kept, 1, { tags: [kept] }))));
    for (const key of ['tagged', kept]) await until(async () => (await space.find(key))?.tier === 'l1');
    await cluster.kill(dying);
    await until(() => !engine.isL1Used);
    await until(async () => !isAway(await outcomeOf(() => space.set(kept, 2, { tags: [kept] }))));
    const found = await space.getMany(['tagged', kept]);
    expect(found.get('tagged')).toMatchObject({ value: 1, isStale: true });
    expect(found.get(kept)).toMatchObject({ value: 2, isStale: false });
  });

  it('reads more than a page of keys at once, even if the last one is unavailable', async () => {
    cluster = await startRedisCluster({ isPartial: true });
    const { space, kept, lost } = await started();
    await until(() => engine.isL1Used);
    await until(async () => !isAway(await outcomeOf(() => space.set(lost, 1))));
    await until(async () => (await space.find(lost))?.tier === 'l1');
    const keys: string[] = [];
    for (let at = 0; keys.length < 512; at += 1)
      if (await cluster.isOn(living, `{${space.name}:k ${at}}`)) keys.push(`k ${at}`);
    await until(async () => !isAway(await outcomeOf(() => space.setMany(keys.map((key) => [key, 2])))));
    await cluster.kill(dying);
    await until(() => !engine.isL1Used);
    await until(async () => !isAway(await outcomeOf(() => space.find(kept))));
    const found = await space.getMany([...keys, lost]);
    expect(keys.filter((key) => found.get(key)?.value !== 2)).toEqual([]);
    expect(found.get(lost)).toMatchObject({ value: 1, isStale: true });
  });

  it('finds the replica that takes over, even if it was started before that', async () => {
    cluster = await startRedisCluster({ nodeTimeoutMs: 4_000, isPartial: true, isReplicated: true });
    await cluster.kill(dying);
    const { space, kept, lost } = await started();
    await until(async () => !isAway(await outcomeOf(() => space.set(kept, 1))));
    expect(await outcomeOf(() => space.set(lost, 1))).toBeInstanceOf(CacheUnavailable);
    await until(async () => !isAway(await outcomeOf(() => space.set(lost, 2))));
    await until(() => engine.isL1Used);
    await until(async () => (await space.find(lost))?.tier === 'l1');
    expect(await space.get(lost)).toBe(2);
  });

  it('finds the master of slots that no master had when it was started', async () => {
    cluster = await startRedisCluster({ isPartial: true });
    const nodes = await Promise.all(cluster.servers.map(({ url }) => createClient({ url }).connect()));
    try {
      const of = (at: number, ...words: string[]) => nodes[at]!.sendCommand<string>(['CLUSTER', ...words]);
      const range = ['10922', '16383'];
      await of(dying, 'FLUSHSLOTS');
      // Gossip in flight may still claim that this master has the slots.
      await until(async () => {
        const told = await Promise.all(nodes.map((_, at) => of(at, 'INFO')));
        const knowing = [...told.keys()].filter((at) => told[at]!.includes('cluster_slots_assigned:16384'));
        for (const at of knowing) await of(at, 'DELSLOTSRANGE', ...range);
        return knowing.length === 0;
      });
      const { space, kept, lost } = await started();
      await until(() => engine.isL1Used);
      await until(async () => !isAway(await outcomeOf(() => space.set(kept, 1))));
      for (let asked = 0; asked < 20; asked += 1)
        expect(await outcomeOf(() => space.set(lost, 1))).toBeInstanceOf(CacheUnavailable);
      // It has not stopped asking the other masters.
      expect(await outcomeOf(() => space.set(kept, 2))).toHaveProperty('version');
      expect(await outcomeOf(() => engine.ping())).toBeInstanceOf(CacheUnavailable);
      await of(dying, 'ADDSLOTSRANGE', ...range);
      await until(async () => !isAway(await outcomeOf(() => space.set(lost, 2))));
      await until(async () => !isAway(await outcomeOf(() => engine.ping())));
    } finally {
      for (const node of nodes) node.destroy();
    }
  });

  it('keeps using the other masters while many calls to a suspended one fail', async () => {
    cluster = await startRedisCluster({ isPartial: true });
    const { space, kept, lost } = await started();
    await until(() => engine.isL1Used);
    for (const key of [kept, lost]) await until(async () => !isAway(await outcomeOf(() => space.set(key, 0))));
    const { pid } = cluster.servers[dying]!;
    process.kill(pid, 'SIGSTOP');
    try {
      const works: ((key: string) => Promise<unknown>)[] = [
        (key) => space.set(key, 1),
        (key) => space.invalidateTags(key),
        (key) => space.delete(key),
        (key) => space.get(key),
      ];
      for (const work of works) {
        const lostOnes = await Promise.all(Array.from({ length: 20 }, () => outcomeOf(() => work(lost))));
        expect(lostOnes.every(isAway)).toBe(true);
        expect(await outcomeOf(() => work(kept))).not.toBeInstanceOf(CacheUnavailable);
      }
      // No call waits for the suspended master any more.
      const startedAt = performance.now();
      for (let asked = 0; asked < 20; asked += 1)
        expect(await outcomeOf(() => space.set(lost, 1))).toBeInstanceOf(CacheUnavailable);
      expect(performance.now() - startedAt).toBeLessThan(20 * deadlineMs);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await until(async () => !isAway(await outcomeOf(() => space.set(lost, 2))));
  });

  it('reads from the other masters at once, also in the turn in which a suspended one is asked', async () => {
    cluster = await startRedisCluster({ isPartial: true });
    const { space, kept, lost } = await started(40_000);
    await until(() => engine.isL1Used);
    for (const key of [kept, lost]) await until(() => space.set(key, 1).then(Boolean, () => false));
    const { pid } = cluster.servers[dying]!;
    process.kill(pid, 'SIGSTOP');
    try {
      let isAnswered = false;
      const answered = (): boolean => (isAnswered = true);
      void space.get(lost).then(answered, answered);
      expect(await space.get(kept)).toBe(1);
      expect(isAnswered).toBe(false);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
  });

  it('does not execute commands later that timed out', async () => {
    cluster = await startRedisCluster({ isPartial: true });
    const { pid } = cluster.servers[dying]!;
    process.kill(pid, 'SIGSTOP');
    const { space, kept, lost } = await started();
    try {
      await until(async () => !isAway(await outcomeOf(() => space.set(kept, 1))));
      for (let value = 0; value < 3; value += 1)
        expect(await outcomeOf(() => space.set(lost, value))).toBeInstanceOf(CacheUnavailable);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await until(async () => !isAway(await outcomeOf(() => engine.ping())));
    await sleep(500);
    expect(await cluster.keys(`*:${lost}}`)).toEqual([]);
    await until(async () => !isAway(await outcomeOf(() => space.set(lost, 3))));
  });
});
