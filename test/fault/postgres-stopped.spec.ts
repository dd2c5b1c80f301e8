import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { Api } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startShape, type Shape } from '../support/shapes.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';
import { Shoppers } from './shoppers.js';

describe('an immediate shutdown of Postgres under load', () => {
  let shape: Shape;
  beforeAll(async () => {
    shape = await startShape('monolith');
  });
  afterAll(() => shape?.stop());

  it('loses and duplicates no acknowledged order, and all consumers continue', async () => {
    const api = new Api(shape.baseUrl);
    const receiver = await WebhookReceiver.start(api, await shape.databaseUrls());
    const shoppers = new Shoppers(api, randomOf('postgres stopped'));
    await shoppers.start();
    const placed = (): number => shoppers.placements.filter((it) => it.outcome === 201).length;
    for (let times = 0; times < 3; times += 1) {
      const before = placed();
      await shoppers.until(() => placed() > before + 10);
      // Immediate shutdown: connections are cut, and the next start recovers from the WAL.
      process.kill(await shape.postmasterPid(), 'SIGQUIT');
    }
    await shoppers.finish();
    await shoppers.repeat();
    await new Ledger(shape).expectInvariants({ log: shoppers, holdsMayWait: false });
    await eventually(async () => expect(await receiver.differences(await shape.databaseUrls())).toEqual([]));
    await receiver.stop();
  });
});
