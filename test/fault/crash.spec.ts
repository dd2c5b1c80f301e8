import { afterAll, beforeAll, describe } from '@jest/globals';
import { natsOrSkip, startNats, type NatsServer } from '#testing';
import { NatsProxy } from '../support/nats-proxy.js';
import { callPointsOf, crashPointsOf } from './crash-points.js';
import { crashAtEach } from './crash.js';

const describeNats = await natsOrSkip(describe);

describe.each(['one database', 'two databases', 'split'] as const)('crashes in the shape %s', (shape) => {
  crashAtEach(crashPointsOf(shape), shape, () => ({ environment: { ORDER_SWEEP_MS: '100' } }));
});

describeNats('crashes at a call to NATS or to a merchant', () => {
  let nats: NatsServer;
  let proxy: NatsProxy;

  beforeAll(async () => {
    nats = await startNats();
    proxy = await NatsProxy.start(nats.url);
  });
  crashAtEach(callPointsOf('split'), 'split', () => ({ environment: { EVENTS_AT: proxy.url }, nats: proxy }));
  afterAll(async () => {
    await proxy?.stop();
    await nats?.stop();
  });
});
