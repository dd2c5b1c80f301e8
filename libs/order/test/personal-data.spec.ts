import { randomBytes } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { CleaveError, type PersonalData, type PlaceOrderRequest } from '#contracts';
import { MasterKeys, type MasterKey } from '#security';
import { SeededRandom, testDatabase, type TestDatabase } from '#testing';
import { fulfilOrder } from '../src/domain/order.js';
import { SagaDefinitions, definitions } from '../src/domain/sagas.js';
import { newKey, unwrap } from '../src/use-cases/customer-keys.js';
import { KeepPersonalData } from '../src/use-cases/keep-personal-data.js';
import type { PlacementResult } from '../src/use-cases/reserve-and-record.js';
import {
  FakeInventory,
  newTenant,
  orderIn,
  ordersOf,
  proxied,
  requestOf,
  settled,
  startInstance,
  type Instance,
} from './order-under-test.js';

const masterKey = (id: string): MasterKey => ({ id, key: randomBytes(32) });
const [old, young] = [masterKey('2025'), masterKey('2026')];

const contact = { name: 'Zebra Quagga', email: 'zebra@quagga.example', phone: '+44 20 7946 0000' };
const shipping_address = { line1: '12 Okapi Street', city: 'Gnuville', postal_code: 'GN1 1UU', country: 'GB' };
const personal = { contact, shipping_address };

let database: TestDatabase;
let instances: Instance[];
/** Two instances of one configuration, on one database. */
let one: Instance;
let two: Instance;
let stock: FakeInventory;
let tenant: string;

const start = async (keys: readonly MasterKey[]): Promise<Instance> => {
  const instance = await startInstance(database.url, stock, new SagaDefinitions(definitions), keys);
  instances.push(instance);
  return instance;
};

beforeAll(async () => {
  database = await testDatabase();
  stock = new FakeInventory();
  instances = [];
  one = await start([old]);
  two = await start([old]);
});

afterAll(async () => {
  await Promise.all(instances.map((it) => it.stop()));
  await database.stop();
});

beforeEach(() => {
  tenant = newTenant();
  stock = new FakeInventory();
  stock.onHand.set('mug', 1_000_000);
  for (const it of instances) it.use(stock);
});

const place = (
  more: Partial<PlaceOrderRequest> = personal,
  key: string | null = null,
  at: Instance = one,
): Promise<PlacementResult> => at.placeOrder.execute(tenant, 'acc', requestOf({ mug: 1 }, more), key);

const idOf = (result: PlacementResult): string => orderIn(result).order_id;

const customer = (customerId = 'c-1') => ({ tenant, customerId });

/** Everything in the tables of order, as text. */
const dump = async (): Promise<string> => {
  const tables = await one.sql.query<{ name: string }>({
    name: 'test-tables',
    text: `SELECT tablename::text AS name FROM pg_tables WHERE schemaname = 'orders'`,
  });
  const rows = await Promise.all(
    tables.map(({ name }) =>
      one.sql.query<{ row: string }>({ name: `test-all-${name}`, text: `SELECT t::text AS row FROM orders.${name} t` }),
    ),
  );
  return rows
    .flat()
    .map((it) => it.row)
    .join('\n');
};

describe('a customer key', () => {
  it('can be unwrapped only for its own customer and tenant', () => {
    const masters = new MasterKeys([old]);
    const { key, wrapped } = newKey(masters, { tenant: 'a', customerId: 'c' });
    expect(unwrap(masters, { tenant: 'a', customerId: 'c' }, wrapped)).toEqual(key);
    for (const other of [
      { tenant: 'b', customerId: 'c' },
      { tenant: 'a', customerId: 'd' },
    ])
      expect(() => unwrap(masters, other, wrapped)).toThrow();
  });
});

