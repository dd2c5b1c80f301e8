import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { concurrently } from '../../scripts/replay/concurrently.js';
import { execute, readBack, type Progress } from '../../scripts/replay/execute.js';
import { PatientShopApi } from '../../scripts/replay/patient-shop-api.js';
import { planReplay, type Plan } from '../../scripts/replay/plan.js';
import { asTable, reconcile, refusalExamples, type Reconciliation } from '../../scripts/replay/reconcile.js';
import { ReplayStopped, ShopUnavailable, type ShopApi } from '../../scripts/replay/shop-api.js';
import { allLines, csv, describeRealFile, linesOf, realFile } from './csv.js';
import { dyingAt, FakeShop } from './fake-shop.js';

const silent: Progress = { begin: () => undefined, advance: () => undefined };
const never = new AbortController().signal;

const run = async (plan: Plan, shop: ShopApi, concurrency = 4, speed?: number): Promise<Reconciliation> => {
  const options = { concurrency, speed, stop: never, progress: silent };
  const outcome = await execute(plan, shop, options);
  return reconcile(plan, outcome, await readBack(outcome.placed, shop, options));
};

const row = (invoice: string, product: string, quantity: number, price: string, customer: string): string =>
  `${invoice},${product},MUG,${quantity},2010-12-01 08:26:00,${price},${customer},UK`;

const planOf = async (...rows: string[]): Promise<Plan> => planReplay(await linesOf(csv(...rows)));

const small = [
  row('1', 'A', 5, '1.00', 'c'),
  row('1', 'B', 3, '0.085', 'c'),
  row('2', 'A', 4, '0', ''),
  row('3', 'A', -2, '0.5', ''),
  row('C4', 'A', -7, '1.00', 'c'),
  row('A5', 'Z', 1, '11062.06', ''),
];

describe('a replay', () => {
  it('accounts for every line, and changes nothing when it is repeated', async () => {
    const shop = new FakeShop();
    const plan = await planOf(...small);
    const { report, faults } = await run(plan, shop);
    expect(faults).toEqual([]);
    expect(report).toEqual({
      lines: 6,
      orders_placed: 2,
      orders_replayed: 0,
      adjustments_recorded: 1,
      returns_recorded: 1,
      refused: {
        'accounting-adjustment': { lines: 1, total_minor: 1106206 },
        'return-without-sale': { lines: 1, total_minor: -200 },
      },
      placed_total_minor: 500 + 26,
      returned_total_minor: 500,
      refused_total_minor: 1106206 - 200,
      adjusted_total_minor: -100,
      file_total_minor: 526 - 100 - 700 + 1106206,
      currency: 'GBP',
    });
    expect(asTable(report)).toContain('£11,062.06');
    const after = shop.snapshot();
    const again = await run(plan, shop);
    expect(again.faults).toEqual([]);
    expect(again.report).toEqual({ ...report, orders_placed: 0, orders_replayed: 2 });
    expect(shop.snapshot()).toEqual(after);
  });

  it('adds to the existing stock instead of replacing it', async () => {
    const shop = new FakeShop();
    await shop.putProducts([{ productId: 'A', name: 'other', unitPriceMinor: 1 }]);
    await shop.adjustStock('A', 1_000, 'counted', 'other');
    await run(await planOf(...small), shop);
    expect(shop.stock.get('A')).toBe(1_000 + 5);
  });

  it('reports an order refused by the server under its code, and also refuses its returns', async () => {
    const shop = new FakeShop();
    shop.refusedInvoices.add('1');
    const plan = await planOf(...small);
    const { report, faults } = await run(plan, shop);
    expect(faults).toEqual([]);
    expect(report).toMatchObject({
      orders_placed: 1,
      returns_recorded: 0,
      refused: {
        'invalid-request': { lines: 2, total_minor: 526 },
        'return-without-sale': { lines: 1, total_minor: -700 },
      },
    });
    const outcome = await execute(plan, shop, { concurrency: 1, stop: never, progress: silent });
    expect(refusalExamples(outcome.refusals)).toContain('line 2: invalid-request: not this one');
  });

  it('reports a mismatch if an order at the server differs from the file', async () => {
    const shop = new FakeShop();
    const plan = await planOf(...small);
    await run(plan, shop);
    shop.orders.get('order-1')!.returnedTotalMinor += 1;
    const { faults } = await run(plan, shop);
    expect(faults).toEqual([
      'order order-1 of invoice 1 has £5.01 returned at the server, £5.00 in the file',
      expect.stringMatching(/are accounted for/),
    ]);
  });

  it('keeps the timing of the file at the given speed', async () => {
    const at = (minute: number): string => `${minute},A,MUG,1,2010-12-01 08:0${minute}:00,1,c,UK`;
    const shop = new FakeShop();
    const began = Date.now();
    await run(await planOf(at(1), at(2), at(3)), shop, 4, 1_200);
    // Two minutes of the file at 1,200 times the speed are 100 ms; a timer may fire slightly early.
    expect(Date.now() - began).toBeGreaterThanOrEqual(95);
    expect(shop.orders.size).toBe(3);
  });

  it('starts no further orders once it is stopped, and continues when it is run again', async () => {
    const shop = new FakeShop();
    const plan = await planOf(...Array.from({ length: 50 }, (_, index) => row(String(index), 'A', 1, '1', 'c')));
    const stop = new AbortController();
    shop.onCall = () => {
      if (shop.orders.size === 10) stop.abort();
    };
    await expect(execute(plan, shop, { concurrency: 4, stop: stop.signal, progress: silent })).rejects.toThrow();
    const reached = shop.orders.size;
    expect(reached).toBeLessThan(20);
    expect([...shop.orders.values()].every((kept) => kept.fulfilled)).toBe(true);
    const { report } = await run(plan, shop);
    expect(report).toMatchObject({ orders_placed: 50 - reached, orders_replayed: reached });
  });
});

