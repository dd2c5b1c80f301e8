import { describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { ok, refused, type SalesPage, type SalesViews, type StockOutlook } from '../../support/api.js';
import { fresh } from '../../support/fresh.js';
import type { World } from './world.js';

export const salesTests = (world: World): void => {
  const price = 250;
  const page = async (query: Record<string, string> = {}): Promise<SalesPage> =>
    ok(await world.api.get<SalesPage>(`/sales?${new URLSearchParams(query).toString()}`));
  const ofProduct = async (product_id: string): Promise<SalesPage['data']> => {
    await world.ledger.quiet();
    return (await page({ product_id })).data;
  };
  const product = (onHand = 100): Promise<string> => world.api.product({ price, onHand });
  const views = async (): Promise<SalesViews['data']> => ok(await world.api.get<SalesViews>('/sales/views')).data;
  const today = (): string => new Date().toISOString().slice(0, 10);

  describe('sales', () => {
    it('show what was ordered, cancelled and returned, by product and day', async () => {
      const [mug, lamp] = [await product(), await product()];
      const day = today();
      const both = { customer_id: 'c', lines: [mug, lamp, mug].map((product_id) => ({ product_id, quantity: 2 })) };
      const { order_id } = await world.api.placed(both);
      const cancelled = await world.api.placed({ customer_id: 'c', product_id: lamp, quantity: 5 });
      ok(await world.api.cancel(cancelled.order_id));
      const declined = { method: 'simulated', token: 'tok_declined' };
      await world.api.placed({ customer_id: 'c', product_id: lamp, quantity: 1, payment: declined });
      ok(await world.api.fulfil(order_id));
      const lines = [{ product_id: mug, quantity: 1, amount_minor: 100 }];
      ok(await world.api.return(order_id, { lines, restock: true, reason: 'r' }), 201);
      // A run past midnight has two days.
      if (today() !== day) return;
      expect(await ofProduct(mug)).toEqual([
        {
          ...{ day, product_id: mug, currency: 'GBP', orders: 1 },
          ...{ ordered: 4, cancelled: 0, returned: 1, sold: 3 },
          ...{ ordered_minor: 1_000, cancelled_minor: 0, returned_minor: 100, sold_minor: 900 },
        },
      ]);
      expect(await ofProduct(lamp)).toEqual([
        {
          ...{ day, product_id: lamp, currency: 'GBP', orders: 3 },
          ...{ ordered: 8, cancelled: 6, returned: 0, sold: 2 },
          ...{ ordered_minor: 2_000, cancelled_minor: 1_500, returned_minor: 0, sold_minor: 500 },
        },
      ]);
    });

    it('show amounts beyond the largest safe integer as the nearest number', async () => {
      const gold = await world.api.product({ price: 100_000_000_000, onHand: 1_000_000 });
      const orders = await Promise.all(
        [1, 2].map(() => world.api.placed({ customer_id: 'c', product_id: gold, quantity: 90_000 })),
      );
      expect(await ofProduct(gold)).toMatchObject([{ ordered: 180_000, ordered_minor: 18e15, sold_minor: 18e15 }]);
      for (const { order_id } of orders) ok(await world.api.cancel(order_id));
      expect(await ofProduct(gold)).toMatchObject([{ cancelled_minor: 18e15, sold_minor: 0 }]);
    });

    it('are listed in pages, each product and day once, within the given days', async () => {
      const ids = await Promise.all(Array.from({ length: 5 }, () => product()));
      for (const product_id of ids) await world.api.placed({ customer_id: 'c', product_id, quantity: 1 });
      await world.ledger.quiet();
      const seen: string[] = [];
      for (let cursor: string | null = ''; cursor !== null;) {
        const { data, next_cursor } = await page({ limit: '3', ...(cursor && { cursor }) });
        expect(data.length).toBeLessThanOrEqual(3);
        seen.push(...data.map((it) => `${it.day} ${it.product_id} ${it.currency}`));
        cursor = next_cursor;
      }
      expect(new Set(seen).size).toBe(seen.length);
      for (const id of ids) expect(seen.filter((it) => it.includes(id))).toHaveLength(1);
      expect((await page({ product_id: ids[0]!, to: '2001-01-01' })).data).toEqual([]);
      expect((await page({ product_id: ids[0]!, from: '2001-01-01' })).data).toHaveLength(1);
    });

    it('refuse invalid days and cursors', async () => {
      for (const query of ['from=yesterday', 'to=2026-02-30', 'to=0000-01-01', 'limit=0', 'unknown=1'])
        refused(await world.api.get(`/sales?${query}`), '400 invalid-request');
      refused(await world.api.get('/sales?cursor=x'), '400 invalid-cursor');
    });

    it('predict no end of stock for a product without sales before today', async () => {
      const mug = await product(12);
      await world.api.placed({ customer_id: 'c', product_id: mug, quantity: 2 });
      await world.ledger.quiet();
      expect(ok(await world.api.get<StockOutlook>(`/sales/outlook/${mug}`))).toEqual({
        ...{ product_id: mug, available: 10, window_days: 28, sold: 0, sold_per_day: 0 },
        ...{ days_left: null, out_of_stock_on: null },
      });
      refused(await world.api.get(`/sales/outlook/${fresh('p')}`), '404 product-not-found');
    });

    it('are rebuilt from the event log while they are served and orders are placed', async () => {
      const mug = await product();
      const place = () => world.api.placed({ customer_id: 'c', product_id: mug, quantity: 1 });
      await place();
      const before = await ofProduct(mug);
      const started = ok(await world.api.send<SalesViews['data'][number]>('POST', '/sales/views'), 202);
      expect(started.state).toBe('building');
      for (let count = 0; count < 5; count += 1) {
        await place();
        const served = (await page({ product_id: mug })).data;
        expect(served[0]!.ordered).toBeGreaterThanOrEqual(before[0]!.ordered);
      }
      const served = await eventually(async () => {
        const [newest, ...older] = await views();
        expect(newest).toMatchObject({ view: started.view, state: 'serving' });
        expect(older.every((it) => it.state === 'retired')).toBe(true);
        return newest!;
      });
      expect(served.events).toBeGreaterThanOrEqual(6);
      expect((await ofProduct(mug)).reduce((sum, it) => sum + it.ordered, 0)).toBe(6);
    });
  });
};
