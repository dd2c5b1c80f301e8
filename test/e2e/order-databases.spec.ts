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
