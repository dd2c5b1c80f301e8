import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { Api, ok, type Product } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';

describe('a cached product', () => {
  let shape: ProxiedShape;
  let api: Api;
  beforeAll(async () => {
    shape = await startProxied('one database');
    api = new Api(shape.baseUrl);
  });
  afterAll(() => shape?.stop());

  const put = async (id: string, price: number): Promise<void> => {
    const body = { name: 'Mug', unit_price_minor: price, currency: 'GBP' };
    expect((await api.send('PUT', `/products/${id}`, { body })).status).toBeLessThan(300);
  };
  const priceOf = async (id: string): Promise<number> => ok(await api.get<Product>(`/products/${id}`)).unit_price_minor;

  it('is not cached from a read that a concurrent change has overtaken', async () => {
    const id = fresh('p');
    await put(id, 1);
    const catching = shape.proxies.inventory.next({ statement: 'inventory-find-product', moment: 'after' });
    const reading = priceOf(id);
    const { pass } = await catching;
    await put(id, 2);
    pass();
    expect(await reading).toBe(1);
    for (let read = 0; read < 3; read += 1) expect(await priceOf(id)).toBe(2);
  });

  it('is read again without a query to the database', async () => {
    const id = fresh('p');
    await put(id, 1);
    let asked = 0;
    const stop = shape.proxies.inventory.each(
      { statement: 'inventory-find-product', moment: 'before' },
      1,
      ({ pass }) => {
        asked += 1;
        pass();
      },
    );
    // Reads bypass the cache while another read fills it, and after ten seconds.
    await eventually(async () => {
      const before = asked;
      expect(await priceOf(id)).toBe(1);
      expect(asked).toBe(before);
    });
    stop();
  });

  it('is stale for at most ten seconds if its change is never announced', async () => {
    const id = fresh('p');
    await put(id, 1);
    for (let read = 0; read < 2; read += 1) expect(await priceOf(id)).toBe(1);
    const changing = performance.now();
    // Bypasses the module, so that the change is neither announced nor recorded to be announced later.
    await new Ledger(shape).inventory(`UPDATE inventory.products SET unit_price_minor = 2 WHERE product_id = $1`, [id]);
    const changed = performance.now();
    let toldOldAt = Number.NEGATIVE_INFINITY;
    for (let price = 1; price === 1; await setTimeout(20)) {
      const asked = performance.now();
      price = await priceOf(id);
      if (price === 1) toldOldAt = asked;
    }
    // Proves that the old value came from the cache.
    expect(toldOldAt).toBeGreaterThan(changed);
    expect(toldOldAt - changing).toBeLessThanOrEqual(10_000);
  });

  it('is invalidated although the process was killed between committing its change and answering', async () => {
    const id = fresh('p');
    await put(id, 1);
    expect(await priceOf(id)).toBe(1);
    const catching = shape.proxies.inventory.next({ statement: 'inventory-put-products', moment: 'after' });
    const putting = put(id, 2).catch(() => undefined);
    const { cut } = await catching;
    const monolith = shape.service('monolith');
    await monolith.kill('SIGKILL');
    cut();
    await putting;
    await monolith.restart();
    expect(await priceOf(id)).toBe(2);
    const noted = `SELECT FROM inventory.product_changes WHERE product_id = $1`;
    await eventually(async () => expect(await new Ledger(shape).inventory(noted, [id])).toEqual([]));
  });
});
