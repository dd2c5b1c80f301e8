import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { Source, redisOrSkip, startRedis, until, type RedisServer } from '#testing';
import {
  CacheEngine,
  CacheLoadTimeout,
  anyVersion,
  jsonCodec,
  textCodec,
  type CacheEngineOptions,
  type LoadOptions,
} from '../src/index.js';

const complaints: string[] = [];
const open: CacheEngine[] = [];
const engineOf = (options: CacheEngineOptions = {}): CacheEngine => {
  const engine = new CacheEngine({ complain: (message) => complaints.push(message), ...options }).start();
  open.push(engine);
  return engine;
};

afterEach(() => {
  for (const engine of open.splice(0)) engine.stop();
  complaints.length = 0;
});

/** The guarantees that hold with and without Redis. */
const keepsItsWord = (options: () => CacheEngineOptions): void => {
  const spaceOf = (engine = engineOf(options()), defaults: LoadOptions = {}) =>
    engine.namespace<unknown>(randomUUID(), { jitter: 0, ...defaults });
  const ready = async (engine: CacheEngine): Promise<CacheEngine> => {
    // Notifications come over another connection than answers.
    await until(() => engine.isL1Used);
    await until(() =>
      engine.ping().then(
        () => true,
        () => false,
      ),
    );
    return engine;
  };

  it('returns any JSON value as it was written, under keys with any characters', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    for (const value of [
      null,
      false,
      0,
      '',
      '\u0000 "ünï🦊"\n|',
      [],
      {},
      { a: [1.5, { b: null }] },
      'x'.repeat(100_000),
    ]) {
      for (const key of ['__proto__', ' ', '}{', '}', ':', '\r\n\u0000', 'ключ', 'a'.repeat(1_024)]) {
        await space.set(key, value);
        for (let read = 0; read < 3; read += 1) expect(await space.find(key)).toMatchObject({ value, isStale: false });
      }
    }
  });

  it.each(['', '\ud800', 'ü'.repeat(513)])('refuses the key %j', async (key) => {
    const space = spaceOf();
    for (const refused of [() => space.get(key), () => space.set(key, 1), () => space.getOrSet(key, () => 1)])
      await expect(refused()).rejects.toThrow(RangeError);
  });

  it.each([0, -1, 1.5, Number.NaN, 365 * 24 * 3_600_000 + 1])('rejects a time to live of %d ms', async (ttl) => {
    await expect(spaceOf().set('k', 1, { ttl })).rejects.toThrow('it must be a whole number of milliseconds');
  });

  it('returns a loaded value even if its ttlOf is not positive, and keeps it for as long as ttlOf says', async () => {
    const engine = await ready(engineOf(options()));
    const space = spaceOf(engine, { ttl: 60_000 });
    const keptFor = async (ttl: number | undefined): Promise<number | null> => {
      const key = `for ${ttl}`;
      const startedAt = engine.now();
      expect(await space.getOrSet(key, () => key, { ttlOf: () => ttl })).toBe(key);
      const found = await space.find(key);
      if (!found) return 0;
      return found.expiresAt && Math.round((found.expiresAt - startedAt) / 60_000) * 60_000;
    };
    for (const ttl of [0, -5, 0.5]) expect(await keptFor(ttl)).toBe(0);
    expect(await keptFor(120_000.5)).toBe(120_000);
    expect(await keptFor(undefined)).toBe(60_000);
    expect(await keptFor(Number.POSITIVE_INFINITY)).toBeNull();
    expect(await keptFor(1e15)).toBe(365 * 24 * 3_600_000);
  });

  it('accepts a time to live beyond the range of a 31-bit timer', async () => {
    const engine = await ready(engineOf(options()));
    const space = spaceOf(engine);
    const { expiresAt } = await space.set('k', 1, { ttl: 2 ** 31 + 10_000 });
    expect(expiresAt! - engine.now()).toBeGreaterThan(2 ** 31);
    expect(await space.get('k')).toBe(1);
  });

  it('expires a value at the end of its time to live, even if it was read until shortly before', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    await space.set('k', 1, { ttl: 150 });
    const endsAt = Date.now() + 150;
    while (Date.now() < endsAt - 40) await space.get('k');
    await sleep(200);
    expect(await space.find('k')).toBeUndefined();
  });

  it('shortens times to live by a random jitter, at most 5 % by default, and extends none', async () => {
    const engine = await ready(engineOf(options()));
    const spreadOf = async (jitter?: number): Promise<{ least: number; most: number }> => {
      const usually = { ttl: 100_000, ...(jitter !== undefined && { jitter }) };
      const many = engine.namespace<number>(randomUUID(), usually);
      const lasts: number[] = [];
      for (let at = 0; at < 400; at += 1) {
        const before = Date.now();
        const { expiresAt } = await many.set(`k ${at}`, at);
        lasts.push(expiresAt! - before);
      }
      return { least: Math.min(...lasts), most: Math.max(...lasts) };
    };
    // Allows for the difference between the two clocks, and for the time that a write takes on a busy machine.
    const marginMs = 500;
    const usual = await spreadOf();
    expect(usual.least).toBeGreaterThanOrEqual(95_000 - marginMs);
    expect(usual.least).toBeLessThan(96_000);
    expect(usual.most).toBeGreaterThan(99_000);
    expect(usual.most).toBeLessThanOrEqual(100_000 + marginMs);
    expect((await spreadOf(0.5)).least).toBeLessThan(60_000);
    const none = await spreadOf(0);
    expect(none.least).toBeGreaterThanOrEqual(100_000 - marginMs);
    for (const jitter of [-0.1, 1.1, Number.NaN])
      expect(() => engine.namespace(randomUUID(), { jitter })).toThrow(RangeError);
  });

  it('distinguishes a value that is known to be absent from a missing entry', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const source = new Source(undefined);
    expect(await space.find('k')).toBeUndefined();
    for (let read = 0; read < 4; read += 1) expect(await space.getOrSet('k', source.load)).toBeUndefined();
    expect(source.asked).toBe(1);
    expect(await space.find('k')).toMatchObject({ value: undefined, isStale: false });
  });

  it('keeps an absent value only for its absentTtl', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const source = new Source(undefined);
    await space.getOrSet('k', source.load, { ttl: 60_000, absentTtl: 50 });
    await sleep(200);
    source.value = 1;
    expect(await space.getOrSet('k', source.load)).toBe(1);
  });

  it('does not keep an absent value beyond its absentTtl, even with a grace period', async () => {
    const space = spaceOf(await ready(engineOf(options())), { ttl: 60_000, absentTtl: 20, grace: 60_000 });
    expect(await space.getOrSet('k', () => undefined)).toBeUndefined();
    await sleep(100);
    await expect(space.getOrSet('k', () => Promise.reject(new Error('away')))).rejects.toThrow('away');
    expect(await space.getOrSet('k', () => 1)).toBe(1);
  });

  it('loads once for concurrent reads', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const source = new Source({ a: 1 });
    source.close();
    const asking = Array.from({ length: 200 }, () => space.getOrSet('k', source.load));
    await until(() => source.asked > 0);
    source.open();
    expect(new Set((await Promise.all(asking)).map((it) => JSON.stringify(it)))).toEqual(new Set(['{"a":1}']));
    expect(source.asked).toBe(1);
  });

  it('shares no mutable values: later changes to a written object have no effect, and reads are frozen', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const mine = { list: [1] };
    await space.set('k', mine);
    mine.list.push(2);
    const read = (await space.get('k')) as typeof mine;
    expect(() => read.list.push(3)).toThrow(TypeError);
    expect(await space.get('k')).toEqual({ list: [1] });
  });

  it.each(['delete', 'tag', 'clear', 'set'])('keeps no value whose load began before a %s', async (how) => {
    const space = spaceOf(await ready(engineOf(options())));
    const source = new Source('old');
    source.close();
    const loading = space.getOrSet('k', source.load, { tags: ['t'] });
    await until(() => source.asked > 0);
    source.value = 'new';
    if (how === 'delete') await space.delete('k');
    else if (how === 'tag') await space.invalidateTags('t');
    else if (how === 'clear') await space.clear();
    else await space.set('k', 'new');
    source.open();
    expect(await loading).toBe('old');
    for (let read = 0; read < 3; read += 1) expect(await space.getOrSet('k', source.load)).toBe('new');
  });

  const leaseOf = async (space: ReturnType<typeof spaceOf>, tags?: string[]): Promise<string> => {
    const leased = await space.findOrLease('k', 2_000, tags);
    if (!('lease' in leased) || leased.lease === null) throw new Error(`no lease: ${JSON.stringify(leased)}`);
    return leased.lease;
  };

  it('grants the lease on a key to one caller at a time, and returns the filled value to others', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const lease = await leaseOf(space, ['t']);
    expect(await space.findOrLease('k', 2_000)).toEqual({ lease: null });
    for (const other of ['', 'x', Buffer.from('["a","b",[]]').toString('base64url'), lease.slice(1)])
      expect(await space.fillLeased('k', other, 'forged')).toBeUndefined();
    const written = await space.fillLeased('k', lease, 1, { ttl: 60_000 });
    expect(await space.findOrLease('k', 2_000)).toMatchObject({ found: { value: 1, version: written!.version } });
    // The lease has been used up.
    expect(await space.fillLeased('k', lease, 2)).toBeUndefined();
    await space.invalidateTags('t');
    expect(await space.get('k')).toBeUndefined();
  });

  it.each(['delete', 'tag', 'clear', 'set'])('rejects a fill under a lease from before a %s', async (how) => {
    const space = spaceOf(await ready(engineOf(options())));
    const lease = await leaseOf(space, ['t']);
    if (how === 'delete') await space.delete('k');
    if (how === 'tag') await space.invalidateTags('t');
    if (how === 'clear') await space.clear();
    if (how === 'set') await space.set('k', 'new');
    expect(await space.fillLeased('k', lease, 'old')).toBeUndefined();
    expect(await space.get('k')).toBe(how === 'set' ? 'new' : undefined);
    if (how !== 'set') expect(await leaseOf(space)).not.toBe(lease);
  });

  it('fills under the tags of the namespace by default, and rejects tags that are too long for a lease', async () => {
    const engine = await ready(engineOf(options()));
    const space = engine.namespace<unknown>(randomUUID(), { tags: ['all'], ttlOf: () => 60_000 });
    const written = await space.fillLeased('k', await leaseOf(space), 1);
    expect(written!.expiresAt).not.toBeNull();
    await space.invalidateTags('all');
    expect(await space.get('k')).toBeUndefined();
    const long = Array.from({ length: 64 }, (_, at) => `${at}`.padEnd(1_000));
    await expect(space.findOrLease('k', 2_000, long)).rejects.toThrow('the tags of a lease are too long');
  });

  it('grants the lease to another caller once it has expired, and rejects the late fill', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const first = await space.findOrLease('k', 20);
    const second = Promise.withResolvers<string>();
    await until(async () => {
      const leased = await space.findOrLease('k', 2_000);
      if ('lease' in leased && leased.lease) second.resolve(leased.lease);
      return 'lease' in leased && leased.lease !== null;
    });
    expect(await space.fillLeased('k', (first as { lease: string }).lease, 'late')).toBeUndefined();
    expect(await space.fillLeased('k', await second.promise, 'in time')).toBeDefined();
    expect(await space.get('k')).toBe('in time');
  });

  it.each([0, 1.5, 60_001])('refuses a lease for %d ms', async (ms) => {
    await expect(spaceOf().findOrLease('k', ms)).rejects.toThrow('a lease lasts a whole number of milliseconds');
  });

  it.each(['delete', 'tag', 'clear', 'set'])(
    'does not return a load that began before a %s to a read after it',
    async (how) => {
      const space = spaceOf(await ready(engineOf(options())));
      const source = new Source('old');
      source.close();
      const loading = space.getOrSet('k', source.load, { tags: ['t'] });
      await until(() => source.asked > 0);
      if (how === 'delete') await space.delete('k');
      else if (how === 'tag') await space.invalidateTags('t');
      else if (how === 'clear') await space.clear();
      else await space.set('k', 'new');
      const asking = space.getOrSet('k', () => 'new');
      // A load in another process is awaited as long as its lease is held. An invalidation ends the lease, except one by
      // tag.
      if (how === 'tag' || how === 'clear') source.open();
      expect(await asking).toBe('new');
      source.open();
      expect(await loading).toBe('old');
    },
  );

  it('does not return an expired value while its early refresh is running', async () => {
    const space = spaceOf(await ready(engineOf(options())), { ttl: 150 });
    const source = new Source(2);
    await space.getOrSet('k', () => 1);
    await space.get('k');
    source.close();
    // About to expire, so it is refreshed as soon as this process serves it.
    const early: Promise<unknown>[] = [];
    await until(() => {
      early.push(space.getOrSet('k', source.load, { refreshBefore: 60_000 }));
      return source.asked > 0;
    });
    await sleep(300);
    const late = space.getOrSet('k', source.load);
    source.open();
    expect(await late).toBe(2);
    for (const value of await Promise.all(early)) expect([1, 2]).toContain(value);
  });

  it('does not serve an invalidated value as stale', async () => {
    const space = spaceOf(await ready(engineOf(options())), { grace: 60_000 });
    for (const change of [() => space.invalidateTags('t'), () => space.clear(), () => space.delete('k')]) {
      await space.set('k', 'old', { tags: ['t'] });
      await space.get('k');
      await change();
      await expect(space.getOrSet('k', () => Promise.reject(new Error('away')))).rejects.toThrow('away');
    }
  });

  it('has nothing stand in for later callers that was invalidated by a tag which the load does not have', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const source = new Source('new');
    source.close();
    await space.set('k', 'old', { ttl: 1, grace: 60_000, tags: ['t'] });
    // Redis reports what is new as changed.
    await sleep(100);
    expect(await space.getOrSet('k', source.load)).toBe('old');
    expect(await space.getOrSet('k', source.load)).toBe('old');
    await space.invalidateTags('t');
    const later = space.getOrSet('k', source.load);
    await sleep(50);
    source.open();
    expect(await later).toBe('new');
    // The same if the load fails.
    await space.set('failing', 'old', { ttl: 1, grace: 60_000, tags: ['t'] });
    await sleep(100);
    const failing = Promise.withResolvers<never>();
    const first = space.getOrSet('failing', () => failing.promise, { timeouts: { soft: 10_000 } });
    await sleep(50);
    await space.invalidateTags('t');
    const second = space.getOrSet('failing', () => failing.promise, { timeouts: { soft: 10_000 } });
    failing.reject(new Error('away'));
    expect(await first).toBe('old');
    await expect(second).rejects.toThrow('away');
  });

  it('invalidates by tag the entries with that tag, and no others', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    await space.set('both', 1, { tags: ['red', 'blue'] });
    await space.set('red', 2, { tags: ['red'] });
    await space.set('none', 3);
    for (let read = 0; read < 2; read += 1) expect((await space.getMany(['both', 'red', 'none'])).size).toBe(3);
    await space.invalidateTags('blue');
    expect([...(await space.getMany(['both', 'red', 'none'])).keys()]).toEqual(['red', 'none']);
    await space.set('both', 4, { tags: ['red', 'blue'] });
    expect(await space.get('both')).toBe(4);
  });

  it('isolates namespaces, whatever their names', async () => {
    const engine = await ready(engineOf(options()));
    const names = ['u', 'u*', 'user', 'u:', 'u%3A', 'u}', '{u', '__proto__'].map((it) => `${randomUUID()} ${it}`);
    // Each is cleared in turn while the others keep their values.
    names.push(`${names[0]}:k`);
    for (const name of names) await engine.namespace(name).set('k', name);
    for (const [at, name] of names.entries()) {
      await engine.namespace(name).clear();
      for (const [other, left] of names.entries())
        expect(await engine.namespace(left).get('k')).toBe(other <= at ? undefined : left);
    }
  });

  it.each([':', '::', '/', '.', '}', '{', '%3A'])(
    'isolates namespaces whose names and keys would collide if %j separated them',
    async (between) => {
      const engine = await ready(engineOf(options()));
      const name = randomUUID();
      const [one, other] = [engine.namespace<number>(name), engine.namespace<number>(`${name}${between}a`)];
      await one.set(`a${between}k`, 1, { tags: [`a${between}t`] });
      await other.set('k', 2, { tags: ['t'] });
      expect([await one.get(`a${between}k`), await other.get('k')]).toEqual([1, 2]);
      expect([await one.increment(`a${between}n`), await other.increment('n')]).toEqual([1, 1]);
      await other.invalidateTags('t');
      expect([await one.get(`a${between}k`), await other.get('k')]).toEqual([1, undefined]);
      await one.delete(`a${between}k`);
      await other.set('k', 3);
      await one.clear();
      expect(await other.get('k')).toBe(3);
    },
  );

  it('serves a stale value while it is reloaded, and after that failed', async () => {
    const engine = await ready(engineOf(options()));
    const space = spaceOf(engine, { ttl: 30, grace: 60_000 });
    const source = new Source(1);
    expect(await space.getOrSet('k', source.load)).toBe(1);
    await space.get('k');
    await sleep(200);
    source.value = new Error('away');
    expect(await space.getOrSet('k', source.load)).toBe(1);
    await until(() => source.asked === 2);
    await until(() => complaints.some((it) => it.includes('away')));
    expect(engine.statistics.staleHits).toBe(1);
    // The source is not asked again for a while.
    expect(await space.getOrSet('k', source.load)).toBe(1);
    expect(source.asked).toBe(2);
    expect(engine.statistics.staleHits).toBe(2);
    await sleep(1_050);
    source.value = 2;
    await until(async () => (await space.getOrSet('k', source.load)) === 2);
  });

  it.each(['takes long', 'fails'])('serves a stale value if its early refresh %s', async (how) => {
    const space = spaceOf(await ready(engineOf(options())), { ttl: 500, grace: 60_000 });
    const source = new Source(how === 'fails' ? new Error('away') : 2);
    await space.set('k', 1);
    await until(async () => (await space.find('k'))?.tier === 'l1');
    source.close();
    await until(async () => {
      expect(await space.getOrSet('k', source.load, { refreshBefore: 60_000 })).toBe(1);
      return source.asked > 0;
    });
    await sleep(550);
    const soft = how === 'fails' ? 60_000 : undefined;
    const asking = space.getOrSet('k', source.load, { timeouts: { soft } });
    if (how === 'fails') source.open();
    expect(await asking).toBe(1);
    // A load that took longer than the time to live may be repeated by any reader from here on.
    expect(source.asked).toBe(1);
    source.open();
    if (how !== 'fails') await until(async () => (await space.getOrSet('k', source.load)) === 2);
  });

  it('reports a failed load without its key, which may be personal data', async () => {
    const space = spaceOf(await ready(engineOf(options())), { ttl: 30, grace: 60_000, timeouts: { hard: 100 } });
    const key = `lovelace-${randomUUID()}@example.org`;
    await until(async () => {
      await space.getOrSet(key, () => 1);
      return (await space.get(key)) === 1;
    });
    const never = (): Promise<never> => new Promise(() => undefined);
    await until(async () => {
      expect(await space.getOrSet(key, never)).toBe(1);
      return complaints.length > 0;
    });
    expect(complaints.join()).toContain(`${space.name} could not be loaded`);
    expect(complaints.join()).not.toContain(key);
    await expect(space.getOrSet(`another ${key}`, never)).rejects.toThrow(/^(?!.*lovelace-).*no answer within 100 ms/);
  });

  it('retries a failing early refresh at most once per second', async () => {
    const space = spaceOf(await ready(engineOf(options())), { ttl: 60_000, refreshBefore: 120_000 });
    const source = new Source(1);
    await space.set('k', 1);
    await until(async () => (await space.find('k'))?.tier === 'l1');
    source.value = new Error('away');
    const startedAt = performance.now();
    await until(async () => {
      expect(await space.getOrSet('k', source.load)).toBe(1);
      return performance.now() > startedAt + 500;
    });
    expect(source.asked).toBeLessThanOrEqual(1 + (performance.now() - startedAt) / 1_000);
    source.value = 2;
    await until(async () => (await space.getOrSet('k', source.load)) === 2);
  });

  it('refreshes a value early even if it was written during the early refresh of an older one', async () => {
    const engine = await ready(engineOf(options()));
    const space = spaceOf(engine, { ttl: 60_000, refreshBefore: 120_000, timeouts: { hard: 60_000 } });
    const source = new Source(2);
    source.close();
    for (const refreshes of [1, 2]) {
      await space.set('k', refreshes);
      await until(async () => (await space.find('k'))?.tier === 'l1');
      await until(async () => {
        await space.getOrSet('k', source.load);
        return engine.statistics.earlyRefreshes === refreshes;
      });
    }
    source.open();
    await until(async () => (await space.get('k')) === 2);
  });

  it('gives no later caller an early refresh whose tag was invalidated, though who waits for it has other tags', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const source = new Source(2);
    source.close();
    await space.set('other', 1, { tags: ['t'] });
    await space.set('k', 1, { ttl: 600 });
    // Redis reports what is new as changed.
    await sleep(100);
    await until(async () => {
      await space.getOrSet('k', source.load, { refreshBefore: 1_000, tags: ['t'] });
      return source.asked > 0;
    });
    await sleep(600);
    const waiting = space.getOrSet('k', () => 3);
    await sleep(50);
    await space.invalidateTags('t');
    const later = space.getOrSet('k', () => 4);
    await sleep(50);
    source.open();
    expect([2, 3]).toContain(await waiting);
    expect([3, 4]).toContain(await later);
  });

  it('waits for the source up to the soft timeout before it serves a stale value', async () => {
    const space = spaceOf(await ready(engineOf(options())), { ttl: 1, grace: 60_000, timeouts: { soft: 10_000 } });
    const source = new Source(1);
    await space.getOrSet('k', source.load);
    await sleep(150);
    source.value = 2;
    expect(await space.getOrSet('k', source.load)).toBe(2);
    await sleep(150);
    source.close();
    source.value = 3;
    expect(await space.getOrSet('k', source.load, { timeouts: { soft: 20 } })).toBe(2);
    source.open();
  });

  it('does not serve a stale value whose grace period ends before the soft timeout', async () => {
    const space = spaceOf(await ready(engineOf(options())), { ttl: 1, grace: 400, timeouts: { soft: 800 } });
    await space.set('k', 'old');
    await space.find('k');
    await sleep(5);
    const source = new Source('new');
    source.close();
    const asking = space.getOrSet('k', source.load);
    await sleep(1_200);
    source.open();
    expect(await asking).toBe('new');
  });

  it('throws the error of the source if there is no stale value, and loads again on the next read', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const source = new Source(new Error('away'));
    await expect(space.getOrSet('k', source.load)).rejects.toThrow('away');
    source.value = 1;
    expect(await space.getOrSet('k', source.load)).toBe(1);
  });

  it('aborts a load at the hard timeout with a CacheLoadTimeout', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    let reason: unknown;
    const never = ({ signal }: { signal: AbortSignal }): Promise<never> =>
      new Promise(() => signal.addEventListener('abort', () => (reason = signal.reason)));
    const error = await space.getOrSet('k', never, { timeouts: { hard: 30 } }).catch((it: unknown) => it);
    expect(error).toBeInstanceOf(CacheLoadTimeout);
    const told = { name: 'CacheLoadTimeout', code: 'cache-load-timeout', namespace: space.name, timeoutMs: 30 };
    expect(error).toMatchObject({ ...told, message: expect.stringContaining('no answer within 30 ms') });
    expect(reason).toBe(error);
    expect(await space.getOrSet('k', () => 1)).toBe(1);
  });

  it('writes with compareAndSet only over an expected version', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const first = await space.compareAndSet('k', null, 1);
    expect(first).toMatchObject({ isWritten: true });
    const { version } = (await space.find('k'))!;
    expect(await space.compareAndSet('k', null, 2)).toEqual({ isWritten: false, version });
    expect(await space.compareAndSet('k', randomUUID(), 2)).toEqual({ isWritten: false, version });
    expect(await space.compareAndSet('k', [], 2)).toEqual({ isWritten: false, version });
    const expected = [version, [randomUUID(), version], [version, randomUUID()]];
    const tries = await Promise.all(expected.map((it, at) => space.compareAndSet('k', it, at)));
    expect(tries.filter((it) => it.isWritten)).toHaveLength(1);
    expect(await space.compareAndSet('k', anyVersion, 6)).toMatchObject({ isWritten: true });
    expect(await space.get('k')).toBe(6);
    await space.delete('k');
    for (const it of [version, [version], anyVersion])
      expect(await space.compareAndSet('k', it, 6)).toEqual({ isWritten: false, version: null });
    await space.set('k', 7, { tags: ['t'] });
    await space.invalidateTags('t');
    expect(await space.compareAndSet('k', null, 8)).toMatchObject({ isWritten: true });
  });

  it('deletes with compareAndDelete only an expected version', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const { version: old } = await space.set('k', 1);
    const { version } = await space.set('k', 2);
    for (const it of [old, null]) expect(await space.compareAndDelete('k', it)).toEqual({ isDeleted: false, version });
    const tries = await Promise.all(Array.from({ length: 4 }, () => space.compareAndDelete('k', version)));
    expect(tries.filter((it) => it.isDeleted)).toHaveLength(1);
    expect(await space.get('k')).toBeUndefined();
    expect(await space.compareAndDelete('k', anyVersion)).toEqual({ isDeleted: false, version: null });
    expect(await space.compareAndDelete('k', null)).toEqual({ isDeleted: true });
    const leased = await space.findOrLease('k', 10_000);
    await space.set('k', 3);
    await space.compareAndDelete('k', anyVersion);
    expect(await space.fillLeased('k', 'lease' in leased ? leased.lease! : '', 1)).toBeUndefined();
  });

  it('infers the type of values in its options, and of a value that may be absent', async () => {
    const space = engineOf(options()).namespace<{ price: number }>(randomUUID(), {
      refreshBefore: (it) => it?.price ?? 0,
    });
    const lasts = { ttlOf: (it: { price: number }) => it.price, timeouts: undefined };
    const { price } = await space.getOrSet('k', () => ({ price: 60_000 }), lasts);
    expect(price).toBe(60_000);
    const nothing = await space.getOrSet('none', async (): Promise<{ price: number } | undefined> => undefined);
    expect(nothing?.price).toBeUndefined();
    // @ts-expect-error: the type says that the source may have no value.
    expect(() => nothing.price).toThrow(TypeError);
  });

  it('writes the entries of setMany in order, each with its own options', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const tagged = { tags: ['t'] };
    const written = await space.setMany([
      ['twice', 1, tagged],
      ['twice', 2],
      ['tagged', 3, tagged],
    ]);
    expect(await space.find('twice')).toMatchObject({ value: 2, version: written[1]!.version });
    await space.invalidateTags('t');
    expect([await space.get('twice'), await space.get('tagged')]).toEqual([2, undefined]);
  });

  it('writes no entry of setMany if one of them is invalid', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const keys = Array.from({ length: 600 }, (_, at) => `k ${at}`);
    const refused: [key: string, value: unknown, options?: LoadOptions][] = [
      ['', 1],
      ['k', 1n],
      ['k', 1, { ttl: 0 }],
      ['k', 1, { tags: [''] }],
    ];
    for (const one of refused)
      await expect(space.setMany([...keys.map((key) => [key, 1] as const), one])).rejects.toThrow();
    expect((await space.getMany(keys)).size).toBe(0);
  });

  it('replaces undefined options by those of the namespace, and accepts an infinite time to live', async () => {
    const defaults = { ttl: 60_000, tags: ['t'] };
    const space = spaceOf(await ready(engineOf(options())), defaults);
    const nothingSaid = { ttl: undefined, grace: undefined, tags: undefined };
    await space.set('set', 1, nothingSaid);
    await space.getOrSet('loaded', () => 1, nothingSaid);
    await space.compareAndSet('compared', null, 1, nothingSaid);
    const keys = ['set', 'loaded', 'compared'];
    for (const { expiresAt } of (await space.getMany(keys)).values()) expect(expiresAt).not.toBeNull();
    await space.invalidateTags('t');
    expect((await space.getMany(keys)).size).toBe(0);
    expect(await space.set('endless', 1, { ttl: Number.POSITIVE_INFINITY })).toMatchObject({ expiresAt: null });
    expect(await space.find('endless')).toMatchObject({ value: 1, expiresAt: null });
  });

  it('takes timeouts that a call leaves out from the namespace, but its ttl instead of ttlOf', async () => {
    const space = spaceOf(await ready(engineOf(options())), { timeouts: { hard: 30 }, ttlOf: () => 1 });
    const never = (): Promise<never> => new Promise(() => undefined);
    await expect(space.getOrSet('never', never, { timeouts: { soft: 1 } })).rejects.toThrow('no answer within 30 ms');
    await space.getOrSet('k', () => 1, { ttl: 60_000 });
    await sleep(20);
    expect(await space.get('k')).toBe(1);
  });

  it('loads once even if other namespaces and tags are invalidated meanwhile', async () => {
    const engine = await ready(engineOf(options()));
    const [space, other] = [spaceOf(engine), spaceOf(engine)];
    const source = new Source(1);
    source.close();
    const asking: Promise<unknown>[] = [];
    for (let asked = 0; asked < 5; asked += 1) {
      asking.push(space.getOrSet('k', source.load, { tags: ['t'] }));
      await until(() => source.asked > 0);
      await Promise.all([other.clear(), space.invalidateTags('other')]);
    }
    source.open();
    await Promise.all(asking);
    expect(source.asked).toBe(1);
    // A new tag is reported as a change of it, perhaps while the value is being loaded.
    expect(engine.statistics.sharedLoads).toBeGreaterThan(0);
  });

  it('increments counters without losing concurrent updates, each for its time to live', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const counts = await Promise.all(Array.from({ length: 20 }, () => space.increment('k')));
    expect(counts.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, at) => at + 1));
    expect(await space.increment('k', -5)).toBe(15);
    expect(await space.increment('k', 0)).toBe(15);
    await space.increment('short', 1, { ttl: 50 });
    await sleep(200);
    expect(await space.increment('short', 1)).toBe(1);
    await expect(space.increment('k', 0.5)).rejects.toThrow(RangeError);
  });

  it.each([1, -1])('rejects increments beyond the safe integers, in steps of %s', async (step) => {
    const engine = await ready(engineOf(options()));
    const space = spaceOf(engine);
    const last = step * Number.MAX_SAFE_INTEGER;
    expect(await space.increment('k', last)).toBe(last);
    const { unavailable } = engine.statistics;
    for (const by of [step, last]) await expect(space.increment('k', by)).rejects.toThrow(RangeError);
    // It is not a failure of Redis.
    expect(engine.statistics.unavailable).toBe(unavailable);
    expect(await space.increment('k', -step)).toBe(last - step);
  });

  it('accepts one of two concurrent fills under the same lease', async () => {
    const space = spaceOf(await ready(engineOf(options())));
    const lease = await leaseOf(space);
    const filled = await Promise.all([1, 2].map((value) => space.fillLeased('k', lease, value)));
    expect(filled.filter((it) => it !== undefined)).toHaveLength(1);
    expect(await space.get('k')).toBe(filled[0] ? 1 : 2);
  });

  it('reports hits, loads, memory and hot keys in its statistics', async () => {
    const engine = await ready(engineOf(options()));
    const space = spaceOf(engine);
    await space.getOrSet('k', () => 1);
    for (let read = 0; read < 400; read += 1) await space.get('k');
    const { l1Hits, l2Hits, loads, l1, hotKeys } = engine.statistics;
    expect({ hits: l1Hits + l2Hits, loads }).toEqual({ hits: 400, loads: 1 });
    expect(l1Hits).toBeGreaterThan(0);
    expect(l1.bytes).toBeGreaterThan(0);
    expect(hotKeys[0]).toMatchObject({ namespace: space.name, key: 'k' });
  });
};

