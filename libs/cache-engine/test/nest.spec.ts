import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { CACHE_MANAGER, CacheInterceptor, CacheTTL } from '@nestjs/cache-manager';
import { Controller, Get, Inject, Injectable, Module, UseInterceptors } from '@nestjs/common';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { Test } from '@nestjs/testing';
import type { Cache } from 'cache-manager';
import { CacheEngine, CacheEngineModule } from '../src/index.js';

@Injectable()
class Prices {
  asked = 0;

  constructor(@Inject(CACHE_MANAGER) readonly cache: Cache) {}

  read(): Promise<{ price: number }> {
    return this.cache.wrap('price', () => ({ price: (this.asked += 1) }), 60_000);
  }
}

@Controller()
@UseInterceptors(CacheInterceptor)
class PricesController {
  answered = 0;

  @Get('price')
  @CacheTTL(60_000)
  price(): object {
    this.answered += 1;
    return { answered: this.answered };
  }
}

@Module({
  imports: [CacheEngineModule.forRoot({ cacheManager: { namespace: 'nest', absentTtl: undefined } })],
  controllers: [PricesController],
  providers: [Prices],
})
class PricesModule {}

class Settings {
  readonly maxBytes = 1_000_000;
}

@Module({ providers: [Settings], exports: [Settings] })
class SettingsModule {}

describe('CacheEngineModule.forRootAsync', () => {
  it('takes its options from an imported module', async () => {
    const engine = CacheEngineModule.forRootAsync({
      imports: [SettingsModule],
      inject: [Settings],
      useFactory: ({ maxBytes }: Settings) => ({ maxBytes }),
    });
    const module = await Test.createTestingModule({ imports: [engine] }).compile();
    expect(module.get(CacheEngine).statistics.l1.maxBytes).toBe(1_000_000);
  });
});

describe("Nest's CACHE_MANAGER", () => {
  let app: NestFastifyApplication;
  let cache: Cache;
  beforeAll(async () => {
    const module = await Test.createTestingModule({ imports: [PricesModule] }).compile();
    app = module.createNestApplication<NestFastifyApplication>(new FastifyAdapter());
    await app.init();
    cache = app.get<Cache>(CACHE_MANAGER);
  });
  afterAll(() => app?.close());

  it('serves responses from the cache through CacheInterceptor', async () => {
    const first = await app.inject('/price');
    const second = await app.inject('/price');
    expect([first.headers['x-cache'], second.headers['x-cache']]).toEqual(['MISS', 'HIT']);
    expect([first.json(), second.json()]).toEqual([{ answered: 1 }, { answered: 1 }]);
    expect(app.get(CacheEngine).statistics.l1Hits).toBe(1);
  });

  it('wraps a load, which concurrent calls share and a deletion repeats', async () => {
    const prices = app.get(Prices);
    for (const price of await Promise.all([prices.read(), prices.read()])) expect(price).toEqual({ price: 1 });
    await cache.del('price');
    expect(await prices.read()).toEqual({ price: 2 });
    expect(await cache.ttl('price')).toBeGreaterThan(Date.now() + 50_000);
    expect(await cache.wrap('raw', () => 1, { ttl: () => 60_000, raw: true })).toEqual({
      value: 1,
      expires: expect.any(Number),
    });
  });

  it('keeps a wrapped value for as long as its ttl function says', async () => {
    const expires = async (ttl: number): Promise<unknown> =>
      (await cache.wrap(`for ${ttl}`, () => ttl, { ttl: (value) => value, raw: true }))!.expires;
    expect(await expires(0)).toBeUndefined();
    expect(await expires(90_000.5)).toBeGreaterThan(Date.now() + 80_000);
    expect(await cache.wrap('over', () => 'over', { ttl: () => -1 })).toBe('over');
  });

  it('does not keep a value whose load began before its key was deleted', async () => {
    const old = Promise.withResolvers<string>();
    const loading = cache.wrap('k', () => old.promise);
    await cache.del('k');
    old.resolve('old');
    expect(await loading).toBe('old');
    expect(await cache.wrap('k', () => 'new')).toBe('new');
  });

  it('refreshes early in the background if there is a refresh threshold', async () => {
    let asked = 0;
    const load = (): number => (asked += 1);
    expect(await cache.wrap('early', load, 60_000)).toBe(1);
    expect(await cache.wrap('early', load, 60_000, 120_000)).toBe(1);
    while ((await cache.get('early')) !== 2) await new Promise(setImmediate);
    const before = (value: number): number => (value === 2 ? 120_000 : 0);
    expect(await cache.wrap('early', load, { ttl: 60_000, refreshThreshold: before })).toBe(2);
    while ((await cache.get('early')) !== 3) await new Promise(setImmediate);
    expect(await cache.wrap('early', load, { ttl: 60_000, refreshThreshold: before })).toBe(3);
    expect(asked).toBe(3);
  });

  it('loads again after undefined, and keeps null', async () => {
    let asked = 0;
    const answers = [undefined, null, 1];
    const load = () => answers[asked++];
    expect(await cache.wrap('absent', load, 60_000)).toBeUndefined();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await cache.wrap('absent', load, 60_000)).toBeNull();
    expect(await cache.wrap('absent', load, 60_000)).toBeNull();
    expect(asked).toBe(2);
  });

  it('returns values that callers may change without changing the cache', async () => {
    const read: (() => Promise<{ list: number[] } | undefined>)[] = [
      () => cache.wrap('mine', () => ({ list: [1] }), 60_000),
      () => cache.get<{ list: number[] }>('mine'),
      async () => (await cache.mget<{ list: number[] }>(['mine']))[0],
      async () => (await cache.wrap('mine', () => ({ list: [1] }), { raw: true }))!.value,
    ];
    for (const each of read) {
      const mine = (await each())!;
      expect(mine).toEqual({ list: [1] });
      mine.list.push(2);
    }
  });

  it('reads, writes, deletes and clears', async () => {
    expect(await cache.get('none')).toBeUndefined();
    expect(await cache.set('a', { b: 1 })).toEqual({ b: 1 });
    await cache.mset([
      { key: 'c', value: 1 },
      { key: 'd', value: null, ttl: 60_000 },
    ]);
    expect(await cache.mget(['a', 'none', 'c', 'd'])).toEqual([{ b: 1 }, undefined, 1, null]);
    for (const ttl of [Number.POSITIVE_INFINITY, 1e15]) expect(await cache.set('long', 1, ttl)).toBe(1);
    expect(await cache.get('long')).toBe(1);
    expect(await cache.mdel(['a', 'c'])).toBe(true);
    expect(await cache.mget(['a', 'd'])).toEqual([undefined, null]);
    expect(await cache.clear()).toBe(true);
    expect(await cache.get('d')).toBeUndefined();
  });
});
