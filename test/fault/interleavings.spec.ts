import { afterAll, beforeAll, describe, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import fc from 'fast-check';
import { testDatabase, testSeed, type TestDatabase } from '#testing';
import type { Answer, Order } from '../support/api.js';
import type { ChangeAttempt } from '../support/history.js';
import { Instance, doNothingAlone, type Work } from '../support/in-process.js';
import { Interleaving, stopEverywhere, type Choice } from '../support/interleaving.js';
import {
  aKeyHasOneOrder,
  acknowledgementsStand,
  eventsTakeEffectOnce,
  historyLeadsToThePresent,
  moneyAddsUp,
  nothingIsStuck,
  paymentsComeToAnEnd,
  promisesBelongToOrders,
  stockIsNeverOversold,
  stockMovesAddUp,
  totalsAddUp,
} from '../support/invariants.js';
import type { Attempt } from '../support/load.js';
import { askInventory, askOrder, ofEach, query, underWay, waiting, type DatabaseUrls } from '../support/tables.js';

// What is cut off on purpose would fill the log.
Logger.overrideLogger(false);
stopEverywhere();
doNothingAlone();

/** How long to search in each shape of databases. */
const searchMs = 'everyCrashPoint' in globalThis ? 300_000 : 7_000;

const onHand = { plenty: 50, few: 3, last: 1 };
type Product = keyof typeof onHand;

/** The orders that may be asked for; those that contend for the same units name them in opposite orders. */
const bodies = {
  'one of the last': { lines: units('last') },
  'few, then plenty': { lines: units('few', 'plenty') },
  'plenty, then few': { lines: units('plenty', 'few') },
  'two of few': { lines: [{ product_id: 'few', quantity: 2 }] },
  'plenty, twice': { lines: units('plenty', 'plenty') },
  'more than there is': { lines: [{ product_id: 'last', quantity: 9 }] },
  paid: { lines: units('few'), payment: { method: 'simulated', token: 'tok_ok' } },
  'paid late': { lines: units('few'), payment: { method: 'simulated', token: 'tok_lost' } },
  declined: { lines: units('last', 'plenty'), payment: { method: 'simulated', token: 'tok_declined' } },
  'not captured': { lines: units('plenty'), payment: { method: 'simulated', token: 'tok_capture_refused' } },
} satisfies Record<string, { lines: { product_id: Product; quantity: number }[]; payment?: object }>;
type BodyName = keyof typeof bodies;

function units(...products: Product[]): { product_id: Product; quantity: number }[] {
  return products.map((product_id) => ({ product_id, quantity: 1 }));
}

const verbs = ['cancel', 'cancel the rest', 'hand over', 'hand over one', 'hand over one and take it back'] as const;
type Verb = (typeof verbs)[number];

/** What becomes overdue, or old, at once. */
const laterOf = {
  relays: {
    of: 'order',
    text: `WITH readers AS (UPDATE orders.readers SET seen_until = now() WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM orders.readers FOR NO KEY UPDATE SKIP LOCKED)))
      UPDATE orders.checkpoints SET lease_until = now() WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM orders.checkpoints FOR NO KEY UPDATE SKIP LOCKED))`,
  },
  sagas: {
    of: 'order',
    text: `UPDATE orders.sagas SET lease_until = least(lease_until, now()), due_at = least(due_at, now())
      WHERE ctid = ANY (ARRAY (SELECT ctid FROM orders.sagas WHERE state = 'running' FOR NO KEY UPDATE SKIP LOCKED))`,
  },
  payments: {
    of: 'order',
    text: `UPDATE orders.sagas SET deadline_at = now()
      WHERE ctid = ANY (ARRAY (SELECT ctid FROM orders.sagas WHERE state = 'running' FOR NO KEY UPDATE SKIP LOCKED))`,
  },
} as const;
type Later = keyof typeof laterOf;

/** What one actor does; `at` is the instance. */
type Script =
  | {
      does: 'place';
      at: number;
      key: string | null;
      body: BodyName;
      changes: { at: number; verb: Verb; key: string | null }[];
    }
  | { does: 'relay' | 'sweep' | 'lead payments'; at: number; times: number }
  | { does: 'make late'; what: Later }
  | { does: 'forget refusals'; at: number }
  | { does: 'deliver' | 'price anew'; at: number; product: Product; number: number };

const at = fc.nat({ max: 2 });
const product = fc.constantFrom(...(Object.keys(onHand) as Product[]));
const body = fc.constantFrom(...(Object.keys(bodies) as BodyName[]));

const change = fc.record({ at, verb: fc.constantFrom(...verbs), key: fc.option(fc.constant('c'), { freq: 2 }) });

const placing = (key: fc.Arbitrary<string | null>, body: fc.Arbitrary<BodyName>, mostChanges: number) =>
  fc.record({
    does: fc.constant('place' as const),
    at,
    key,
    body,
    changes: fc.array(change, { maxLength: mostChanges }),
  });
const working = (...does: Extract<Script, { times: number }>['does'][]) =>
  fc.record({ does: fc.constantFrom(...does), at, times: fc.integer({ min: 1, max: 6 }) });
const makingLate = fc.record({
  does: fc.constant('make late' as const),
  what: fc.constantFrom(...(Object.keys(laterOf) as Later[])),
});
const stocking = fc.record({
  does: fc.constantFrom('deliver' as const, 'price anew' as const),
  at,
  product,
  number: fc.integer({ min: 1, max: 3 }),
});

/** Of everything something; many requests with one key; and many changes while the stock is told of them. */
const themes = [
  fc.oneof(
    { weight: 8, arbitrary: placing(fc.option(fc.constantFrom('k1', 'k2'), { freq: 4 }), body, 2) },
    { weight: 5, arbitrary: working('relay', 'relay', 'sweep', 'sweep', 'lead payments') },
    { weight: 1, arbitrary: makingLate },
    { weight: 1, arbitrary: fc.record({ does: fc.constant('forget refusals' as const), at }) },
    { weight: 1, arbitrary: stocking },
  ),
  fc.oneof(
    {
      weight: 8,
      arbitrary: placing(fc.constant('k1'), fc.constantFrom('one of the last', 'two of few', 'more than there is'), 0),
    },
    { weight: 2, arbitrary: working('sweep') },
    { weight: 1, arbitrary: stocking },
  ),
  fc.oneof(
    { weight: 3, arbitrary: placing(fc.constant(null), fc.constantFrom('few, then plenty', 'plenty, twice'), 2) },
    { weight: 4, arbitrary: working('relay') },
    { weight: 1, arbitrary: makingLate },
  ),
] satisfies fc.Arbitrary<Script>[];

const choice: fc.Arbitrary<Choice> = fc.record({
  pick: fc.nat({ max: 999 }),
  fate: fc.oneof(
    { weight: 16, arbitrary: fc.constant('goes' as const) },
    { weight: 3, arbitrary: fc.constantFrom('is lost' as const, 'is not heard' as const, 'goes twice' as const) },
    { weight: 4, arbitrary: fc.constantFrom('stays open' as const, 'outlives its caller' as const) },
  ),
  along: fc.oneof({ weight: 5, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat({ max: 2 }) }),
});

const plan = fc.record({
  scripts: fc.oneof(
    ...themes.map((it) => fc.array(it as fc.Arbitrary<Script>, { minLength: 3, maxLength: 10, size: 'max' })),
  ),
  choices: fc.array(choice, { minLength: 0, maxLength: 300, size: 'max' }),
  /** In turn for each actor; a patient one may be overtaken by everything the others do. */
  patience: fc.array(fc.constantFrom(1, 1, 1, 6, 60), { minLength: 1, maxLength: 5 }),
});
type Plan = typeof plan extends fc.Arbitrary<infer Value> ? Value : never;

/** Three instances on the same databases, which are emptied for each run. */
class Shop {
  private constructor(
    private readonly databases: readonly TestDatabase[],
    readonly urls: DatabaseUrls,
    readonly instances: readonly Instance[],
  ) {}

  static async open(shape: 'one database' | 'two databases'): Promise<Shop> {
    const together = await testDatabase();
    const apart = shape === 'one database' ? together : await testDatabase('another server');
    const urls = ofEach((keeper) => (keeper === 'inventory' ? apart : together).url);
    // Every hold is overdue at once, so any sweep may meet any order that is being placed.
    const environment = { ORDER_HOLD_MS: '1' };
    const instances: Instance[] = [];
    for (const name of ['one', 'two', 'three']) instances.push(await Instance.start(urls, name, environment));
    const databases = [...new Set([together, apart])];
    return new Shop(databases, urls, instances);
  }

  async close(): Promise<void> {
    await Promise.all(this.instances.map((it) => it.stop()));
    await Promise.all(this.databases.map((it) => it.stop()));
  }

  async empty(): Promise<void> {
    const { order, inventory } = this.urls;
    const emptied = (schema: string, tables: readonly string[]): string =>
      tables.map((it) => `DELETE FROM ${schema}.${it};`).join('');
    await query(order, emptied('orders', ['orders', 'events', 'refusals', 'keyed_changes', 'sagas']));
    await query(order, emptied('payment', ['payments', 'operations', 'simulated_ledger']));
    const products = Object.entries(onHand).map(([id, count]) => `('default', '${id}', ${count})`);
    await query(
      inventory,
      `
      ${emptied('inventory', ['products', 'reservations', 'stock_moves', 'product_changes'])}
      INSERT INTO inventory.products (tenant_id, product_id, on_hand, name, unit_price_minor, currency)
      SELECT *, 'A thing', 250, 'GBP' FROM (VALUES ${products.join()}) p;
      INSERT INTO inventory.stock_moves (tenant_id, product_id, kind, delta)
      SELECT tenant_id, product_id, 'counted', on_hand FROM inventory.products`,
    );
  }

  async makeLate(what: Later): Promise<void> {
    const { of, text } = laterOf[what];
    await query(this.urls[of], text);
  }

  async makeRefusalsOld(): Promise<void> {
    await query(
      this.urls.order,
      `UPDATE orders.refusals SET refused_at = now() - interval '8 days' WHERE ctid = ANY (ARRAY (
      SELECT ctid FROM orders.refusals FOR NO KEY UPDATE SKIP LOCKED))`,
    );
    await query(
      this.urls.inventory,
      `UPDATE inventory.reservations SET deadline_at = now() - interval '8 days'
      WHERE ctid = ANY (ARRAY (SELECT ctid FROM inventory.reservations WHERE state = 'refused' FOR NO KEY UPDATE SKIP LOCKED))`,
    );
  }

  /** Does what is left to do in the background, until nothing is. */
  async quiet(): Promise<void> {
    for (let round = 0; ; round += 1) {
      await this.makeLate('sagas');
      for (const instance of this.instances)
        for (const name of ['SweepHolds', 'RunSagas', 'RelayOutbox'])
          for (const work of instance.works(name)) await completed(work);
      const [events, sagas, held] = await Promise.all([
        waiting(this.urls),
        underWay(this.urls),
        askInventory(this.urls, `SELECT reservation_id, held FROM reservations WHERE state = 'held'`),
      ]);
      if (events.length + sagas.length + held.length === 0) return;
      if (round > 30) throw new Error(`it does not come to rest: ${JSON.stringify({ events, sagas, held })}`);
      if (events.length === 0) continue;
      // One that does not know yet that its lease was taken away would read nothing for a second.
      await this.makeLate('relays');
      for (const instance of this.instances) for (const relay of instance.works('RelayOutbox')) renewsItsLease(relay);
    }
  }
}

/** Its errors are those of the scheduler, or noted where they arise. */
const completed = async (work: Work): Promise<void> => {
  await work.execute().catch(() => undefined);
};

/** As if a second had passed, after which a relay renews its lease and takes its share of the parts. */
const renewsItsLease = (relay: Work): void => void Object.assign(relay, { heldUntil: 0 });

/** What callers were told in one run. */
class Told {
  readonly placements: (Attempt & { name: BodyName })[] = [];
  readonly changes: ChangeAttempt[] = [];
  /** Orders without a key: how many were acknowledged, and of how many it is not known. */
  keyless = { placed: 0, unknown: 0 };
  readonly broken: string[] = [];
  /** Refusals may have been forgotten: their keys may be used anew. */
  mayForget = false;
  private readonly answers = new Map<string, string>();

  /** Answers that are given again must be the same for ever. */
  private same(what: string, answer: string): void {
    const first = this.answers.get(what) ?? answer;
    this.answers.set(what, first);
    if (first !== answer) this.broken.push(`${what} was answered with\n${first}\nand with\n${answer}`);
  }

  placed(key: string | null, name: BodyName, { status, text, body }: Answer<Order>): void {
    if (status === 201) {
      const [asked, got] = [bodies[name].lines, body.lines].map((lines) =>
        JSON.stringify(lines.map((it) => [it.product_id, it.quantity])),
      );
      if (asked !== got) this.broken.push(`${name} was asked for under ${key}, and acknowledged as ${text}`);
    }
    const code = codeOf(text);
    if (
      status >= 400 &&
      !/^(out-of-stock|idempotency-key-reused|request-in-progress|unavailable|deadline-exceeded)$/.test(code)
    )
      this.broken.push(`${name} under ${key} was answered with ${text}`);
    if (key === null) {
      if (status === 201) this.keyless.placed += 1;
      else if (status >= 500) this.keyless.unknown += 1;
      if (status === 201) this.changes.push({ orderId: body.order_id, outcome: status, order: body });
      return;
    }
    if (status === 201) this.same(`${name} under ${key}`, JSON.stringify(body));
    if (code === 'out-of-stock' && !this.mayForget) this.same(`${name} under ${key}`, shortagesOf(body));
    this.placements.push({
      key,
      body: bodies[name],
      name,
      outcome: status,
      text,
      ...(status === 201 && { order: body }),
    });
  }

  changed(orderId: string, verb: string, key: string | null, { status, text, body }: Answer<Order>): void {
    const isChanged = status === 200 || status === 201;
    if (status >= 500 && !/unavailable|deadline-exceeded/.test(text)) this.broken.push(`${verb}: ${text}`);
    if (isChanged && key !== null) this.same(`${verb} ${orderId} under ${key}`, JSON.stringify(body));
    this.changes.push({ orderId, outcome: status, ...(isChanged && { order: body }) });
  }

  /**
   * What promises something for ever. A refusal promises it for its command: of two commands that use one key at the same
   * time, one may be refused and the other placed.
   */
  promised(): Attempt[] {
    return this.placements.filter(({ key, name, outcome }) => {
      if (outcome !== 409) return true;
      return !this.mayForget && !this.placements.some((it) => it.key === key && it.name !== name && it.outcome === 201);
    });
  }
}

/** What was missing; Postgres stores the keys of an object in another order. */
const shortagesOf = (body: unknown): string => {
  const { products } = body as { products: { product_id: string; requested: number; available: number }[] };
  return JSON.stringify(products.map((it) => [it.product_id, it.requested, it.available]));
};

const codeOf = (text: string): string => (JSON.parse(text) as { code?: string }).code ?? '';

const isFinal = ({ status, text }: Answer): boolean => status < 500 && codeOf(text) !== 'request-in-progress';

/** One run: the actors, each of which does what its script says. */
class Run {
  readonly told = new Told();
  private readonly interleaving: Interleaving;

  constructor(
    private readonly shop: Shop,
    private readonly planned: Plan,
  ) {
    const { choices, patience, scripts } = planned;
    this.told.mayForget = scripts.some((it) => it.does === 'forget refusals');
    this.interleaving = new Interleaving(
      choices,
      (actor) => patience[Number.parseInt(actor, 10) % patience.length] ?? 1,
    );
  }

  async go(): Promise<void> {
    await this.shop.empty();
    const { scripts } = this.planned;
    await Interleaving.run(
      this.interleaving,
      scripts.map((it, index) => [`${index} ${it.does}${'at' in it ? ` at ${it.at}` : ''}`, () => this.act(it, index)]),
    );
    await this.shop.quiet();
    for (const [text, { key, name }] of new Map(this.told.placements.map((it) => [`${it.name} under ${it.key}`, it])))
      if (!isFinal(await this.insist(text.length % 3, key, name, 5)))
        this.told.broken.push(`${text} is not answered although nothing is cut off any more`);
    await this.shop.quiet();
    await this.expectAll();
  }

  private act(it: Script, index: number): Promise<unknown> {
    const { instances } = this.shop;
    switch (it.does) {
      case 'place':
        return this.shopping(it, index);
      case 'relay':
      case 'sweep':
      case 'lead payments': {
        const name = { relay: 'RelayOutbox', sweep: 'SweepHolds', 'lead payments': 'RunSagas' }[it.does];
        return this.work(it.at, name, it.times);
      }
      case 'make late':
        return this.shop.makeLate(it.what);
      case 'forget refusals':
        return this.shop.makeRefusalsOld().then(() => this.work(it.at, 'PurgeRefusals', 1));
      case 'deliver': {
        const adjustment = { body: { delta: it.number, reason: 'delivered' }, key: `d${index}` };
        return instances[it.at]!.api.send('POST', `/stock/${it.product}/adjustments`, adjustment);
      }
      case 'price anew': {
        const product = { name: 'A thing', unit_price_minor: 250 + it.number, currency: 'GBP' };
        return instances[it.at]!.api.send('PUT', `/products/${it.product}`, { body: product });
      }
    }
  }

  private async work(at: number, name: string, times: number): Promise<void> {
    for (const work of this.shop.instances[at]!.works(name)) {
      if (name === 'RelayOutbox') renewsItsLease(work);
      for (let left = times; left > 0; left -= 1) await completed(work);
    }
  }

  private async shopping({ at, key, body, changes }: Extract<Script, { does: 'place' }>, index: number): Promise<void> {
    const answer = await this.insist(at, key, body, key === null ? 1 : 3);
    if (answer.status !== 201) return;
    const { order_id, lines } = answer.body;
    await Promise.all(changes.map((it) => this.change(order_id, lines[0]!.product_id, it, index)));
  }

  /** Places an order, and repeats that elsewhere while it is not known what became of it. */
  private async insist(at: number, key: string | null, name: BodyName, times: number): Promise<Answer<Order>> {
    const request = { customer_id: 'c', ...bodies[name] };
    const { api } = this.shop.instances[at]!;
    const answer = await (key === null ? api.place(request) : api.place(request, key));
    this.told.placed(key, name, answer);
    return isFinal(answer) || times === 1 ? answer : this.insist((at + 1) % 3, key, name, times - 1);
  }

  private async change(
    orderId: string,
    product_id: string,
    { at, verb, key }: { at: number; verb: Verb; key: string | null },
    index: number,
  ): Promise<void> {
    const { api } = this.shop.instances[at]!;
    const one = { lines: [{ product_id, quantity: 1 }] };
    const keyed = key === null ? {} : { key: `${verb} ${index} ${key}` };
    const tell = async (answer: Promise<Answer<Order>>, what: string, key: string | null) => {
      const given = await answer;
      this.told.changed(orderId, what, key, given);
      return given;
    };
    const under = keyed.key ?? null;
    switch (verb) {
      case 'cancel':
        return void (await tell(api.cancel(orderId, undefined, keyed), verb, under));
      case 'cancel the rest':
        return void (await tell(api.cancel(orderId, { remaining: true }, keyed), verb, under));
      case 'hand over':
        return void (await tell(api.fulfil(orderId, undefined, keyed), verb, under));
      case 'hand over one':
        return void (await tell(api.fulfil(orderId, one, keyed), verb, under));
      case 'hand over one and take it back': {
        await tell(api.fulfil(orderId, one), 'hand over one', null);
        const back = { ...one, restock: at === 0, reason: 'unwanted' };
        const backKey = `back ${index} ${at}`;
        for (const it of [at, (at + 1) % 3])
          await tell(this.shop.instances[it]!.api.return(orderId, back, { key: backKey }), 'take back', backKey);
      }
    }
  }

  private async expectAll(): Promise<void> {
    const { urls } = this.shop;
    const { told } = this;
    const log = { placements: told.promised(), changes: told.changes };
    const [keyless] = await askOrder<{ count: number }>(
      urls,
      `SELECT count(*)::int AS count FROM kept WHERE idempotency_key IS NULL`,
    );
    const { placed, unknown } = told.keyless;
    if (keyless!.count < placed || keyless!.count > placed + unknown)
      told.broken.push(`${keyless!.count} orders without a key, ${placed} acknowledged and ${unknown} unknown`);
    const violations = await Promise.all([
      stockIsNeverOversold(urls),
      promisesBelongToOrders(urls, 0),
      acknowledgementsStand(urls, log),
      aKeyHasOneOrder(urls),
      moneyAddsUp(urls),
      paymentsComeToAnEnd(urls),
      nothingIsStuck(urls, { mayWait: false }),
      stockMovesAddUp(urls),
      eventsTakeEffectOnce(urls),
      historyLeadsToThePresent(urls),
      totalsAddUp(urls),
    ]);
    const found = [...this.interleaving.defects, ...told.broken, ...violations.flat().map((it) => JSON.stringify(it))];
    if (found.length > 0) throw new Error([...found, 'after:', ...this.interleaving.log].join('\n'));
  }
}

describe.each(['one database', 'two databases'] as const)(
  'three instances on %s, under random interleavings and failures',
  (shape) => {
    let shop: Shop;

    beforeAll(async () => {
      shop = await Shop.open(shape);
    });
    afterAll(() => shop?.close());

    it(
      'lose, duplicate and oversell no order, and never contradict an earlier answer',
      async () => {
        let runs = 0;
        // TEST_SEED and TEST_PATH repeat a failure with the seed and the path that it prints. Statements that are let go
        // together may take another course, so it may take a few tries.
        const path = process.env['TEST_PATH'];
        // When the time is over, a run may still be under way. It counts as well, even if it is the first one.
        let last = Promise.resolve();
        let lastPlan: unknown;
        const search = fc.assert(
          fc.asyncProperty(plan, (planned) => {
            runs += 1;
            lastPlan = planned;
            last = new Run(shop, planned).go();
            return last;
          }),
          {
            ...{ seed: testSeed(), numRuns: 100_000, plugins: [fc.interruptAfterTimeLimit(searchMs)] },
            ...(path && { path }),
          },
        );
        const failure = await search.then(
          () => undefined,
          (error: unknown) => error as Error,
        );
        const isOnlyOver = /interrupted after 0 tests/.test(String(failure));
        await last.catch((error: unknown) => {
          if (failure === undefined || isOnlyOver)
            throw new Error(`the last run failed, with the plan ${fc.stringify(lastPlan)}`, { cause: error });
        });
        if (failure !== undefined && !isOnlyOver) throw failure;
        process.stderr.write(`${runs} interleavings on ${shape}\n`);
      },
      searchMs + 240_000,
    );
  },
);
