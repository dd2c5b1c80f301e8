import { afterAll, beforeAll, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { CleaveError, type ReservationRequest, type StockEffect } from '#contracts';
import { testDatabase, testSeed, type TestDatabase } from '#testing';
import { brokenInvariants, longHoldMs, newTenant, startInstance, type Instance } from './inventory-under-test.js';
import { StockModel } from './stock-model.js';

let database: TestDatabase;
let instances: [Instance, Instance];

beforeAll(async () => {
  database = await testDatabase();
  instances = [await startInstance(database.url), await startInstance(database.url)];
});

afterAll(async () => {
  await Promise.all((instances ?? []).map((it) => it.stop()));
  await database?.stop();
});

/** Two tenants that use the same ids of products, reservations and keys. */
type Models = readonly [StockModel, StockModel];
type Tenants = readonly [string, string];

/** Where a command goes. */
interface Place {
  instance: 0 | 1;
  tenant: 0 | 1;
}

/** A command on either instance; its answer and the state of both tenants afterwards are compared with the model. */
class Command implements fc.AsyncCommand<Models, Tenants> {
  constructor(
    private readonly name: string,
    private readonly input: unknown,
    private readonly model: (model: StockModel) => unknown,
    private readonly real: (instance: Instance, tenant: string) => Promise<unknown>,
    private readonly at: Place,
  ) {}

  check(): boolean {
    return true;
  }

  async run(models: Models, tenants: Tenants): Promise<void> {
    const { instance, tenant } = this.at;
    const answer = await this.real(instances[instance], tenants[tenant]).catch((error: unknown) => {
      if (error instanceof CleaveError && error.status < 500) return error.code;
      throw error;
    });
    expect(answer).toEqual(this.model(models[tenant]));
    for (const it of [0, 1] as const) await expectSame(models[it], tenants[it]);
  }

  toString(): string {
    return `${this.name}@${JSON.stringify(this.at)}(${JSON.stringify(this.input)})`;
  }
}

const expectSame = async (model: StockModel, tenant: string): Promise<void> => {
  const [one] = instances;
  const rows = await one.sql.query<{ product_id: string }>(everyProduct, [tenant]);
  expect(new Map(rows.map(({ product_id, ...row }) => [product_id, row]))).toEqual(
    new Map([...model.products].map(([id, it]) => [id, { on_hand: it.onHand, reserved: it.reserved, sold: it.sold }])),
  );
  const waiting = await one.sql.query<{ reservation_id: string }>(everyWaiting, [tenant]);
  expect(new Set(waiting.map((it) => it.reservation_id))).toEqual(model.waiting);
  expect(await brokenInvariants(one, tenant)).toEqual([]);
};

const everyProduct = {
  name: 'test-products',
  text: 'SELECT product_id, on_hand, reserved, sold FROM inventory.products WHERE tenant_id = $1',
};

const everyWaiting = {
  name: 'test-waiting',
  text: `SELECT reservation_id FROM inventory.reservations WHERE tenant_id = $1 AND state = 'held'`,
};

const uuid = (kind: number, number: number): string =>
  `${`${kind}`.repeat(8)}-0000-4000-8000-${`${number}`.padStart(12, '0')}`;

const which: fc.Arbitrary<Place> = fc.record({
  instance: fc.constantFrom(0, 1),
  tenant: fc.constantFrom(0, 0, 1),
});
const productId = fc.constantFrom('a', 'B', 'ä', 'Z');
const quantity = fc.integer({ min: 1, max: 4 });
const lines = fc.array(fc.record({ product_id: productId, quantity }), { minLength: 1, maxLength: 4 });
const reservationId = fc.nat({ max: 11 }).map((number) => uuid(1, number));

const put = fc
  .tuple(productId, fc.constantFrom(100, 250), fc.constantFrom('GBP', 'GBP', 'GBP', 'EUR'), which)
  .map(([product_id, unit_price_minor, currency, at]) => {
    const product = { product_id, name: 'A name', unit_price_minor, currency };
    return new Command(
      'put',
      product,
      (model) => model.put(product_id, unit_price_minor, currency),
      (real, tenant) => real.putProducts.execute(tenant, [product]).then(() => undefined),
      at,
    );
  });

const count = fc
  .tuple(fc.uniqueArray(productId, { minLength: 1 }), fc.nat({ max: 12 }), which)
  .map(([ids, on_hand, at]) => {
    const counts = ids.map((product_id) => ({ product_id, on_hand }));
    return new Command(
      'count',
      counts,
      (model) => model.count(counts),
      (real, tenant) => real.countStock.execute(tenant, counts).then(() => 'counted'),
      at,
    );
  });

const adjust = fc.tuple(productId, fc.constantFrom(-3, 2), fc.nat({ max: 9 }), which).map(([id, delta, key, at]) => {
  const adjustment = { productId: id, delta, reason: 'found', account: 'a', idempotencyKey: `key-${key}` };
  return new Command(
    'adjust',
    adjustment,
    (model) => model.adjust(id, delta, adjustment.idempotencyKey),
    (real, tenant) => real.adjustStock.execute(tenant, adjustment).then((it) => it.stock.on_hand),
    at,
  );
});

const reservationRequest: fc.Arbitrary<ReservationRequest> = fc.record(
  {
    reservation_id: reservationId,
    order_id: fc.nat({ max: 99 }).map((number) => uuid(2, number)),
    lines: fc.oneof(
      lines,
      lines.map((some) => some.map((it, index) => (index === 0 ? { ...it, unit_price_minor: 50 } : it))),
    ),
    items_total: fc.constantFrom({ at_least: 0, at_most: 600 }, { at_least: 300, at_most: 900 }),
  },
  { requiredKeys: ['reservation_id', 'order_id', 'lines'] },
);

const reserve = fc
  .tuple(fc.uniqueArray(reservationRequest, { minLength: 1, maxLength: 5, selector: (it) => it.reservation_id }), which)
  .map(([reservations, at]) => {
    return new Command(
      'reserve',
      reservations,
      (model) => model.reserve(reservations),
      (real, tenant) =>
        real.reserveStock.execute(tenant, { reservations, hold_ms: longHoldMs }).then((it) => it.decisions),
      at,
    );
  });

/** An order begins with its confirmation; a hold without an order ends with its release. */
const first = fc.record({
  reservation_id: reservationId,
  version: fc.constant(1),
  kind: fc.constantFrom('confirm' as const, 'confirm' as const, 'release' as const),
});
const later = fc.record({
  reservation_id: reservationId,
  version: fc.integer({ min: 2, max: 12 }),
  kind: fc.constantFrom('release' as const, 'fulfil' as const, 'fulfil' as const, 'restock' as const),
  lines,
});
const effect: fc.Arbitrary<StockEffect> = fc
  .oneof({ weight: 1, arbitrary: first }, { weight: 2, arbitrary: later })
  .map((it) => (it.kind === 'release' ? { ...it, lines: undefined } : it));

const settle = fc.tuple(fc.array(effect, { minLength: 1, maxLength: 6 }), which).map(([some, at]) => {
  // The effects of one reservation come in the order of their versions.
  const effects = some.toSorted((one, two) => one.version - two.version);
  return new Command(
    'settle',
    effects,
    (model) => model.settle(effects),
    async (real, tenant) => {
      const { impossible, ...counted } = await real.settleStock.execute(tenant, effects);
      return { ...counted, impossible: new Set(impossible.map(StockModel.nameOf)) };
    },
    at,
  );
});

it('inventory behaves like the model, command by command, and keeps the invariants I1, I2 and I7', async () => {
  // Most runs begin with products in stock, so that something can happen.
  const places = [
    ...['a', 'B', 'ä'].map((id) => ({ id, at: { instance: 0, tenant: 0 } as const })),
    ...['B', 'Z'].map((id) => ({ id, at: { instance: 1, tenant: 1 } as const })),
  ];
  const opening = places.flatMap(({ id, at }) => [
    new Command(
      'put',
      id,
      (model) => model.put(id, 100, 'GBP'),
      (real, tenant) =>
        real.putProducts
          .execute(tenant, [{ product_id: id, name: 'A name', unit_price_minor: 100, currency: 'GBP' }])
          .then(() => undefined),
      at,
    ),
    new Command(
      'count',
      id,
      (model) => model.count([{ product_id: id, on_hand: 10 }]),
      (real, tenant) => real.countStock.execute(tenant, [{ product_id: id, on_hand: 10 }]).then(() => 'counted'),
      at,
    ),
  ]);
  const commands = fc.commands([put, count, adjust, reserve, reserve, reserve, settle, settle], {
    maxCommands: 60,
    size: 'max',
  });
  await fc.assert(
    fc.asyncProperty(commands, async (run) => {
      const models: Models = [new StockModel(), new StockModel()];
      const tenants: Tenants = [newTenant(), newTenant()];
      for (const it of opening) await it.run(models, tenants);
      await fc.asyncModelRun(() => ({ model: models, real: tenants }), run);
    }),
    { seed: testSeed(), numRuns: 25, plugins: [fc.interruptAfterTimeLimit(40_000)] },
  );
}, 60_000);
