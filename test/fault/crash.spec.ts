import { afterAll, beforeAll, describe, it } from '@jest/globals';
import { natsOrSkip, startNats, testSeed, type NatsServer } from '#testing';
import { NatsProxy } from '../support/nats-proxy.js';
import { callPointsOf, crashPointsOf } from './crash-points.js';
import { CrashTest, type Aftermath } from './crash.js';
import { printTable } from './table.js';

const describeNats = await natsOrSkip(describe);

describe.each(['one database', 'two databases', 'split'] as const)('a process killed in the shape %s', (shape) => {
  const test = new CrashTest(shape);
  const table: Aftermath[] = [];

  afterAll(async () => {
    printTable(`crashes with TEST_SEED=${testSeed()}`, table);
    await test.stop();
  });

  it.each(crashPointsOf(shape))(
    '$victim killed $moment the commit of $step loses nothing and doubles nothing',
    async (point) => {
      table.push(await test.crashAt(point));
    },
  );
});

describeNats('a process killed at a call to NATS or to a merchant', () => {
  let nats: NatsServer;
  let proxy: NatsProxy;
  let test: CrashTest;
  const table: Aftermath[] = [];

  beforeAll(async () => {
    nats = await startNats();
    proxy = await NatsProxy.start(nats.url);
    test = new CrashTest('split', { EVENTS_AT: proxy.url }, proxy);
  });
  afterAll(async () => {
    printTable(`crashes at calls with TEST_SEED=${testSeed()}`, table);
    await test?.stop();
    await proxy?.stop();
    await nats?.stop();
  });

  it.each(callPointsOf('split'))(
    '$victim killed $moment the call of $step loses nothing and doubles nothing',
    async (point) => {
      table.push(await test.crashAt(point));
    },
  );
});
