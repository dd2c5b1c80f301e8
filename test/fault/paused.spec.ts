import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { Api, ok } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { lapseLeases, waiting } from '../support/tables.js';
import { paused } from './paused.js';

describe('an instance that is paused while another one runs', () => {
  let shape: ProxiedShape;
  let ledger: Ledger;
  /** Clients of the paused instance and of the other one. */
  let here: Api;
  let there: Api;

  beforeAll(async () => {
    shape = await startProxied('two instances');
    ledger = new Ledger(shape);
    [here, there] = shape.services.map((it) => new Api(it.url)) as [Api, Api];
  });

  const signalThere = (signal: 'SIGSTOP' | 'SIGCONT') => process.kill(shape.services[1]!.pid, signal);
  afterEach(() => void signalThere('SIGCONT'));
  afterAll(() => shape?.stop());

  /** Makes the first instance relay the outbox, and pauses the other one from now on. */
  const relayHere = async (): Promise<void> => {
    signalThere('SIGSTOP');
    await lapseLeases(await shape.databaseUrls());
    const id = await here.product({ onHand: 1 });
    const { order_id } = await here.placed({ customer_id: 'c', product_id: id, quantity: 1 });
    ok(await here.fulfil(order_id));
    // Waits for the checkpoint, because a relay may deliver once more before it notices that it has lost its lease.
    await eventually(async () => expect(await waiting(await shape.databaseUrls())).toEqual([]));
  };

  it.each([
    ['before', 'Record', 'order-record', 5],
    ['after', 'Record', 'order-record', 5],
    ['before', 'Reserve', 'inventory-reserve', 3],
    ['after', 'Reserve', 'inventory-reserve', 3],
  ] as const)(
    '%s %s (%s): a retry at the other instance returns the same order',
    async (moment, _, statement, onHand) => {
      const product = await there.product({ onHand });
      const [body, key] = [{ customer_id: 'c', product_id: product, quantity: 3 }, fresh('paused')];
      const answers: string[] = [];
      const place = async (api: Api): Promise<void> => void answers.push((await api.placed(body, key)).order_id);
      await paused(
        shape,
        { statement, moment },
        () => place(here),
        () => place(there),
      );
      expect(answers).toEqual([answers[0], answers[0]]);
      await ledger.expectInvariants({ holdsMayWait: false });
      expect(await there.stock(product)).toMatchObject({ reserved: 3 });
    },
  );

  it.each([
    ['Deliver', 'inventory-settle', 'before'],
    ['Deliver', 'inventory-settle', 'after'],
    ['Checkpoint', 'orders-checkpoints-keep', 'before'],
    ['Checkpoint', 'orders-checkpoints-keep', 'after'],
  ] as const)(
    'at %s (%s, %s): the other instance takes over the relay, and late statements change nothing',
    async (_, statement, moment) => {
      const product = await there.product({ onHand: 10 });
      const order = await there.placed({ customer_id: 'c', product_id: product, quantity: 4 });
      const dropped = await there.placed({ customer_id: 'c', product_id: product, quantity: 2 });
      await ledger.quiet();
      await relayHere();
      await paused(
        shape,
        { statement, moment },
        async () => ok(await here.fulfil(order.order_id, { lines: [{ product_id: product, quantity: 3 }] })),
        async () => {
          signalThere('SIGCONT');
          await lapseLeases(await shape.databaseUrls());
          const back = { lines: [{ product_id: product, quantity: 1 }], restock: true, reason: 'unwanted' };
          // The change is stored although nothing relays it yet.
          await eventually(async () =>
            ok(await there.return(order.order_id, back, { key: `back-${order.order_id}` }), 201),
          );
          ok(await there.cancel(dropped.order_id));
          await ledger.quiet();
        },
      );
      await ledger.expectInvariants({ holdsMayWait: false });
      expect(await there.stock(product)).toMatchObject({ on_hand: 8, reserved: 1, sold: 3 });
      // The resumed instance relays again.
      await relayHere();
      signalThere('SIGCONT');
      await ledger.expectInvariants({ holdsMayWait: false });
    },
  );
});
