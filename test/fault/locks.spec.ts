import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { StripeStandIn, eventually } from '#testing';
import { Api } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { has } from '../support/postgres-proxy.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { connected, query, type Keeper, type Row } from '../support/tables.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';

const stripe = new StripeStandIn();
let shape: ProxiedShape;
let ledger: Ledger;
let api: Api;
let product: string;
let receiver: WebhookReceiver;

beforeAll(async () => {
  shape = await startProxied('split', {
    ...{ ORDER_SWEEP_MS: '100', STRIPE_SECRET_KEY: 'sk_test_x', STRIPE_WEBHOOK_SECRET: 'whsec_of_the_test' },
    STRIPE_API_BASE: await stripe.start(),
  });
  ledger = new Ledger(shape);
  api = new Api(shape.baseUrl);
  product = await api.product({ onHand: 1_000 });
  receiver = await WebhookReceiver.start(api, await shape.databaseUrls());
});
afterAll(async () => {
  await receiver?.stop();
  await shape?.stop();
  await stripe.stop();
});

/** A call that is delayed until it is released. */
interface HeldUp {
  release(): void;
}

/** Shorter than any timeout of a delayed call. */
const patienceMs = 1_500;

/** Transactions of a module that began before the moment, and sessions that hold locks outside of a transaction. */
const openSince = async (module: Keeper, moment: string): Promise<Row[]> =>
  query(
    (await shape.databaseUrls())[module],
    `SELECT a.state, a.query FROM pg_stat_activity a
    WHERE a.application_name = $1 AND (a.xact_start < $2::timestamptz OR a.xact_start IS NULL AND EXISTS (
      SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted))`,
    [`cleave-${module}`, moment],
  );

const nowAt = async (module: Keeper): Promise<string> => {
  const [row] = await query<{ now: string }>((await shape.databaseUrls())[module], 'SELECT now()::text');
  return row!.now;
};

const order = () => ({ customer_id: 'c', product_id: product, quantity: 1 });
const place = () => api.placed(order(), fresh('k'));
const buy = (payment: object) => api.placed({ ...order(), payment }, fresh('k'));

/** Delays a statement of another module. */
const slow = (by: Keeper, statement: string, word?: string) => async (): Promise<HeldUp> => {
  const caught = await shape.proxies[by].next({
    ...{ statement, moment: 'before' as const },
    ...(word !== undefined && { with: has(word) }),
  });
  return { release: () => caught.pass() };
};

const slowStripe = (change: 'authorise' | 'capture') => async (): Promise<HeldUp> => {
  const caught = await stripe.next(change, 'before');
  return { release: () => caught.pass() };
};

/** Delays a webhook, which is retried because it is never answered. */
const slowMerchant = async (): Promise<HeldUp> => {
  const caught = await receiver.next(1);
  return { release: () => caught.cut() };
};

const card = () => buy({ method: 'stripe', token: 'pm_card_visa' });
const readPayment = async () => {
  const { order_id } = await buy({ method: 'manual' });
  await eventually(() => api.payment(order_id));
  return { order_id };
};

it.each<{ call: string; waiting: Keeper[]; slow: () => Promise<HeldUp>; begin: () => Promise<unknown> }>([
  {
    call: 'inventory to reserve stock',
    waiting: ['order'],
    slow: slow('inventory', 'inventory-reserve'),
    begin: place,
  },
  { call: 'inventory to settle events', waiting: ['order'], slow: slow('inventory', 'inventory-settle'), begin: place },
  {
    ...{ call: 'inventory for overdue reservations', waiting: ['order'], slow: slow('inventory', 'inventory-overdue') },
    begin: async () => undefined,
  },
  {
    ...{ call: 'payment to begin a payment', waiting: ['order'], slow: slow('payment', 'payment-begin') },
    begin: () => buy({ method: 'simulated', token: 'tok_ok' }),
  },
  { call: 'payment to read a payment', waiting: ['order'], slow: slow('payment', 'payment-find'), begin: readPayment },
  { call: 'Stripe to authorise', waiting: ['order', 'payment'], slow: slowStripe('authorise'), begin: card },
  { call: 'Stripe to capture', waiting: ['order', 'payment'], slow: slowStripe('capture'), begin: card },
  { call: 'a webhook endpoint', waiting: ['order', 'webhooks'], slow: slowMerchant, begin: place },
  { call: 'order for its event log', waiting: ['sales', 'webhooks'], slow: slow('order', 'order-log'), begin: place },
])('a caller holds no lock or transaction during a call to $call', async ({ waiting, slow: heldUp, begin }) => {
  const holding = heldUp();
  const work = begin();
  const held = await holding;
  try {
    for (const module of waiting) {
      const moment = await nowAt(module);
      // Concurrent transactions end within this time; one that stays open across the call does not.
      await eventually(async () => expect(await openSince(module, moment)).toEqual([]), patienceMs);
    }
  } finally {
    held.release();
  }
  await work;
  await ledger.expectInvariants({ holdsMayWait: false });
});

it('the check detects a lock without a transaction, and a transaction without a lock', async () => {
  const client = await connected((await shape.databaseUrls()).order);
  try {
    await client.query(`SET application_name = 'cleave-order'`);
    await client.query('SELECT pg_advisory_lock(1)');
    expect(await openSince('order', '-infinity')).toContainEqual(expect.objectContaining({ state: 'idle' }));
    await client.query('SELECT pg_advisory_unlock(1)');
    await client.query('BEGIN');
    const moment = await nowAt('order');
    expect(await openSince('order', moment)).toContainEqual(expect.objectContaining({ state: 'idle in transaction' }));
  } finally {
    await client.end();
  }
});