describe('an order with personal data', () => {
  it('has it encrypted: only the read with personal data returns it, no list, event or table contains it', async () => {
    const orderId = idOf(await place());
    expect(await one.personalData.one(tenant, orderId)).toMatchObject({
      order_id: orderId,
      personal: 'kept',
      ...personal,
    });
    const others = [
      await one.orders.find(tenant, orderId),
      await one.orders.page(tenant, {}, undefined, 10),
      await one.orders.history(tenant, orderId),
      await one.outbox.after(tenant, { xid: '0', id: '0' }, 10),
      (await one.outbox.log(`${'0'.repeat(20)}-${'0'.repeat(19)}`, 100, null)).events,
      await dump(),
    ];
    for (const it of others) {
      const text = JSON.stringify(it);
      for (const part of [...Object.values(contact), shipping_address.line1, 'Gnuville']) {
        expect(text).not.toContain(part);
        for (const encoding of ['hex', 'base64'] as const)
          expect(text).not.toContain(Buffer.from(part).toString(encoding).slice(0, 12));
      }
    }
  });

  it('can be placed at the same time as orders without or with other personal data', async () => {
    const results = await Promise.all([
      place(),
      place({}),
      place({ contact, customer_id: 'c-2' }),
      place({ shipping_address, customer_id: 'c-2' }),
    ]);
    const told = await Promise.all(results.map((it) => one.personalData.one(tenant, idOf(it))));
    expect(told.map((it) => [it.personal, it.contact, it.shipping_address])).toEqual([
      ['kept', contact, shipping_address],
      [undefined, undefined, undefined],
      ['kept', contact, null],
      ['kept', null, shipping_address],
    ]);
    expect('personal' in told[1]!).toBe(false);
  });

  it('is refused before stock is held if no master key is configured', async () => {
    const bare = await start([]);
    bare.use(stock);
    await expect(place(personal, 'k', bare)).rejects.toMatchObject({
      code: 'personal-data-not-kept',
      detail: expect.stringContaining('DATA_KEYS'),
    });
    expect(stock.batches).toEqual([]);
    idOf(await place({}, 'k', bare));
  });

  it('cannot be read with the ciphertext of another order in its row', async () => {
    const [mine, theirs] = [idOf(await place()), idOf(await place({ contact }))];
    await one.sql.query(
      {
        name: 'test-swap',
        text: `UPDATE orders.orders o SET personal = p.personal FROM orders.orders p
          WHERE o.order_id = $1 AND p.order_id = $2`,
      },
      [mine, theirs],
    );
    await expect(one.personalData.one(tenant, mine)).rejects.toThrow();
    expect((await one.personalData.one(tenant, theirs)).contact).toEqual(contact);
  });

  it('uses the key of its customer, which two concurrent instances create only once', async () => {
    const orders = await Promise.all(
      Array.from({ length: 40 }, (_, index) =>
        place({ ...personal, customer_id: `c-${index % 4}` }, null, index % 2 ? one : two),
      ),
    );
    for (const it of orders) expect((await one.personalData.one(tenant, idOf(it))).personal).toBe('kept');
    const keys = await one.sql.query(
      { name: 'test-keys', text: `SELECT FROM orders.customer_keys WHERE tenant_id = $1` },
      [tenant],
    );
    expect(keys).toHaveLength(4);
  });
});

