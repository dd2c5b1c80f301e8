import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { eventually, natsOrSkip, startNatsCluster, type NatsCluster, type NatsServer } from '#testing';
import { Shoppers } from '../fault/shoppers.js';
import { Api } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { Link } from '../support/link.js';
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
  /** Every connection between two servers passes through one of them. */
  const links: { between: readonly number[]; link: Link }[] = [];

  beforeAll(async () => {
    nats = await startNatsCluster(3, async (from, to, port) => {
      const link = await Link.to(port);
      links.push({ between: [from, to], link });
      return link.port;
    });
    shape = await startProxied('one database', { EVENTS_AT: nats.url });
  });
  // Stops the shoppers after a failed test.
  afterEach(() => shoppers?.finish());
  afterAll(async () => {
    printFigures('JetStream', figures);
    await shape?.stop();
    await nats?.stop();
    await Promise.all(links.map(({ link }) => link.stop()));
  });

  /** The leader of the stream of orders, as one of the servers other than `old` reports it. */
  const leader = async (old?: NatsServer): Promise<NatsServer> => {
    const others = nats.servers.filter((it) => it !== old).map(({ port }) => `127.0.0.1:${port}`);
    const own = await connect({ servers: others, timeout: 2_000 });
    try {
      const { streams } = await jetstreamManager(own, { checkAPI: false });
      const { config, cluster } = await streams.info('cleave-orders');
      expect(config.num_replicas).toBe(3);
      const found = nats.servers[Number(cluster!.leader!.replace('server-', ''))]!;
      expect(found).not.toBe(old);
      return found;
    } finally {
      // Not awaited, because the server may be paused.
      void own.close();
    }
  };

  const linksOf = (it: NatsServer): Link[] =>
    links.flatMap(({ between, link }) => (between.includes(nats.servers.indexOf(it)) ? [link] : []));

  const faults: [string, (it: NatsServer) => Promise<void>, (it: NatsServer) => Promise<void>][] = [
    ['killed', (it) => it.kill(), (it) => it.revive()],
    ['paused', async (it) => it.pause(), async (it) => it.resume()],
    [
      'cut off from the other servers, but not from its clients',
      async (it) => linksOf(it).forEach((link) => link.cut()),
      async (it) => linksOf(it).forEach((link) => link.mend()),
    ],
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
    const old = await eventually(() => leader());
    const [orders, told] = [new Watch(placed), new Watch(() => receiver.told.size)];
    for (const watch of [orders, told]) watch.fault();
    await begin(old);
    try {
      await more();
      await eventually(() => leader(old), 60_000);
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
