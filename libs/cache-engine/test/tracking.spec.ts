import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { redisOrSkip, startRedis, startRedisCluster, until, type RedisServer } from '#testing';
import { reconnectAfterMs } from '../src/reconnect.js';
import { Tracking } from '../src/tracking.js';

const describeRedis = await redisOrSkip(describe);

let server: Server;
let connected = 0;
let tracking: Tracking;

/** Counts connections. */
const trackThrough = async (answer: (client: Socket) => void): Promise<void> => {
  connected = 0;
  server = createServer((client) => {
    connected += 1;
    client.on('error', () => undefined);
    answer(client);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const heard = { invalidated: () => undefined, mayHaveMissed: () => undefined };
  const masters = () => [{ id: 'server' }];
  const options = {
    url: `redis://127.0.0.1:${port}`,
    prefixes: ['x'],
    silenceMs: 1_000,
    masters,
    isWhole: () => true,
    lookAnew: () => undefined,
  };
  tracking = new Tracking(options, heard, () => undefined);
  tracking.start();
};

afterEach(() => {
  tracking?.stop();
  server?.close();
});

it('backs off from a server that ends each connection at once', async () => {
  await trackThrough((client) => client.destroy());
  await sleep(2_000);
  expect(connected).toBeGreaterThan(3);
  expect(connected).toBeLessThan(15);
});

it('waits at most one second before it reconnects, with jitter', () => {
  const waits = Array.from({ length: 200 }, () => reconnectAfterMs(20));
  expect(Math.max(...waits)).toBeLessThanOrEqual(1_000);
  expect(Math.min(...waits)).toBeGreaterThanOrEqual(500);
  expect(new Set(waits.map(Math.round)).size).toBeGreaterThan(50);
  expect(reconnectAfterMs(0)).toBeLessThanOrEqual(25);
});

describeRedis('tracking a running Redis', () => {
  let redis: RedisServer;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis?.stop());

  /** Until `isOver`, each connection is closed once tracking is enabled on it. */
  const throughWhoEndsIt = async (): Promise<{ isOver: boolean }> => {
    const ending = { isOver: false };
    await trackThrough((client) => {
      const onward = connect(redis.port, '127.0.0.1').on('error', () => undefined);
      client.on('data', (chunk) => {
        if (!ending.isOver && chunk.includes('BCAST')) client.destroy();
        else onward.write(chunk);
      });
      client.on('close', () => onward.destroy());
      onward.pipe(client);
    });
    return ending;
  };

  it('backs off while each connection ends once tracking is enabled, and recovers afterwards', async () => {
    const ending = await throughWhoEndsIt();
    await sleep(2_000);
    expect(connected).toBeGreaterThan(3);
    expect(connected).toBeLessThan(20);
    ending.isOver = true;
    await until(() => tracking.isHeardOf);
  });

  it('can be stopped while it waits to reconnect', async () => {
    await throughWhoEndsIt();
    await sleep(400);
    expect(connected).toBeGreaterThan(0);
    tracking.stop();
    const before = connected;
    await sleep(600);
    expect(connected).toBe(before);
  });
});

describeRedis('tracking a cluster', () => {
  it('looks up the topology if a master knows more of them, not if it knows fewer', async () => {
    const cluster = await startRedisCluster({ spares: 1 });
    const { servers } = cluster;
    const follow = async (followed: readonly RedisServer[]): Promise<number> => {
      let lookups = 0;
      let looks = 0;
      const masters = followed.map(({ port }) => ({ id: String(port), host: '127.0.0.1', port }));
      const options = {
        ...{ url: cluster.url.split(',')[0]!, prefixes: ['x'], silenceMs: 1_000, isWhole: () => true },
        masters: () => {
          if (tracking.isHeardOf) looks += 1;
          return masters;
        },
        // On a slow machine, they may not be heard for a while.
        lookAnew: () => void (tracking.isHeardOf && (lookups += 1)),
      };
      tracking = new Tracking(
        options,
        { invalidated: () => undefined, mayHaveMissed: () => undefined },
        () => undefined,
      );
      tracking.start();
      await until(() => looks >= 10);
      tracking.stop();
      return lookups;
    };
    try {
      // There are three masters with slots.
      expect(await follow(servers.slice(0, 2))).toBeGreaterThan(0);
      expect(await follow(servers)).toBe(0);
    } finally {
      await cluster.stop();
    }
  });
});
