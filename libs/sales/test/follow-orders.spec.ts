import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Test } from '@nestjs/testing';
import type { OrderLogEvent } from '#contracts';
import { databaseFor, sqlToken, type Sql } from '#database';
import { Checkpoints, checkpointsIn, fromLog, positionOf, type EventSource } from '#events';
import { SeededRandom, testSeed, twoInstances, until, type TwoInstances } from '#testing';
import { PostgresSales } from '../src/adapters/postgres-sales.js';
import { salesDatabase } from '../src/sales.module.js';
import { FollowOrders, type OrderLog, type Views } from '../src/use-cases/follow-orders.js';

interface Instance {
  sql: Sql;
  sales: PostgresSales;
  checkpoints: Checkpoints;
  stop(): Promise<void>;
}

const startInstance = async (url: string): Promise<Instance> => {
  const module = await Test.createTestingModule({
    imports: [databaseFor(salesDatabase(url))],
    providers: [PostgresSales, checkpointsIn('sales', 'sales')],
  }).compile();
  module.useLogger(false);
  return {
    sql: module.get<Sql>(sqlToken('sales'), { strict: false }),
    sales: module.get(PostgresSales),
    checkpoints: module.get(Checkpoints),
    stop: () => module.close(),
  };
};

const pageLength = 50;

/** An in-memory log that can be made to fail. */
class Log implements OrderLog {
  readonly events: OrderLogEvent[] = [];
  pageLength = pageLength;
  interrupt: () => Promise<void> | void = () => {};

  /** Adds orders of one mug each. */
  place(count: number, unit_price_minor = 5): void {
    this.tell('order.placed', count, unit_price_minor);
  }

  tell(type: OrderLogEvent['type'], count: number, unit_price_minor: number): void {
    for (let at = 0; at < count; at += 1)
      this.events.push({
        ...{ specversion: '1.0', id: randomUUID(), source: '/orders', type, subject: randomUUID() },
        ...{ time: new Date('2026-11-30T12:00:00Z'), tenantid: 't' },
        sequence: positionOf({ xid: '7', id: String(this.events.length + 1) }),
        data: {
          ...{ version: 1, status: 'confirmed', currency: 'GBP', details: {} },
          order: {
            ...{ customer_id: 'c', reference: null, total_minor: unit_price_minor },
            lines: [{ product_id: 'mug', name: 'Mug', quantity: 1, unit_price_minor }],
          },
        },
      });
  }

  as(): EventSource<OrderLogEvent> {
    return {
      read: (parts, limit) =>
        fromLog(
          async (after, most) => {
            await this.interrupt();
            const events = this.events.filter((it) => it.sequence > after).slice(0, Math.min(most, this.pageLength));
            return { events, until: events.at(-1)?.sequence ?? after, isMore: events.length > 0 };
          },
          parts,
          limit,
        ),
    };
  }
}

let instances: TwoInstances<Instance>;
let log: Log;
const running: FollowOrders[] = [];

const random = new SeededRandom(testSeed());

beforeAll(async () => {
  instances = await twoInstances(startInstance);
});
afterAll(() => instances?.stop());

const execute = (text: string) => instances.one.sql.query({ name: `test-${text.slice(0, 40)}`, text });

beforeEach(async () => {
  log = new Log();
  await execute('TRUNCATE sales.days, sales.readers, sales.checkpoints, sales.views');
  await execute(`INSERT INTO sales.views (view, state, serving_since) VALUES (1, 'serving', now())`);
  await instances.one.checkpoints.begin('sales-1');
});

const begin = (following: FollowOrders): FollowOrders => {
  following.onApplicationBootstrap();
  running.push(following);
  return following;
};
const start = (at: Pick<Instance, 'checkpoints'> & { sales: Views }, of = log): FollowOrders =>
  begin(new FollowOrders(at.sales, at.checkpoints, of));
/** The real views with some calls replaced. */
const inPlaceOf = (views: Views, replaced: Partial<Views>): Views => ({
  following: views.following.bind(views),
  add: views.add.bind(views),
  serveBuilt: views.serveBuilt.bind(views),
  forgetRetired: views.forgetRetired.bind(views),
  ...replaced,
});
const stopAll = () => Promise.all(running.splice(0).map((it) => it.beforeApplicationShutdown()));
afterEach(stopAll);

