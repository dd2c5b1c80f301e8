import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { testDatabase } from '#testing';
import { Api, refused } from '../support/api.js';
import { eventually } from '../support/eventually.js';
import { fresh } from '../support/fresh.js';
import { servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { ofEach } from '../support/tables.js';

describe('two databases of orders over one inventory', () => {
  let shape: Shape;
  /** Started first, and the one whose orders lie elsewhere. */
  let first: Api;
  let second: Api;

  beforeAll(async () => {
    const [mine, other] = await Promise.all([testDatabase(), testDatabase()]);
    const [inventory, messages, ...ports] = await servicePorts(6);
    const inventoryAt = `tcp://127.0.0.1:${messages}`;
    const shop = { DATABASE_URL: mine.url, INVENTORY_AT: inventoryAt, ORDER_HOLD_MS: '300', ORDER_SWEEP_MS: '100' };
    shape = await startPlan('two databases of orders', {
      services: [
        {
          ...{ app: 'inventory', port: inventory! },
          environment: { DATABASE_URL: mine.url, INVENTORY_LISTEN: inventoryAt, CACHE_AT: 'tcp://127.0.0.1:1' },
        },
        ...[mine, other].map(({ url }, at) => ({
          ...{ app: 'order' as const, name: `order-${at + 1}`, port: ports[at]!, isLater: at > 0 },
          environment: {
            ...shop,
            ORDER_DATABASE_URL: url,
            ORDER_LISTEN: `tcp://127.0.0.1:${ports[2 + at]}`,
            PAYMENT_AT: 'tcp://127.0.0.1:1',
          },
        })),
      ],
      databaseUrls: () => Promise.resolve(ofEach(() => mine.url)),
      release: async () => {
        await mine.stop();
        await other.stop();
      },
    });
    [first, second] = ['order-1', 'order-2'].map((name) => new Api(shape.service(name).url)) as [Api, Api];
  });
  afterAll(() => shape?.stop());

  it('are one too many: the second is told so, and what the first has acknowledged keeps its stock', async () => {
    const products = new Api(shape.service('inventory').url);
    const product_id = await products.product({ onHand: 10 });
    const body = { customer_id: 'c', product_id, quantity: 3 };
    const order = await first.placed(body);
    await shape.service('order-2').restart();
    const answer = await second.place(body, fresh('second'));
    refused(answer, '503 unavailable');
    expect(answer.text).toContain('another database of orders');
    // Nor does it hear of holds that it would give back.
    await eventually(async () =>
      expect(shape.service('order-2').log).toMatch(/the sweep failed.*another database of orders/),
    );
    expect(await first.get(`/orders/${order.order_id}`)).toMatchObject({ status: 200 });
    expect(await products.stock(product_id)).toMatchObject({ reserved: 3 });
    // Nor was anything kept there that it could be answered by later.
    refused(await second.place(body, fresh('second')), '503 unavailable');
  });
});
