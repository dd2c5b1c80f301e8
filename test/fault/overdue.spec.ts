import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { Api, ok, refused, type Answer, type Order } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import type { Attempt } from '../support/load.js';
import { has, type Place } from '../support/postgres-proxy.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { paused } from './paused.js';

const holdMs = 600;
const sweepMs = 100;

/** One request that may be sent repeatedly, and all answers to it. */
class Asking {
  readonly placements: Attempt[] = [];
  readonly key = fresh('overdue');

  constructor(private readonly body: object) {}

  async place(api: Api): Promise<Answer<Order>> {
    const attempt: Attempt = { key: this.key, body: this.body };
    this.placements.push(attempt);
    const answer = await api.place(this.body, this.key);
    const { status, text, body } = answer;
    Object.assign(attempt, { outcome: status, text, ...(status === 201 && { order: body }) });
    return answer;
  }
}

describe('a hold that expires while its order is being recorded', () => {
  let shape: ProxiedShape;
  let ledger: Ledger;
  /** Clients of the paused instance, and of the other one, which sweeps. */
  let here: Api;
  let there: Api;
  let product: string;
  let asking: Asking;

  beforeAll(async () => {
    const environment = { ORDER_HOLD_MS: String(holdMs), ORDER_SWEEP_MS: String(sweepMs) };
    shape = await startProxied('two instances', environment);
    ledger = new Ledger(shape);
    [here, there] = shape.services.map((it) => new Api(it.url)) as [Api, Api];
  });

  afterEach(() => {
    // A failed test may have left an instance paused.
    for (const { pid } of shape.services) process.kill(pid, 'SIGCONT');
  });
  afterAll(() => shape?.stop());

  const begin = async (): Promise<void> => {
    // After a failed recording, an instance reserves no stock until it has recorded another order.
    await here.placed({ customer_id: 'before', product_id: await there.product({ onHand: 1 }), quantity: 1 });
    await ledger.quiet();
    product = await there.product({ onHand: 5 });
    asking = new Asking({ customer_id: 'c', product_id: product, quantity: 3 });
  };

  const isReserved = (units: number): Promise<void> =>
    eventually(async () => expect(await there.stock(product)).toMatchObject({ reserved: units }));

  const expectRest = async (): Promise<void> => {
    await ledger.quiet();
    await eventually(async () => expect(await ledger.violations({ log: asking, holdsMayWait: false })).toEqual([]));
  };

  const record = (moment: Place['moment']): Place => ({ statement: 'order-record', moment });
  const place = (): Promise<Answer<Order>> => asking.place(here);

  it('is released, and the late Record is retried and succeeds', async () => {
    await begin();
    const { status } = await paused(shape, record('before'), place, () => isReserved(0));
    expect(status).toBe(201);
    await isReserved(3);
    await expectRest();
  });

  it('is released, and the late Record is refused if another order has taken the stock', async () => {
    await begin();
    const answer = await paused(shape, record('before'), place, async () => {
      await isReserved(0);
      await there.placed({ customer_id: 'other', product_id: product, quantity: 5 });
    });
    refused(answer, '409 out-of-stock');
    refused(await asking.place(there), '409 out-of-stock');
    await isReserved(5);
    await expectRest();
  });

  it('is released, and the late Record finds the order that a retry at the other instance has placed', async () => {
    await begin();
    const late = await paused(shape, record('before'), place, async () => {
      await isReserved(0);
      ok(await asking.place(there), 201);
    });
    expect(late.status).toBe(201);
    await isReserved(3);
    await expectRest();
  });

  it('is kept once the order is recorded, although the recording instance is paused', async () => {
    await begin();
    const { status } = await paused(shape, record('after'), place, async () => {
      await setTimeout(holdMs + 5 * sweepMs);
      await isReserved(3);
    });
    expect(status).toBe(201);
    await isReserved(3);
    await expectRest();
  });

  /** Makes the recording of an order fail; only the first instance can sweep its hold. */
  const loseRecord = async (): Promise<void> => {
    const lost = shape.proxies.order.next(record('before'));
    process.kill(shape.services[1]!.pid, 'SIGSTOP');
    const placing = asking.place(here);
    (await lost).cut();
    expect((await placing).status).toBe(503);
  };

  it.each(['before', 'after'] as const)(
    'is released once when the sweeping instance is paused %s it voids the order and a retry succeeds',
    async (moment) => {
      await begin();
      await paused(shape, { statement: 'order-void', moment }, loseRecord, async () => {
        process.kill(shape.services[1]!.pid, 'SIGCONT');
        // The retry succeeds although no sweep has released the first hold yet, and there is not enough stock for both.
        ok(await asking.place(there), 201);
      });
      await isReserved(3);
      await expectRest();
    },
  );

  it.each([
    ['order-void', 'before'],
    ['order-void', 'after'],
    ['inventory-settle', 'before'],
    ['inventory-settle', 'after'],
  ] as const)('is released although the sweeping instance is killed (%s, %s)', async (statement, moment) => {
    await begin();
    const catching = shape.proxies.order.next({ statement, moment });
    await loseRecord();
    const caught = await catching;
    await shape.services[0]!.kill('SIGKILL');
    caught.cut();
    process.kill(shape.services[1]!.pid, 'SIGCONT');
    await isReserved(0);
    await shape.services[0]!.restart();
    expect((await asking.place(here)).status).toBe(201);
    await isReserved(3);
    await expectRest();
  });
});

describe('inventory that is down until its holds have expired', () => {
  let shape: ProxiedShape;
  let api: Api;

  beforeAll(async () => {
    shape = await startProxied('split', { ORDER_HOLD_MS: String(holdMs), ORDER_SWEEP_MS: String(sweepMs) });
    api = new Api(shape.baseUrl);
  });
  afterAll(() => shape?.stop());

  it('keeps the stock of acknowledged orders and releases the rest', async () => {
    const product = await api.product({ onHand: 9 });
    const of = (quantity: number) => new Asking({ customer_id: 'c', product_id: product, quantity });
    const [lost, kept, cancelled] = [of(4), of(3), of(2)];
    const { inventory, order } = shape.proxies;
    // Inventory settles none of the orders before it is killed.
    const stop = inventory.each({ statement: 'inventory-settle', moment: 'before' }, 1, (caught) => caught.cut());
    const recording = order.next({ statement: 'order-record', moment: 'before', with: has(lost.key) });
    const losing = lost.place(api);
    (await recording).cut();
    expect((await losing).status).toBe(503);
    ok(await kept.place(api), 201);
    const { order_id } = ok(await cancelled.place(api), 201);
    await shape.service('inventory').kill('SIGKILL');
    ok(await api.cancel(order_id));
    await setTimeout(holdMs + 5 * sweepMs);
    stop();
    await shape.service('inventory').restart();
    await eventually(async () => expect(await api.stock(product)).toMatchObject({ reserved: 3 }));
    ok(await new Asking({ customer_id: 'other', product_id: product, quantity: 6 }).place(api), 201);
    refused(await lost.place(api), '409 out-of-stock');
    const ledger = new Ledger(shape);
    const log = { placements: [...lost.placements, ...kept.placements, ...cancelled.placements] };
    await ledger.quiet();
    await eventually(async () => expect(await ledger.violations({ log, holdsMayWait: false })).toEqual([]));
    expect(await api.stock(product)).toMatchObject({ on_hand: 9, reserved: 9 });
  });
});
