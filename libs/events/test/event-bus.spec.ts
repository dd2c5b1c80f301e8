import { expect, it } from '@jest/globals';
import { EventBus, eventBus } from '#events';
import { Readiness } from '#health';
import { freePort } from '#testing';

it('a process without NATS is degraded but ready, and gives the reason', async () => {
  const readiness = new Readiness();
  const bus = new EventBus(readiness);
  expect([...(await readiness.states())]).toEqual([]);
  const at = eventBus.parse(`nats://127.0.0.1:${await freePort()}`);
  if (at.scheme !== 'nats') throw new Error('that is no address of NATS');
  bus.publisherFor(at, { log: 'orders', keepHours: 1 });
  bus.publisherFor({ ...at, servers: ['127.0.0.1:1'] }, { log: 'orders', keepHours: 1 });
  expect([...(await readiness.states())]).toEqual([['event-bus', 'degraded']]);
  expect(await readiness.canServe()).toBe(true);
  expect(await readiness.checks.get('event-bus')!()).toEqual({ isDegraded: true, details: { nats: 'is unreachable' } });
  await bus.onApplicationShutdown();
});
