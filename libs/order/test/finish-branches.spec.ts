import { afterAll, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { testDatabase, type TestDatabase } from '#testing';
import { FinishBranches, type BranchDecisions, type StockBranches } from '../src/use-cases/finish-branches.js';
import { PlaceOrder } from '../src/use-cases/place-order.js';
import {
  ReserveAndRecord,
  type PlacedOrders,
  type PlacementResult,
  type StockHolder,
} from '../src/use-cases/reserve-and-record.js';
import type { RunSagas } from '../src/use-cases/run-sagas.js';
import { uuidOfTime } from '../src/domain/uuid.js';
import {
  FakeInventory,
  newTenant,
  proxied,
  requestOf,
  settled,
  startInstance,
  type Instance,
} from './order-under-test.js';

/** Branches in doubt with their ages, and how they were finished; those named `stuck` cannot be decided. */
class Branches implements BranchDecisions, StockBranches {
  readonly ended: string[] = [];
  kept: readonly string[] = [];

  constructor(private readonly ages: Record<string, number>) {}

  decide(branchId: string): Promise<'commit' | 'abort'> {
    if (branchId.startsWith('stuck')) return Promise.reject(new Error(`${branchId} is locked`));
    return Promise.resolve(branchId.startsWith('recorded') ? 'commit' : 'abort');
  }

  finish(branchId: string, outcome: 'commit' | 'rollback'): Promise<void> {
    this.ended.push(`${branchId}: ${outcome}`);
    return Promise.resolve();
  }

  inDoubt(): ReturnType<StockBranches['inDoubt']> {
    return Promise.resolve(Object.entries(this.ages).map(([branch_id, age_ms]) => ({ branch_id, age_ms })));
  }

  forgetDecisions(_: number, except: readonly string[]): Promise<void> {
    this.kept = except;
    return Promise.resolve();
  }
}

const warnings: string[] = [];
Logger.overrideLogger({ log() {}, error() {}, warn: (text: string) => void warnings.push(text) });

describe('branches in doubt', () => {
  it('are finished although older ones cannot be, and a warning is logged for each old one', async () => {
    const ages = { stuck: 60_000, 'stuck too': 50_000, recorded: 40_000, left: 2_000, young: 500 };
    const branches = new Branches(ages);
    const finishing = new FinishBranches(branches, branches, 1_000);
    await expect(finishing.execute()).rejects.toThrow('2 of 4 prepared transactions: Error: stuck is locked');
    expect(branches.ended).toEqual(['recorded: commit', 'left: rollback']);
    expect(branches.kept).toEqual(Object.keys(ages));
    expect(warnings).toEqual([
      'a transaction of inventory has been prepared for 60 s: stuck',
      'a transaction of inventory has been prepared for 50 s: stuck too',
      'a transaction of inventory has been prepared for 40 s: recorded',
    ]);
  });
});

it('branches with a negative age, as after the clock was set back, are finished', async () => {
  const branches = new Branches({ recorded: -3_600_000, left: -1_000, 'just now': -2 });
  await new FinishBranches(branches, branches, 1_000).execute();
  expect(branches.ended).toEqual(['recorded: commit', 'left: rollback']);
});

it('a branch cannot record orders once it was aborted or is older than the decisions that are kept, and keeps its own while it is in doubt', async () => {
  const database = await testDatabase();
  const instance = await startInstance(database.url);
  try {
    const { orders } = instance;
    const begun = (agoMs: number): string => uuidOfTime(Date.now() - agoMs);
    const [young, aborted, old] = [begun(20 * 60_000), begun(0), begun(31 * 60_000)];
    expect(await orders.decide(aborted)).toBe('abort');
    expect(await orders.decide(aborted)).toBe('abort');
    await orders.record(newTenant(), [], undefined, young);
    expect(await orders.decide(young)).toBe('commit');
    for (const late of [aborted, old])
      await expect(orders.record(newTenant(), [], undefined, late)).rejects.toMatchObject({ code: 'unavailable' });
    expect(await orders.decide(old)).toBe('abort');
    // While inventory still has the branch prepared, its orders rely on the decision, however old that is.
    await orders.forgetDecisions(-60_000, [young]);
    expect(await orders.decide(young)).toBe('commit');
    await orders.forgetDecisions(-60_000, []);
    expect(await orders.decide(young)).toBe('abort');
  } finally {
    await instance.stop();
    await database.stop();
  }
});

/** Counts the prepared branches, and the most of them at one time. */
class PreparingInventory extends FakeInventory {
  readonly prepared = new Set<string>();
  most = 0;

  override reserve(...[tenant, reservations, branchId]: Parameters<StockHolder['reserve']>) {
    this.most = Math.max(this.most, this.prepared.add(branchId!).size);
    return super.reserve(tenant, reservations);
  }

  override finish(...[branchId]: string[]): Promise<void> {
    this.prepared.delete(branchId!);
    return Promise.resolve();
  }
}

describe('prepared branches', () => {
  let database: TestDatabase;
  let instance: Instance;
  let stock: PreparingInventory;
  let placeOrder: PlaceOrder;

  beforeAll(async () => {
    database = await testDatabase();
    instance = await startInstance(database.url);
  });

  afterAll(async () => {
    await instance?.stop();
    await database?.stop();
  });

  beforeEach(() => {
    stock = new PreparingInventory();
    stock.onHand.set('mug', 100);
    placeOrder = placing(instance.orders);
  });

  const placing = (orders: PlacedOrders): PlaceOrder => {
    const { relay, personalData } = instance;
    const branches = new FinishBranches(instance.orders, stock, 1_000);
    // No order is paid.
    const paying = {} as RunSagas;
    return new PlaceOrder(new ReserveAndRecord(orders, stock, relay, paying, branches, personalData, 'two-phase'));
  };

  const place = (tenant: string, key: string | null = null) =>
    settled(placeOrder.execute(tenant, 'a', requestOf({ mug: 1 }), key));

  // Postgres prepares no more than `max_prepared_transactions`.
  it('are limited to eight, however many tenants order at once', async () => {
    const placing = Array.from({ length: 40 }, () => place(newTenant()));
    for (const it of await Promise.all(placing)) expect(it).toMatchObject({ order: { status: 'confirmed' } });
    expect(stock.most).toBe(8);
    expect(stock.prepared.size).toBe(0);
  });

  it('are split and retried only for the tenant whose orders cannot be recorded', async () => {
    const broken = newTenant();
    const failing = proxied(instance.orders, {
      record: (of, records, ...more) =>
        of === broken && records.length > 0
          ? Promise.reject(new Error('a bug'))
          : instance.orders.record(of, records, ...more),
    });
    placeOrder = placing(failing);
    const tenants = [broken, ...Array.from({ length: 12 }, newTenant), broken];
    const [first, ...others] = await Promise.all(tenants.map((it) => place(it)));
    expect([first, others.pop()]).toEqual([new Error('a bug'), new Error('a bug')]);
    for (const it of others) expect(it).toMatchObject({ order: { status: 'confirmed' } });
    expect(stock.batches).toHaveLength(12 + 1 + 2);
    expect(stock.prepared.size).toBe(0);
  });

  it('that hang make a waiting request fail after five seconds, unless its key has an answer already', async () => {
    const known = newTenant();
    const before = await place(known, 'k');
    const gate = Promise.withResolvers<void>();
    stock.interrupt = () => gate.promise;
    // Fakes only the clock that the others wait by.
    jest.useFakeTimers({ doNotFake: ['Date', 'hrtime', 'nextTick', 'performance', 'queueMicrotask', 'setImmediate'] });
    const placing = Array.from({ length: 9 }, () => place(newTenant()));
    const repeated = place(known, 'k');
    while (stock.prepared.size < 8) await new Promise(setImmediate);
    await jest.advanceTimersByTimeAsync(5_000);
    jest.useRealTimers();
    gate.resolve();
    const placed = await Promise.all(placing);
    for (const it of placed.slice(0, 8)) expect(it).toMatchObject({ order: { status: 'confirmed' } });
    expect(placed[8]).toMatchObject({ code: 'unavailable' });
    expect(await repeated).toMatchObject({ ...(before as PlacementResult), replayed: true });
    expect(stock.batches).toHaveLength(9);
  });
});
