import { expect } from '@jest/globals';
import { eventually } from '#testing';
import { ok, refused, type Api, type DeadLetterPage, type SalesViews, type Stock } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { has } from '../support/postgres-proxy.js';
import type { ProxiedShape } from '../support/proxied-shapes.js';
import { lapseHold } from '../support/tables.js';
import type { Shoppers } from './shoppers.js';

interface World {
  shape: ProxiedShape;
  api: Api;
  shoppers: Shoppers;
  /** Whether the intercepted step is carried out before the kill. */
  isCarriedOut: boolean;
}

/**
 * Causes a rare state.
 *
 * @returns what to do and check once the killed process is back
 */
type Provocation = (world: World) => Promise<() => Promise<void>>;

/** An order whose stock is held but which could not be recorded, and which is not retried meanwhile. */
const lostRecord: Provocation = async ({ shape, api, shoppers }) => {
  const product = await api.product({ onHand: 5 });
  const [body, key] = [{ customer_id: 'shopper', product_id: product, quantity: 3 }, fresh('lost')];
  const recording = shape.proxies.order.next({ statement: 'order-record', moment: 'before', with: has(key) });
  const placing = api.place(body, key);
  (await recording).cut();
  expect((await placing).status).toBe(503);
  await lapseHold(await shape.databaseUrls(), product);
  return async () => {
    await eventually(async () => expect(await api.stock(product)).toMatchObject({ reserved: 0 }));
    ok(await shoppers.insistOnPlacing(body, key), 201);
    await eventually(async () => expect(await api.stock(product)).toMatchObject({ reserved: 3 }));
  };
};

/** @param send a request without an answer, because its process is killed */
const unanswered = (send: Promise<unknown>): void => void send.catch(() => undefined);

/** Fulfils an order again, under another key: only that key is written. */
const changeWithoutNeed: Provocation = async ({ api, isCarriedOut }) => {
  const product_id = await api.product({ onHand: 5 });
  const { order_id } = await api.placed({ customer_id: 'shopper', product_id, quantity: 3 });
  const done = ok(await api.fulfil(order_id));
  const key = fresh('again');
  const again = () => api.fulfil(order_id, undefined, { key });
  unanswered(again());
  return async () => {
    // From here on, the answer would differ if the key were not stored.
    const isKept = async () => (await again()).headers.get('idempotent-replayed') === 'true';
    expect(await isKept()).toBe(isCarriedOut);
    const back = { lines: [{ product_id, quantity: 1 }], restock: true, reason: 'unwanted' };
    ok(await api.return(order_id, back), 201);
    const answer = await again();
    expect(ok(answer)).toEqual(done);
    expect(answer.headers.get('idempotent-replayed')).toBe('true');
    const lines = [{ product_id, quantity: 1 }];
    refused(await api.fulfil(order_id, { lines }, { key }), '422 idempotency-key-reused');
  };
};

/** The first order with personal data of a customer, who has no encryption key yet. */
const orderOfAPerson: Provocation = async ({ api, shoppers }) => {
  const product = await api.product({ onHand: 5 });
  const contact = { name: 'Somebody', email: 'somebody@example.com' };
  const [body, key] = [{ customer_id: fresh('person'), product_id: product, quantity: 3, contact }, fresh('person')];
  unanswered(api.place(body, key));
  return async () => {
    const { order_id } = ok(await shoppers.insistOnPlacing(body, key), 201);
    expect(ok(await api.get(`/orders/${order_id}`))).toMatchObject({ personal: 'kept', contact });
    await eventually(async () => expect(await api.stock(product)).toMatchObject({ reserved: 3 }));
  };
};

const stockAdjusted: Provocation = async ({ api }) => {
  const product = await api.product({ onHand: 5 });
  const key = fresh('adjust');
  const adjust = () =>
    api.send<Stock>('POST', `/stock/${product}/adjustments`, { body: { delta: 2, reason: 'found' }, key });
  unanswered(adjust());
  return async () => {
    for (let time = 0; time < 2; time += 1)
      expect(await eventually(async () => ok(await adjust()))).toMatchObject({ on_hand: 7 });
    expect(await api.stock(product)).toMatchObject({ on_hand: 7 });
  };
};

const salesBuiltAnew: Provocation = async ({ api }) => {
  const views = async () => ok(await api.get<SalesViews>('/sales/views')).data;
  const [served] = await views();
  ok(await api.send('POST', '/sales/views'), 202);
  return () =>
    eventually(async () => {
      const [built, before] = await views();
      expect(built).toMatchObject({ view: served!.view + 1, state: 'serving' });
      expect(before).toMatchObject({ view: served!.view, state: 'retired' });
    });
};

/** A purchase whose capture is refused after delivery, which only a person can resolve. */
const parkedPurchase = async ({ shape, api }: World) => {
  const token = fresh('capture_refused');
  const begins = (word: string) =>
    shape.proxies.payment.next({ statement: 'payment-begin', moment: 'before', with: has(word) });
  const authorising = begins(token);
  const payment = { method: 'simulated', token };
  const product_id = await api.product();
  const { order_id } = await api.placed({ customer_id: 'shopper', product_id, quantity: 1, payment });
  const authorisation = await authorising;
  const capturing = begins(order_id);
  authorisation.pass();
  const capture = await capturing;
  ok(await api.fulfil(order_id));
  capture.pass();
  const letter = async () => {
    const { data } = ok(await api.get<DeadLetterPage>('/dead-letters?limit=200'));
    return data.find((it) => it.order_id === order_id);
  };
  const parked = (captures: number) =>
    eventually(async () => {
      const { operations } = await api.payment(order_id);
      expect(operations.filter((it) => it.kind === 'capture')).toHaveLength(captures);
      const found = await letter();
      expect(found).toMatchObject({ step: 'capture', result: { refused_for: 'card-expired' } });
      return found!;
    });
  const { saga_id } = await parked(1);
  const retry = () => api.send('POST', `/dead-letters/${saga_id}/retry`);
  const close = () => api.send('POST', `/dead-letters/${saga_id}/resolve`, { body: { note: 'paid in cash' } });
  return { letter, parked, retry, close };
};

const triedAnew: Provocation = async (world) => {
  const { parked, retry, close } = await parkedPurchase(world);
  unanswered(retry());
  return async () => {
    // A recorded retry continues by itself.
    if (!world.isCarriedOut) ok(await retry(), 204);
    await parked(2);
    ok(await close(), 204);
  };
};

const closed: Provocation = async (world) => {
  const { letter, parked, close } = await parkedPurchase(world);
  unanswered(close());
  return async () => {
    if (!world.isCarriedOut) {
      await parked(1);
      ok(await close(), 204);
    }
    expect(await letter()).toBeUndefined();
    ok(await close(), 404);
  };
};

export const provocations = {
  'lost record': lostRecord,
  'change without need': changeWithoutNeed,
  'order of a person': orderOfAPerson,
  'stock adjusted': stockAdjusted,
  'sales built anew': salesBuiltAnew,
  'dead letter tried anew': triedAnew,
  'dead letter closed': closed,
} satisfies Record<string, Provocation>;

export type ProvocationName = keyof typeof provocations;