const counted = async (): Promise<number> => {
  const rows = await instances.one.sales.page('t', { productId: 'mug', from: undefined, to: undefined }, undefined, 5);
  return rows.reduce((sum, it) => sum + it.orders, 0);
};

describe('the consumer of order events', () => {
  it('counts each event once while instances come and go and the log sometimes fails', async () => {
    const { one, two } = instances;
    log.interrupt = () => {
      if (random.next() < 0.2) throw new Error('the log is away');
    };
    for (let round = 0; round < 6; round += 1) {
      log.place(300);
      const following = start(round % 2 === 0 ? one : two);
      await setTimeout(random.integer(0, 200));
      if (random.next() < 0.5) {
        running.splice(running.indexOf(following), 1);
        await following.beforeApplicationShutdown();
      }
    }
    start(one);
    await until(async () => (await counted()) >= 1_800);
    await stopAll();
    expect(await counted()).toBe(1_800);
    expect((await one.sales.all())[0]).toMatchObject({ events: 1_800, state: 'serving' });
  });

  it('lets other work of the process run while it adds up a large batch', async () => {
    const { one } = instances;
    let turns = 0;
    let isOver = false;
    const turn = (): void => {
      turns += 1;
      if (!isOver) setImmediate(turn);
    };
    let readAt = 0;
    log.interrupt = () => void (readAt = turns);
    const between = Promise.withResolvers<number>();
    const views = inPlaceOf(one.sales, {
      add: async (...given) => {
        between.resolve(turns - readAt);
        await one.sales.add(...given);
      },
    });
    log.pageLength = 1_000;
    log.place(5_000);
    setImmediate(turn);
    start({ ...one, sales: views });
    const passed = await between.promise;
    isOver = true;
    expect(passed).toBeGreaterThanOrEqual(4);
    await until(async () => (await counted()) === 5_000);
  });

  it('keeps sums beyond the safe integers exact', async () => {
    const { one } = instances;
    const most = Number.MAX_SAFE_INTEGER;
    const sums = async () =>
      (await one.sales.page('t', { productId: 'mug', from: undefined, to: undefined }, undefined, 5))[0];
    log.place(3, most);
    start(one);
    await until(async () => (await counted()) === 3);
    const [row] = await execute('SELECT sum(ordered_minor)::text AS ordered FROM sales.days');
    expect(row).toEqual({ ordered: String(3n * BigInt(most)) });
    for (const left of [2, 1, 0]) {
      log.tell('order.cancelled', 1, most);
      await until(async () => (await sums())!.cancelled === 3 - left);
      expect(await sums()).toMatchObject({ sold_minor: left * most });
    }
  });

  it('continues on another instance if one cannot read the log', async () => {
    const { one, two } = instances;
    const unreachable = new Log();
    unreachable.interrupt = () => {
      throw new Error('the log is not reached from here');
    };
    log.place(400);
    start(one, unreachable);
    await until(async () => (await one.sql.query({ name: 'test-held', text: 'SELECT FROM sales.readers' })).length > 0);
    start(two);
    await until(async () => (await counted()) === 400);
    await stopAll();
    expect(await counted()).toBe(400);
  });

  it('writes neither sums nor checkpoint once one of its parts was taken over', async () => {
    log.place(20);
    const { one } = instances;
    const parts = await one.checkpoints.acquire('sales-1', randomUUID(), 60_000);
    const { events, reached } = await log.as().read(parts, 100);
    await execute(`UPDATE sales.checkpoints SET epoch = epoch + 1 WHERE part = 3`);
    const checkpoint = one.checkpoints.at(
      'sales-1',
      parts.map((it) => ({ ...it, position: reached.get(it.part)! })),
    );
    const until = events.at(-1)!.time;
    await expect(one.sales.add(1, { deltas: [], events: events.length, until }, checkpoint)).rejects.toThrow(
      'taken over',
    );
    expect((await one.sales.all())[0]!.events).toBe(0);
    expect(new Set((await one.checkpoints.read('sales-1')).map((it) => it.position)).size).toBe(1);
  });
});

