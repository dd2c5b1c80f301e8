import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { z } from 'zod';
import type { webhookDeliveryPage, webhookEndpoint } from '#contracts';
import { eventually } from '#testing';
import { ok, refused } from '../../support/api.js';
import { WebhookReceiver } from '../../support/webhook-receiver.js';
import type { World } from './world.js';

type Endpoint = z.input<typeof webhookEndpoint>;
type Deliveries = z.input<typeof webhookDeliveryPage>['data'];

export const webhookTests = (world: World): void => {
  describe('webhooks', () => {
    let receiver: WebhookReceiver;

    beforeEach(async () => {
      // While no endpoint wants events, they are read once a second: a new endpoint would get those of the tests before.
      await world.ledger.quiet();
      receiver = await WebhookReceiver.start(world.api, await world.shape.databaseUrls());
    });
    afterEach(() => receiver.stop());

    const deliveries = async (query = ''): Promise<Deliveries> =>
      ok(await world.api.get<z.input<typeof webhookDeliveryPage>>(`${receiver.address}/deliveries${query}`)).data;

    it('send the events of an order to an endpoint, signed with its secret', async () => {
      const product_id = await world.api.product();
      const payment = { method: 'simulated', token: 'tok_ok' };
      const { order_id } = await world.api.placed({ customer_id: 'c', product_id, quantity: 2, payment });
      ok(await world.api.cancel(order_id));
      await world.ledger.quiet();
      await eventually(async () => {
        expect(await receiver.differences(await world.shape.databaseUrls())).toEqual([]);
      });
      expect(receiver.told.get(`${order_id}:1`)).toBe(1);
      await eventually(async () => expect(await deliveries('?status=pending')).toEqual([]));
      expect((await deliveries()).length).toBe(receiver.told.size);
    });

    it('tell the reference of a hand-over', async () => {
      const product_id = await world.api.product();
      const { order_id } = await world.api.placed({ customer_id: 'c', product_id, quantity: 1 });
      ok(await world.api.fulfil(order_id, { reference: 'JD0002254' }));
      const { delivery_id } = await eventually(async () => {
        const fulfilled = (await deliveries()).find(({ type }) => type === 'order.fulfilled');
        expect(fulfilled).toBeDefined();
        return fulfilled!;
      });
      expect(ok(await world.api.get(`/webhook-deliveries/${delivery_id}`))).toMatchObject({
        payload: { type: 'order.fulfilled', data: { order_id, details: { reference: 'JD0002254' } } },
      });
    });

    it('keep a log of attempts, and can be redelivered', async () => {
      const product_id = await world.api.product();
      const { order_id } = await world.api.placed({ customer_id: 'c', product_id, quantity: 1 });
      const event = `${order_id}:1`;
      await eventually(() => Promise.resolve(expect(receiver.told.get(event)).toBe(1)));
      const [delivery] = await eventually(async () => {
        const delivered = await deliveries('?status=delivered');
        expect(delivered).toHaveLength(1);
        return delivered;
      });
      const address = `/webhook-deliveries/${delivery!.delivery_id}`;
      expect(ok(await world.api.get(address))).toMatchObject({
        payload: { type: 'order.placed', data: { order_id, order: { customer_id: 'c', lines: [{ product_id }] } } },
        attempt_log: [{ response_status: 204, error: null }],
      });
      ok(await world.api.send('POST', `${address}/redeliver`), 202);
      await eventually(() => Promise.resolve(expect(receiver.told.get(event)).toBe(2)));
    });

    it('are held back while the endpoint is disabled, and delivered once it is enabled', async () => {
      const change = async (body: object): Promise<Endpoint> =>
        ok(await world.api.send<Endpoint>('PATCH', receiver.address, { body }));
      expect(await change({ enabled: false })).toMatchObject({ enabled: false });
      ok(await world.api.send('POST', `${receiver.address}/test`), 202);
      expect(await deliveries()).toMatchObject([{ type: 'webhook.test', status: 'pending', attempts: 0 }]);
      await change({ enabled: true });
      await eventually(async () => expect(await deliveries()).toMatchObject([{ status: 'delivered' }]));
    });

    it('refuse invalid URLs and unknown ids', async () => {
      for (const url of ['ftp://example.com/', 'https://user:password@example.com/', 'example.com'])
        refused(await world.api.send('POST', '/webhook-endpoints', { body: { url } }), '400 invalid-request');
      refused(await world.api.get('/webhook-endpoints/none'), '404 webhook-endpoint-not-found');
      refused(await world.api.get('/webhook-deliveries/none'), '404 webhook-delivery-not-found');
    });
  });
};
