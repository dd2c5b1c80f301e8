import { afterAll, beforeAll, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { CleaveError, type PlaceOrderRequest } from '#contracts';
import { testDatabase, testSeed, type TestDatabase } from '#testing';
import {
  cancelOrder,
  cancelRemaining,
  fulfilOrder,
  replay,
  returnGoods,
  type Order,
  type OrderChange,
} from '../src/domain/order.js';
import { asPlaced, canonicalJson, fingerprintOf } from '../src/domain/placement.js';
import type { KeyedChange } from '../src/use-cases/change-order.js';
import type { PlacementResult } from '../src/use-cases/reserve-and-record.js';
import { SweepHolds } from '../src/use-cases/sweep-holds.js';
import {
  FakeInventory,
  newTenant,
  proxied,
  requestOf,
  settled,
  startInstance,
  tombstonesOf,
  type Instance,
} from './order-under-test.js';
import {
  OrderModel,
  faults,
  type Changed,
  type Fault,
  type ModelCommand,
  type ModelOrder,
  type Placed,
} from './order-model.js';

let database: TestDatabase;
/** Two instances of the module on one database, and one inventory that both use. */
let instances: [Instance, Instance];

beforeAll(async () => {
  database = await testDatabase();
  instances = [await startInstance(database.url), await startInstance(database.url)];
});

afterAll(async () => {
  await Promise.all((instances ?? []).map((it) => it.stop()));
  await database?.stop();
});

const outage = new CleaveError('unavailable', 'not now');

const requestFor = ({ customerId, units, priceMinor }: ModelCommand): PlaceOrderRequest => {
  const quantity = Object.values(units).reduce((sum, it) => sum + it, 0);
  const expected = priceMinor === undefined ? {} : { expected_total_minor: quantity * priceMinor };
  return requestOf(units, { customer_id: customerId, ...expected });
};

/** The system with its answers: a retry must return the order as placed, and a keyed change as first answered. */
class Real {
  readonly tenant = newTenant();
  readonly stock = new FakeInventory();
  readonly placed = new Map<ModelOrder, Order>();
  readonly changed = new Map<string, Order>();
  /** The keyed changes that were requested, for `changeAgain` to repeat. */
  readonly changes: ((at: number) => Promise<void>)[] = [];
  /** One per instance for the whole run, because each remembers up to when it has read the overdue holds. */
  readonly sweepers = instances.map((it) => new SweepHolds(this.stock, it.orders, this.stock, 1));

  async place(at: number, key: string | null, command: ModelCommand, fault?: Fault): Promise<PlacementResult | Error> {
    const instance = instances[at]!;
    const request = requestFor(command);
    let isPaused = fault === 'paused until swept';
    instance.use(
      this.stock,
      proxied(instance.orders, {
        record: async (tenant, records) => {
          if (isPaused) {
            isPaused = false;
            this.stock.expire();
            await this.sweepers[1 - at]!.execute();
          }
          if (fault === 'record not made') throw outage;
          const recorded = await instance.orders.record(tenant, records);
          if (fault === 'record not heard') throw outage;
          return recorded;
        },
      }),
    );
    this.stock.interrupt = (call, when) => {
      if (call !== 'reserve') return;
      if (fault === (when === 'before' ? 'reserve not asked' : 'reserve not heard')) throw outage;
    };
    const result = await settled(instance.placeOrder.execute(this.tenant, 'acc', request, key));
    this.stock.interrupt = () => {};
    return result;
  }

  change(
    at: number,
    order: ModelOrder,
    decide: (order: Order, at: Date) => OrderChange | undefined,
    keyed?: KeyedChange,
  ): Promise<{ order: Order; replayed: boolean } | Error> {
    const request = { tenant: this.tenant, orderId: order.id!, expectedVersions: undefined, keyed };
    return settled(instances[at]!.changeOrder.execute(request, decide));
  }

  /** Runs a relay until every event is delivered to inventory. */
  async tell(at: number): Promise<void> {
    instances[at]!.use(this.stock);
    const { relay, sql } = instances[at]!;
    relay.onApplicationBootstrap();
    for (let waiting = true; waiting;) {
      const rows = await sql.query(everyWaiting);
      waiting = rows.length > 0;
    }
    await relay.beforeApplicationShutdown();
  }
}

const everyWaiting = {
  name: 'test-waiting',
  text: `
    SELECT FROM orders.events e, orders.checkpoints c
    WHERE c.consumer = 'stock' AND lpad(e.xid::text, 20, '0') || '-' || lpad(e.id::text, 19, '0') > c.position LIMIT 1`,
};

/** A command; its answer and the state afterwards are compared with the model. */
class Command implements fc.AsyncCommand<OrderModel, Real> {
  constructor(
    private readonly name: string,
    private readonly input: unknown,
    private readonly use: (model: OrderModel, real: Real) => Promise<void>,
  ) {}

  check(): boolean {
    return true;
  }

  async run(model: OrderModel, real: Real): Promise<void> {
    await this.use(model, real);
    await expectSame(model, real);
  }

  toString(): string {
    return `${this.name}(${JSON.stringify(this.input)})`;
  }
}

const expectSame = async (model: OrderModel, { tenant, stock }: Real): Promise<void> => {
  const [one, two] = instances;
  const orders = await two.orders.page(tenant, {}, undefined, 200);
  const told = (order: Order) => ({
    ...{ id: order.order_id, status: order.status, version: order.version, customerId: order.customer_id },
    lines: order.lines.map((it) => [it.product_id, it.quantity, it.cancelled ?? 0, it.fulfilled, it.returned]),
    returned: order.returned_total_minor,
  });
  const expected = model.orders.map(({ id, status, entries, command, lines, priceMinor }) => ({
    ...{ id, status, version: entries.length, customerId: command.customerId },
    lines: [...lines].map(([product, it]) => [product, it.quantity, it.cancelled, it.fulfilled, it.returned]),
    returned: [...lines.values()].reduce((sum, it) => sum + it.returned * priceMinor, 0),
  }));
  const byId = <T extends { id: string | undefined }>(some: T[]) => some.toSorted((a, b) => (a.id! < b.id! ? -1 : 1));
  expect(byId(orders.map(told))).toEqual(byId(expected));
  for (const order of orders) {
    const entries = await one.orders.history(tenant, order.order_id);
    expect(entries.map((it) => it.type)).toEqual(
      model.orders.find((it) => it.id === order.order_id)!.entries.map((it) => it.type),
    );
    expect(replay(asPlaced(order), entries)).toEqual(order);
  }
  for (const [id, onHand] of model.onHand)
    expect([id, stock.onHand.get(id), stock.reservedOf(id)]).toEqual([id, onHand, model.reservedOf(id)]);
  expect(await tombstonesOf(one, tenant)).toHaveLength(model.tombstones);
};

/** The answer must match the model, and a replayed order must equal the first answer. */
const expectPlaced = async (real: Real, expected: Placed, answer: PlacementResult | Error): Promise<void> => {
  const outcome =
    answer instanceof CleaveError
      ? answer.code
      : answer instanceof Error
        ? answer
        : 'order' in answer
          ? answer.replayed
            ? 'replayed'
            : 'placed'
          : `${answer.refusal.code}${answer.replayed ? ', replayed' : ''}`;
  expect(outcome).toEqual(expected.outcome);
  if (!('order' in expected)) return;
  const { order } = answer as { order: Order };
  expected.order.id ??= order.order_id;
  if (!real.placed.has(expected.order)) real.placed.set(expected.order, order);
  expect(order).toEqual(real.placed.get(expected.order));
};

/** Finds the order that was recorded although the answer was lost. */
const meet = async (model: OrderModel, { tenant }: Real): Promise<void> => {
  const known = new Set(model.orders.map((it) => it.id));
  for (const order of model.orders.filter((it) => it.id === undefined)) {
    const found = await instances[0].orders.page(tenant, {}, undefined, 200);
    order.id = found.find((it) => !known.has(it.order_id))?.order_id;
  }
};

const at = fc.nat({ max: 1 });
const units = fc.oneof(
  fc.constantFrom('mug', 'lamp').map((id): Record<string, number> => ({ [id]: 1 })),
  fc.dictionary(fc.constantFrom('mug', 'lamp', 'rare'), fc.integer({ min: 1, max: 3 }), { minKeys: 1 }),
);
const command: fc.Arbitrary<ModelCommand> = fc
  .record({
    customerId: fc.constantFrom('c-1', 'c-2'),
    units: fc.oneof(
      { weight: 9, arbitrary: units },
      // This product is unknown until it is restocked.
      { weight: 1, arbitrary: fc.constant({ new: 1 }) },
    ),
    priceMinor: fc.constantFrom(100, 110, undefined),
  })
  .map(({ units: some, ...rest }) => ({ ...rest, units: { ...some } }));
// Few enough for some to repeat, and enough for some to be new.
const key = fc.nat({ max: 25 }).map((it) => `key-${it}`);
const perhapsKey = fc.option(key);

const place = fc.tuple(at, perhapsKey, command, fc.option(fc.constantFrom(...faults), { freq: 2, nil: undefined })).map(
  (input) =>
    new Command('place', input, async (model, real) => {
      const [which, idempotencyKey, wanted, fault] = input;
      const expected = model.place(idempotencyKey, wanted, fault);
      await expectPlaced(real, expected, await real.place(which, idempotencyKey, wanted, fault));
      await meet(model, real);
    }),
);

/** Repeats an earlier keyed request, most often a recent one, on either instance; prices may have changed since. */
const repeat = fc
  .tuple(
    at,
    fc.nat({ max: 20 }),
    fc.option(fc.constantFrom(...faults), { freq: 2, nil: undefined }),
    fc.option(fc.constantFrom(100, 110), { freq: 2 }),
  )
  .map(
    (input) =>
      new Command('repeat', input, async (model, real) => {
        const [which, number, fault, priceMinor] = input;
        if (priceMinor !== null) model.priceMinor = real.stock.priceMinor = priceMinor;
        const some = model.keyed;
        if (some.length === 0) return;
        const [idempotencyKey, wanted] = some.at(-1 - (number % some.length))!;
        const expected = model.place(idempotencyKey, wanted, fault);
        await expectPlaced(real, expected, await real.place(which, idempotencyKey, wanted, fault));
        await meet(model, real);
      }),
  );

/** The same request four times at once, on both instances. */
const crowd = fc.tuple(key, command).map(
  (input) =>
    new Command('crowd', input, async (model, real) => {
      const [idempotencyKey, wanted] = input;
      for (const it of instances) it.use(real.stock);
      const request = requestFor(wanted);
      const answers = await Promise.all(
        [0, 1, 0, 1].map((which) =>
          settled(instances[which]!.placeOrder.execute(real.tenant, 'acc', request, idempotencyKey)),
        ),
      );
      const isFirst = (it: PlacementResult | Error) => !(it instanceof Error) && !it.replayed;
      const expected = [0, 1, 2, 3].map(() => model.place(idempotencyKey, wanted));
      // The first answer, then the replays; two out-of-stock answers may both claim to be first.
      const inTurn = [...answers.filter(isFirst), ...answers.filter((it) => !isFirst(it))];
      if (expected[0]!.outcome === 'out-of-stock')
        for (const it of inTurn) expect(it).toMatchObject({ refusal: { code: 'out-of-stock' } });
      else for (const [index, it] of inTurn.entries()) await expectPlaced(real, expected[index]!, it);
    }),
);

const expectChanged = (
  real: Real,
  expected: Changed,
  answer: { order: Order; replayed: boolean } | Error,
  name: string | undefined,
): void => {
  if (answer instanceof Error) {
    expect((answer as CleaveError).code).toBe(expected);
    return;
  }
  expect(answer.replayed).toBe(expected === 'replayed');
  expect(['changed', 'already', 'replayed']).toContain(expected);
  if (name === undefined) return;
  if (expected === 'changed' || expected === 'already') real.changed.set(name, answer.order);
  if (expected === 'replayed') expect(answer.order).toEqual(real.changed.get(name));
};

const keyedAs = (operation: string, idempotencyKey: string, request: unknown): KeyedChange => ({
  ...{ account: 'acc', operation, idempotencyKey, fingerprint: fingerprintOf(canonicalJson(request)) },
});

/** A command on one of the existing orders. */
const onOrder = <Input extends [at: number, ...unknown[]]>(
  name: string,
  inputs: fc.Arbitrary<Input>,
  use: (model: OrderModel, real: Real, order: ModelOrder, input: Input) => Promise<void>,
) =>
  fc.tuple(fc.nat({ max: 30 }), inputs).map(
    ([number, input]) =>
      new Command(name, [number, ...input], async (model, real) => {
        if (model.orders.length > 0) await use(model, real, model.orders[number % model.orders.length]!, input);
      }),
  );

const linesOf = (some: Record<string, number>) =>
  Object.entries(some).map(([product_id, quantity]) => ({ product_id, quantity }));

const cancel = onOrder('cancel', fc.tuple(at), async (model, real, order, [which]) => {
  const expected = model.cancel(order);
  expectChanged(real, expected, await real.change(which, order, (it, when) => cancelOrder(it, 'r', when)), undefined);
});

const cancelRest = onOrder('cancel what remains', fc.tuple(at), async (model, real, order, [which]) => {
  const expected = model.cancelRemaining(order);
  const answer = await real.change(which, order, (it, when) => cancelRemaining(it, 'r', when));
  expectChanged(real, expected, answer, undefined);
});

const fulfil = onOrder(
  'fulfil',
  fc.tuple(at, fc.option(units, { nil: undefined }), perhapsKey),
  async (model, real, order, [which, some, idempotencyKey]) => {
    const keyed = idempotencyKey === null ? undefined : keyedAs('fulfil', idempotencyKey, [order.id, some]);
    const decide = (it: Order, when: Date) => fulfilOrder(it, some && linesOf(some), when);
    const name = keyed && `fulfil ${idempotencyKey}`;
    const ask = async (at: number) => {
      const expected = model.fulfil(order, some && { ...some }, idempotencyKey);
      expectChanged(real, expected, await real.change(at, order, decide, keyed), name);
    };
    if (keyed) real.changes.push(ask);
    await ask(which);
  },
);

const takeBack = onOrder(
  'return',
  fc.tuple(at, units, fc.boolean(), key),
  async (model, real, order, [which, some, restock, idempotencyKey]) => {
    const keyed = keyedAs('return', idempotencyKey, [order.id, some, restock]);
    const decide = (it: Order, when: Date) => returnGoods(it, { lines: linesOf(some), restock, reason: 'r' }, when);
    const ask = async (at: number) => {
      const expected = model.return(order, { ...some }, restock, idempotencyKey);
      expectChanged(real, expected, await real.change(at, order, decide, keyed), `return ${idempotencyKey}`);
    };
    real.changes.push(ask);
    await ask(which);
  },
);

/** Repeats an earlier keyed change on either instance, whatever the state of the order is by now. */
const changeAgain = fc.tuple(at, fc.nat({ max: 30 })).map(
  (input) =>
    new Command('change again', input, async (_, { changes }) => {
      const [which, number] = input;
      if (changes.length > 0) await changes[number % changes.length]!(which);
    }),
);

const tell = at.map(
  (which) =>
    new Command('tell the stock', which, async (model, real) => {
      model.tell();
      await real.tell(which);
    }),
);

const sweep = fc.tuple(at, fc.boolean()).map(
  (input) =>
    new Command('sweep', input, async (model, real) => {
      const [which, isLate] = input;
      if (isLate) {
        model.expire();
        real.stock.expire();
      }
      expect(await real.sweepers[which]!.execute()).toEqual(model.sweep());
    }),
);

const restock = fc.tuple(fc.constantFrom('mug', 'lamp', 'rare', 'rare', 'new'), fc.integer({ min: 1, max: 4 })).map(
  (input) =>
    new Command('restock', input, async (model, { stock }) => {
      const [id, quantity] = input;
      model.restock(id, quantity);
      stock.onHand.set(id, (stock.onHand.get(id) ?? 0) + quantity);
    }),
);

it('orders and stock match the model after every command, whatever fails (I2, I3, I4, I10)', async () => {
  const commands = fc.commands(
    [
      ...[place, place, place, repeat, repeat, crowd, cancel, cancelRest, fulfil, fulfil, takeBack, changeAgain],
      ...[tell, sweep, restock],
    ],
    { maxCommands: 50, size: 'max' },
  );
  await fc.assert(
    fc.asyncProperty(commands, async (run) => {
      const real = new Real();
      const model = new OrderModel(real.stock.holdMs);
      for (const [id, quantity] of [
        ['mug', 30],
        ['lamp', 12],
        ['rare', 3],
      ] as const) {
        model.restock(id, quantity);
        real.stock.onHand.set(id, quantity);
      }
      await fc.asyncModelRun(() => ({ model, real }), run);
      // In the end, every event is delivered, and stock that belongs to no order is released.
      model.tell();
      await real.tell(0);
      model.expire();
      real.stock.expire();
      expect(await real.sweepers[1]!.execute()).toEqual(model.sweep());
      await expectSame(model, real);
      expect(real.stock.inState('held')).toEqual([]);
    }),
    { seed: testSeed(), numRuns: 150, plugins: [fc.interruptAfterTimeLimit(18_000)] },
  );
});