describe('the idempotency key of an order with personal data', () => {
  const other: PersonalData = { contact: { ...contact, email: 'another@quagga.example' }, shipping_address };

  it('is valid only for the same personal data', async () => {
    const orderId = idOf(await place(personal, 'k'));
    const reordered = {
      contact: Object.fromEntries(Object.entries(contact).toReversed()),
      shipping_address,
    };
    const again = await place(reordered, 'k', two);
    expect(again.replayed).toBe(true);
    expect(idOf(again)).toBe(orderId);
    for (const another of [other, { contact }, {}])
      await expect(place(another as typeof personal, 'k', two)).rejects.toMatchObject({
        code: 'idempotency-key-reused',
      });
    idOf(await place({}, 'l'));
    await expect(place(personal, 'l')).rejects.toMatchObject({ code: 'idempotency-key-reused' });
    expect(await ordersOf(one, tenant)).toBe(2);
    expect((await one.personalData.one(tenant, orderId)).contact).toEqual(contact);
    expect(stock.reserved).toBe(2);
  });

  it('accepts the personal data of one person from concurrent requests', async () => {
    const all = await Promise.all(
      [personal, other, personal, other].map((it, index) =>
        settled(place(it as typeof personal, 'k', index < 2 ? one : two)),
      ),
    );
    const placed = all.flatMap((it) => (it instanceof Error ? [] : [idOf(it)]));
    expect(new Set(placed).size).toBe(1);
    expect(placed).toHaveLength(2);
    for (const it of all) if (it instanceof Error) expect(it).toMatchObject({ code: 'idempotency-key-reused' });
    expect(await ordersOf(one, tenant)).toBe(1);
    expect(stock.reserved).toBe(1);
  });

  it('rejects a person whose order failed to be recorded while another person used the key', async () => {
    const overtaken = proxied(one.orders, {
      record: async () => {
        await place(other as typeof personal, 'k', two);
        throw new CleaveError('unavailable', 'not sent');
      },
    });
    one.use(stock, overtaken);
    expect(await settled(place(personal, 'k'))).toMatchObject({ code: 'idempotency-key-reused' });
    expect(await ordersOf(one, tenant)).toBe(1);
  });

  it('if absent, leaves nothing to compare: an order that was recorded without an answer is acknowledged', async () => {
    const halfDeaf = proxied(one.orders, {
      record: async (...given) => {
        await one.orders.record(...given);
        throw new CleaveError('unavailable', 'the answer was lost');
      },
    });
    one.use(stock, halfDeaf);
    const comparing = jest.spyOn(KeepPersonalData.prototype, 'differing');
    comparing.mockRejectedValue(new CleaveError('unavailable', 'not now'));
    expect(await settled(place(personal))).toMatchObject({ order: { status: 'confirmed' }, replayed: false });
    comparing.mockRestore();
  });

  it('keeps replaying its order after the customer was erased', async () => {
    const orderId = idOf(await place(personal, 'k'));
    await one.customers.erase(customer());
    for (const it of [personal, other]) {
      const again = await place(it as typeof personal, 'k', two);
      expect([again.replayed, idOf(again)]).toEqual([true, orderId]);
    }
    expect((await one.personalData.one(tenant, orderId)).personal).toBe('erased');
    // No other key was made for the erased customer.
    expect(await one.customers.erase(customer())).toBe(false);
  });

  it('keeps replaying its answer after the master key was removed', async () => {
    const orderId = idOf(await place(personal, 'k'));
    stock.onHand.set('cup', 0);
    const refused = () => one.placeOrder.execute(tenant, 'acc', requestOf({ cup: 1 }, personal), 'l');
    expect(await refused()).toMatchObject({ replayed: false, refusal: { code: 'out-of-stock' } });
    for (const keys of [[], [young]]) {
      const without = await start(keys);
      without.use(stock);
      const again = await place(personal, 'k', without);
      expect([again.replayed, idOf(again)]).toEqual([true, orderId]);
      const more = requestOf({ cup: 1 }, personal);
      expect(await without.placeOrder.execute(tenant, 'acc', more, 'l')).toMatchObject({
        ...{ replayed: true, refusal: { code: 'out-of-stock' } },
      });
      // This instance cannot compare personal data, but it notices another reference.
      await expect(place({ ...personal, reference: 'another' }, 'k', without)).rejects.toMatchObject({
        code: 'idempotency-key-reused',
      });
    }
    expect([stock.reserved, await ordersOf(one, tenant)]).toEqual([1, 1]);
  });

  it('is stored with a fingerprint that does not depend on the personal data', async () => {
    const [first, second] = await Promise.all([place(personal, 'k'), place(other as typeof personal, 'l')]);
    const kept = await one.sql.query<{ fingerprint: string }>(
      { name: 'test-prints', text: `SELECT DISTINCT fingerprint FROM orders.orders WHERE order_id = ANY ($1::uuid[])` },
      [[idOf(first), idOf(second)]],
    );
    expect(kept).toHaveLength(1);
  });
});

