import { describe, expect, it } from '@jest/globals';
import { ok, refused, type Order, type OrderPage, type ProductPage, type StockPage } from '../../support/api.js';
import { fresh, randomOf } from '../../support/fresh.js';
import type { World } from './world.js';

const query = (parameters: Record<string, string | number>): string =>
  new URLSearchParams(
    Object.fromEntries(Object.entries(parameters).map(([name, value]) => [name, String(value)])),
  ).toString();

export const listTests = (world: World): void => {
  const page = async (parameters: Record<string, string | number>): Promise<OrderPage> =>
    ok(await world.api.get<OrderPage>(`/orders?${query(parameters)}`));

  const pages = async (
    parameters: Record<string, string | number>,
    between: () => Promise<unknown> = () => Promise.resolve(),
  ): Promise<Order[]> => {
    const found: Order[] = [];
    for (let cursor: string | null | undefined; cursor !== null;) {
      const { data, next_cursor } = await page({ ...parameters, ...(cursor && { cursor }) });
      found.push(...data);
      cursor = next_cursor;
      await between();
    }
    return found;
  };

  const idsOf = (orders: Order[]): string[] => orders.map((it) => it.order_id);
  const sorted = (ids: string[]): string[] => ids.toSorted();

  /** Places orders of a new customer. */
  const placeMany = async (count: number, customer = fresh('c'), options: object = {}): Promise<Order[]> => {
    const product_id = await world.api.product({ onHand: count });
    const body = { customer_id: customer, product_id, quantity: 1, ...options };
    const placed: Order[] = [];
    while (placed.length < count) {
      const some = Array.from({ length: Math.min(25, count - placed.length) }, () => world.api.placed(body));
      placed.push(...(await Promise.all(some)));
    }
    return placed;
  };

  describe('the history of an order', () => {
    const handedOver = async (units: number, lines: number): Promise<string> => {
      const product_id = await world.api.product({ onHand: units * lines });
      const all = (quantity: number) => Array.from({ length: lines }, () => ({ product_id, quantity }));
      const { order_id } = await world.api.placed({ customer_id: fresh('c'), lines: all(units) });
      const each = all(1).map((it, at) => ({ ...it, line: at + 1 }));
      for (let done = 0; done < units; done += 1) ok(await world.api.fulfil(order_id, { lines: each }));
      return order_id;
    };
    const versions = (entries: { version: number }[]) => entries.map((it) => it.version);

    it('is listed in pages, oldest entry first, or whole if it is short', async () => {
      const id = await handedOver(6, 1);
      const whole = await world.api.historyPage(id, {});
      expect(whole).toMatchObject({ next_cursor: null });
      expect(versions(whole.data)).toEqual([1, 2, 3, 4, 5, 6, 7]);
      expect(await world.api.historyPage(id, { limit: '7' })).toEqual(whole);
      const first = await world.api.historyPage(id, { limit: '3' });
      const back = { lines: whole.data[1]!.data['lines'], restock: true, reason: 'unwanted' };
      // An entry added while paging comes at the end.
      ok(await world.api.return(id, back), 201);
      const second = await world.api.historyPage(id, { limit: '3', cursor: first.next_cursor! });
      const third = await world.api.historyPage(id, { limit: '3', cursor: second.next_cursor! });
      expect([first, second, third].map((it) => versions(it.data))).toEqual([
        [1, 2, 3],
        [4, 5, 6],
        [7, 8],
      ]);
      expect([...first.data, ...second.data, ...third.data.slice(0, 1)]).toEqual(whole.data);
      expect(third.next_cursor).toBeNull();
    });

    it('has fewer entries on a page if they are large, and omits none', async () => {
      const id = await handedOver(12, 2_000);
      const first = await world.api.historyPage(id, {});
      expect(versions(first.data)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
      const rest = await world.api.historyPage(id, { cursor: first.next_cursor! });
      expect([versions(rest.data), rest.next_cursor]).toEqual([[12, 13], null]);
    });

    it('refuses invalid parameters and cursors, also with a cursor of another list', async () => {
      const id = await handedOver(2, 1);
      const address = `/orders/${id}/history`;
      refused(await world.api.get(`${address}?limit=0`), '400 invalid-request', ['limit']);
      refused(await world.api.get(`${address}?other=1`), '400 invalid-request', ['other']);
      refused(await world.api.get(`${address}?cursor=made-up`), '400 invalid-cursor');
      const { next_cursor } = await world.api.historyPage(id, { limit: '1' });
      const nobody = '01890000-0000-7000-8000-000000000000';
      refused(await world.api.get(`/orders/${nobody}/history?cursor=${next_cursor}`), '404 order-not-found');
      refused(await world.api.get(`/orders?cursor=${next_cursor}`), '400 invalid-cursor');
    });
  });

  describe('the list of orders', () => {
    it('shows the newest order first, each as it was placed', async () => {
      const customer = fresh('c');
      const placed: Order[] = [];
      for (let count = 0; count < 6; count += 1) placed.push(...(await placeMany(1, customer)));
      const listed = await page({ customer_id: customer });
      expect(listed).toEqual({ data: placed.toReversed(), next_cursor: null });
      const newest = await page({ limit: 200 });
      expect(idsOf(newest.data)).toContain(placed.at(-1)!.order_id);
      const times = newest.data.map((it) => it.created_at);
      expect(times).toEqual(times.toSorted().toReversed());
    });

    it('can be filtered by customer, status and reference', async () => {
      const customer = fresh('c & d=é%');
      const reference = fresh('ref +/');
      const [one, cancelled, fulfilled] = await placeMany(3, customer, { reference });
      const [other] = await placeMany(1, customer);
      const [foreign] = await placeMany(1, fresh('c'), { reference });
      ok(await world.api.cancel(cancelled!.order_id));
      ok(await world.api.fulfil(fulfilled!.order_id));
      const ids = async (parameters: Record<string, string>) => sorted(idsOf((await page(parameters)).data));
      const all = [one, cancelled, fulfilled, other, foreign].map((it) => it!.order_id);
      expect(await ids({ customer_id: customer })).toEqual(sorted(all.slice(0, 4)));
      expect(await ids({ reference })).toEqual(sorted([all[0]!, all[1]!, all[2]!, all[4]!]));
      expect(await ids({ customer_id: customer, reference })).toEqual(sorted(all.slice(0, 3)));
      expect(await ids({ customer_id: customer, status: 'cancelled' })).toEqual([all[1]]);
      expect(await ids({ customer_id: customer, status: 'fulfilled', reference })).toEqual([all[2]]);
      expect(await ids({ customer_id: customer, status: 'confirmed', reference })).toEqual([all[0]]);
      expect(await ids({ customer_id: customer, status: 'returned' })).toEqual([]);
      expect(await ids({ customer_id: customer.toUpperCase() })).toEqual([]);
      const everyCancelled = await pages({ status: 'cancelled', limit: 200 });
      expect(new Set(everyCancelled.map((it) => it.status))).toEqual(new Set(['cancelled']));
      expect(idsOf(everyCancelled)).toContain(all[1]);
    });

    it('can be limited to a range of times, from its start and before its end, with any other filter', async () => {
      const customer = fresh('c');
      const reference = fresh('r');
      const placed: Order[] = [];
      for (let count = 0; count < 4; count += 1) {
        placed.push(...(await placeMany(1, customer, { reference })));
        await world.api.product();
      }
      ok(await world.api.cancel(placed[2]!.order_id));
      const [, two, three, four] = placed.map((it) => it.created_at) as [string, string, string, string];
      const after = (time: string, ms: number) => new Date(Date.parse(time) + ms).toISOString();
      const expectListed = async (range: Record<string, string>, expected: Order[]) => {
        const ids = idsOf(expected.toReversed());
        const filters: Record<string, string>[] = [
          { customer_id: customer },
          { reference },
          { customer_id: customer, reference },
        ];
        for (const others of filters) expect(idsOf((await page({ ...others, ...range })).data)).toEqual(ids);
        expect(idsOf(await pages({ customer_id: customer, ...range, limit: 1 }))).toEqual(ids);
        const cancelled = ids.filter((id) => id === placed[2]!.order_id);
        expect(idsOf((await page({ customer_id: customer, status: 'cancelled', ...range })).data)).toEqual(cancelled);
      };
      const since = (time: string) => placed.filter((it) => it.created_at >= time);
      const until = (time: string) => placed.filter((it) => it.created_at < time);
      await expectListed({ created_from: two }, since(two));
      await expectListed({ created_from: after(two, 1) }, since(after(two, 1)));
      await expectListed({ created_before: three }, until(three));
      await expectListed({ created_before: after(three, 1) }, until(after(three, 1)));
      await expectListed({ created_from: two, created_before: after(four, 1) }, since(two));
      await expectListed({ created_from: after(four, 1) }, []);
      await expectListed({ created_from: '0000-01-01T00:00:00Z', created_before: '9999-12-31T23:59:59-23:59' }, placed);
      await expectListed({ created_from: '9999-12-31T23:59:59Z' }, []);
      await expectListed({ created_before: '1969-12-31T23:59:59Z' }, []);
      // Between two milliseconds, and the same moments in another offset.
      await expectListed({ created_from: two.replace('Z', '000001Z') }, since(after(two, 1)));
      await expectListed({ created_before: three.replace('Z', '000001Z') }, until(after(three, 1)));
      const hoursLater = (time: string) => after(time, 5.5 * 3_600_000).replace('Z', '+05:30');
      await expectListed({ created_from: hoursLater(two), created_before: hoursLater(four) }, [
        ...since(two).filter((it) => it.created_at < four),
      ]);
      // Without another filter, others are listed as well, but only within the range.
      const listed = await pages({ created_from: two, created_before: four, limit: 200 });
      expect(listed.every((it) => it.created_at >= two && it.created_at < four)).toBe(true);
      expect(idsOf(listed)).toEqual(expect.arrayContaining(idsOf(since(two).filter((it) => it.created_at < four))));
    });

    it('lowers a limit above the cap to the cap', async () => {
      const customer = fresh('c');
      const placed = await placeMany(205, customer);
      for (const limit of [201, 1_000, '9'.repeat(30)]) {
        const first = await page({ customer_id: customer, limit });
        expect(first.data).toHaveLength(200);
        const last = await page({ customer_id: customer, limit, cursor: first.next_cursor! });
        expect(last.next_cursor).toBeNull();
        expect(sorted(idsOf([...first.data, ...last.data]))).toEqual(sorted(idsOf(placed)));
      }
      const standard = await page({ customer_id: customer });
      expect(standard.data).toHaveLength(50);
    });

    it('has fewer orders on a page if they are large, and omits none', async () => {
      const customer = fresh('c');
      const product_id = await world.api.product({ onHand: 100_000 });
      const lines = Array.from({ length: 2_000 }, () => ({ product_id, quantity: 1 }));
      const large: Order[] = [];
      while (large.length < 24)
        large.push(...(await Promise.all([1, 2, 3, 4].map(() => world.api.placed({ customer_id: customer, lines })))));
      const small = await placeMany(3, customer);
      const sizes: number[] = [];
      const seen: string[] = [];
      for (let cursor: string | null | undefined; cursor !== null;) {
        const { data, next_cursor } = await page({ customer_id: customer, limit: 200, ...(cursor && { cursor }) });
        sizes.push(data.reduce((sum, it) => sum + it.lines.length, 0));
        seen.push(...idsOf(data));
        cursor = next_cursor;
      }
      expect(sizes).toEqual([20_003, 20_000, 8_000]);
      expect(sorted(seen)).toEqual(sorted(idsOf([...large, ...small])));
      // The limit of orders applies if it is reached before the limit of lines.
      expect((await page({ customer_id: customer, limit: 5 })).data).toHaveLength(5);
    });

    it('has no next cursor after a last page that is full', async () => {
      const customer = fresh('c');
      await placeMany(10, customer);
      expect(await page({ customer_id: customer, limit: 10 })).toMatchObject({ next_cursor: null });
      const half = await page({ customer_id: customer, limit: 5 });
      expect(await page({ customer_id: customer, limit: 5, cursor: half.next_cursor! })).toMatchObject({
        data: { length: 5 },
        next_cursor: null,
      });
    });

    it('shows each order that existed when paging began exactly once while others are placed', async () => {
      const customer = fresh('c');
      const there = await placeMany(40, customer);
      const later: Promise<Order[]>[] = [];
      const seen = await pages({ customer_id: customer, limit: 7 }, async () => {
        later.push(placeMany(4, customer));
        await placeMany(1, customer);
      });
      const added = (await Promise.all(later)).flat();
      expect(added.length).toBeGreaterThan(20);
      const ids = idsOf(seen);
      expect(new Set(ids).size).toBe(ids.length);
      expect(sorted(ids.filter((id) => idsOf(there).includes(id)))).toEqual(sorted(idsOf(there)));
    });

    it('shows each order once if orders change while paging', async () => {
      const customer = fresh('c');
      const there = await placeMany(12, customer);
      const random = randomOf('change while paging');
      const open = random.shuffled(there);
      const seen = await pages({ customer_id: customer, limit: 4 }, async () => {
        const next = open.pop();
        if (next) ok(await world.api.cancel(next.order_id));
      });
      expect(sorted(idsOf(seen))).toEqual(sorted(idsOf(there)));
    });
  });

  describe.each(['/orders', '/products', '/stock'])('the list %s', (path) => {
    it.each(['0', '-1', '1.5', 'abc', '', '1e2', '0x10', ' 5', '٣'])('refuses the limit "%s"', async (limit) => {
      refused(await world.api.get(`${path}?${query({ limit })}`), '400 invalid-request', ['limit']);
    });

    it('refuses a cursor that is forged, altered or of another list', async () => {
      await Promise.all([placeMany(2), world.api.product(), world.api.product()]);
      const cursorOf = async (list: string) =>
        ok(await world.api.get<OrderPage | ProductPage | StockPage>(`${list}?limit=1`)).next_cursor!;
      const own = await cursorOf(path);
      ok(await world.api.get(`${path}?${query({ cursor: own, limit: 1 })}`));
      const random = randomOf('tampered cursors');
      const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
      const tampered = Array.from({ length: 20 }, () => {
        const at = random.integer(0, own.length - 1);
        const letter = random.pick(letters.split('').filter((it) => it !== own[at]));
        return own.slice(0, at) + letter + own.slice(at + 1);
      });
      const foreign = await cursorOf(path === '/orders' ? '/products' : '/orders');
      const forged = Buffer.from(JSON.stringify({ before: 'x', after: 'x' })).toString('base64url');
      const wrong = [foreign, forged, '', 'x', `${own}A`, `${own}=`, own.slice(0, -1), own.slice(4), `${own}.${own}`];
      for (const cursor of [...tampered, ...wrong]) {
        refused(await world.api.get(`${path}?${query({ cursor })}`), '400 invalid-cursor');
      }
      refused(await world.api.get(`${path}?${query({ cursor: own.padEnd(1_001, 'A') })}`), '400 invalid-request', [
        'cursor',
      ]);
    });

    it('refuses unknown and repeated parameters', async () => {
      const paths = async (search: string, faults: string[]) =>
        refused(await world.api.get(`${path}?${search}`), '400 invalid-request', faults);
      await paths('limt=5', ['limt']);
      await paths('limit=1&offset=5', ['offset']);
      await paths('limit=1&limit=2', ['limit']);
      await paths('cursor=a&cursor=b', ['cursor']);
      await paths('limit[]=1', ['limit[]']);
    });
  });

  describe('the filters of the list of orders', () => {
    it.each([
      ['status=unknown', ['status']],
      ['status=', ['status']],
      ['status=CONFIRMED', ['status']],
      ['status=confirmed&status=cancelled', ['status']],
      ['customer_id=', ['customer_id']],
      ['customer_id=a&customer_id=b', ['customer_id']],
      [`customer_id=${'x'.repeat(129)}`, ['customer_id']],
      ['customer_id=%00', ['customer_id']],
      ['reference=', ['reference']],
      [`reference=${'x'.repeat(129)}`, ['reference']],
      ['created_from=', ['created_from']],
      ['created_from=2026-11-28', ['created_from']],
      ['created_from=2026-11-28T00:00Z', ['created_from']],
      ['created_from=2026-11-28T00:00:00', ['created_from']],
      ['created_from=2026-11-28T00:00:00+01:00', ['created_from']],
      ['created_from=2026-11-28T00:00:00.0123456789Z', ['created_from']],
      ['created_from=2026-02-29T00:00:00Z&created_before=1795824000', ['created_from', 'created_before']],
      ['created_before=2026-11-28T24:00:00Z', ['created_before']],
      ['created_before=%2B010000-01-01T00:00:00Z', ['created_before']],
      ['created_from=2026-11-28T01:00:00%2B01:00&created_before=2026-11-28T00:00:00Z', ['created_before']],
      ['created_from=2026-11-28T00:00:01Z&created_before=2026-11-28T00:00:00Z', ['created_before']],
      ['created_from=2026-11-28T00:00:00Z&created_from=2026-11-28T00:00:00Z', ['created_from']],
    ])('refuse %s', async (search, paths) => {
      refused(await world.api.get(`/orders?${search}`), '400 invalid-request', paths);
    });
  });
};
