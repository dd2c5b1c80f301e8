import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { testSeed } from '#testing';
import { closedLoop } from '../bench/driver/closed-loop.js';
import { Templates } from '../bench/driver/templates.js';
import { Api } from '../support/api.js';
import { Ledger } from '../support/ledger.js';
import { startShape, type Shape } from '../support/shapes.js';

/** About 35 MB above what the process uses once it has warmed up. */
const heapMb = 112;
/** A leak of 10 KB per request would fill the heap after little more than half of them. */
const requests = 6_000;

let shape: Shape;
beforeAll(async () => {
  shape = await startShape('monolith', { NODE_OPTIONS: `--max-old-space-size=${heapMb}` });
});
afterAll(() => shape?.stop());

it('a monolith with a small heap handles thousands of orders of several kinds without running out of memory', async () => {
  const api = new Api(shape.baseUrl);
  const products = await Promise.all(Array.from({ length: 20 }, () => api.product({ onHand: 1_000_000 })));
  const scarce = await api.product({ onHand: 1 });
  const lines = (...ids: string[]) => ids.map((product_id) => ({ product_id, quantity: 1 }));
  const bodies = [
    ...products.map((it) => ({ customer_id: 'one', lines: lines(it) })),
    { customer_id: 'many', lines: lines(...products), metadata: { note: 'n'.repeat(500) } },
    { customer_id: 'paid', lines: lines(products[0]!), payment: { method: 'simulated', token: 'tok_ok' } },
    { customer_id: 'known', lines: lines(products[1]!), contact: { name: 'Somebody' } },
    { customer_id: 'refused', lines: lines(scarce, scarce) },
  ].map((it) => JSON.stringify(it));
  const orders = new Templates({ method: 'POST', paths: ['/orders'], bodies });

  const { acknowledged, failures } = await closedLoop(orders, {
    ...{ requests: 'orders', targets: [shape.baseUrl], seed: testSeed(), honoursRetryAfter: true },
    ...{ callers: 128, durationMs: 120_000, most: requests },
  });
  const { 409: refusals = 0, 503: sentAway = 0, ...others } = failures;
  expect(others).toEqual({});
  expect(sentAway + refusals + acknowledged).toBeGreaterThanOrEqual(requests);
  expect(acknowledged).toBeGreaterThan(requests * 0.8);
  // The process was not restarted meanwhile.
  expect(shape.services.map((it) => it.isRunning)).toEqual([true]);
  await new Ledger(shape).expectInvariants({ holdsMayWait: false });
}, 180_000);