describe('an erased customer', () => {
  it('keeps orders, totals and history, but no personal data in orders of either instance', async () => {
    const before = [idOf(await place()), idOf(await place({ contact }, null, two))];
    const another = idOf(await place({ contact, customer_id: 'c-2' }));
    expect(await two.customers.erase(customer())).toBe(true);
    expect(await one.customers.erase(customer())).toBe(false);
    for (const orderId of before) {
      const told = await one.personalData.one(tenant, orderId);
      expect(told).toMatchObject({ personal: 'erased', total_minor: 100, customer_id: 'c-1', status: 'confirmed' });
      expect([told.contact, told.shipping_address]).toEqual([undefined, undefined]);
      expect(await one.orders.history(tenant, orderId)).toHaveLength(1);
    }
    expect((await one.personalData.one(tenant, another)).personal).toBe('kept');
  });

  it('gets a new key with the next order, while earlier orders stay erased', async () => {
    const before = idOf(await place());
    await one.customers.erase(customer());
    const after = idOf(await place());
    expect((await two.personalData.one(tenant, before)).personal).toBe('erased');
    expect((await two.personalData.one(tenant, after)).contact).toEqual(contact);
  });

  it('must be a known customer of the same tenant', async () => {
    await expect(one.customers.erase(customer('nobody'))).rejects.toMatchObject({ code: 'customer-not-found' });
    const orderId = idOf(await place());
    await expect(one.customers.erase({ tenant: newTenant(), customerId: 'c-1' })).rejects.toMatchObject({
      code: 'customer-not-found',
    });
    expect((await one.personalData.one(tenant, orderId)).personal).toBe('kept');
    idOf(await place({ customer_id: 'c-3' }));
    expect(await one.customers.erase(customer('c-3'))).toBe(false);
  });

  it('leaves concurrently placed orders either intact or erased, and no read fails', async () => {
    let running = true;
    const placed: string[] = [];
    const placing = [one, two].map(async (at) => {
      while (running)
        placed.push(...(await Promise.all([place(personal, null, at), place(personal, null, at)])).map(idOf));
    });
    const reading = (async () => {
      while (running) {
        for (const orderId of placed.slice(-5)) {
          const told = await two.personalData.one(tenant, orderId);
          if (told.personal === 'kept') expect(told.contact).toEqual(contact);
          else expect(told.personal).toBe('erased');
        }
        await setImmediate();
      }
    })();
    // Without an order the customer is unknown, and between two orders there is nothing to erase.
    const giveUpAt = Date.now() + 20_000;
    let erased = 0;
    while (erased < 10 && Date.now() < giveUpAt)
      if ((await settled(one.customers.erase(customer()))) === true) erased += 1;
    running = false;
    await Promise.all([...placing, reading]);
    expect(erased).toBe(10);
    await settled(one.customers.erase(customer()));
    for (const orderId of placed) expect((await one.personalData.one(tenant, orderId)).personal).toBe('erased');
    expect((await one.personalData.one(tenant, idOf(await place()))).contact).toEqual(contact);
  });
});

describe('the export of a customer', () => {
  it('has every order once, newest first, with its personal data and history', async () => {
    const mine: string[] = [];
    for (let index = 0; index < 5; index += 1) mine.unshift(idOf(await place(index % 2 ? personal : {})));
    idOf(await place({ customer_id: 'c-2' }));
    const pages = [];
    let before: string | undefined;
    do {
      const { data, last } = await one.customers.export(customer(), before, 2);
      pages.push(data);
      before = last ?? undefined;
    } while (before !== undefined);
    expect(pages.map((it) => it.length)).toEqual([2, 2, 1]);
    const all = pages.flat();
    expect(all.map((it) => it.order_id)).toEqual(mine);
    expect(all.map((it) => it.contact)).toEqual([undefined, contact, undefined, contact, undefined]);
    for (const it of all)
      expect(it).toMatchObject({ payment: null, history: { data: [{ type: 'placed', version: 1 }], last: null } });
    await one.customers.erase(customer());
    const { data } = await two.customers.export(customer(), undefined, 10);
    expect(data.map((it) => it.personal)).toEqual([undefined, 'erased', undefined, 'erased', undefined]);
    await expect(one.customers.export(customer('nobody'), undefined, 10)).rejects.toMatchObject({
      code: 'customer-not-found',
    });
  });
});

describe('the export of a customer with large orders', () => {
  it('has fewer orders per page, and omits none', async () => {
    const lines = Array.from({ length: 2_000 }, () => ({ product_id: 'mug', quantity: 1 }));
    const mine: string[] = [];
    for (let index = 0; index < 7; index += 1) {
      const orderId = idOf(await place({ lines }));
      // Its lines are now read twice: with the order and with its history.
      const request = { tenant, orderId, expectedVersions: undefined };
      await one.changeOrder.execute(request, (it, at) => fulfilOrder(it, undefined, at));
      mine.unshift(orderId);
    }
    const pages: string[][] = [];
    let before: string | undefined;
    do {
      const { data, last } = await one.customers.export(customer(), before, 200);
      for (const it of data) expect(it.history.data.map(({ type }) => type)).toEqual(['placed', 'fulfilled']);
      pages.push(data.map((it) => it.order_id));
      before = last ?? undefined;
    } while (before !== undefined);
    expect(pages.map((it) => it.length)).toEqual([5, 2]);
    expect(pages.flat()).toEqual(mine);
    expect((await one.customers.export(customer(), undefined, 2)).data).toHaveLength(2);
  });
});

