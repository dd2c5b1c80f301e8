import { expect } from '@jest/globals';
import type { Order } from '../support/api.js';
import { EventStream } from '../support/event-stream.js';
import type { Trial } from '../support/trial.js';

/** Checks that a stopping service ends its event streams and that a client resumes after the last event it saw. */
export const followersGoOn = async ({ api, shape }: Trial, name: string): Promise<void> => {
  const service = shape.service(name);
  const product_id = await api.product({ onHand: 10 });
  const place = (): Promise<Order> => api.placed({ customer_id: 'c', product_id, quantity: 1 });
  const url = `${shape.baseUrl}/events`;

  const stream = await EventStream.open(url);
  const { order_id: seen } = await place();
  const last = await stream.until(({ data }) => data.includes(seen));
  expect(await service.kill('SIGTERM')).toEqual({ code: 0, signal: null });
  await stream.ended();
  expect(service.log).not.toContain('connections are cut');
  await service.restart();

  const { order_id: missed } = await place();
  const again = await EventStream.open(url, { 'last-event-id': last.id });
  const { data } = await again.until(() => true);
  expect(JSON.parse(data)).toMatchObject({ order_id: missed });
  again.close();
};
