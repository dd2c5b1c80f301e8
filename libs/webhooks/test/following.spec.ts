import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, afterEach, describe, expect, it, jest } from '@jest/globals';
import { limits, logBeginning, type OrderEventType, type OrderLogEvent } from '#contracts';
import { positionOf } from '#events';
import { eventually, testDatabase, type TestDatabase } from '#testing';
import { wantedLog } from '../src/adapters/messaging-order-log.js';
import { Receiver, verified } from './receiver.js';
import { newTenant, startInstance, type Instance } from './webhooks-under-test.js';

let database: TestDatabase;
let instance: Instance;
let receiver: Receiver;
let tenant: string;

beforeAll(async () => {
  database = await testDatabase();
  instance = await startInstance(database.url);
});
afterAll(async () => {
  await instance?.stop();
  await database?.stop();
});
beforeEach(async () => {
  tenant = newTenant();
  receiver = await new Receiver().start();
});
afterEach(async () => {
  instance.orders.interrupt = () => {};
  await instance.sql.query({ name: 'test-no-endpoints', text: 'DELETE FROM webhooks.endpoints' });
  await receiver.stop();
});

const happened = (type: OrderEventType): OrderLogEvent => {
  const { events } = instance.orders;
  const event: OrderLogEvent = {
    ...{ specversion: '1.0', id: randomUUID(), source: '/orders', type, subject: randomUUID(), tenantid: tenant },
    ...{ time: new Date('2026-11-30T12:00:00Z'), sequence: positionOf({ xid: '7', id: String(events.length + 1) }) },
    data: { version: 1, status: 'confirmed', currency: 'GBP', details: { reason: 'r' } },
  };
  events.push(event);
  return event;
};
const register = (types?: OrderEventType[]) => instance.endpoints.register(tenant, { url: receiver.url('/'), types });
/** Waits until all events were read. */
const caughtUp = () =>
  eventually(async () => {
    const last = instance.orders.events.at(-1)!.sequence;
    const positions = (await instance.checkpoints.read('webhooks')).map((it) => it.position);
    expect(positions.every((it) => it >= last)).toBe(true);
  });

describe('an order event', () => {
  it('is sent to endpoints registered before it, with the data of the event', async () => {
    happened('order.placed');
    await caughtUp();
    const { secret } = await register();
    const event = happened('order.cancelled');
    await eventually(() => expect(receiver.received).toHaveLength(1));
    expect(verified(receiver.received[0]!, secret)).toEqual({
      type: 'order.cancelled',
      timestamp: '2026-11-30T12:00:00.000Z',
      data: { order_id: event.subject, version: 1, status: 'confirmed', currency: 'GBP', details: { reason: 'r' } },
    });
  });

  it('is requested from order only if an endpoint subscribes to its type', async () => {
    const asked = instance.orders.asked.length;
    happened('order.placed');
    await caughtUp();
    expect(instance.orders.asked.slice(asked).every((it) => it.types?.length === 0)).toBe(true);
    await register(['order.returned']);
    happened('order.placed');
    happened('order.returned');
    await eventually(() => expect(receiver.received).toHaveLength(1));
    expect(instance.orders.asked.at(-1)!.types).toEqual(['order.returned']);
  });

  it('is sent to an endpoint that was registered while it was being read', async () => {
    await caughtUp();
    let registered = false;
    instance.orders.interrupt = async () => {
      if (registered) return;
      registered = true;
      await register();
    };
    happened('order.placed');
    await eventually(() => expect(receiver.received).toHaveLength(1));
  });

  it('is looked for now and then while no endpoint wants any, and at once when one does', async () => {
    const asked: { limit: number; types: unknown }[] = [];
    let types = new Set<OrderEventType>();
    let isMore = false;
    const orders = {
      call: async (_operation: string, { limit, types: of }: { limit: number; types: OrderEventType[] | null }) => {
        asked.push({ limit, types: of });
        return { events: [], until: positionOf({ xid: '7', id: '9' }), is_more: isMore };
      },
    } as unknown as Parameters<typeof wantedLog>[0];
    const read = wantedLog(orders, { wanted: async () => types }, 1_000);
    const now = jest.spyOn(performance, 'now').mockReturnValue(10_000);
    try {
      const whole = { limit: limits.logPage, types: [] };
      await read(logBeginning, 500);
      expect(await read(logBeginning, 500)).toEqual({ events: [], until: logBeginning, isMore: false });
      expect(asked.splice(0)).toEqual([whole]);

      // While there is more, the reader must not fall behind.
      now.mockReturnValue(11_000);
      isMore = true;
      await read(logBeginning, 500);
      await read(logBeginning, 500);
      expect(asked.splice(0)).toEqual([whole, whole]);

      isMore = false;
      await read(logBeginning, 500);
      types = new Set(['order.placed']);
      await read(logBeginning, 500);
      expect(asked.splice(0)).toEqual([whole, { limit: 500, types: ['order.placed'] }]);
    } finally {
      now.mockRestore();
    }
  });
});