describe('an in-process cache', () => {
  keepsItsWord(() => ({}));

  it('expires values and counters on time even if the clock is set back', async () => {
    const engine = engineOf();
    const space = engine.namespace('n', { jitter: 0 });
    const set = space.set('k', 1, { ttl: 20, grace: 20 });
    await Promise.all([set, space.increment('count', 1, { ttl: 20 })]);
    const before = Date.now() - 3_600_000;
    const clock = jest.spyOn(Date, 'now').mockReturnValue(before);
    try {
      await sleep(100);
      const failing = space.getOrSet('k', () => Promise.reject(new Error('away')));
      await expect(failing).rejects.toThrow('away');
      expect(await space.increment('count')).toBe(1);
    } finally {
      clock.mockRestore();
    }
  });

  it.each([Number.NaN, -1, '64mb' as unknown as number])('rejects a maxBytes of %s', (maxBytes) => {
    expect(() => new CacheEngine({ maxBytes })).toThrow(`maxBytes is ${maxBytes}`);
  });

  it('stays within maxBytes by evicting entries', async () => {
    const maxBytes = 8_000_000;
    const engine = engineOf({ maxBytes });
    const space = engine.namespace<unknown>('n');
    const text = engine.namespace<string>('t', { codec: textCodec });
    globalThis.gc?.();
    for (let at = 0; at < 40_000; at += 1) {
      await space.set(`key ${at}`, { at, name: `name ${at}`, list: [at, at + 1], deep: { at: `ü ${at}` } });
      await text.set(`key ${at}`, `ключ ${at} `.repeat(4));
    }
    const { l1 } = engine.statistics;
    expect(l1.bytes).toBeLessThanOrEqual(maxBytes);
    expect(l1.evictions).toBeGreaterThan(1_000);
    expect(await space.get('key 39999')).toMatchObject({ at: 39_999 });
  });

  it('spends no more than a few times as much on a value nested 100,000 times as on a flat one of the same size', async () => {
    const levels = 100_000;
    const deep = '['.repeat(levels) + ']'.repeat(levels);
    const flat = `[${Array.from({ length: Math.floor((2 * levels) / 3) }, () => '[]').join()}]`;
    const space = engineOf().namespace<unknown>('n', { codec: { encode: String, decode: jsonCodec.decode } });
    const cpuOf = async (text: string): Promise<number> => {
      const before = process.cpuUsage();
      await space.set('k', text);
      expect(Array.isArray(await space.get('k'))).toBe(true);
      const { user, system } = process.cpuUsage(before);
      return user + system;
    };
    const costs: { deep: number; flat: number }[] = [];
    for (let round = 0; round < 5; round += 1) costs.push({ deep: await cpuOf(deep), flat: await cpuOf(flat) });
    const least = (which: 'deep' | 'flat'): number => Math.min(...costs.map((it) => it[which]));
    expect(least('deep')).toBeLessThan(8 * least('flat'));
    // JSON.stringify recurses.
    await expect(engineOf().namespace<unknown>('n').set('k', JSON.parse(deep))).rejects.toThrow(RangeError);
  });

  it('clears 100,000 entries in less than a hundredth of the time to write them', async () => {
    const engine = engineOf({ maxBytes: 100_000_000 });
    const space = engine.namespace<number>('n');
    const shareOfTime = async (): Promise<number> => {
      const startedAt = performance.now();
      for (let at = 0; at < 100_000; at += 1) await space.set(`key ${at}`, at);
      const filledAt = performance.now();
      await space.clear();
      return (performance.now() - filledAt) / (filledAt - startedAt);
    };
    // A hundredth is a few milliseconds, for which another process may use the CPU, but hardly five times.
    const shares: number[] = [];
    while (shares.length < 5 && !shares.some((it) => it < 1 / 100)) shares.push(await shareOfTime());
    expect(Math.min(...shares)).toBeLessThan(1 / 100);
    expect(await space.get('key 99999')).toBeUndefined();
  });

  it('counts leases towards maxBytes, in addition to values, tags and counters', async () => {
    const maxBytes = 2_000_000;
    const engine = engineOf({ maxBytes });
    const space = engine.namespace<string>('n');
    for (let at = 0; at < 2_000; at += 1) {
      await space.set(`key ${at}`, 'x'.repeat(1_000), { tags: [`tag ${at}`] });
      await space.increment(`counter ${at}`);
    }
    const before = engine.statistics.l1.bytes;
    for (let at = 0; at < 2_000; at += 1) await space.findOrLease(`lease ${at}`, 60_000);
    const { bytes } = engine.statistics.l1;
    expect(bytes).toBeGreaterThan(before + 50_000);
    expect(bytes).toBeLessThanOrEqual(maxBytes);
  });

  it('evicts the oldest leases to grant new ones', async () => {
    const engine = engineOf({ maxBytes: 300_000 });
    const space = engine.namespace<string>('n');
    const leases: string[] = [];
    for (let at = 0; at < 500; at += 1) {
      const leased = await space.findOrLease(`key ${at}`, 60_000);
      if (!('lease' in leased) || leased.lease === null) throw new Error(`no lease on key ${at}`);
      leases.push(leased.lease);
    }
    expect(await space.findOrLease('key 499', 60_000)).toEqual({ lease: null });
    const { bytes, leasesEvicted } = engine.statistics.l1;
    expect(leasesEvicted).toBeGreaterThan(300);
    expect(bytes).toBeLessThanOrEqual(300_000);
    // Its lease was evicted, so it is rejected like a load that takes too long.
    expect(await space.fillLeased('key 0', leases[0]!, 'late')).toBeUndefined();
    expect(await space.fillLeased('key 499', leases[499]!, 'in time')).toBeDefined();
    expect(await space.get('key 499')).toBe('in time');
  });

  it('does not keep a value larger than maxBytes, and removes the previous one', async () => {
    const space = engineOf({ maxBytes: 400_000 }).namespace<string>('n');
    await space.set('k', 'small');
    expect(await space.get('k')).toBe('small');
    await space.set('k', 'x'.repeat(1_000_000));
    expect(await space.find('k')).toBeUndefined();
  });
});

const describeRedis = await redisOrSkip(describe);

describeRedis('a cache in the process and in Redis', () => {
  let redis: RedisServer;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis?.stop());

  const options = (): CacheEngineOptions => ({ redis: { url: redis.url, deadlineMs: 5_000, silenceMs: 5_000 } });
  keepsItsWord(options);
});
