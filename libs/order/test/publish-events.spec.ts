import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { logBeginning, orderLogEvent, type OrderLogEvent } from '#contracts';
import { EventBus, EventConsumer, eventBus, partOf, type Checkpoint, type NatsAddress } from '#events';
import { withWork } from '#telemetry';
import { natsOrSkip, startNats, testDatabase, type NatsServer, type TestDatabase } from '#testing';
import { PublishEvents, eventsIn } from '../src/use-cases/publish-events.js';
import { FakeInventory, newTenant, requestOf, startInstance, type Instance } from './order-under-test.js';

const traceparent = `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`;

class Collects extends EventConsumer<OrderLogEvent> {
  readonly events: OrderLogEvent[] = [];

  protected async apply(events: readonly OrderLogEvent[], checkpoint: Checkpoint): Promise<void> {
    this.events.push(...events);
    await checkpoint.keep();
  }
}

const describeWithNats = await natsOrSkip(describe);

describeWithNats('order events', () => {
  let database: TestDatabase;
  let nats: NatsServer;
  let one: Instance;
  const bus = new EventBus();

  beforeAll(async () => {
    Logger.overrideLogger(false);
    [database, nats] = await Promise.all([testDatabase(), startNats()]);
    one = await startInstance(database.url);
  });
  afterAll(async () => {
    await bus.onApplicationShutdown();
    await one?.stop();
    await Promise.all([database?.stop(), nats?.stop()]);
  });

  it('are published, and read by another module in the order of the log within each part', async () => {
    const stock = new FakeInventory();
    stock.onHand.set('mug', 1_000);
    one.use(stock);
    const at = eventBus.parse(nats.url) as NatsAddress;
    const publisher = bus.publisherFor(at, { log: 'orders', keepHours: 1 });
    const publishes = new PublishEvents(one.checkpoints, one.outbox, publisher);
    await publishes.onModuleInit();
    await one.checkpoints.begin('collects');
    const readLog = async (after: string, limit: number) => {
      const { events, ...page } = await one.outbox.log(after, limit, null);
      return { ...page, events: eventsIn(events) };
    };
    const followed = { log: 'orders', consumer: 'collects', schema: orderLogEvent, readLog };
    const rhythm = { batchSize: 10, pollMs: 20, failing: 'fails', working: 'works' };
    const collects = new Collects('collects', one.checkpoints, bus.sourceFor(at, followed), rhythm);
    publishes.onApplicationBootstrap();
    collects.onApplicationBootstrap();
    const tenant = newTenant();
    for (let number = 0; number < 40; number += 1)
      await withWork({ traceparent }, () => one.placeOrder.execute(tenant, 'acc', requestOf({ mug: 1 }), null));
    while (collects.events.length < 40) await setTimeout(10);
    await Promise.all([publishes, collects].map((it) => it.beforeApplicationShutdown()));
    const { events } = await readLog(logBeginning, 1_000);
    const byPart = (all: readonly OrderLogEvent[]) => Object.groupBy(all, (it) => partOf(it.subject));
    expect(byPart(collects.events)).toEqual(byPart(events));
    expect(collects.events[0]).toMatchObject({ type: 'order.placed', tenantid: tenant, traceparent });
  });
});
