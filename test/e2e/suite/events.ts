import { afterEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { eventually } from '#testing';
import { ok, refused, type EventPage, type History, type Order } from '../../support/api.js';
import { EventStream } from '../../support/event-stream.js';
import type { World } from './world.js';

type Event = EventPage['data'][number];

/** The limit of concurrent streams. */
const followers = 100;

export const eventTests = (world: World): void => {
  const page = async (after: string | undefined, limit?: number): Promise<EventPage> => {
    const query = new URLSearchParams({
      ...(after !== undefined && { after }),
      ...(limit && { limit: String(limit) }),
    });
    return ok(await world.api.get<EventPage>(`/events?${query.toString()}`));
  };
  /** All events after a cursor, and the cursor of the end. */
  const pages = async (from: string | undefined, limit?: number): Promise<EventPage> => {
    const data: Event[] = [];
    for (let after = from; ;) {
      const { data: some, next_cursor } = await page(after, limit);
      if (some.length === 0) return { data, next_cursor };
      data.push(...some);
      after = next_cursor;
    }
  };
  /**
   * The cursor after all acknowledged events. An event is shown once no older one can appear any more, which other open
   * transactions on the server may delay.
   */
  const end = async (): Promise<string> => {
    const { order_id } = await place();
    return eventually(async () => {
      const { data, next_cursor } = await pages(undefined, 200);
      expect(data.map((it) => it.order_id)).toContain(order_id);
      return next_cursor;
    });
  };
  const place = async (): Promise<Order> => {
    const product_id = await world.api.product({ onHand: 10 });
    return world.api.placed({ customer_id: 'c', product_id, quantity: 2 });
  };
  const told = (events: readonly Event[]): string[] => events.map((it) => `${it.type} ${it.order_id}`);
  /** The history of an order in the form of events. */
  const fromHistory = (orderId: string, entries: History['data']): object[] =>
    entries.map((it) => ({ ...it, order_id: orderId, type: `order.${it.type}`, event_id: `${orderId}:${it.version}` }));

  const open: EventStream[] = [];
  const follow = async (after?: string, headers?: Record<string, string>): Promise<EventStream> => {
    const query = after === undefined ? '' : `?${new URLSearchParams({ after }).toString()}`;
    const stream = await EventStream.open(`${world.api.baseUrl}/events${query}`, headers);
    open.push(stream);
    return stream;
  };
  const closeAll = (): void => {
    for (const stream of open.splice(0)) stream.close();
  };
  afterEach(closeAll);

  describe('the change feed', () => {
    it('has the entries of the order histories, in pages, and continues after the last cursor', async () => {
      const from = await end();
      const one = await place();
      const other = await place();
      const parcel = { lines: [{ product_id: one.lines[0]!.product_id, quantity: 1 }], reference: 'JD0002254' };
      ok(await world.api.fulfil(one.order_id, parcel));
      ok(await world.api.cancel(other.order_id, { reason: 'changed my mind' }));
      const { data, next_cursor } = await eventually(async () => {
        const all = await pages(from, 3);
        expect(told(all.data)).toEqual([
          `order.placed ${one.order_id}`,
          `order.placed ${other.order_id}`,
          `order.fulfilled ${one.order_id}`,
          `order.cancelled ${other.order_id}`,
        ]);
        return all;
      });
      expect(data[2]!.data).toMatchObject({ reference: parcel.reference });
      for (const { order_id } of [one, other]) {
        const ours = data.filter((it) => it.order_id === order_id).map(({ cursor: _, ...event }) => event);
        expect(ours).toEqual(fromHistory(order_id, await world.api.history(order_id)));
      }
      expect(await page(next_cursor)).toEqual({ data: [], next_cursor });
      // The cursor of an event works like that of a page.
      expect((await pages(data[1]!.cursor)).data).toEqual(data.slice(2));
      expect((await page(from, 1_000)).data).toEqual(data);
    });

    it('shows every event once to a client that reads while others write', async () => {
      const from = await end();
      const product = await world.api.product({ onHand: 1_000 });
      const expected: string[] = [];
      const write = async (): Promise<void> => {
        for (let round = 0; round < 12; round += 1) {
          const { order_id } = await world.api.placed({ customer_id: 'c', product_id: product, quantity: 1 });
          expected.push(`order.placed ${order_id}`);
          if (round % 3 === 0) {
            ok(await world.api.cancel(order_id));
            expected.push(`order.cancelled ${order_id}`);
          }
        }
      };
      let last: string | undefined;
      const writeAll = async (): Promise<void> => {
        await Promise.all(Array.from({ length: 8 }, write));
        last = (await place()).order_id;
      };
      const seen: Event[] = [];
      const read = async (limit: number): Promise<void> => {
        // A reader that has seen the last event has seen everything that was acknowledged before it.
        for (let after = from; last === undefined || seen.at(-1)?.order_id !== last;) {
          const { data, next_cursor } = await page(after, limit);
          seen.push(...data);
          after = next_cursor;
        }
      };
      await Promise.all([read(7), writeAll()]);
      expect(told(seen).toSorted()).toEqual([...expected, `order.placed ${last!}`].toSorted());
      const versions = Map.groupBy(seen, (it) => it.order_id);
      for (const events of versions.values())
        expect(events.map((it) => it.version)).toEqual(events.map((_, at) => at + 1));
    });

    it('withholds later events until a transaction that began earlier has committed', async () => {
      const slow = await place();
      const from = await end();
      const { order } = await world.shape.databaseUrls();
      const locking = new pg.Client(order);
      await locking.connect();
      await locking.query('BEGIN');
      await locking.query('SELECT FROM orders.orders WHERE order_id = $1 FOR UPDATE', [slow.order_id]);
      const cancelling = world.api.cancel(slow.order_id);
      const waits = `SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'`;
      await eventually(async () => expect((await locking.query(waits)).rowCount).toBe(1));
      const swift = await place();
      expect((await page(from)).data).toEqual([]);
      await locking.query('COMMIT');
      await locking.end();
      ok(await cancelling);
      await eventually(async () =>
        expect(told((await pages(from)).data)).toEqual([
          `order.cancelled ${slow.order_id}`,
          `order.placed ${swift.order_id}`,
        ]),
      );
    });

    it.each(['nonsense', 'e30', ''])('refuses the cursor "%s"', async (cursor) => {
      refused(await world.api.get(`/events?after=${cursor}`), '400 invalid-cursor');
      if (cursor !== '')
        refused(
          await world.api.send('GET', '/events', {
            headers: { accept: 'text/event-stream', 'last-event-id': cursor },
          }),
          '400 invalid-cursor',
        );
    });

    it('refuses unknown parameters', async () => {
      refused(await world.api.get('/events?before=x&limit=5'), '400 invalid-request', ['before']);
    });
  });

  describe('the stream of events', () => {
    it('sends events as they happen, and resumes after Last-Event-ID', async () => {
      const from = await end();
      const stream = await follow(from);
      expect(stream.response.status).toBe(200);
      expect(stream.response.headers.get('content-type')).toMatch(/^text\/event-stream(?:;|$)/);
      expect(stream.response.headers.get('cache-control')).toBe('no-store');
      const first = await place();
      const [placed] = await stream.take(1);
      const [event] = (await page(from)).data;
      expect(JSON.parse(placed!.data)).toEqual(event);
      expect(placed).toMatchObject({ id: event!.cursor, event: 'order.placed' });
      ok(await world.api.cancel(first.order_id));
      await stream.take(1);
      stream.close();

      // No stream is open while these happen.
      const second = await place();
      ok(await world.api.cancel(second.order_id));
      // The header takes precedence over the URL, because browsers reconnect to the URL that they started with.
      const again = await follow(from, { 'last-event-id': placed!.id });
      const rest = (await again.take(3)).map((it) => JSON.parse(it.data) as Event);
      expect(told(rest)).toEqual([
        `order.cancelled ${first.order_id}`,
        `order.placed ${second.order_id}`,
        `order.cancelled ${second.order_id}`,
      ]);
    });

    it('is chosen over pages by the Accept header, in any case and by quality', async () => {
      for (const accept of ['TEXT/Event-Stream', 'application/json;q=0.5, text/event-stream']) {
        const { headers } = (await follow(undefined, { accept })).response;
        expect(headers.get('content-type')).toMatch(/^text\/event-stream(?:;|$)/);
      }
      for (const accept of ['text/event-stream;q=0, application/json', 'application/json, text/event-stream;q=0.5']) {
        const { status, body } = await world.api.send<EventPage>('GET', '/events?limit=1', { headers: { accept } });
        expect(status).toBe(200);
        expect(body.data).toHaveLength(1);
      }
    });

    it('begins with the first event by default', async () => {
      const stream = await follow();
      const [first] = (await page(undefined, 1)).data;
      const [told] = await stream.take(1);
      expect(JSON.parse(told!.data)).toEqual(first);
    });

    it('has a limit of concurrent clients, and a closed stream frees its place', async () => {
      const from = await end();
      // Streams of earlier tests are released shortly after they were closed.
      const streams = await eventually(async () => {
        closeAll();
        const opened = await Promise.all(Array.from({ length: followers }, () => follow(from)));
        expect(new Set(opened.map((it) => it.response.status))).toEqual(new Set([200]));
        return opened;
      });
      const beyond = await world.api.send('GET', '/events', { headers: { accept: 'text/event-stream' } });
      // All streams belong to one tenant; the limit applies per tenant.
      refused(beyond, '429 too-many-requests');
      expect(Number(beyond.headers.get('retry-after'))).toBeGreaterThan(0);
      const { order_id } = await place();
      for (const stream of streams)
        expect((await stream.take(1)).map((it) => JSON.parse(it.data) as Event)[0]).toMatchObject({ order_id });
      for (const stream of streams.slice(0, 10)) stream.close();
      await eventually(async () => expect((await follow(from)).response.status).toBe(200));
    });
  });
};
