import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { testDatabase, type TestDatabase } from '#testing';
import { newTenant, startInstance, type Instance } from './inventory-under-test.js';

let database: TestDatabase;
let here: Instance;
let there: Instance;
beforeAll(async () => {
  Logger.overrideLogger(false);
  database = await testDatabase();
  here = await startInstance(database.url);
  there = await startInstance(database.url);
});
afterAll(async () => {
  await Promise.all([here?.stop(), there?.stop()]);
  await database?.stop();
});
beforeEach(() => {
  for (const { cache } of [here, there]) {
    cache.forgotten.length = 0;
    cache.isAway = false;
  }
});

const described = (product_id: string, name = 'Mug') => ({ product_id, name, unit_price_minor: 850, currency: 'GBP' });
const countPending = async (): Promise<number> => (await here.catalogue.pending(1_000)).length;

describe('changed products', () => {
  it('are deleted from the cache before the change is answered; new ones are not', async () => {
    const tenant = newTenant();
    await here.putProducts.execute(tenant, [described('old'), described('other')]);
    expect(here.cache.forgotten).toEqual([]);
    await here.putProducts.execute(tenant, [described('old', 'Cup'), described('new')]);
    expect(here.cache.forgotten).toEqual(['old']);
    expect(await countPending()).toBe(0);
  });

  it('are deleted from the cache by another instance if the one that changed them cannot', async () => {
    const tenant = newTenant();
    await here.putProducts.execute(tenant, [described('a'), described('b')]);
    here.cache.isAway = true;
    const changed = await here.putProducts.execute(tenant, [described('b', 'Cup'), described('a', 'Cup')]);
    expect(changed.map((it) => it.name)).toEqual(['Cup', 'Cup']);
    await expect(here.invalidateProducts.execute()).rejects.toThrow('the cache is away');
    there.cache.isAway = true;
    await expect(there.invalidateProducts.execute()).rejects.toThrow('the cache is away');
    there.cache.isAway = false;
    await there.invalidateProducts.execute();
    expect(there.cache.forgotten.toSorted()).toEqual(['a', 'b']);
    expect(await countPending()).toBe(0);
  });

  it('are not recorded for deletion if the change fails', async () => {
    const tenant = newTenant();
    await here.putProducts.execute(tenant, [described('a')]);
    here.cache.isAway = true;
    const tooDear = { ...described('a', 'Cup'), unit_price_minor: -1 };
    await expect(here.catalogue.put(tenant, [tooDear])).rejects.toThrow();
    expect(await countPending()).toBe(0);
  });

  it('are deleted from the cache before the change is answered, even while 1,000 others are pending', async () => {
    const tenant = newTenant();
    const many = Array.from({ length: 1_000 }, (_, at) => described(`p-${at}`));
    await here.putProducts.execute(tenant, [...many]);
    await here.putProducts.execute(tenant, [described('mine')]);
    here.cache.isAway = true;
    await here.putProducts.execute(
      tenant,
      many.map((it) => ({ ...it, name: 'Cup' })),
    );
    await there.putProducts.execute(tenant, [described('mine', 'Cup')]);
    expect(there.cache.forgotten).toEqual(['mine']);
    expect(await there.invalidateProducts.execute()).toBe(true);
    expect(await there.invalidateProducts.execute()).toBe(false);
    expect(new Set(there.cache.forgotten)).toEqual(new Set(['mine', ...many.map((it) => it.product_id)]));
  });

  it('are recorded only if something changed, and only for as long as the cache keeps entries', async () => {
    const tenant = newTenant();
    await here.putProducts.execute(tenant, [described('a'), described('b')]);
    here.cache.isAway = true;
    await sleep(2); // a product put within a millisecond of its last change is recorded as well
    await here.putProducts.execute(tenant, [described('a'), described('b', 'Cup')]);
    expect((await here.catalogue.pending(10)).map((it) => it.product_id)).toEqual(['b']);
    await here.sql.query({
      name: 'test-age',
      text: `UPDATE inventory.product_changes SET noted_at = now() - interval '61 seconds'`,
    });
    expect(await there.invalidateProducts.execute()).toBe(false);
    expect(there.cache.forgotten).toEqual([]);
    expect(await here.sql.query({ name: 'test-left', text: 'SELECT FROM inventory.product_changes' })).toEqual([]);
  });

  it('are all deleted from the cache when several instances change them at once', async () => {
    const tenant = newTenant();
    const all = Array.from({ length: 200 }, (_, at) => described(`p-${at}`));
    await here.putProducts.execute(tenant, all);
    const renamed = (name: string) => all.map((it) => ({ ...it, name }));
    await Promise.all([here, there, here, there].map((it, at) => it.putProducts.execute(tenant, renamed(`Mug ${at}`))));
    await here.invalidateProducts.execute();
    expect(await countPending()).toBe(0);
    for (const { product_id } of all) expect([...here.cache.forgotten, ...there.cache.forgotten]).toContain(product_id);
  });
});
