import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { limits } from '#contracts';
import { eventually, testDatabase } from '#testing';
import { Api, ok, refused } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { allAt, query } from '../support/tables.js';

let shape: Shape;
let api: Api;
let url: string;

beforeAll(async () => {
  const database = await testDatabase();
  ({ url } = database);
  const [port] = await servicePorts(1);
  shape = await startPlan('monolith', {
    services: [{ app: 'monolith', port: port!, environment: { DATABASE_URL: url } }],
    databaseUrls: () => Promise.resolve(allAt(url)),
    release: () => database.stop(),
  });
  api = new Api(shape.baseUrl);
});
afterAll(() => shape?.stop());

/** The test restarts the process, because expired rows are deleted at startup and only rarely afterwards. */
it('rows past their retention period are deleted after a restart; the idempotency key of an order is not', async () => {
  const product = await api.product({ onHand: 3 });
  const order = (quantity: number) => ({ customer_id: 'c', product_id: product, quantity });
  const [kept, old, young] = [fresh('kept'), fresh('old'), fresh('young')];
  const placed = await api.placed(order(1), kept);

  const longAgo = (ms: number): string => `now() - interval '${ms + 3_600_000} milliseconds'`;
  await query(url, `UPDATE orders.orders SET created_at = '2001-01-01', updated_at = '2001-01-01'`);
  refused(await api.place(order(9), old), '409 out-of-stock');
  // Just over a week later, for everybody who has noted the refusal.
  const aWeek = `interval '${limits.refusalKeptMs + 1} milliseconds'`;
  await query(url, `UPDATE orders.refusals SET refused_at = refused_at - ${aWeek}`);
  await query(url, `UPDATE inventory.reservations SET deadline_at = deadline_at - ${aWeek} WHERE state = 'refused'`);
  refused(await api.place(order(9), young), '409 out-of-stock');
  const aDay = 24 * 3_600_000;
  await query(
    url,
    `INSERT INTO orders.branch_decisions VALUES (gen_random_uuid(), 'commit', ${longAgo(aDay)}), (gen_random_uuid(), 'abort', now())`,
  );
  for (const [id, at] of [
    ['old', longAgo(limits.webhooksKeptMs)],
    ['young', 'now()'],
  ]) {
    await query(
      url,
      `INSERT INTO webhooks.messages (tenant_id, message_id, type, payload, at, created_at)
      VALUES ('default', '${id}', 'order.placed', '{}', ${at}, ${at})`,
    );
    await query(
      url,
      `INSERT INTO webhooks.deliveries (tenant_id, endpoint_id, message_id, type, status, created_at)
      VALUES ('default', gen_random_uuid(), '${id}', 'order.placed', 'delivered', ${at})`,
    );
  }

  const monolith = shape.service('monolith');
  await monolith.kill('SIGTERM');
  await monolith.restart();
  await eventually(async () => {
    expect(await query(url, 'SELECT idempotency_key FROM orders.refusals')).toEqual([{ idempotency_key: young }]);
    expect(await query(url, `SELECT FROM inventory.reservations WHERE state = 'refused'`)).toHaveLength(1);
    expect(await query(url, 'SELECT outcome FROM orders.branch_decisions')).toEqual([{ outcome: 'abort' }]);
    for (const table of ['messages', 'deliveries'])
      expect(await query(url, `SELECT message_id FROM webhooks.${table}`)).toEqual([{ message_id: 'young' }]);
  });
  ok(await api.send('PUT', `/stock/${product}`, { body: { on_hand: 20 } }));
  // The key is free again: the same request is decided anew.
  ok(await api.place(order(9), old), 201);
  const again = await api.place(order(9), young);
  refused(again, '409 out-of-stock');
  expect(again.headers.get('idempotent-replayed')).toBe('true');
  expect(ok(await api.place(order(1), kept), 201).order_id).toBe(placed.order_id);
  refused(await api.place(order(2), kept), '422 idempotency-key-reused');
});
