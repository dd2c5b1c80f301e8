import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Cleave } from '#sdk';
import { eventually } from '#testing';
import { fresh, randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startShape, type Shape } from '../support/shapes.js';
import { LossyProxy } from './lossy-proxy.js';

describe('the client over a lossy connection', () => {
  let shape: Shape;
  let proxy: LossyProxy;
  let cleave: Cleave;
  let product: string;

  beforeAll(async () => {
    shape = await startShape('monolith');
    proxy = await LossyProxy.to(shape.baseUrl, randomOf('a lossy connection'));
    cleave = new Cleave({ baseUrl: proxy.url, retries: 30 });
    product = fresh('p');
    await cleave.products.put(product, { name: 'A thing', unit_price_minor: 250, currency: 'GBP' });
    // Not through the proxy: setting stock is not retried after a lost answer, because units may have been sold
    // meanwhile.
    await new Cleave({ baseUrl: shape.baseUrl }).stock.put(product, { on_hand: 1_000 });
  });
  afterAll(async () => {
    await proxy?.stop();
    await shape?.stop();
  });

  it('places every order once', async () => {
    const customer_id = fresh('c');
    const place = () => cleave.orders.place({ customer_id, product_id: product, quantity: 1 });
    const placed = await Promise.all(Array.from({ length: 60 }, place));
    const direct = new Cleave({ baseUrl: shape.baseUrl });
    const kept: string[] = [];
    for await (const { order_id } of direct.orders.list({ customer_id, limit: 7 })) kept.push(order_id);
    expect(kept.toSorted()).toEqual(placed.map((it) => it.order_id).toSorted());
    expect(await direct.stock.get(product)).toMatchObject({ on_hand: 1_000, reserved: 60 });
    for (const fate of ['lose request', 'lose answer', 'cut answer', '503', '429'] as const)
      expect(proxy.befell.get(fate)).toBeGreaterThan(0);
  });

  it('applies each change and refund of an order once', async () => {
    const { order_id } = await cleave.orders.place({
      ...{ customer_id: fresh('c'), product_id: product, quantity: 4 },
      payment: { method: 'simulated' },
    });
    await eventually(async () => {
      expect(await cleave.payments.get(order_id)).toMatchObject({ captured_minor: 1_000 });
    });
    for (let times = 1; times <= 3; times += 1) {
      await cleave.orders.fulfil(order_id, { lines: [{ product_id: product, quantity: 1 }] });
      const lines = [{ product_id: product, quantity: 1 }];
      await cleave.orders.returnGoods(order_id, { lines, restock: true, reason: 'broken' });
      await cleave.payments.refund(order_id, { amount_minor: 100, reason: 'broken' });
      await cleave.stock.adjust(product, { delta: 5, reason: 'found' });
    }
    expect((await cleave.orders.get(order_id)).lines).toMatchObject([{ quantity: 4, fulfilled: 3, returned: 3 }]);
    await eventually(async () => {
      expect(await cleave.payments.get(order_id)).toMatchObject({ captured_minor: 1_000, refunded_minor: 300 });
      const level = await cleave.stock.get(product);
      expect(level).toMatchObject({ on_hand: 1_015, reserved: 61 });
      const levels: (typeof level)[] = [];
      for await (const it of cleave.stock.list({ limit: 1 })) levels.push(it);
      expect(levels).toContainEqual(level);
    });
    const versions: number[] = [];
    for await (const { version } of cleave.orders.history(order_id, { limit: 5 })) versions.push(version);
    expect(versions).toEqual(Array.from({ length: 12 }, (_, at) => at + 1));
  });

  it('follows events without gaps or duplicates, even if the stream is cut repeatedly', async () => {
    let after: string | undefined;
    for await (const page of cleave.events.list({ limit: 200 }).pages()) after = page.next_cursor;
    const heard: string[] = [];
    const following = (async () => {
      for await (const event of cleave.events.follow({ ...(after !== undefined && { after }) })) {
        heard.push(event.event_id);
        if (heard.length % 5 === 0) proxy.cutAll();
        if (heard.length >= 40) break;
      }
    })();
    const placed: string[] = [];
    for (let count = 0; count < 40; count += 1) {
      const order = await cleave.orders.place({ customer_id: fresh('c'), product_id: product, quantity: 1 });
      placed.push(`${order.order_id}:1`);
    }
    await following;
    expect(heard).toEqual(placed);
  });

  it('ends a stream with the reason of its signal, or with a final error', async () => {
    const direct = new Cleave({ baseUrl: shape.baseUrl });
    const stop = new AbortController();
    const events = direct.events.follow({ signal: stop.signal });
    await events.next();
    const reason = new Error('enough');
    setTimeout(() => stop.abort(reason), 50);
    await expect(
      (async () => {
        for await (const _ of events);
      })(),
    ).rejects.toBe(reason);
    await expect(direct.events.follow({ after: 'nonsense' }).next()).rejects.toMatchObject({ code: 'invalid-cursor' });
  });

  it('keeps all invariants', () => new Ledger(shape).expectInvariants());
});
