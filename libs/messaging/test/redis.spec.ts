import { setTimeout as sleep } from 'node:timers/promises';
import { Admission } from '#admission';
import { CleaveError } from '#contracts';
import { eventually as repeated, RedisProxy, redisOrSkip, startRedis } from '#testing';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { createClient } from '@redis/client';
import { Messenger, type Address, type ContractClient } from '../src/index.js';
import { group, largestAtOnce, longestQueue, open, queueKeys, redisConnection, shut } from '../src/redis-queue.js';
import { sample } from './contract-suite.js';
import { loggedErrors, loggedWarnings, probeContract, startInstance, type Instance } from './probe.js';

const codeOf = (call: Promise<unknown>): Promise<unknown> =>
  call.then(
    () => 'answered',
    (error: CleaveError) => error.code,
  );

async function eventually<Result>(attempt: () => Promise<Result | undefined>): Promise<Result> {
  for (;;) {
    const result = await attempt();
    if (result !== undefined) return result;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const describeWithRedis = await redisOrSkip(describe);

describeWithRedis('requests over Redis', () => {
  const keys = queueKeys('probe');
  let redis: Awaited<ReturnType<typeof startRedis>>;
  let at: Address;
  let hands: ReturnType<typeof handsOn>;
  let messenger: Messenger;
  let client: ContractClient<typeof probeContract>;
  const running: Instance[] = [];

  const handsOn = (url: string) => createClient({ url }).on('error', () => undefined);
  const start = async (): Promise<Instance> => {
    const instance = await startInstance([at]);
    running.push(instance);
    return instance;
  };
  /** Simulates an instance that was killed: it takes requests and does nothing with them. */
  const pretendInstance = async (name: string, forMs: number): Promise<void> => {
    const until = Date.now() + forMs;
    await hands.zAdd(keys.accepting, { score: until, value: name });
    await hands.zAdd(keys.alive, { score: until, value: name });
    await hands.xGroupCreate(keys.requests, group, '0', { MKSTREAM: true }).catch(() => undefined);
  };
  const waitingRequest = (operation: string, request: object) => ({
    pattern: `probe.${operation}`,
    meta: JSON.stringify({ tenant: 'default', remainingMs: 10_000 }),
    body: JSON.stringify(request),
    channel: 'nobody',
    id: '1',
  });
  /** The id of an entry contains its time of writing: `1-1` is in 1970. */
  const writeRequest = (operation: string, request: object, entryId = '*') =>
    hands.xAdd(keys.requests, entryId, waitingRequest(operation, request));
  /** A transaction that begins by cutting the connection of the only instance that reads. */
  const cutReader = async () => {
    const connections = (await hands.sendCommand(['CLIENT', 'LIST'])) as unknown as string;
    const reader = /id=(\d+) [^\n]*name=cleave-reads-probe/.exec(connections)?.[1] as string;
    return hands.multi().addCommand(['CLIENT', 'KILL', 'ID', reader]);
  };
  /** How often Redis has carried out a command since its statistics were reset. */
  const timesCalled = async () => {
    const statistics = await hands.info('commandstats');
    return (command: string) => Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(statistics)?.[1]);
  };
  /**
   * Two further signs of life of each instance. What belongs to the first one, such as a check of pending requests, may have
   * begun before the last instance was there.
   */
  const signsOfLife = async (): Promise<void> => {
    for (const look of ['first', 'second']) {
      const before = await hands.zScore(keys.alive, (await hands.zRange(keys.alive, -1, -1))[0] as string);
      await eventually(async () => {
        const scores = await hands.zRangeWithScores(keys.alive, 0, -1);
        return scores.every(({ score }) => score > (before as number)) ? look : undefined;
      });
    }
  };
  const queueLength = (length: number): Promise<true> =>
    eventually(async () => ((await hands.xLen(keys.requests)) === length ? true : undefined));

  beforeAll(async () => {
    redis = await startRedis();
    at = { scheme: 'redis', url: redis.url };
    hands = handsOn(redis.url);
    await hands.connect();
  });
  afterAll(async () => {
    hands.destroy();
    await redis.stop();
  });
  beforeEach(async () => {
    await hands.flushAll();
    loggedErrors.length = 0;
    messenger = new Messenger();
    client = messenger.clientFor(probeContract, at);
  });
  const closeAll = async (): Promise<void> => {
    await messenger.onApplicationShutdown();
    await Promise.all(running.splice(0).map((instance) => instance.close()));
  };
  afterEach(closeAll);

  it('leave no entries or consumers behind in Redis', async () => {
    const instance = await start();
    await Promise.all(Array.from({ length: 50 }, (_, id) => client.call('once', { id: `${id}` })));
    expect(await hands.xLen(keys.requests)).toBe(0);
    expect((await hands.xPending(keys.requests, group)).pending).toBe(0);
    await instance.close();
    expect(await hands.xInfoConsumers(keys.requests, group)).toEqual([]);
    expect(await hands.zCard(keys.alive)).toBe(0);
    expect(loggedErrors).toEqual([]);
  });

  it('that waited past their deadline are not carried out', async () => {
    await writeRequest('once', { id: 'stale' }, '1-1');
    const { journal } = await start();
    await client.call('once', { id: 'fresh' });
    await queueLength(0);
    expect(journal.carriedOut).toEqual(['fresh']);
  });

  it('are answered in time even if the local clock is set ahead by an hour', async () => {
    await start();
    await client.call('ping', undefined);
    const now = Date.now.bind(Date);
    const clock = jest.spyOn(Date, 'now').mockImplementation(() => now() + 3_600_000);
    try {
      expect(await codeOf(client.call('ping', undefined))).toBe('answered');
    } finally {
      clock.mockRestore();
    }
  });

  it('are not refused as late after Redis has been frozen for a moment', async () => {
    const proxy = await RedisProxy.start(redis.port);
    try {
      running.push(await startInstance([{ scheme: 'redis', url: proxy.url }]));
      await client.call('ping', undefined);
      const shown = async () => (await hands.zRangeWithScores(keys.alive, 0, -1))[0]!.score;
      const afterFreeze = async () => {
        // Begins just after a sign of life, so that the answer to the next one takes long.
        const before = await shown();
        await eventually(async () => ((await shown()) > before ? true : undefined));
        proxy.freeze();
        await sleep(1_800);
        proxy.thaw();
        await sleep(50);
        // The clock would be wrong by 400 ms and corrected 200 ms later, so the deadline cannot be longer.
        return codeOf(client.call('ping', undefined, { deadlineMs: 300 }));
      };
      // A busy machine may take longer than the deadline by itself, but hardly three times.
      const outcomes: unknown[] = [];
      while (outcomes.length < 3 && !outcomes.includes('answered')) outcomes.push(await afterFreeze());
      expect(outcomes).toContain('answered');
    } finally {
      await Promise.all(running.splice(0).map((instance) => instance.close()));
      await proxy.stop();
    }
  });

  it('that a dead instance had read are repeated if they are idempotent, and refused otherwise', async () => {
    await pretendInstance('dead', 60_000);
    await writeRequest('wait', { id: 'late' }, '1-1');
    const safe = client.call('wait', { id: 'safe' });
    const unsafe = codeOf(client.call('once', { id: 'unsafe' }));
    await queueLength(3);
    await hands.xReadGroup(group, 'dead', { key: keys.requests, id: '>' });
    await hands.del([keys.accepting, keys.alive]);
    const { journal } = await start();
    journal.letGo('late');
    journal.letGo('safe');
    expect(await safe).toBe('safe');
    expect(await unsafe).toBe('unavailable');
    await queueLength(0);
    expect(journal.carriedOut).toEqual(['safe']);
  });

  it('that a slow but live instance has read are not taken over', async () => {
    const one = await start();
    const held = client.call('wait', { id: 'held' });
    await one.journal.arrived('held');
    const two = await start();
    await signsOfLife();
    expect(two.journal.carriedOut).toEqual([]);
    one.journal.letGo('held');
    expect(await held).toBe('held');
  });

  it('that were lost with a connection on delivery are carried out after the reconnect', async () => {
    const { journal } = await start();
    await client.call('ping', undefined);
    const [consumer] = await hands.xInfoConsumers(keys.requests, group);
    // Delivers a request to this consumer that never arrives, as if the connection had broken on the way.
    const cut = (await cutReader())
      .xAdd(keys.requests, '*', waitingRequest('once', { id: 'on the way' }))
      .xReadGroup(group, consumer?.name as string, { key: keys.requests, id: '>' });
    await cut.exec();
    await queueLength(0);
    expect(journal.carriedOut).toEqual(['on the way']);
  });

  it('that were taken over but lost with a connection are carried out only if they are idempotent', async () => {
    const { journal } = await start();
    await client.call('ping', undefined);
    const [consumer] = await hands.xInfoConsumers(keys.requests, group);
    const ids = ['900000000000000-1', '900000000000000-2'];
    const cut = (await cutReader())
      .xAdd(keys.requests, ids[0] as string, waitingRequest('once', { id: 'unsafe' }))
      .xAdd(keys.requests, ids[1] as string, waitingRequest('wait', { id: 'safe' }))
      .xReadGroup(group, 'dead', { key: keys.requests, id: '>' })
      .xClaim(keys.requests, group, consumer?.name as string, 0, ids);
    await cut.exec();
    journal.letGo('safe');
    await queueLength(0);
    expect(journal.carriedOut).toEqual(['safe']);
  });

  it.each([
    ['small', 1, false],
    ['large', 10_000, false],
    ['small, and another instance was killed three seconds ago', 1, true],
  ])(
    'are all answered or refused when the last instance shuts down, and only answered ones are carried out: %s',
    async (_, length, isOtherKilled) => {
      const instance = await start();
      if (isOtherKilled) await pretendInstance('killed', 2_000);
      await client.call('ping', undefined);
      const ids = Array.from({ length: 600 }, (_, id) => `${id}`.padStart(length, '0'));
      const calls = Promise.all(ids.map((id) => codeOf(client.call('once', { id }))));
      await eventually(async () => (instance.journal.carriedOut.length > 0 ? true : undefined));
      await instance.close();
      const became = await calls;
      for (const what of became) expect(['answered', 'unavailable']).toContain(what);
      const answered = ids.filter((_, index) => became[index] === 'answered');
      expect(instance.journal.carriedOut.sort()).toEqual(answered.sort());
    },
  );

  it('beyond the limit of an operation are refused, while those of other operations are answered', async () => {
    const { app, journal } = await start();
    const { limit } = app.get(Admission, { strict: false }).limiterOf('probe.wait');
    const ids = Array.from({ length: limit }, (_, id) => `${id}`);
    const held = ids.map((id) => client.call('wait', { id }));
    await Promise.all(ids.map((id) => journal.arrived(id)));
    const refusal: unknown = await client.call('wait', { id: 'one more' }).catch((error: unknown) => error);
    expect(refusal).toMatchObject({ code: 'unavailable', extensions: { retry_after_ms: expect.any(Number) } });
    expect(await codeOf(client.call('ping', undefined))).toBe('answered');
    for (const id of ids) journal.letGo(id);
    expect(await Promise.all(held)).toEqual(ids);
  });

  it('are mostly answered by another instance while one is at its limit', async () => {
    const full = await start();
    await start();
    const limiter = full.app.get(Admission, { strict: false }).limiterOf('probe.ping');
    while (!limiter.refuses()) limiter.enter();
    await signsOfLife();
    const became: unknown[] = [];
    const caller = async (): Promise<void> => {
      for (let calls = 0; calls < 100; calls += 1) became.push(await codeOf(client.call('ping', undefined)));
    };
    await Promise.all([caller(), caller(), caller(), caller()]);
    // It shares the load with the other one, and probes from time to time whether it has room again.
    expect(became.filter((it) => it !== 'answered').length).toBeLessThan(100);
  });

  it('are read at full speed by a single instance that has failed several times and has not succeeded since', async () => {
    const { promise: isAsked, resolve } = Promise.withResolvers<void>();
    const canServe = async (): Promise<boolean> => {
      resolve();
      return true;
    };
    const instance = await startInstance([at], 'one', [], undefined, canServe);
    running.push(instance);
    const { journal } = instance;
    journal.onArrival = () => {
      throw new CleaveError('unavailable', 'it has lost its database');
    };
    for (let failed = 0; failed < 5; failed += 1)
      expect(await codeOf(client.call('wait', { id: 'failing' }))).toBe('unavailable');
    await isAsked;
    journal.onArrival = () => undefined;
    const ids = Array.from({ length: 80 }, (_, id) => `${id}`);
    const calls = ids.map((id) => client.call('wait', { id }, { deadlineMs: 20_000 }));
    // None of them succeeds before all of them are being carried out.
    void Promise.all(ids.map((id) => journal.arrived(id))).then(() => ids.forEach((id) => journal.letGo(id)));
    expect(await Promise.all(calls)).toEqual(ids);
  });

  it('are left only to another instance that accepts requests, does not fail, and shows that it is alive', async () => {
    const connection = redisConnection(redis.url, 'shows-life');
    await open(connection);
    try {
      const others = async () => {
        const found: number[] = [];
        for (const state of ['accepting', 'failing', 'failing', 'accepting'] as const)
          found.push((await connection.showLife(keys, 'this one', state)).others);
        return found;
      };
      const always = (count: number) => Array<number>(4).fill(count);
      expect(await others()).toEqual(always(0));
      // The last sign of life of the one that was killed is three seconds old.
      await pretendInstance('killed', 2_000);
      expect(await others()).toEqual(always(0));
      await pretendInstance('other', 60_000);
      expect(await others()).toEqual(always(1));
      await hands.zAdd(keys.failing, { score: Date.now() + 60_000, value: 'other' });
      expect(await others()).toEqual(always(0));
      await connection.showLife(keys, 'this one', 'leaving');
      expect(await hands.zRange(keys.accepting, 0, -1)).not.toContain('this one');
    } finally {
      shut(connection);
    }
  });

  it('that Redis does not accept fail with its reason, even if it is in a transaction', async () => {
    await pretendInstance('other', 60_000);
    await hands.set(keys.requests, 'no stream');
    for (const length of [1, 20_000])
      await expect(client.call('flood', 'x'.repeat(length))).rejects.toMatchObject({
        cause: { message: expect.stringContaining('WRONGTYPE') },
      });
  });

  it('without a channel for the reply do not affect others', async () => {
    await start();
    await hands.xAdd(keys.requests, '*', { pattern: 'probe.ping', meta: '{"remainingMs":10000}', body: '' });
    expect(await Promise.all(Array.from({ length: 5 }, () => codeOf(client.call('ping', undefined))))).toEqual(
      Array<string>(5).fill('answered'),
    );
    await queueLength(0);
  });

  it('that a dead instance had read are taken over in time, even 900 at once', async () => {
    await pretendInstance('dead', 60_000);
    const ids = Array.from({ length: 900 }, (_, id) => `${id}`);
    const calls = ids.map((id) => client.call('wait', { id }, { deadlineMs: 20_000 }));
    await queueLength(ids.length);
    await hands.xReadGroup(group, 'dead', { key: keys.requests, id: '>' });
    await hands.del([keys.accepting, keys.alive]);
    const { journal } = await start();
    for (const id of ids) journal.letGo(id);
    expect(await Promise.all(calls)).toEqual(ids);
  });

  it('that a dead instance had read are taken over only as fast as the limiter admits them', async () => {
    await pretendInstance('dead', 60_000);
    const ids = Array.from({ length: 300 }, (_, id) => `${id}`);
    const calls = ids.map((id) => client.call('wait', { id }));
    await queueLength(ids.length);
    await hands.xReadGroup(group, 'dead', { key: keys.requests, id: '>' });
    const { app, journal } = await start();
    const limiter = app.get(Admission, { strict: false }).limiterOf('probe.wait');
    const held: number[] = [];
    // The limit falls if calls take long: if all its places stayed held then, none would ever be free for a call.
    const keepTwoFree = (): void => {
      while (held.length < limiter.limit - 2) held.push(limiter.enter());
      while (held.length > limiter.limit - 2) limiter.leave(held.pop() as number);
    };
    keepTwoFree();
    for (const id of ids) journal.letGo(id);
    await hands.del([keys.accepting, keys.alive]);
    const keeping = setInterval(keepTwoFree, 10);
    expect(await Promise.all(calls).finally(() => clearInterval(keeping))).toEqual(ids);
    expect(limiter.shed).toBe(0);
  });

  it('of one turn of the event loop are sent together, and so are their replies', async () => {
    await start();
    await client.call('ping', undefined);
    await hands.configResetStat();
    await Promise.all(Array.from({ length: 30 }, () => client.call('ping', undefined)));
    const times = await timesCalled();
    expect(times('xadd')).toBe(30);
    expect(times('evalsha')).toBeLessThan(5);
    expect(times('publish')).toBeLessThan(15);
    expect(times('xack')).toBe(times('publish'));
  });

  it('are sent together up to the size limit of one command, including metadata and errors', async () => {
    await start();
    await client.call('ping', undefined);
    await hands.configResetStat();
    const metadata = { idempotencyKey: '☃'.repeat(255) };
    await Promise.all(Array.from({ length: 600 }, () => client.call('ping', undefined, { metadata })));
    // About 900 bytes each.
    expect((await timesCalled())('evalsha')).toBeGreaterThanOrEqual(2);

    await hands.configResetStat();
    const wrong = { ...sample, nested: { moments: Array(500).fill('x'), deep: { empty: [] } } } as never;
    const refusals = await Promise.all(
      Array.from({ length: 30 }, () => client.call('echo', wrong).catch((error: CleaveError) => error)),
    );
    const bytes = refusals.reduce((sum, it) => sum + JSON.stringify((it as CleaveError).extensions).length, 0);
    expect((await timesCalled())('xack')).toBeGreaterThanOrEqual(bytes / largestAtOnce);
  });

  it('of an older version without frames are answered in its format, and its replies are understood', async () => {
    await start();
    const listener = await hands.duplicate().connect();
    const heard = new Promise((resolve) => void listener.subscribe('cleave:replies:old', resolve));
    const meta = JSON.stringify({ tenant: 'default', remainingMs: 10_000 });
    const channel = 'cleave:replies:old';
    await hands.xAdd(keys.requests, '*', { pattern: 'probe.once', meta, body: '{"id":"1"}', channel, id: '7' });
    expect(JSON.parse((await heard) as string)).toEqual({ id: '7', response: '{"by":"one"}' });
    listener.destroy();

    await running[0]?.close();
    await hands.del(keys.requests);
    await pretendInstance('old', 60_000);
    const reply = client.call('wait', { id: 'asked of an old one' });
    await queueLength(1);
    const [entry] = (await hands.xRange(keys.requests, '-', '+')) ?? [];
    const { id, channel: to } = entry!.message as { id: string; channel: string };
    await hands.publish(to, JSON.stringify({ id, response: '"told"' }));
    expect(await reply).toBe('told');
  });

  describe.each([
    ['small', 10],
    ['large', 20_000],
  ])('that are %s', (_, length) => {
    const text = 'x'.repeat(length);
    const firstOfTwo = `first${text}`;

    it('are refused at once when too many wait, and only those that are too many', async () => {
      await pretendInstance('stuck', 60_000);
      const many = hands.multi();
      for (let entry = 1; entry < longestQueue; entry += 1) many.xAdd(keys.requests, '*', { some: 'thing' });
      await many.execAsPipeline();
      const first = client.call('flood', firstOfTwo).catch(() => undefined);
      await expect(client.call('flood', text)).rejects.toThrow('Too many requests to probe are waiting');
      await expect(client.call('flood', text)).rejects.toThrow('Too many requests to probe are waiting');
      expect(await hands.xLen(keys.requests)).toBe(longestQueue);
      const [last] = (await hands.xRevRange(keys.requests, '+', '-', { COUNT: 1 })) ?? [];
      expect(last?.message['body']).toBe(JSON.stringify(firstOfTwo));
      await messenger.onApplicationShutdown();
      await first;
    });

    it('are refused at once while no instance accepts requests, and never carried out', async () => {
      await expect(client.call('flood', text)).rejects.toThrow('No instance of probe takes requests');
      expect(await hands.xLen(keys.requests)).toBe(0);
      const instance = await start();
      expect(await client.call('flood', text)).toBe(text);
      expect(instance.journal.carriedOut).toEqual(['flood']);
    });
  });

  it('that are malformed are dropped and logged', async () => {
    await start();
    await hands.xAdd(keys.requests, '*', { some: 'thing' });
    await hands.xAdd(keys.requests, '*', { pattern: 'probe.once', meta: '{', body: '', channel: 'c', id: '1' });
    await queueLength(0);
    expect(await codeOf(client.call('ping', undefined))).toBe('answered');
    expect(loggedErrors).toEqual(Array(2).fill(expect.stringContaining('malformed request')));
  });

  it('are answered again after Redis was flushed', async () => {
    await start();
    await client.call('ping', undefined);
    await hands.flushAll();
    await eventually(async () => ((await codeOf(client.call('ping', undefined))) === 'answered' ? true : undefined));
  });

  it('are answered by an instance that started while Redis was loading its data and its connection broke', async () => {
    const slow = await startRedis();
    const proxy = await RedisProxy.start(slow.port);
    const handsOnSlow = handsOn(slow.url);
    const patient = redisConnection(slow.url, 'patient').on('error', () => undefined);
    let timesConnected = 0;
    patient.on('ready', () => (timesConnected += 1));
    try {
      await handsOnSlow.connect();
      // Makes it load the data of a primary: 20,000 keys of half a millisecond, longer than the tolerated silence.
      for (let at = 0; at < 20_000; at += 1_000)
        await Promise.all(Array.from({ length: 1_000 }, (_, key) => hands.set(`filling ${at + key}`, 'x')));
      await handsOnSlow.configSet({
        'replica-read-only': 'no',
        'key-load-delay': '500',
        'loading-process-events-interval-bytes': '1024',
      });
      await handsOnSlow.sendCommand(['REPLICAOF', '127.0.0.1', String(redis.port)]);
      await eventually(async () => ((await handsOnSlow.info('persistence')).includes('loading:1') ? true : undefined));
      await open(patient);
      const elsewhere: Address = { scheme: 'redis', url: proxy.url };
      const started = startInstance([elsewhere]).then((instance) => void running.push(instance));
      await sleep(500);
      proxy.down();
      await sleep(500);
      proxy.up();
      await started;
      const { call } = messenger.clientFor(probeContract, elsewhere);
      expect(await codeOf(call('ping', undefined))).toBe('answered');
      // A refusal while it loads counts as a sign of life.
      expect(timesConnected).toBe(1);
    } finally {
      await closeAll();
      patient.destroy();
      handsOnSlow.destroy();
      await proxy.stop();
      await slow.stop();
    }
  });

  it('are answered by an instance that started while its address led to a replica', async () => {
    const replica = await startRedis();
    const handsOnReplica = handsOn(replica.url);
    const proxy = await RedisProxy.start(replica.port);
    try {
      await handsOnReplica.connect();
      await handsOnReplica.sendCommand(['REPLICAOF', '127.0.0.1', String(redis.port)]);
      const elsewhere: Address = { scheme: 'redis', url: proxy.url };
      let hasStarted = false;
      const started = startInstance([elsewhere]).then((instance) => {
        hasStarted = true;
        running.push(instance);
      });
      await Promise.race([started, sleep(1_000)]);
      expect(hasStarted).toBe(false);
      proxy.port = redis.port;
      await started;
      const { call } = messenger.clientFor(probeContract, elsewhere);
      expect(await codeOf(call('ping', undefined))).toBe('answered');
    } finally {
      await closeAll();
      handsOnReplica.destroy();
      await proxy.stop();
      await replica.stop();
    }
  });

  it('are answered after malformed replies were published to the client', async () => {
    const { journal } = await start();
    const held = client.call('wait', { id: 'held' });
    await journal.arrived('held');
    const [channel] = await hands.pubSubChannels('cleave:answers:*');
    for (const nonsense of ['nonsense', '{', '4#null', '3#1', '']) await hands.publish(channel as string, nonsense);
    journal.letGo('held');
    expect(await held).toBe('held');
    expect(await codeOf(client.call('ping', undefined))).toBe('answered');
  });

  describe('to an address that leads elsewhere by now', () => {
    let proxy: RedisProxy;
    let ask: () => Promise<unknown>;
    beforeEach(async () => {
      proxy = await RedisProxy.start(redis.port);
      const there: Address = { scheme: 'redis', url: proxy.url };
      running.push(await startInstance([there]));
      const { call } = messenger.clientFor(probeContract, there);
      ask = () => codeOf(call('ping', undefined, { deadlineMs: 500 }));
      await repeated(async () => expect(await ask()).toBe('answered'));
    });
    afterEach(async () => {
      await closeAll();
      await proxy.stop();
    });

    it('are answered over new connections when the existing ones are half-open', async () => {
      proxy.strand();
      await repeated(async () => expect(await ask()).toBe('answered'), 20_000);
    });

    it('are answered over the new primary when the old one has become its replica', async () => {
      const primary = await startRedis();
      try {
        await hands.sendCommand(['REPLICAOF', '127.0.0.1', String(primary.port)]);
        proxy.port = primary.port;
        await repeated(async () => expect(await ask()).toBe('answered'), 20_000);
      } finally {
        await hands.sendCommand(['REPLICAOF', 'NO', 'ONE']);
        await primary.stop();
      }
    });
  });

  describe('that were answered, after a failover', () => {
    let replica: typeof redis;
    let handsOnReplica: ReturnType<typeof handsOn>;
    /** Between the primary and its replica. */
    let replication: RedisProxy;
    /** Leads to the primary, whichever that is. */
    let entrance: RedisProxy;
    let elsewhere: Address;

    beforeEach(async () => {
      replica = await startRedis();
      handsOnReplica = handsOn(replica.url);
      [replication, entrance] = [await RedisProxy.start(redis.port), await RedisProxy.start(redis.port)];
      elsewhere = { scheme: 'redis', url: entrance.url };
      await handsOnReplica.connect();
      await handsOnReplica.sendCommand(['REPLICAOF', '127.0.0.1', new URL(replication.url).port]);
    });
    afterEach(async () => {
      await closeAll();
      handsOnReplica.destroy();
      await Promise.all([replication.stop(), entrance.stop()]);
      await replica.stop();
    });

    const starting = async (): Promise<Instance> => {
      const instance = await startInstance([elsewhere]);
      running.push(instance);
      return instance;
    };
    const isSeen = async (requests: number, pending: number): Promise<true | undefined> => {
      const seen = await handsOnReplica.xPending(keys.requests, group).catch(() => undefined);
      return (await handsOnReplica.xLen(keys.requests)) === requests && seen?.pending === pending ? true : undefined;
    };

    it.each(['before it was delivered', 'before it was acknowledged'])(
      'are not carried out again by a new primary that saw the last one %s, unless they are idempotent',
      async (moment) => {
        const { call } = messenger.clientFor(probeContract, elsewhere);
        const [once, safe] = [{ id: 'once' }, { id: 'safe' }];
        let instance: Instance | undefined;
        if (moment.includes('delivered')) await pretendInstance('never', 60_000);
        else instance = await starting();
        const asked = [call('waitOnce', once), call('wait', safe)];
        await eventually(() => isSeen(2, instance ? 2 : 0));
        replication.freeze();
        const { journal } = (instance ??= await starting());
        for (const { id } of [once, safe]) journal.letGo(id);
        expect(await Promise.all(asked)).toEqual(['once', 'safe']);
        await queueLength(0);
        await handsOnReplica.sendCommand(['REPLICAOF', 'NO', 'ONE']);
        entrance.down();
        entrance.port = replica.port;
        entrance.up();
        await repeated(async () => expect(await handsOnReplica.xLen(keys.requests)).toBe(0), 20_000);
        expect(journal.carriedOut.filter((id) => id === 'once')).toHaveLength(1);
        expect(journal.carriedOut.filter((id) => id === 'safe')).toHaveLength(2);
        // New ones are carried out.
        await repeated(async () => expect(await codeOf(call('once', { id: 'new' }))).toBe('answered'), 20_000);
      },
    );

    it('are not carried out again by a new primary while the reader still waits at the old one', async () => {
      const { journal } = await starting();
      const asked = client.call('waitOnce', { id: 'once' });
      await eventually(() => isSeen(1, 1));
      replication.freeze();
      journal.letGo('once');
      expect(await asked).toBe('once');
      await queueLength(0);
      await handsOnReplica.sendCommand(['REPLICAOF', 'NO', 'ONE']);
      entrance.port = replica.port;
      const connections = (await hands.sendCommand(['CLIENT', 'LIST'])) as unknown as string;
      const [, id] = /id=(\d+) [^\n]*name=cleave-answers-/.exec(connections)!;
      await hands.sendCommand(['CLIENT', 'KILL', 'ID', id!]);
      await repeated(async () => expect(await handsOnReplica.xLen(keys.requests)).toBe(0), 60_000);
      expect(journal.carriedOut).toEqual(['once']);
    });
  });

  it('are carried out although the user may not ask Redis which server it is, which is logged', async () => {
    await hands.sendCommand(['ACL', 'SETUSER', 'limited', 'on', '>secret', '~*', '&*', '+@all', '-info']);
    const there: Address = { scheme: 'redis', url: redis.url.replace('://', '://limited:secret@') };
    running.push(await startInstance([there]));
    const { call } = messenger.clientFor(probeContract, there);
    expect(await codeOf(call('ping', undefined))).toBe('answered');
    expect(loggedWarnings.join()).toContain('Allow its user INFO');
    expect(await codeOf(call('once', { id: 'limited' }))).toBe('answered');
    // Those of a user who may ask, too.
    expect(await codeOf(client.call('once', { id: 'other' }))).toBe('answered');
  });

  it('leave no connection open that is closed while it is being made', async () => {
    const hasty = redisConnection(redis.url, 'hasty');
    const made = open(hasty).catch(() => undefined);
    shut(hasty);
    await made;
    expect(hasty.isReady).toBe(false);
  });
});
