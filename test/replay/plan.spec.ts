import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { catalogueBatches } from '../../scripts/replay/execute.js';
import { readFileLines, UnusableFile, type FileLine } from '../../scripts/replay/file-line.js';
import { lineAmountMinor, parsePrice, partOfAmount, penceRoundedUp } from '../../scripts/replay/money.js';
import { planReplay, type OrderStep, type Plan, type ReturnStep } from '../../scripts/replay/plan.js';
import { allLines, csv, describeRealFile, linesOf, realFile } from './csv.js';

const planOf = async (...rows: string[]): Promise<Plan> => planReplay(await linesOf(csv(...rows)));
const orders = (plan: Plan): OrderStep[] => plan.steps.filter((step) => step.kind === 'order');
const returns = (plan: Plan): ReturnStep[] => plan.steps.filter((step) => step.kind === 'return');

describe('amounts', () => {
  it.each([
    ['2.55', 6, 1530],
    ['0.085', 1, 9],
    ['0.085', -1, -9],
    ['0.001', 499, 50],
    ['0.001', 4, 0],
    ['0.015', 1, 2],
    ['1.005', 1, 101],
    ['-11062.06', 1, -1106206],
    ['.5', 3, 150],
    ['7', 2, 1400],
    ['0', 5, 0],
  ])('%s times %d is %d pence, rounded once and half away from zero', (price, quantity, pence) => {
    expect(lineAmountMinor(parsePrice(price)!, quantity)).toBe(pence);
  });

  it.each(['', 'abc', '1,5', '1e3', '0x10', '1.2.3', '.', '--1', 'NaN'])('%j is not a price', (text) => {
    expect(parsePrice(text)).toBeUndefined();
  });

  it('are undefined if they would not be exact', () => {
    expect(lineAmountMinor(parsePrice('999999999999')!, 999_999)).toBeUndefined();
  });

  it('of parts add up to the whole, wherever it is split', () => {
    for (const [amount, units, cut] of [
      [100, 3, 1],
      [-101, 7, 3],
      [1, 1000, 500],
    ] as const)
      expect(partOfAmount(amount, units, 0, cut) + partOfAmount(amount, units, cut, units)).toBe(amount);
  });

  it('are rounded up for prices with fractions of a penny', () => {
    expect(['0.001', '0.085', '0.09', '0'].map((price) => penceRoundedUp(parsePrice(price)!))).toEqual([1, 9, 9, 0]);
  });
});

describe('reading a file', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'replay-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  const read = async (content: string | Buffer, name = 'file.csv'): Promise<FileLine[]> => {
    const file = join(folder, name);
    await writeFile(file, content);
    return allLines(file);
  };

  it('accepts a byte order mark, CRLF, quotes, blank lines, and gzip under any name', async () => {
    const text = `\uFEFF${csv(
      '1,A1,"MUG, ""BIG""",2,2010-12-01 08:26:00,2.55,17850.0,United Kingdom',
      '',
      '2,b2,LAMP "L",1,12/1/2010 8:26,1.00,,France',
    ).replaceAll('\n', '\r\n')}`;
    const lines = await read(text);
    expect(lines).toMatchObject([
      { number: 2, description: 'MUG, "BIG"', customer: '17850', amountMinor: 510, fault: undefined },
      { product: 'b2', description: 'LAMP "L"', customer: '', fault: undefined },
    ]);
    expect(lines[0]!.at).toBe(Date.UTC(2010, 11, 1, 8, 26));
    expect(lines[1]!.at).toBe(lines[0]!.at);
    expect(await read(gzipSync(text), 'packed.csv')).toEqual(lines);
  });

  it('reports missing columns, broken content and missing files', async () => {
    await expect(read('InvoiceNo,StockCode,Description,Quantity\n1,2,3,4\n')).rejects.toThrow(
      /lacks the columns InvoiceDate, UnitPrice, CustomerID/,
    );
    await expect(read('')).rejects.toThrow(/is empty/);
    await expect(read(csv('1,A,"never closed,1,2010-12-01 08:26:00,1,1,UK'))).rejects.toThrow(UnusableFile);
    await expect(read(Buffer.from([0x1f, 0x8b, 8, 0, 1]), 'broken.csv.gz')).rejects.toThrow(UnusableFile);
    await expect(readFileLines(join(folder, 'none.csv')).next()).rejects.toThrow(/There is no file/);
    await expect(readFileLines(folder).next()).rejects.toThrow(/is a directory/);
  });

  it('accepts the columns in any order', async () => {
    const header = 'Country,UnitPrice,Quantity,StockCode,InvoiceNo,CustomerID,InvoiceDate,Description';
    expect(await read(`${header}\nUK,1.5,2,A,7,c,2010-12-01 08:26:00,MUG\n`)).toMatchObject([
      { invoice: '7', product: 'A', customer: 'c', quantity: 2, amountMinor: 300 },
    ]);
  });
});