describe('the commit of sums', () => {
  it('waits for the disk: a consumer that outlives a crash of Postgres would not count these events again', async () => {
    await execute('CREATE TABLE sales.commits (waits text)');
    await execute(`
      CREATE FUNCTION sales.note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO sales.commits VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$`);
    await execute(`
      CREATE CONSTRAINT TRIGGER note_commit AFTER INSERT ON sales.days DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION sales.note_commit()`);
    try {
      log.place(10);
      start(instances.one);
      await until(async () => (await counted()) === 10);
      expect(await execute('SELECT DISTINCT waits FROM sales.commits')).toEqual([{ waits: 'on' }]);
    } finally {
      await stopAll();
      await execute('DROP FUNCTION sales.note_commit CASCADE');
      await execute('DROP TABLE sales.commits');
    }
  });
});

describe('a rebuild of the sales', () => {
  it('runs once for concurrent requests, replaces wrong sums once it has caught up, and deletes the old view', async () => {
    const { one, two } = instances;
    log.place(400);
    for (const it of [one, two]) start(it);
    await until(async () => (await counted()) === 400);
    await execute(`UPDATE sales.days SET orders = orders + 1000`);
    expect(await counted()).toBe(1_400);
    const begun = await Promise.all([one, two, one].map((it) => it.sales.begin()));
    expect(new Set(begun.map((it) => it.view))).toEqual(new Set([2]));
    log.place(100);
    await until(async () => (await one.sales.all())[0]!.state === 'serving');
    await until(async () => (await counted()) === 500);
    await until(async () => (await one.sales.following()).length === 1);
    const left = async () => (await execute('SELECT DISTINCT view FROM sales.days')).length;
    await until(async () => (await left()) === 1);
    log.place(10);
    await until(async () => (await counted()) === 510);
    expect(await one.checkpoints.read('sales-1')).toEqual([]);
  });

  it('is served without waiting for the locks of a consumer of the old view', async () => {
    const { one, two } = instances;
    await one.sales.begin();
    await two.sql.transaction(async (tx) => {
      // The lock that counting takes first, and holds until it has locked the view.
      await tx.query({
        name: 'test-lock',
        text: `SELECT FROM sales.checkpoints WHERE consumer = 'sales-1' FOR UPDATE`,
      });
      expect(await one.sales.serveBuilt()).toBe(true);
    });
    expect((await one.sales.all())[0]).toMatchObject({ view: 2, state: 'serving' });
  });

  it('is served even while the deletion of retired views never ends', async () => {
    const { one } = instances;
    const views = inPlaceOf(one.sales, {
      forgetRetired: async (limit) => (await one.sales.forgetRetired(limit)) || true,
    });
    log.place(200);
    start({ ...one, sales: views });
    await until(async () => (await counted()) === 200);
    await one.sales.begin();
    await until(async () => (await one.sales.all())[0]!.state === 'serving');
    expect(await counted()).toBe(200);
  });

  it('triggers a check as soon as it reaches the end of the log, even with a full batch', async () => {
    const { one } = instances;
    log.place(4 * pageLength);
    let wakes = 0;
    class Following extends FollowOrders {
      override wake(): void {
        wakes += 1;
        super.wake();
      }
    }
    await one.sales.begin();
    // Never served, so that the periodic check cannot serve it before it is woken.
    begin(new Following(inPlaceOf(one.sales, { serveBuilt: async () => false }), one.checkpoints, log));
    await until(async () => wakes > 0);
    expect((await one.sales.all())[0]).toMatchObject({ events: 4 * pageLength, state: 'building' });
  });

  it('is not served before it has caught up with the serving view', async () => {
    const { one } = instances;
    log.place(200);
    start(one);
    await until(async () => (await counted()) === 200);
    await stopAll();
    await one.sales.begin();
    expect(await one.sales.serveBuilt()).toBe(false);
    expect(await counted()).toBe(200);
    start(one);
    await until(async () => (await one.sales.all())[0]!.state === 'serving');
    expect(await counted()).toBe(200);
  });
});
