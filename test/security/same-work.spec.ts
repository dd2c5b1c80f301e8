import { randomBytes, randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { scopes } from '#contracts';
import { Collector, eventually } from '#testing';
import { ok } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { As, startWorld, type World } from './world.js';

type Ids = Record<'order' | 'product' | 'endpoint', string>;

/** Requests, and the statement that looks up what they ask for. */
const asked: [method: string, path: (ids: Ids) => string, statement: string][] = [
  ['GET', ({ order }) => `/orders/${order}`, 'order-kept'],
  ['GET', ({ order }) => `/orders/${order}/history`, 'order-history-page'],
  ['GET', ({ order }) => `/orders/${order}/payment`, 'order-by-id'],
  ['POST', ({ order }) => `/orders/${order}/cancel`, 'order-by-id'],
  ['GET', ({ product }) => `/products/${product}`, 'inventory-find-product'],
  ['GET', ({ endpoint }) => `/webhook-endpoints/${endpoint}`, 'webhooks-endpoint'],
];

const nowhere = (): Ids => ({ order: randomUUID(), product: fresh('product'), endpoint: randomUUID() });

/** Timing side channels are checked by comparing the work, as time itself is too noisy to measure. */
describe.each(['monolith', 'split-tcp'] as const)('what belongs to another tenant, in %s,', (name) => {
  let collector: Collector;
  let world: World;
  let owner: As;
  let other: As;
  let theirs: Ids;

  beforeAll(async () => {
    collector = await Collector.start();
    world = await startWorld(name, {
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_TRACES_SAMPLER: 'parentbased_always_off',
    });
    // Tokens, because authenticating them takes no statement.
    const ofTenant = async (): Promise<As> =>
      new As(world.api, await world.issuer.token({ tenant: fresh('t').toLowerCase(), scope: scopes.join(' ') }));
    [owner, other] = [await ofTenant(), await ofTenant()];
    const product_id = fresh('product');
    const product = { name: 'Mug', unit_price_minor: 850, currency: 'GBP' };
    ok(await owner.send('PUT', `/products/${product_id}`, { body: product }), 201);
    ok(await owner.send('PUT', `/stock/${product_id}`, { body: { on_hand: 1 } }));
    const order = {
      ...{ customer_id: 'c', product_id, quantity: 1, contact: { name: 'x' } },
      payment: { method: 'manual' },
    };
    const { order_id } = ok(await owner.send<{ order_id: string }>('POST', '/orders', { body: order }), 201);
    const endpoint = { body: { url: 'https://example.com/hook' } };
    const made = ok(await owner.send<{ endpoint_id: string }>('POST', '/webhook-endpoints', endpoint), 201);
    theirs = { order: order_id, product: product_id, endpoint: made.endpoint_id };
  });

  afterAll(async () => {
    await world?.stop();
    await collector?.stop();
  });

  /** @returns the id of its trace */
  const traced = async (by: As, method: string, path: string, status = 404): Promise<string> => {
    const traceId = randomBytes(16).toString('hex');
    const headers = { traceparent: `00-${traceId}-${randomBytes(8).toString('hex')}-01` };
    ok(await by.send(method, path, { headers, ...(method === 'POST' && { body: {} }) }), status);
    return traceId;
  };

  const workOf = (traceId: string): string[] =>
    collector
      .of(traceId)
      .map((it) => `${it.service} ${it.name}`)
      .toSorted();

  /** Each process exports its spans in the order they end, so once those of later requests have arrived, all have. */
  const arrived = async (): Promise<void> => {
    const { order, product, endpoint } = theirs;
    const later: string[] = [];
    for (const path of [`/orders/${order}`, `/products/${product}`, `/webhook-endpoints/${endpoint}`])
      later.push(await traced(owner, 'GET', path, 200));
    const of = name === 'monolith' ? ['monolith'] : ['cache', 'gateway', 'inventory', 'order', 'webhooks'];
    await eventually(async () => {
      const services = new Set(later.flatMap((it) => collector.of(it)).map(({ service }) => service));
      expect([...services]).toEqual(expect.arrayContaining(of.map((it) => `cleave-${it}`)));
    });
  };

  it('is looked up with the same work as what does not exist', async () => {
    // A retry on a busy machine may make one attempt differ; a real difference shows in every attempt.
    await eventually(async () => {
      const pairs: [string, string, string, string][] = [];
      for (const [method, path, statement] of asked) {
        const [one, none] = [
          await traced(other, method, path(theirs)),
          await traced(other, method, path(nowhere())),
        ] as const;
        pairs.push([`${method} ${path(theirs)}`, statement, one, none]);
      }
      await arrived();
      for (const [what, statement, one, none] of pairs) {
        expect([what, workOf(one)]).toEqual([what, workOf(none)]);
        expect([what, collector.of(one).map((it) => it.name)]).toEqual([what, expect.arrayContaining([statement])]);
      }
    }, 60_000);
  });
});
