import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually, testDatabase } from '#testing';
import { Api, ok, refused } from '../support/api.js';
import { AppProcess } from '../support/app-process.js';
import { fresh } from '../support/fresh.js';
import { commandsIn } from '../support/runbooks.js';
import { servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { ofEach, query } from '../support/tables.js';

describe('two order databases on one inventory', () => {
  let shape: Shape;
  /** An order service with a database of its own. */
  let stranger: AppProcess;
  let first: Api;
  let second: Api;
  let urls: { inventory: string; stranger: string };

  beforeAll(async () => {
    const [mine, other] = await Promise.all([testDatabase(), testDatabase()]);
    urls = { inventory: mine.url, stranger: other.url };
    const [inventory, messages, one, two, ...listening] = await servicePorts(6);
    const inventoryAt = `tcp://127.0.0.1:${messages}`;
    const shop = {
      ...{ INVENTORY_AT: inventoryAt, PAYMENT_AT: 'tcp://127.0.0.1:1' },
      ...{ ORDER_HOLD_MS: '300', ORDER_SWEEP_MS: '100' },
    };
    const orderOn = (url: string, at: number) => ({
      ...shop,
      ...{ ORDER_DATABASE_URL: url, ORDER_LISTEN: `tcp://127.0.0.1:${listening[at]}` },
    });
    shape = await startPlan('two databases of orders', {
      services: [
        {
          ...{ app: 'inventory', port: inventory! },
          environment: { DATABASE_URL: mine.url, INVENTORY_LISTEN: inventoryAt, CACHE_AT: 'tcp://127.0.0.1:1' },
        },
        { ...{ app: 'order', port: one! }, environment: orderOn(mine.url, 0) },
      ],
      databaseUrls: () => Promise.resolve(ofEach(() => mine.url)),
      release: async () => {
        await mine.stop();
        await other.stop();
      },
    });
    stranger = new AppProcess('order', { ...orderOn(other.url, 1), HOST: '127.0.0.1', PORT: String(two) });
    first = new Api(shape.service('order').url);
    second = new Api(`http://127.0.0.1:${two}`);
  });
  afterAll(async () => {
    const complaint = await stranger?.stop();
    await shape?.stop();
    expect(complaint).toBeUndefined();
  });

  it('are refused: the second is not ready, and the orders of the first keep their stock', async () => {
    const products = new Api(shape.service('inventory').url);
    const product_id = await products.product({ onHand: 10 });
    const body = { customer_id: 'c', product_id, quantity: 3 };
    const order = await first.placed(body);
    stranger.spawn();
    await eventually(async () => {
      const ready = await second.get('/health/ready');
      expect(ready).toMatchObject({ status: 503, body: { error: { 'order-inventory': { status: 'down' } } } });
    });
    // The log tells operators which database is which; callers are not told.
    const [mine] = await query<{ value: string }>(
      urls.inventory,
      `SELECT value FROM orders.settings WHERE name = 'id'`,
    );
    expect(stranger.log).toContain(`It serves order database ${mine!.value}; this one is `);
    const answer = await second.place(body, fresh('second'));
    refused(answer, '503 unavailable');
    expect(answer.text).toContain('another database of orders');
    expect(answer.text).not.toContain(mine!.value);
    // It cannot read reservations either, which it would release.
    await eventually(async () => expect(stranger.log).toMatch(/the sweep failed.*another database of orders/));
    expect(await first.get(`/orders/${order.order_id}`)).toMatchObject({ status: 200 });
    expect(await products.stock(product_id)).toMatchObject({ reserved: 3 });
    // It has not stored anything that would answer a retry.
    refused(await second.place(body, fresh('second')), '503 unavailable');
  });

  it('can replace each other with the commands of the runbook, without restarting the second', async () => {
    const [ask, accept] = commandsIn('Another database of orders', 'sql');
    expect(await shape.service('order').kill('SIGTERM')).toEqual({ code: 0, signal: null });
    const [{ value }] = (await query<{ value: string }>(urls.stranger, ask!)) as [{ value: string }];
    await query(urls.inventory, accept!.replace('THE ID', value));
    await stranger.untilReady(`${second.baseUrl}/health/ready`);
    const product_id = await new Api(shape.service('inventory').url).product({ onHand: 1 });
    ok(await second.place({ customer_id: 'c', product_id, quantity: 1 }), 201);
    // The first service is refused in turn when it comes back.
    const returned = shape.service('order').restart().catch(String);
    await eventually(async () =>
      expect(shape.service('order').log).toContain(`It serves order database ${value}; this one is `),
    );
    expect(await shape.service('order').kill('SIGTERM')).toEqual({ code: 0, signal: null });
    expect(await returned).toContain('instead of becoming ready');
  });
});

describe('an inventory that is restarted on another, empty database', () => {
  let shape: Shape;
  /** The same service at the same addresses, on the wrong database. */
  let mistaken: AppProcess;
  let urls: { right: string; wrong: string };

  beforeAll(async () => {
    const [right, wrong] = await Promise.all([testDatabase(), testDatabase()]);
    urls = { right: right.url, wrong: wrong.url };
    const [rest, messages, port, listening] = await servicePorts(4);
    const at = `tcp://127.0.0.1:${messages}`;
    const inventoryOn = (url: string) => ({ DATABASE_URL: url, INVENTORY_LISTEN: at, CACHE_AT: 'tcp://127.0.0.1:1' });
    shape = await startPlan('a wrong database of inventory', {
      services: [
        { ...{ app: 'inventory', port: rest! }, environment: inventoryOn(right.url) },
        {
          ...{ app: 'order', port: port! },
          environment: {
            ...{ ORDER_DATABASE_URL: right.url, ORDER_LISTEN: `tcp://127.0.0.1:${listening}` },
            ...{ INVENTORY_AT: at, PAYMENT_AT: 'tcp://127.0.0.1:1', ORDER_SWEEP_MS: '600000' },
          },
        },
      ],
      databaseUrls: () => Promise.resolve(ofEach(() => right.url)),
      release: async () => {
        await right.stop();
        await wrong.stop();
      },
    });
    mistaken = new AppProcess('inventory', { ...inventoryOn(wrong.url), HOST: '127.0.0.1', PORT: String(rest) });
  });
  afterAll(async () => {
    const complaint = await mistaken?.stop();
    await shape?.stop();
    expect(complaint).toBeUndefined();
  });

  it('gets no orders and no effects, until it is back on its own or the runbook is followed', async () => {
    const [inventory, orders] = ['inventory', 'order'].map((name) => shape.service(name));
    const [stock, shop] = [new Api(inventory!.url), new Api(orders!.url)];
    const product_id = await stock.product({ onHand: 10 });
    const body = { customer_id: 'c', product_id, quantity: 3 };
    const order = await shop.placed(body);
    // No call fails meanwhile, from which order could learn that inventory was away.
    expect(await inventory!.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    mistaken.spawn();
    await mistaken.untilReady(`${inventory!.url}/health/ready`);
    ok(await shop.send('POST', `/orders/${order.order_id}/cancel`));
    // The product would be unknown there.
    refused(await shop.place(body, fresh('early')), '503 unavailable');
    await eventually(async () => expect(orders!.log).toContain('cannot deliver the outbox to inventory'));
    await eventually(async () => {
      const ready = await shop.get('/health/ready');
      expect(ready).toMatchObject({ status: 503, body: { error: { 'order-inventory': { status: 'down' } } } });
    });
    const [kept] = await query<{ value: string }>(
      urls.right,
      `SELECT value FROM orders.settings WHERE name = 'inventory_id'`,
    );
    expect(orders!.log).toContain(`; that one is ${kept!.value}.`);
    const answer = await shop.place(body, fresh('wrong'));
    refused(answer, '503 unavailable');
    expect(answer.text).toContain('another database of inventory');
    expect(answer.text).not.toContain(kept!.value);
    await mistaken.kill('SIGTERM');
    await inventory!.restart();
    await eventually(async () => expect(await shop.get('/health/ready')).toMatchObject({ status: 200 }));
    ok(await shop.place(body, fresh('wrong')), 201);
    // The effect was not delivered to the wrong database: the stock of the cancelled order is released.
    await eventually(async () => expect(await stock.stock(product_id)).toMatchObject({ reserved: 3 }));

    expect(await inventory!.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    mistaken.spawn();
    await mistaken.untilReady(`${inventory!.url}/health/ready`);
    const [forget] = commandsIn('Another database of inventory', 'sql');
    await query(urls.right, forget!);
    await eventually(async () => expect(await shop.get('/health/ready')).toMatchObject({ status: 200 }));
    const another = await stock.product({ onHand: 1 });
    ok(await shop.place({ customer_id: 'c', product_id: another, quantity: 1 }), 201);
  });
});
