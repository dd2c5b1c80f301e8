import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { Api, refused } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { prepared } from '../support/tables.js';
import { crashAtEach } from './crash.js';
import { crashPointsOf } from './crash-points.js';
import { paused } from './paused.js';

const environment = { ORDER_COMMIT: 'two-phase', ORDER_IN_DOUBT_MS: '600' };

describe.each(['one database', 'two databases', 'split'] as const)(
  'crashes during two-phase commit in the shape %s',
  (shape) => {
    crashAtEach(crashPointsOf(shape, 'two-phase'), shape, () => ({ environment }));
  },
);

describe('a prepared reservation', () => {
  let shape: ProxiedShape;
  let ledger: Ledger;
  let here: Api;
  let there: Api;
  let product: string;

  beforeAll(async () => {
    shape = await startProxied('two instances', environment);
    ledger = new Ledger(shape);
    [here, there] = shape.services.map((it) => new Api(it.url)) as [Api, Api];
  });
  afterEach(async () => {
    // A failed test may have left an instance paused.
    for (const { pid } of shape.services) process.kill(pid, 'SIGCONT');
    await ledger.expectInvariants({ holdsMayWait: false });
  });
  afterAll(() => shape?.stop());

  const branches = async () => prepared(await shape.databaseUrls());
  const order = () => ({ customer_id: 'c', product_id: product, quantity: 3 });

  it('is rolled back if its coordinator is paused, and the late Record is refused', async () => {
    product = await there.product({ onHand: 5 });
    const other = await there.product();
    const key = fresh('key');
    const late = await paused(
      shape,
      { statement: 'order-record', moment: 'before' },
      () => here.place(order(), key),
      async () => {
        expect(await branches()).toHaveLength(1);
        // A branch in doubt does not block orders for other products.
        await there.placed({ customer_id: 'c', product_id: other, quantity: 1 });
        await eventually(async () => expect(await branches()).toEqual([]));
        await there.placed({ ...order(), quantity: 5 });
      },
    );
    refused(late, '503 unavailable');
    refused(await here.place(order(), key), '409 out-of-stock');
    expect(await there.stock(product)).toMatchObject({ reserved: 5 });
  });

  it('is committed once its order is recorded, although its coordinator is paused', async () => {
    product = await there.product({ onHand: 5 });
    const answer = await paused(
      shape,
      { statement: 'order-record', moment: 'after' },
      () => here.place(order()),
      () => eventually(async () => expect(await there.stock(product)).toMatchObject({ reserved: 3 })),
    );
    expect(answer.status).toBe(201);
  });

  it('is recognised by its name, and prepared transactions of others are left alone', async () => {
    await ledger.inventory(`BEGIN; CREATE TABLE public.theirs (); PREPARE TRANSACTION 'theirs'`);
    try {
      product = await there.product({ onHand: 5 });
      await there.placed(order());
      await new Promise((resolve) => setTimeout(resolve, 1_500));
      expect(await branches()).toEqual([{ gid: 'theirs' }]);
    } finally {
      await ledger.inventory(`ROLLBACK PREPARED 'theirs'`);
    }
  });
});