describe('planning', () => {
  it('uses the latest description and price for the catalogue, and the code if there is no description', async () => {
    const plan = await planOf(
      '1,A,OLD,1,2010-12-01 08:26:00,1.00,c,UK',
      '1,a,,1,2010-12-01 08:26:00,0.085,c,UK',
      'C2,A,NEW,-1,2010-12-02 08:26:00,2.00,c,UK',
      '3,A,,1,2010-12-03 08:26:00,-5,c,UK',
      'A4,B,Adjust bad debt,1,2010-12-03 08:26:00,11062.06,,UK',
    );
    expect(plan.catalogue).toEqual([
      { productId: 'A', name: 'NEW', unitPriceMinor: 200 },
      { productId: 'a', name: 'a', unitPriceMinor: 9 },
      { productId: 'B', name: 'Adjust bad debt', unitPriceMinor: 1106206 },
    ]);
  });

  it('combines all lines of an invoice in the file into one order', async () => {
    const plan = await planOf(
      '1,A,MUG,1,2010-12-01 08:26:00,1.00,,UK',
      '2,A,MUG,5,2010-12-01 08:26:00,1.00,c,UK',
      '1,A,MUG,2,2010-12-01 08:26:00,0,c9,UK',
    );
    expect(orders(plan)).toMatchObject([
      { invoice: '1', customerId: 'c9', totalMinor: 100, lines: [{ quantity: 1 }, { quantity: 2, unitPriceMinor: 0 }] },
      { invoice: '2', customerId: 'c', totalMinor: 500 },
    ]);
    expect(plan.stock).toMatchObject([{ productId: 'A', units: 8 }]);
  });

  it('compensates for rounded-up prices with a discount', async () => {
    const plan = await planOf('1,A,MUG,500,2010-12-01 08:26:00,0.001,c,UK', '1,B,CUP,3,2010-12-01 08:26:00,0.085,c,UK');
    expect(orders(plan)).toMatchObject([
      { totalMinor: 50 + 26, roundingMinor: 500 + 27 - 76, lines: [{ unitPriceMinor: 1 }, { unitPriceMinor: 9 }] },
    ]);
  });

  it('assigns returns to the latest order of the customer first, line by line, and refuses the rest', async () => {
    const plan = await planOf(
      '1,A,MUG,5,2010-12-01 08:26:00,1.00,c,UK',
      '2,B,CUP,9,2010-12-01 08:27:00,1.00,c,UK',
      '2,A,MUG,2,2010-12-01 08:27:00,1.00,c,UK',
      '2,A,MUG,1,2010-12-01 08:27:00,0.50,c,UK',
      '3,A,MUG,9,2010-12-01 08:28:00,1.00,other,UK',
      'C4,A,MUG,-10,2010-12-02 08:26:00,1.001,c,UK',
      '5,A,MUG,9,2010-12-02 08:27:00,1.00,c,UK',
    );
    expect(returns(plan)).toMatchObject([
      {
        invoice: 'C4',
        returns: [
          {
            order: '2',
            idempotencyKey: 'C4:2',
            lines: [
              { productId: 'A', line: 2, quantity: 2, amountMinor: 200 },
              { productId: 'A', line: 3, quantity: 1, amountMinor: 100 },
            ],
            totalMinor: 300,
          },
          { order: '1', lines: [{ line: 1, quantity: 5, amountMinor: 501 }] },
        ],
      },
    ]);
    expect(plan.refusals).toEqual([{ reason: 'return-without-sale', line: 7, amountMinor: -(1001 - 801) }]);
  });

  it('names each line of an order once in a return, even if several lines cancel it', async () => {
    const plan = await planOf(
      '1,A,MUG,5,2010-12-01 08:26:00,1.00,,UK',
      'C2,A,MUG,-1,2010-12-02 08:26:00,1.00,,UK',
      'C2,A,MUG,-2,2010-12-02 08:26:00,0.50,,UK',
    );
    expect(returns(plan)[0]!.returns).toMatchObject([
      { lines: [{ line: 1, quantity: 3, amountMinor: 200 }], shares: [{ amountMinor: -100 }, { amountMinor: -100 }] },
    ]);
  });

  it('puts a return after every order that it refers to, even if its lines are scattered', async () => {
    const plan = await planOf(
      'C2,A,MUG,-1,2010-12-02 08:26:00,1.00,c,UK',
      '1,A,MUG,5,2010-12-01 08:26:00,1.00,c,UK',
      'C2,A,MUG,-1,2010-12-02 08:26:00,1.00,c,UK',
    );
    expect(plan.steps.map((step) => step.kind)).toEqual(['order', 'return']);
    expect(plan.refusals).toMatchObject([{ reason: 'return-without-sale', line: 2 }]);
  });

  it('turns negative lines of an ordinary invoice into stock adjustments', async () => {
    const plan = await planOf('1,A,MUG,5,2010-12-01 08:26:00,1.00,c,UK', '1,A,damaged,-2,2010-12-01 08:26:00,0.5,c,UK');
    expect(plan.steps[1]).toMatchObject({
      kind: 'adjustment',
      adjustments: [{ productId: 'A', delta: -2, amountMinor: -100, idempotencyKey: '1:adjustment:2' }],
    });
    expect(plan.stock).toMatchObject([{ productId: 'A', units: 7 }]);
  });

  it('gives a reason for every line that is not carried out', async () => {
    const plan = await planOf(
      'A1,B,Adjust bad debt,1,2010-12-01 08:26:00,-11062.06,,UK',
      '2,A,MUG,0,2010-12-01 08:26:00,1.00,c,UK',
      '2,A,MUG,1,2010-12-01 08:26:00,-1.00,c,UK',
      'C3,A,MUG,1,2010-12-01 08:26:00,1.00,c,UK',
      '2,A,MUG,one,2010-12-01 08:26:00,1.00,c,UK',
      '2,A,MUG,1.5,2010-12-01 08:26:00,1.00,c,UK',
      '2,A,MUG,1,2010-12-01 08:26:00,free,c,UK',
      '2,,MUG,3,2010-12-01 08:26:00,1.00,c,UK',
      ',A,MUG,3,2010-12-01 08:26:00,1.00,c,UK',
      '2,A,MUG,3',
      '2,A,MUG, BIG,3,2010-12-01 08:26:00,1.00,c,UK',
    );
    expect(plan.steps).toEqual([]);
    expect(plan.refusals.map(({ reason, amountMinor }) => [reason, amountMinor])).toEqual([
      ['accounting-adjustment', -1106206],
      ['zero-quantity', 0],
      ['negative-price', -100],
      ['positive-cancellation', 100],
      ['unreadable-line', 0],
      ['unreadable-line', 0],
      ['unreadable-line', 0],
      ['unreadable-line', 300],
      ['unreadable-line', 300],
      ['unreadable-line', 0],
      ['unreadable-line', 0],
    ]);
    expect(plan.fileTotalMinor).toBe(-1106206 + 600);
    expect(plan.refusals.map((refusal) => refusal.detail).slice(4)).toEqual([
      'Quantity "one" is not an integer',
      'Quantity "1.5" is not an integer',
      'UnitPrice "free" is not a decimal number',
      'StockCode "" is not a code of 1 to 128 characters',
      'InvoiceNo "" is not a number of 1 to 64 visible ASCII characters',
      'it has 4 fields, the header has 8',
      'it has 9 fields, the header has 8',
    ]);
  });

  it('derives the key of a stock adjustment from the lines that need the stock', async () => {
    const sale = '1,A,MUG,5,2010-12-01 08:26:00,1.00,c,UK';
    const key = async (...rows: string[]) => (await planOf(...rows)).stock.find((it) => it.productId === 'A')!;
    expect(await key(sale)).toEqual(await key(sale.replace('MUG', 'CUP'), '2,B,LAMP,1,2010-12-01 08:26:00,1.00,c,UK'));
    expect(await key(sale)).not.toEqual(await key(sale.replace('1,A', '2,A')));
  });

  it('adds no stock for an order that exceeds the limits of the API', async () => {
    const rows = Array.from({ length: 2_001 }, () => '1,A,MUG,1,2010-12-01 08:26:00,1.00,c,UK');
    const plan = await planOf(...rows);
    expect(plan.stock).toEqual([]);
    expect(orders(plan)[0]!.lines).toHaveLength(2_001);
  });

  it('refuses a file whose amounts cannot be summed exactly', async () => {
    const row = '1,A,MUG,900000000000,2010-12-01 08:26:00,99.99,c,UK';
    await expect(planOf(row)).resolves.toMatchObject({ lines: 1 });
    await expect(planOf(row, row)).rejects.toThrow(/2\^53/);
  });
});

