import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { setTimeout } from 'node:timers/promises';
import { eventually, redisOrSkip, startRedisCluster, type RedisCluster } from '#testing';
import { Shoppers } from '../fault/shoppers.js';
import { Api, ok } from '../support/api.js';
import { fresh, randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { countLost, printFigures } from './figures.js';
import { Watch } from './outage.js';

const describeRedis = await redisOrSkip(describe);

/** Enough keys that every master holds some. */
const many = Array.from({ length: 24 });

describeRedis('a Redis Cluster with replicas whose master is killed under load', () => {
  const figures: object[] = [];
  let shoppers: Shoppers;
  let redis: RedisCluster;
  let shape: ProxiedShape;
  let here: Api;
  let there: Api;

  beforeAll(async () => {
    redis = await startRedisCluster({ isReplicated: true, isPartial: true, nodeTimeoutMs: 2_000 });
    shape = await startProxied('two instances', { CACHE_REDIS_URL: redis.url });
    [here, there] = shape.services.map((it) => new Api(it.url)) as [Api, Api];
  });
  // Stops the shoppers after a failed test.
  afterEach(() => shoppers?.finish());
  afterAll(async () => {
    printFigures('Redis Cluster', figures);
    await shape?.stop();
    await redis?.stop();
  });

  /** Writes a value under each key here, with retries, until all are read there. */
  const writtenHere = async (keys: readonly string[], value: string): Promise<void> => {
    await eventually(async () => {
      for (const key of keys) ok(await here.send('PUT', '/cache', { body: { key, value, ttl_ms: 600_000 } }));
    }, 60_000);
    await eventually(async () => {
      for (const key of keys) expect(ok(await there.get<{ value: string }>(`/cache?key=${key}`)).value).toBe(value);
    }, 60_000);
  };

  /** Changes the products here. @returns the time from the last change until all changes are read there */
  const changedHere = async (products: readonly string[], price: number): Promise<number> => {
    const body = { name: 'A thing', unit_price_minor: price, currency: 'GBP' };
    for (const id of products) ok(await here.send('PUT', `/products/${id}`, { body }));
    const changedAt = performance.now();
    await eventually(async () => {
      for (const id of products)
        expect(ok(await there.get<{ unit_price_minor: number }>(`/products/${id}`)).unit_price_minor).toBe(price);
    }, 60_000);
    return performance.now() - changedAt;
  };

  it('stops no orders, and is writable and invalidates again once a replica is promoted', async () => {
    const keys = many.map(() => fresh('key'));
    const products = await Promise.all(many.map(() => here.product({ price: 100 })));
    await writtenHere(keys, 'before');
    await changedHere(products, 200);
    shoppers = new Shoppers(here, randomOf('redis master killed'));
    await shoppers.start();
    const placed = (): number => shoppers.placements.filter((it) => it.outcome === 201).length;
    const more = (count: number): Promise<void> => {
      const before = placed();
      return shoppers.until(() => placed() >= before + count);
    };

    // A reader that records the status and duration of each read.
    const reads: { status: number; ms: number }[] = [];
    const counted = (status: number): number => reads.filter((it) => it.status === status).length;
    let isReading = true;
    const reading = (async () => {
      for (let at = 0; isReading; at += 1) {
        const startedAt = performance.now();
        const { status } = await there.get(`/cache?key=${keys[at % keys.length]}`);
        reads.push({ status, ms: Math.round(performance.now() - startedAt) });
        await setTimeout(5);
      }
    })();

    await more(20);
    const [orders, answers] = [new Watch(placed), new Watch(() => counted(200))];
    const killedAt = performance.now();
    for (const watch of [orders, answers]) watch.fault();
    await redis.kill(0);
    await more(20);
    // All keys can be written again, so a replica was promoted; and changes made here are seen there.
    await writtenHere(keys, 'after');
    const writableAfterMs = performance.now() - killedAt;
    const heardAfterMs = await changedHere(products, 300);
    await redis.restart(0);
    await more(20);
    await writtenHere(keys, 'in the end');
    isReading = false;
    await reading;
    const [ofOrders, ofAnswers] = await Promise.all([orders.end(), answers.end()]);

    expect([200, 404, 503]).toEqual(expect.arrayContaining([...new Set(reads.map((it) => it.status))]));
    await shoppers.finish();
    await shoppers.repeat();
    await new Ledger(shape).expectInvariants({ log: shoppers, holdsMayWait: false });
    figures.push({
      ...{ fault: 'master killed', ordersSilentS: ofOrders.silentS, hitsSilentS: ofAnswers.silentS },
      writableAfterS: Math.round(writableAfterMs / 10) / 100,
      changesHeardAfterS: Math.round(heardAfterMs / 10) / 100,
      ...{ reads200: counted(200), reads404: counted(404), reads503: counted(503) },
      slowestReadMs: Math.max(...reads.map((it) => it.ms)),
      ...(await countLost(shoppers, shape)),
    });
  });
});