/** Small untidy files with few customers, products and invoices, so that many rows interact. */
const untidyRows = fc.array(
  fc
    .tuple(
      fc.constantFrom('1', '2', '3', '4', '5', 'C6', 'C7', 'C8', 'C9', 'A1'),
      fc.constantFrom('A', 'a', 'B', ''),
      fc.integer({ min: -6, max: 12 }),
      fc.constantFrom('0', '0.001', '0.085', '1.00', '2.55', '-3.10', '99.995', 'free'),
      fc.constantFrom('', 'c', '17850.0'),
    )
    .map(([invoice, product, quantity, price, customer]) =>
      // The rows of a cancellation are negative.
      row(invoice, product, invoice.startsWith('C') ? -Math.abs(quantity) : quantity, price, customer),
    ),
  { minLength: 1, maxLength: 40, size: 'max' },
);

describe('any file', () => {
  it('is accounted for to the penny, at any concurrency, and again when it is repeated', async () => {
    await fc.assert(
      fc.asyncProperty(untidyRows, fc.integer({ min: 1, max: 8 }), async (rows, concurrency) => {
        const plan = await planOf(...rows);
        const shop = new FakeShop();
        const { report, faults } = await run(plan, shop, concurrency);
        expect(faults).toEqual([]);
        expect(report.lines).toBe(rows.length);
        const after = shop.snapshot();
        const again = await run(plan, shop, 1);
        expect(again.faults).toEqual([]);
        expect(again.report.orders_placed).toBe(0);
        expect({ ...again.report, orders_placed: report.orders_placed, orders_replayed: 0 }).toEqual(report);
        expect(shop.snapshot()).toEqual(after);
      }),
      { numRuns: 150 },
    );
  });

  it('has the same result after it was interrupted before or after any call and run again', async () => {
    await fc.assert(
      fc.asyncProperty(
        untidyRows,
        fc.integer({ min: 1, max: 80 }),
        fc.constantFrom('before', 'after'),
        async (rows, at, when) => {
          const plan = await planOf(...rows);
          const whole = new FakeShop();
          const { report } = await run(plan, whole);
          const shop = new FakeShop();
          shop.onCall = dyingAt(at, when);
          await run(plan, shop).catch((error: unknown) => expect(error).toBeInstanceOf(ShopUnavailable));
          shop.onCall = () => undefined;
          const rerun = await run(plan, shop);
          expect(rerun.faults).toEqual([]);
          expect(shop.snapshot()).toEqual(whole.snapshot());
          const { orders_placed, orders_replayed, ...rest } = rerun.report;
          expect(orders_placed + orders_replayed).toBe(report.orders_placed);
          expect(report).toMatchObject(rest);
        },
      ),
      { numRuns: 150 },
    );
  });
});