describe('the catalogue', () => {
  it('is split into batches within the limits of count and bytes', () => {
    const entry = { productId: 'p', name: 'n', unitPriceMinor: 1 };
    expect(catalogueBatches(Array.from({ length: 2_500 }, () => entry)).map((it) => it.length)).toEqual([
      1_000, 1_000, 500,
    ]);
    const long = { ...entry, name: '漢'.repeat(500) };
    const batches = catalogueBatches(Array.from({ length: 1_000 }, () => long));
    expect(Math.max(...batches.map((it) => Buffer.byteLength(JSON.stringify(it))))).toBeLessThan(1_000_000);
    expect(batches.flat()).toHaveLength(1_000);
    expect(catalogueBatches([])).toEqual([]);
  });
});

describeRealFile(() => {
  let plan: Plan;
  let unsold: number;
  beforeAll(async () => {
    const lines = await allLines(realFile);
    plan = planReplay(lines);
    const cancelled = lines.filter((line) => line.invoice.startsWith('C'));
    unsold = -cancelled.reduce((units, line) => units + line.quantity!, 0);
  });

  it('is accounted for to the penny', () => {
    expect(plan.lines).toBe(142_083);
    expect(plan.fileTotalMinor).toBe(249_028_701);
    expect(orders(plan)).toHaveLength(5_754 - 348);
    expect(plan.catalogue).toHaveLength(3_269);
    const adjustments = plan.steps.flatMap((step) => (step.kind === 'adjustment' ? step.adjustments : []));
    expect(adjustments).toHaveLength(348);
    const placed = orders(plan).reduce((total, step) => total + step.totalMinor, 0);
    const goods = returns(plan).flatMap((step) => step.returns);
    const returned = goods.reduce((total, it) => total + it.totalMinor, 0);
    const refused = plan.refusals.reduce((total, it) => total + it.amountMinor, 0);
    expect(placed - returned + refused).toBe(249_028_701);
    const units = goods.flatMap((it) => it.lines).reduce((total, line) => total + line.quantity, 0);
    expect({ units, unsold: unsold - units }).toEqual({ units: 87_754, unsold: 16_399 });
  });
});
