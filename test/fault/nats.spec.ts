import { afterAll, beforeAll, expect, it, describe } from '@jest/globals';
import { eventually, natsOrSkip, startNats, type NatsServer } from '#testing';
import { Api } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';
import { Shoppers } from './shoppers.js';

const describeNats = await natsOrSkip(describe);

describeNats('NATS killed under load', () => {
  let nats: NatsServer;
  let shape: ProxiedShape;
  beforeAll(async () => {
    nats = await startNats();
    shape = await startProxied('split', { EVENTS_AT: nats.url });
  });
  afterAll(async () => {
    await shape?.stop();
    await nats?.stop();
  });

  it('does not block orders, and sales and webhooks still process every event', async () => {
    const api = new Api(shape.baseUrl);
    const receiver = await WebhookReceiver.start(api, await shape.databaseUrls());
    const shoppers = new Shoppers(api, randomOf('nats killed'));
    await shoppers.start();
    const placed = (): number => shoppers.placements.filter((it) => it.outcome === 201).length;
    const more = (count: number): Promise<void> => {
      const before = placed();
      return shoppers.until(() => placed() >= before + count);
    };
    for (let times = 0; times < 3; times += 1) {
      await more(10);
      await nats.kill();
      await more(10);
      await nats.revive();
    }
    await shoppers.finish();
    await shoppers.repeat();
    await new Ledger(shape).expectInvariants({ log: shoppers, holdsMayWait: false });
    await eventually(async () => expect(await receiver.differences(await shape.databaseUrls())).toEqual([]));
    await receiver.stop();
  });
});
