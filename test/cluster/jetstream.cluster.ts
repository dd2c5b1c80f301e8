import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { eventually, natsOrSkip, startNatsCluster, type NatsCluster, type NatsServer } from '#testing';
import { Shoppers } from '../fault/shoppers.js';
import { Api } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';
import { countLost, printFigures } from './figures.js';
import { Watch } from './outage.js';

const describeNats = await natsOrSkip(describe);

describeNats('a JetStream cluster of three servers whose leader fails under load', () => {
  const figures: object[] = [];
  let shoppers: Shoppers;
  let nats: NatsCluster;
  let shape: ProxiedShape;

  beforeAll(async () => {
    nats = await startNatsCluster(3);
    shape = await startProxied('one database', { EVENTS_AT: nats.url });
  });
  // Stops the shoppers after a failed test.
  afterEach(() => shoppers?.finish());
  afterAll(async () => {
    printFigures('JetStream', figures);
    await shape?.stop();
    await nats?.stop();
  });

  /** The leader of the stream of orders, as the cluster reports it. */
  const leader = async (): Promise<NatsServer> => {
    const own = await connect({ servers: nats.url.slice('nats://'.length).split(','), timeout: 2_000 });
    try {
      const { streams } = await jetstreamManager(own, { checkAPI: false });
      const { config, cluster } = await streams.info('cleave-orders');
      expect(config.num_replicas).toBe(3);
      return nats.servers[Number(cluster!.leader!.replace('server-', ''))]!;
    } finally {
      // Not awaited, because the server may be paused.
      void own.close();
    }
  };

  const faults: [string, (it: NatsServer) => Promise<void>, (it: NatsServer) => Promise<void>][] = [
    ['killed', (it) => it.kill(), (it) => it.revive()],
    ['cut off', async (it) => it.pause(), async (it) => it.resume()],
  ];

  it.each(faults)('%s: orders continue, and every event is delivered', async (fault, begin, end) => {
    const api = new Api(shape.baseUrl);
    const receiver = await WebhookReceiver.start(api, await shape.databaseUrls());
    shoppers = new Shoppers(api, randomOf(`leader ${fault}`));
    await shoppers.start();
    const placed = (): number => shoppers.placements.filter((it) => it.outcome === 201).length;
    const more = async (): Promise<void> => {
      const [before, told] = [placed(), receiver.told.size];
      await shoppers.until(() => placed() >= before + 20 && receiver.told.size >= told + 20);
    };
    await more();
    const old = await eventually(leader);
    const [orders, told] = [new Watch(placed), new Watch(() => receiver.told.size)];
    for (const watch of [orders, told]) watch.fault();
    await begin(old);
    try {
      await more();
      const next = await eventually(leader, 60_000);
      expect(next.url).not.toBe(old.url);
      await more();
    } finally {
      await end(old);
    }
    await more();
    const [ofOrders, ofEvents] = await Promise.all([orders.end(), told.end()]);
    await shoppers.finish();
    await shoppers.repeat();
    await new Ledger(shape).expectInvariants({ log: shoppers, holdsMayWait: false });
    await eventually(async () => expect(await receiver.differences(await shape.databaseUrls())).toEqual([]));
    await receiver.stop();
    figures.push({
      ...{ fault: `leader ${fault}`, ordersSilentS: ofOrders.silentS, eventsSilentS: ofEvents.silentS },
      ...{ ...(await countLost(shoppers, shape)), told: receiver.told.size },
    });
  });
});