describeRealFile(() => {
  it('has the same result in one run, interrupted and run again, and repeated', async () => {
    const plan = planReplay(await allLines(realFile));
    const whole = new FakeShop();
    const { report, faults } = await run(plan, whole, 16);
    expect(faults).toEqual([]);
    expect(report).toMatchObject({
      lines: 142_083,
      orders_placed: 5_406,
      orders_replayed: 0,
      adjustments_recorded: 348,
      adjusted_total_minor: 0,
      file_total_minor: 249_028_701,
    });
    const shop = new FakeShop();
    shop.onCall = dyingAt(10_000, 'after');
    await expect(run(plan, shop, 16)).rejects.toThrow('the line went dead');
    shop.onCall = () => undefined;
    for (let again = 0; again < 2; again += 1) {
      expect((await run(plan, shop, 16)).report).toMatchObject({
        ...report,
        orders_placed: expect.any(Number),
        orders_replayed: expect.any(Number),
      });
      expect(shop.snapshot()).toEqual(whole.snapshot());
    }
  });
});

describe('retries', () => {
  const patient = { tries: 4, firstWaitMs: 1, longestWaitMs: 2 };

  it('repeat a call whose answer was lost, without a second effect', async () => {
    const plan = await planOf(...small);
    const whole = new FakeShop();
    const { report } = await run(plan, whole);
    const shop = new FakeShop();
    const lost = new Set<number>();
    shop.onCall = (call, moment) => {
      if (moment === 'after' && call % 3 === 0 && !lost.has(call)) {
        lost.add(call);
        throw new ShopUnavailable('the line went dead', true, 1);
      }
    };
    const waits: string[] = [];
    const patience = new PatientShopApi(shop, 'http://shop', never, (message) => waits.push(message), patient);
    const { report: disturbed, faults } = await run(plan, patience);
    expect(faults).toEqual([]);
    expect(waits.length).toBeGreaterThan(3);
    expect(shop.snapshot()).toEqual(whole.snapshot());
    expect({ ...disturbed, orders_placed: 2, orders_replayed: 0 }).toEqual(report);
  });

  it('end with the advice to start a server if there never was an answer', async () => {
    const shop = new FakeShop();
    shop.onCall = dyingAt(1, 'before');
    const call = new PatientShopApi(shop, 'http://shop', never, undefined, patient).readOrder('x');
    await expect(call).rejects.toThrow(/No server answers at http:\/\/shop .*npm start/);
  });

  it('end with the advice to repeat the command if answers cease', async () => {
    const shop = new FakeShop();
    shop.onCall = dyingAt(2, 'before');
    const patience = new PatientShopApi(shop, 'http://shop', never, undefined, patient);
    await patience.putProducts([]);
    await expect(patience.putProducts([])).rejects.toThrow(ReplayStopped);
    await expect(patience.putProducts([])).rejects.toThrow(/after 4 tries .*Run the same command again/);
  });

  it('end at once when the replay is stopped', async () => {
    const shop = new FakeShop();
    shop.onCall = () => {
      throw new ShopUnavailable('busy', true, 60_000);
    };
    const stop = new AbortController();
    const patience = new PatientShopApi(shop, 'http://shop', stop.signal, () => stop.abort(), patient);
    await expect(patience.readOrder('x')).rejects.toThrow(/abort/i);
  });
});

describe('concurrent work', () => {
  it('never exceeds the limit, and starts nothing more after a failure', async () => {
    let underWay = 0;
    let most = 0;
    const begun: number[] = [];
    const work = concurrently([1, 2, 3, 4, 5, 6, 7, 8, 9], 3, never, async (item) => {
      begun.push(item);
      most = Math.max(most, (underWay += 1));
      await new Promise(setImmediate);
      underWay -= 1;
      if (item === 4) throw new Error('four');
    });
    await expect(work).rejects.toThrow('four');
    expect({ most, underWay }).toEqual({ most: 3, underWay: 0 });
    expect(begun).toEqual([1, 2, 3, 4, 5, 6]);
  });
});