describe('the export of a customer with long order histories', () => {
  it('has the first page of each history, and where it continues', async () => {
    const [long, short] = [idOf(await place({})), idOf(await place({}))];
    await one.sql.query(
      {
        name: 'test-much-happens',
        text: `
          INSERT INTO orders.events (tenant_id, order_id, version, reservation_id, type, status, data, at)
          SELECT $1, $2, version, $2, 'returned', 'confirmed',
            CASE WHEN version > 201 THEN told.data ELSE '{}' END, now()
          FROM generate_series(2, 500) AS version, (
            SELECT jsonb_build_object('lines', jsonb_agg('{}'::jsonb)) AS data FROM generate_series(1, 100)
          ) AS told`,
      },
      [tenant, long],
    );
    // Entries beyond the first page do not count, so both orders are on one page.
    const { data, last } = await one.customers.export(customer(), undefined, 10);
    expect(last).toBeNull();
    expect(data.map((it) => [it.order_id, it.history.data.length, it.history.last])).toEqual([
      [short, 1, null],
      [long, 200, 200],
    ]);
    // Only one more entry is read, to know that there are more.
    expect((await one.keys.histories(tenant, [long, short], 201)).get(long)).toHaveLength(201);
  });
});

describe('a master key', () => {
  it('can be rotated while orders are placed, and is not needed afterwards', async () => {
    const before = idOf(await place());
    const [mixed, alsoMixed] = [await start([young, old]), await start([young, old])];
    for (const it of [mixed, alsoMixed]) it.use(stock);
    expect((await mixed.personalData.one(tenant, before)).contact).toEqual(contact);
    const customers = Array.from({ length: 30 }, (_, index) => `r-${index}`);
    await Promise.all(customers.map((customer_id) => place({ contact, customer_id })));
    const [meanwhile] = await Promise.all([
      Promise.all(customers.map((customer_id) => place({ contact, customer_id }, null, mixed))),
      mixed.rotateDataKeys.execute(),
      alsoMixed.rotateDataKeys.execute(),
    ]);
    await mixed.rotateDataKeys.execute();
    const only = await start([young]);
    only.use(stock);
    await only.rotateDataKeys.execute();
    expect(only.rotateDataKeys.missing).toEqual([]);
    for (const orderId of [before, ...meanwhile.map(idOf)])
      expect((await only.personalData.one(tenant, orderId)).contact).toEqual(contact);
    const after = idOf(await place(personal, null, only));
    expect((await mixed.personalData.one(tenant, after)).contact).toEqual(contact);

    const late = await start([old]);
    late.use(stock);
    await late.rotateDataKeys.execute();
    expect(late.rotateDataKeys.missing).toEqual([young.id]);
    await expect(late.personalData.one(tenant, before)).rejects.toMatchObject({
      code: 'data-key-missing',
      detail: expect.stringContaining(young.id),
    });
    await late.customers.erase(customer());
    expect((await late.personalData.one(tenant, before)).personal).toBe('erased');
  });

  it.each([
    ['is missing', masterKey('lost')],
    ['has another value under the same name', masterKey(old.id)],
  ])('that %s refuses only the customers whose key it has wrapped, before stock is held', async (_, lost) => {
    const withLost = await start([lost]);
    withLost.use(stock);
    const before = idOf(await place(personal, null, withLost));
    const batches = stock.batches.length;
    const [refused, ...placed] = await Promise.all([
      settled(place(personal, 'k')),
      place({}),
      place({ contact, customer_id: 'c-2' }),
    ]);
    expect(refused).toMatchObject({ code: 'data-key-missing', status: 503, detail: expect.stringContaining(lost.id) });
    expect(refused).toMatchObject({ detail: expect.stringContaining('DATA_KEYS') });
    for (const it of placed) idOf(it);
    // One batch, which was not retried in parts.
    expect(stock.batches.slice(batches).map((it) => it.length)).toEqual([2]);
    expect([stock.reserved, await ordersOf(one, tenant)]).toEqual([3, 3]);
    await expect(one.personalData.one(tenant, before)).rejects.toMatchObject({ code: 'data-key-missing' });
    await one.rotateDataKeys.execute();
    const { missing, stuck } = one.rotateDataKeys;
    expect([...missing, ...stuck.keys()]).toContain(lost.id);
    expect(idOf(await place(personal, 'k', withLost))).not.toBe(before);
  });

  it('that turns out to be missing after stock was held refuses only the customers whose key it has wrapped', async () => {
    const lost = await start([masterKey('lost')]);
    const theirs = new FakeInventory();
    theirs.onHand.set('mug', 10);
    lost.use(theirs);
    let before: PlacementResult | undefined;
    stock.interrupt = async (_, when) => {
      if (when === 'after') before ??= await place(personal, null, lost);
    };
    const [refused, placed] = await Promise.all([settled(place()), place({ contact, customer_id: 'c-2' })]);
    expect(refused).toMatchObject({ code: 'unavailable' });
    idOf(placed);
    expect(stock.batches).toHaveLength(1);
    expect(await ordersOf(one, tenant)).toBe(2);
    expect((await lost.personalData.one(tenant, idOf(before!))).contact).toEqual(contact);
  });

  it('is rotated despite customer keys that cannot be unwrapped, which are counted and logged', async () => {
    const [first, next] = [masterKey('2020'), masterKey('2021')];
    const [before, after] = [await start([first]), await start([next, first])];
    for (const it of [before, after]) it.use(stock);
    const customers = Array.from({ length: 7 }, (_, index) => `s-${index}`);
    const orders = await Promise.all(
      customers.map((customer_id) => place({ contact, customer_id }, null, before).then(idOf)),
    );
    // The first one and one in the middle were tampered with.
    const changed = [customers[0]!, customers[3]!];
    await one.sql.query(
      {
        name: 'test-change-keys',
        text: `UPDATE orders.customer_keys SET wrapped = set_byte(wrapped, 30, 255 - get_byte(wrapped, 30))
          WHERE tenant_id = $1 AND customer_id = ANY ($2)`,
      },
      [tenant, changed],
    );
    const told: string[] = [];
    const log = { log: () => {}, warn: () => {}, error: (line: string) => void told.push(line) };
    Object.assign(after.rotateDataKeys, { logger: log });
    for (let round = 0; round < 2; round += 1) {
      await after.rotateDataKeys.execute();
      expect([...after.rotateDataKeys.stuck]).toEqual([[first.id, 2]]);
    }
    expect(told.filter((it) => it.startsWith('2 of the keys of customers') && it.includes(first.id))).toHaveLength(1);
    const only = await start([next]);
    for (const [index, orderId] of orders.entries()) {
      const reading = settled(only.personalData.one(tenant, orderId));
      expect(await reading).toMatchObject(index % 3 === 0 && index < 6 ? { code: 'data-key-missing' } : { contact });
    }
    for (const customerId of changed) await after.customers.erase(customer(customerId));
    await after.rotateDataKeys.execute();
    expect(after.rotateDataKeys.stuck.size).toBe(0);
  });

  it('is rotated by concurrent updates of the customer keys in any order without a deadlock', async () => {
    const from = masterKey('2022');
    const before = await start([from]);
    before.use(stock);
    const customers = Array.from({ length: 200 }, (_, index) => `d-${index}`);
    await Promise.all(customers.map((customer_id) => place({ contact, customer_id }, null, before)));
    const wrapped = await one.keys.wrappedBy(from.id, undefined, 1_000);
    expect(wrapped).toHaveLength(200);
    const random = new SeededRandom();
    for (let round = 0; round < 20; round += 1)
      await Promise.all(
        Array.from({ length: 6 }, (_, index) =>
          (index % 2 ? one : two).keys.replace(from.id, random.shuffled(wrapped)),
        ),
      );
    expect(await one.keys.wrappedBy(from.id, undefined, 1_000)).toHaveLength(200);
    expect(await one.keys.wrappedBy(from.id, wrapped.at(-2), 1_000)).toEqual([wrapped.at(-1)]);
  });
});
