import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { Api } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { allAt } from '../support/tables.js';
import { callers } from '../support/trial.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';
import { Shoppers } from '../fault/shoppers.js';
import { countLost, printFigures } from './figures.js';
import { Watch } from './outage.js';
import { PatroniCluster, patroniOrSkip, type PatroniNode } from './patroni.js';

const describePatroni = await patroniOrSkip(describe);

describePatroni('Postgres under Patroni whose primary fails under load', () => {
  const figures: object[] = [];
  let shoppers: Shoppers;
  let receiver: WebhookReceiver | undefined;
  let cluster: PatroniCluster;
  let shape: Shape;

  beforeAll(async () => {
    cluster = await PatroniCluster.start();
    const [port] = await servicePorts(1);
    const environment = { DATABASE_URL: cluster.url(), WEBHOOKS_ALLOW_PRIVATE: 'true' };
    shape = await startPlan('monolith on Patroni', {
      services: [{ app: 'monolith', port: port!, environment }],
      databaseUrls: () => Promise.resolve(allAt(cluster.url())),
      release: () => cluster.stop(),
    });
  });
  // Stops the shoppers and the receiver after a failed test.
  afterEach(async () => {
    try {
      await shoppers?.finish();
    } finally {
      const started = receiver;
      receiver = undefined;
      await started?.stop();
    }
  });
  afterAll(async () => {
    printFigures('patroni', figures);
    await (shape ?? cluster)?.stop();
  });

  const faults: [string, (primary: PatroniNode) => Promise<void>, (old: PatroniNode) => Promise<void>][] = [
    ['killed with its Patroni', (primary) => primary.kill(), (old) => old.patroni.start()],
    ['cut off from etcd and its standbys', async (primary) => primary.partition(), async (old) => old.rejoin()],
    ['stopped with its Patroni', (primary) => primary.stop(), (old) => old.goOn()],
  ];

  it.each(faults)('%s: the standby is promoted, and nothing acknowledged is lost', async (fault, begin, end) => {
    await cluster.whole();
    const api = new Api(shape.baseUrl);
    const hearing = (receiver = await WebhookReceiver.start(api, await shape.databaseUrls()));
    shoppers = new Shoppers(api, randomOf(fault), callers);
    await shoppers.start();
    const placed = (): number => shoppers.placements.filter((it) => it.outcome === 201).length;
    const more = (count: number): Promise<void> => {
      const before = placed();
      return shoppers.until(() => placed() >= before + count);
    };
    await more(30);
    const [old, standby] = await Promise.all([cluster.primary(), cluster.standby()]);
    const watch = new Watch(placed);
    watch.fault();
    await begin(old);
    // Only the synchronous standby is sure to have everything.
    await eventually(async () => expect((await cluster.otherPrimary(old)).name).toBe(standby.name), 90_000);
    await more(30);
    // The old primary returns under load, and has to notice that it was replaced.
    await end(old);
    await cluster.whole();
    await more(30);
    const outage = await watch.end();
    // Counted even if the shoppers report something wrong.
    const [finished] = await Promise.allSettled([shoppers.finish()]);
    const counted = await countLost(shoppers, shape);
    figures.push({ fault, ...outage, ...counted, foundAgain: shoppers.replayed });
    expect(finished).toEqual({ status: 'fulfilled' });
    await shoppers.repeat();
    await new Ledger(shape).expectInvariants({ log: shoppers, holdsMayWait: false });
    await eventually(async () => expect(await hearing.differences(await shape.databaseUrls())).toEqual([]));
  });
});
