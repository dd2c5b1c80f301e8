import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { Api } from '../support/api.js';
import { fresh, randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { allAt, connected, query } from '../support/tables.js';
import { Shoppers } from './shoppers.js';

/** Faults injected into consistent data, each with the invariant that must detect it. */
const faults: [broken: RegExp, fault: string, sql: string][] = [
  [
    /^I1/,
    'more is reserved than on hand',
    `ALTER TABLE inventory.products DROP CONSTRAINT stock_is_never_oversold;
     UPDATE inventory.products SET reserved = on_hand + 1`,
  ],
  [/^I2: what is promised/, 'reserved stock is forgotten', `UPDATE inventory.products SET reserved = 0`],
  [
    /^I2: what is held for an order/,
    'an active order has lost its stock',
    `UPDATE inventory.reservations SET held = '{}', state = 'released' WHERE state = 'confirmed' AND held <> '{}'`,
  ],
  [
    /^I2: what is held for an order/,
    'an active order has lost its reservation',
    `DELETE FROM inventory.reservations WHERE state = 'confirmed'`,
  ],
  [
    /^I2: stock is held for no order/,
    'a hold has outlived its deadline',
    `INSERT INTO inventory.reservations (tenant_id, reservation_id, state, held, deadline_at)
     SELECT tenant_id, gen_random_uuid(), 'held', jsonb_build_object(product_id, 1), now() - interval '1 minute'
     FROM inventory.products LIMIT 1`,
  ],
  [
    /^I2: a reservation was claimed/,
    'a confirmed reservation has no order',
    `INSERT INTO inventory.reservations (tenant_id, reservation_id, state, held, deadline_at)
     VALUES ('default', gen_random_uuid(), 'fulfilled', '{}', now())`,
  ],
  [
    /^I3: an acknowledged order is gone/,
    'an order is missing',
    `DELETE FROM orders.orders WHERE order_id = (SELECT order_id FROM orders.orders ORDER BY order_id DESC LIMIT 1)`,
  ],
  [
    /^I3: an acknowledged order has become another/,
    'an order has another quantity',
    `UPDATE orders.orders SET lines = jsonb_set(lines, '{0,quantity}', '9')`,
  ],
  [
    /^I3: an acknowledged change is gone/,
    'a cancellation is undone',
    `DELETE FROM orders.events WHERE type = 'cancelled';
     UPDATE orders.orders SET status = 'confirmed', version = 1 WHERE status = 'cancelled'`,
  ],
  [
    /^I3: what was refused has an order/,
    'a refused request has an order',
    `UPDATE orders.orders SET idempotency_key = (SELECT max(idempotency_key) FROM orders.refusals)
     WHERE order_id = (SELECT order_id FROM orders.orders ORDER BY order_id DESC LIMIT 1)`,
  ],
  [/^I3: an acknowledged refund is gone/, 'a refund is undone', `DELETE FROM orders.events WHERE type = 'refunded'`],
  [
    /^I3: money was given back that nobody asked for/,
    'a refund is made twice',
    `UPDATE orders.events SET version = version + 1000 WHERE type = 'refunded';
     INSERT INTO orders.events (xid, tenant_id, order_id, version, reservation_id, type, status, data, at)
     SELECT xid, tenant_id, order_id, version - 1000, reservation_id, type, status, data, at
     FROM orders.events WHERE type = 'refunded'`,
  ],
  [
    /^I4/,
    'a key has two orders',
    `DROP INDEX orders.one_order_a_key;
     CREATE TEMP TABLE again AS SELECT * FROM orders.orders;
     UPDATE again SET order_id = gen_random_uuid(), reservation_id = gen_random_uuid();
     INSERT INTO orders.orders SELECT * FROM again`,
  ],
  [
    /^I5: more is refunded than captured/,
    'more is refunded than captured',
    `ALTER TABLE payment.payments DROP CONSTRAINT money_adds_up;
     UPDATE payment.payments SET refunded_minor = captured_minor + 1 WHERE captured_minor > 0`,
  ],
  [
    /^I5: the payment is not what the ledger/,
    'the provider has a capture that we do not know',
    `UPDATE payment.payments SET captured_minor = 0, refunded_minor = 0 WHERE captured_minor > 0`,
  ],
  [
    /^I5: the payment is not what the ledger/,
    'the provider has captured twice',
    `INSERT INTO payment.simulated_ledger (tenant_id, operation_id, order_id, kind, amount_minor, decided_at)
     SELECT tenant_id, gen_random_uuid(), order_id, kind, amount_minor, decided_at
     FROM payment.simulated_ledger WHERE kind = 'capture' AND refused_for IS NULL`,
  ],
  [
    /^I5: money was taken for an order that is cancelled/,
    'a cancelled order is not refunded',
    `UPDATE orders.orders o SET status = 'cancelled' FROM payment.payments p
     WHERE p.order_id = o.order_id AND p.captured_minor > p.refunded_minor`,
  ],
  [
    /^I5: the history tells that another amount was taken/,
    'the history has a smaller capture',
    `UPDATE orders.events SET data = jsonb_set(data, '{amount_minor}', '1') WHERE type = 'payment-captured'`,
  ],
  [
    /^I5: the payment is not what its operations say/,
    'an operation took another amount',
    `UPDATE payment.operations SET amount_minor = amount_minor + 1 WHERE kind = 'capture' AND state = 'succeeded'`,
  ],
  [
    /^I5: the payment is not what its operations say/,
    'an amount stays set aside for a refund that has ended',
    `UPDATE payment.payments SET refunding_minor = 1 WHERE captured_minor > refunded_minor`,
  ],
  [
    /^I5: somebody pays for an order that does not exist/,
    'a paid order is gone',
    `DELETE FROM orders.orders WHERE order_id = (SELECT order_id FROM payment.payments LIMIT 1)`,
  ],
  [
    /^I5: an order is cancelled, and its payment can still be captured/,
    'a declined payment is authorised',
    `UPDATE payment.payments SET authorised_minor = amount_minor
     WHERE captured_minor = 0 AND amount_minor > 0
       AND order_id IN (SELECT order_id FROM orders.orders WHERE status = 'cancelled')`,
  ],
  [
    /^I5: an order is confirmed without its money/,
    'an order is confirmed although its payment was declined',
    `UPDATE orders.orders SET status = 'confirmed' WHERE payment_method IS NOT NULL AND status = 'cancelled'`,
  ],
  [
    /^I5: the payment of an order is reversed that is not cancelled/,
    'the payment of an order is reversed',
    `UPDATE payment.payments SET reversed = true`,
  ],
  [
    /^I5: the history tells that another amount was given back/,
    'the history has a larger refund',
    `UPDATE orders.events SET data = jsonb_set(data, '{amount_minor}', '1000') WHERE type = 'refunded'`,
  ],
  [
    /^I6: a payment is still being led/,
    'a payment never ends',
    `UPDATE orders.sagas SET state = 'running' WHERE saga_id = (SELECT min(saga_id::text)::uuid FROM orders.sagas)`,
  ],
  [
    /^I6: an order waits for a payment that nobody leads/,
    'the saga of an order is lost',
    `DELETE FROM orders.sagas;
     UPDATE orders.orders SET status = 'pending' WHERE payment_method IS NOT NULL AND status = 'confirmed'`,
  ],
  [
    /^I6: a payment waits for a person/,
    'a declined payment is a dead letter',
    `UPDATE orders.sagas SET state = 'parked' WHERE step = 'authorise' AND result ? 'refused_for'`,
  ],
  [
    /^I6: something was asked of a provider/,
    'the answer of a provider was never recorded',
    `UPDATE payment.operations SET state = 'open' WHERE kind = 'capture'`,
  ],
  [
    /^I6: the hold of an order was never confirmed/,
    'a confirmation was lost',
    `UPDATE inventory.reservations SET state = 'held' WHERE state = 'confirmed'`,
  ],
  [
    /^I6: a hold waits/,
    'a hold is left over',
    `INSERT INTO inventory.reservations (tenant_id, reservation_id, state, held, deadline_at)
     VALUES ('default', gen_random_uuid(), 'held', '{}', now() + interval '1 hour')`,
  ],
  [
    /^I6: a reservation has ended/,
    'a released reservation holds stock',
    `UPDATE inventory.reservations SET state = 'released' WHERE held <> '{}'`,
  ],
  [/^I7/, 'goods appear on the shelf', `UPDATE inventory.products SET on_hand = on_hand + 1`],
  [/^I7/, 'a sale is counted twice', `UPDATE inventory.products SET sold = sold * 2`],
  [
    /^I8: an event has not been delivered/,
    'the stock consumer is behind',
    `UPDATE orders.checkpoints SET position = lpad('', 20, '0') || '-' || lpad('', 19, '0') WHERE consumer = 'stock'`,
  ],
  [
    /^I8: a consumer of the log has not come to its end/,
    'the webhooks consumer is behind',
    `UPDATE webhooks.checkpoints SET position = lpad('', 20, '0') || '-' || lpad('', 19, '0')`,
  ],
  [
    /^I8: an event is announced twice/,
    'an event is published twice',
    `DROP INDEX orders.events_by_order;
     INSERT INTO orders.events (xid, tenant_id, order_id, version, reservation_id, type, status, data, at)
     SELECT xid, tenant_id, order_id, version, reservation_id, type, status, data, at FROM orders.events`,
  ],
  [
    /^I8: events of an order are announced out of order/,
    'events are published in reverse',
    `UPDATE orders.events SET xid = (100000 - xid::text::bigint)::text::xid8;
     UPDATE orders.checkpoints SET position = lpad('100000', 20, '0') || '-' || lpad('', 19, '0')`,
  ],
  [/^I8: the sales/, 'an event is counted twice', `UPDATE sales.days SET ordered = ordered * 2`],
  [
    /^I8: the sales/,
    'a product is not counted',
    `DELETE FROM sales.days WHERE product_id = (SELECT min(product_id) FROM sales.days)`,
  ],
  [
    /^I8: an event has had no effect/,
    'an event was skipped',
    `UPDATE inventory.reservations SET settled_version = 1 WHERE settled_version > 1`,
  ],
  [
    /^I8: the stock has moved by another amount/,
    'an event took effect twice',
    `INSERT INTO inventory.stock_moves (tenant_id, product_id, kind, delta)
     SELECT tenant_id, product_id, kind, delta FROM inventory.stock_moves WHERE kind = 'fulfilled' LIMIT 1`,
  ],
  [/^I10: the order has another version/, 'a history entry is missing', `DELETE FROM orders.events WHERE version = 2`],
  [
    /^I10: entry 2 is not possible/,
    'a return comes before its fulfilment',
    `UPDATE orders.events SET type = 'returned' WHERE version = 2 AND type = 'fulfilled'`,
  ],
  [
    /^I10: entry \d+ takes money after it was returned/,
    'a capture is told after the reversal',
    `INSERT INTO orders.events (xid, tenant_id, order_id, version, reservation_id, type, status, data, at)
     SELECT xid, tenant_id, order_id, version + 1, reservation_id, 'payment-captured', status, data, at
     FROM orders.events e WHERE type = 'payment-reversed'
       AND NOT EXISTS (SELECT FROM orders.events l WHERE l.order_id = e.order_id AND l.version > e.version) LIMIT 1`,
  ],
  [/^I10/, 'the history lacks a fulfilment', `UPDATE orders.orders SET lines = jsonb_set(lines, '{0,fulfilled}', '0')`],
  [/^I11/, 'a total is off by one', `UPDATE orders.orders SET total_minor = total_minor + 1`],
];

describe('the invariants', () => {
  let shape: ProxiedShape;
  let shoppers: Shoppers;
  let url: string;

  beforeAll(async () => {
    shape = await startProxied('one database');
    shoppers = new Shoppers(new Api(shape.baseUrl), randomOf('planted faults'));
    await shoppers.start();
    await shoppers.until(
      () =>
        shoppers.changes.filter((it) => it.order).length > 40 &&
        shoppers.placements.some((it) => it.outcome === 409) &&
        shoppers.refunds.some((it) => it.move?.status === 'succeeded'),
    );
    await shoppers.finish();
    await new Ledger(shape).expectInvariants({ log: shoppers, holdsMayWait: false });
    // Postgres copies a database only while it has no connections.
    await shape.service('monolith').kill('SIGTERM');
    url = (await shape.databaseUrls()).order;
  });

  afterAll(() => shape?.stop());

  const saidOf = async (databaseUrl: string): Promise<string[]> => {
    const urls = allAt(databaseUrl);
    const ledger = new Ledger({ databaseUrls: () => Promise.resolve(urls) });
    return (await ledger.violations({ log: shoppers, holdsMayWait: false })).map((it) => it.broken);
  };

  it.each(faults)('report %s if %s', async (broken, _, sql) => {
    const copy = new URL(url);
    copy.pathname += '_fault';
    const [name, template] = [copy, new URL(url)].map((it) => pg.escapeIdentifier(it.pathname.slice(1)));
    const elsewhere = new URL(url);
    elsewhere.pathname = '/postgres';
    await query(elsewhere.href, `CREATE DATABASE ${name} TEMPLATE ${template}`);
    try {
      const client = await connected(copy.href);
      const planted = await client.query(sql);
      await client.end();
      const last = [planted].flat().at(-1)!;
      expect(last.rowCount).toBeGreaterThan(0);
      expect(await saidOf(copy.href)).toContainEqual(expect.stringMatching(broken));
    } finally {
      await query(elsewhere.href, `DROP DATABASE ${name} WITH (FORCE)`);
    }
  });

  // Not in a copy, because a database with a prepared transaction can be neither dropped nor copied.
  it('report /^I9/ if a prepared transaction was never finished', async () => {
    const gid = fresh('planted');
    await query(url, `BEGIN; UPDATE inventory.products SET name = name; PREPARE TRANSACTION '${gid}'`);
    try {
      expect(await saidOf(url)).toContainEqual(expect.stringMatching(/^I9/));
    } finally {
      await query(url, `ROLLBACK PREPARED '${gid}'`);
    }
    expect(await saidOf(url)).toEqual([]);
  });
});
