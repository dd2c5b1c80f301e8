import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { parse } from 'csv-parse/sync';
import { SeededRandom, testSeed } from '#testing';
import type { Report } from '../../scripts/replay/reconcile.js';
import { replay } from '../../scripts/replay/replay.js';
import { startShape, type Shape, type ShapeName } from '../support/shapes.js';

/**
 * The replay of real orders against real processes: of all orders of a few customers, chosen by the seed, or with `npm
 * run test:replay` of the whole file.
 */
const source = new URL('../../../shared/data/online-retail-2010-12_2011-03.csv.gz', import.meta.url).pathname;
const whole = 'fullRun' in globalThis;
const shareOfCustomers = 0.03;
if (whole) jest.setTimeout(900_000);

const present = existsSync(source);
if (!present) console.warn(`The replay against all shapes is skipped: ${source} is not there.`);

/** The part of the report that must not depend on the shape or on how often the file is replayed. */
const totalsOf = ({ orders_placed, orders_replayed, ...rest }: Report) => ({
  ...rest,
  orders: orders_placed + orders_replayed,
});

(present ? describe : describe.skip)('the replay of real orders', () => {
  let folder: string;
  let file: string;
  let shape: Shape | undefined;
  const totals = new Map<string, object>();

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'cleave-replay-'));
    file = whole ? source : await drawnFrom(source, join(folder, 'orders.csv.gz'));
  });

  afterAll(() => rm(folder, { recursive: true }));

  afterEach(async () => {
    await shape?.stop();
    shape = undefined;
  });

  const run = async (stop?: AbortSignal): Promise<{ code: number; report: Report | undefined; said: string }> => {
    const out: string[] = [];
    const err: string[] = [];
    const code = await replay([file, '--json', '--url', shape!.baseUrl], {
      out: into(out),
      err: into(err),
      stop: stop ?? new AbortController().signal,
    });
    const last = out.join('').trim().split('\n').at(-1);
    return { code, report: code === 0 ? (JSON.parse(last!) as Report) : undefined, said: err.join('') };
  };

  const reconciled = async (): Promise<Report> => {
    const { code, report, said } = await run();
    expect({ code, said }).toEqual({ code: 0, said: expect.any(String) });
    return report!;
  };

  it.each<ShapeName>(['monolith', 'split-tcp', 'split-redis'])(
    'reconciles to the penny on %s, and a second run changes nothing',
    async (name) => {
      shape = await startShape(name);
      const first = await reconciled();
      expect(first.orders_placed).toBeGreaterThan(0);
      expect(first.returns_recorded).toBeGreaterThan(0);
      expect(
        first.placed_total_minor - first.returned_total_minor + first.refused_total_minor + first.adjusted_total_minor,
      ).toBe(first.file_total_minor);
      const stockAfterOne = await stockOf(shape.baseUrl);

      const second = await reconciled();
      expect(second).toEqual({ ...first, orders_placed: 0, orders_replayed: first.orders_placed });
      expect(await stockOf(shape.baseUrl)).toEqual(stockAfterOne);
      totals.set(name, { report: totalsOf(first), stock: stockAfterOne });
    },
  );

  it('has the same result in all shapes', () => {
    expect(totals.get('split-tcp')).toEqual(totals.get('monolith'));
    expect(totals.get('split-redis')).toEqual(totals.get('monolith'));
  });

  it('has the same totals after the server is killed half-way', async () => {
    shape = await startShape('monolith');
    const monolith = shape.service('monolith');
    const running = run();
    const half = (totals.get('monolith') as { report: { orders: number } }).report.orders / 2;
    while ((await ordersIn(shape.baseUrl)) < half) await new Promise((resolve) => setTimeout(resolve, 20));
    await monolith.kill('SIGKILL');
    await monolith.restart();
    await running;
    const report = await reconciled();
    expect(report.orders_replayed).toBeGreaterThanOrEqual(Math.floor(half));
    expect({ report: totalsOf(report), stock: await stockOf(shape.baseUrl) }).toEqual(totals.get('monolith'));
  });
});

const into = (chunks: string[]): Writable =>
  new Writable({
    write(chunk, _encoding, done) {
      chunks.push(String(chunk));
      done();
    },
  });

interface StockLevel {
  product_id: string;
  on_hand: number;
  reserved: number;
  sold: number;
}

/** The stock of all products, once all events have been applied: nothing stays reserved after a replay. */
const stockOf = async (baseUrl: string): Promise<StockLevel[]> => {
  const ids: string[] = [];
  for (let cursor: string | null = ''; cursor !== null;) {
    const page: { data: { product_id: string }[]; next_cursor: string | null } = await get(
      `${baseUrl}/products?limit=200${cursor && `&cursor=${encodeURIComponent(cursor)}`}`,
    );
    ids.push(...page.data.map((it) => it.product_id).filter((id) => !id.startsWith('demo-')));
    cursor = page.next_cursor;
  }
  const levels: StockLevel[] = [];
  for (let from = 0; from < ids.length; from += 50)
    levels.push(...(await Promise.all(ids.slice(from, from + 50).map((id) => settledStockOf(baseUrl, id)))));
  return levels;
};

const settledStockOf = async (baseUrl: string, id: string): Promise<StockLevel> => {
  const address = `${baseUrl}/stock/${encodeURIComponent(id)}`;
  let level = await get<StockLevel>(address);
  for (const giveUpAt = Date.now() + 30_000; level.reserved !== 0 && Date.now() < giveUpAt;)
    level = await get<StockLevel>(address);
  expect(level).toMatchObject({ product_id: id, reserved: 0 });
  return level;
};

/** The number of orders so far. */
const ordersIn = async (baseUrl: string): Promise<number> => {
  let count = 0;
  for (let cursor: string | null = ''; cursor !== null;) {
    const page: { data: unknown[]; next_cursor: string | null } = await get(
      `${baseUrl}/orders?limit=200${cursor && `&cursor=${encodeURIComponent(cursor)}`}`,
    );
    count += page.data.length;
    cursor = page.next_cursor;
  }
  return count;
};

const get = async <Body>(url: string): Promise<Body> => {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}: ${await answer.text()}`);
  return (await answer.json()) as Body;
};

/** All lines of some customers, so that returns find their sales. */
const drawnFrom = async (whole: string, part: string): Promise<string> => {
  const random = new SeededRandom(testSeed());
  const drawn = new Map<string, boolean>();
  const rows = parse<Record<string, string>>(gunzipSync(await readFile(whole)), { columns: true });
  const chosen = rows.filter(({ InvoiceNo, CustomerID }) => {
    // There are too many sales without a customer to take all of them, so their invoices are sampled.
    const who = CustomerID || InvoiceNo!;
    if (!drawn.has(who)) drawn.set(who, random.next() < shareOfCustomers);
    return drawn.get(who);
  });
  const quoted = (row: Record<string, string>) => Object.values(row).map((it) => `"${it.replaceAll('"', '""')}"`);
  const text = [Object.keys(rows[0]!), ...chosen.map(quoted)].map((cells) => cells.join(',')).join('\n');
  await writeFile(part, gzipSync(text));
  return part;
};
