import { describe, expect, it } from '@jest/globals';
import { eventually, samplesIn } from '#testing';
import { ok, refused, type Answer } from '../../support/api.js';
import { fresh } from '../../support/fresh.js';
import { operationsIn, pathOf, type OpenApi, type Operation } from '../../support/openapi.js';
import type { World } from './world.js';

/** Each operation once, in an order in which the examples can run. */
const operations = [
  'PUT /products/{id}',
  'GET /products/{id}',
  'GET /products',
  'POST /products/batch',
  'POST /webhook-endpoints',
  'GET /webhook-endpoints',
  'GET /webhook-endpoints/{endpoint_id}',
  'PATCH /webhook-endpoints/{endpoint_id}',
  'GET /webhook-endpoints/{endpoint_id}/secret',
  'POST /webhook-endpoints/{endpoint_id}/rotate-secret',
  'POST /webhook-endpoints/{endpoint_id}/test',
  'GET /webhook-endpoints/{endpoint_id}/deliveries',
  'POST /webhook-endpoints/{endpoint_id}/redeliver',
  'GET /webhook-deliveries/{delivery_id}',
  'POST /webhook-deliveries/{delivery_id}/redeliver',
  'DELETE /webhook-endpoints/{endpoint_id}',
  'GET /sales',
  'GET /sales/outlook/{product_id}',
  'POST /sales/views',
  'GET /sales/views',
  'PUT /stock/{product_id}',
  'GET /stock',
  'GET /stock/{product_id}',
  'POST /stock/batch',
  'POST /stock/{product_id}/adjustments',
  'POST /orders',
  'POST /order',
  'GET /events',
  'GET /orders',
  'GET /orders/{id}',
  'GET /orders/{id}/history',
  'GET /orders/{id}/payment',
  'POST /orders/{id}/captures',
  'POST /orders/{id}/refunds',
  'POST /orders/{id}/fulfil',
  'POST /orders/{id}/returns',
  'POST /orders/{id}/cancel',
  'GET /customers/{id}/export',
  'DELETE /customers/{id}',
  'GET /dead-letters',
  'POST /dead-letters/{id}/retry',
  'POST /dead-letters/{id}/resolve',
  'POST /payments/webhooks/stripe',
  'PUT /cache',
  'POST /cache/batch',
  'POST /cache/counters',
  'POST /cache/invalidate',
  'POST /cache/lease',
  'GET /cache/stats',
  'GET /cache',
  'DELETE /cache',
  'POST /keys',
  'GET /keys',
  'POST /keys/{key_id}/rotate',
  'DELETE /keys/{key_id}',
  'GET /audit',
  'GET /health/live',
  'GET /health/ready',
  'GET /metrics',
  'GET /admin/log-level',
  'PUT /admin/log-level',
  'GET /problems/{code}',
];

export const documentTests = (world: World): void => {
  const document = async (): Promise<OpenApi> => ok(await world.api.get<OpenApi>('/openapi.json'));
  const operationsOf = (described: OpenApi): Map<string, Operation> =>
    new Map(operationsIn(described).map((it) => [it.name, it]));

  describe('health', () => {
    it('is ok at /health/live and /health/ready', async () => {
      for (const path of ['/health/live', '/health/ready']) {
        // Services that start together are degraded until they have found each other.
        await eventually(async () => {
          const answer = await world.api.get<{ status: string; details: object }>(path);
          expect(answer.body).toMatchObject({ status: 'ok' });
          expect(answer.headers.get('cache-control')).toBe('no-store');
        });
      }
      const { details } = ok(await world.api.get<{ details: object }>('/health/ready'));
      expect(Object.keys(details).length).toBeGreaterThan(0);
    });

    it('includes the number of branches in doubt at inventory', async () => {
      const asked = world.shape.services.map(async ({ url }) => (await fetch(`${url}/health/ready`)).json());
      const reports = (await Promise.all(asked)) as { details: Record<string, object> }[];
      const told = reports.flatMap(({ details }) => details['inventory-branches'] ?? []);
      expect(told.length).toBeGreaterThan(0);
      for (const it of told) expect(it).toMatchObject({ status: 'up', in_doubt: 0, oldest_ms: 0 });
    });

    it('is served by every service', async () => {
      for (const { url } of world.shape.services)
        for (const path of ['/health/live', '/health/ready']) expect((await fetch(url + path)).status).toBe(200);
    });
  });

  describe('/metrics', () => {
    it('is served by every service and the gateway in the text format of Prometheus', async () => {
      const told = await Promise.all(
        [world.api.baseUrl, ...world.shape.services.map(({ url }) => url)].map(async (url) => {
          const answer = await fetch(`${url}/metrics`);
          expect(answer.status).toBe(200);
          expect(answer.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
          return samplesIn(await answer.text());
        }),
      );
      for (const samples of told) expect(samples.get('process_memory_usage_bytes')).toBeGreaterThan(1_000_000);
      const ofCaches = told.filter((samples) => samples.has('cache_l1_memory_limit_bytes'));
      expect(ofCaches.length).toBeGreaterThan(0);
    });
  });

  describe('/openapi.json', () => {
    it('lists exactly the expected operations', async () => {
      const { openapi, info, ...rest } = await document();
      expect(openapi).toBe('3.1.0');
      expect(info).toMatchObject({ title: 'Cleave', version: expect.stringMatching(/\d/) });
      const listed = operationsOf({ openapi, info, ...rest });
      expect([...listed.keys()].toSorted()).toEqual(operations.toSorted());
      const ids = [...listed.values()].map((it) => it.operationId);
      expect(new Set(ids).size).toBe(operations.length);
    });

    it('has no tag without an operation at any service', async () => {
      for (const { url } of world.shape.services) {
        const { tags, paths } = (await (await fetch(`${url}/openapi.json`)).json()) as OpenApi;
        const used = new Set(Object.values(paths).flatMap((item) => Object.values(item).flatMap((it) => it.tags)));
        expect(tags.map(({ name }) => name).toSorted()).toEqual([...used].toSorted());
      }
    });

    it('lists POST /orders first', async () => {
      const [first] = operationsOf(await document()).keys();
      expect(first).toBe('POST /orders');
    });

    it('refers to exactly the schemas that it contains', async () => {
      const whole = await document();
      const referred = new Set(JSON.stringify(whole).match(/(?<="\$ref":"#\/components\/schemas\/)[^"]+/g));
      expect([...referred].toSorted()).toEqual(Object.keys(whole.components.schemas).toSorted());
    });

    it('has examples that work, and documents the status and content type of their responses', async () => {
      const listed = operationsOf(await document());
      for (const id of ['demo-mug', 'demo-lamp'])
        await world.api.send('PUT', `/products/${id}`, {
          body: { name: id, unit_price_minor: 850, currency: 'GBP' },
        });
      const body = [{ product_id: 'demo-lamp', on_hand: 100 }];
      ok(await world.api.send('POST', '/stock/batch', { body: { stock: body } }));
      ok(await world.api.send('PUT', '/stock/demo-mug', { body: { on_hand: 100 } }));
      const values: Record<string, string> = { code: 'out-of-stock', product_id: 'demo-mug' };
      const outcomes: Record<string, number> = {};
      for (const name of operations) {
        const operation = listed.get(name)!;
        const { template } = operation;
        if (template.startsWith('/products')) values['id'] = 'demo-mug';
        if (template.startsWith('/customers')) values['id'] = 'c-1';
        const answer = await callWithExample(operation, values);
        outcomes[name] = answer.status;
        expect(Object.keys(operation.responses)).toContain(String(answer.status));
        const documented = operation.responses[answer.status]!.content;
        const type = answer.headers.get('content-type')?.split(';')[0];
        if (documented) expect(Object.keys(documented)).toContain(type);
        const { order_id, endpoint_id, delivery_id, key_id } = (answer.body ?? {}) as Record<
          string,
          string | undefined
        >;
        if (order_id) values['id'] = order_id;
        Object.assign(values, endpoint_id && { endpoint_id }, delivery_id && { delivery_id }, key_id && { key_id });
      }
      // The order is returned before it is cancelled, which is refused then; the example order has no payment; there are
      // no dead letters; and Stripe is not configured here.
      expect(outcomes).toEqual(Object.fromEntries(operations.map((it) => [it, expectedOf(it)])));
    });

    const expectedOf = (name: string): number => {
      if (name === 'POST /orders/{id}/cancel') return 409;
      if (name === 'DELETE /customers/{id}') return 200;
      if (name.startsWith('DELETE') || name.endsWith('invalidate')) return 204;
      if (/views$|test$|redeliver$/.test(name) && name.startsWith('POST')) return 202;
      if (/payment$|captures$|refunds$|stripe$|^POST \/dead-letters/.test(name)) return 404;
      if (/^POST \/(?:orders?$|orders\/\{id\}\/returns$|webhook-endpoints$|keys)/.test(name)) return 201;
      return 200;
    };

    const callWithExample = (operation: Operation, values: Record<string, string>): Promise<Answer> => {
      const { method, name, body, examples, takesKey } = operation;
      if (body && examples.length === 0) throw new Error(`${name} has no example`);
      const path = pathOf(operation, (it) => values[it]!);
      return world.api.send(method, path, {
        ...(body && { body: examples[0] }),
        ...(takesKey && { key: fresh('example') }),
      });
    };

    it('has example orders that can all be placed', async () => {
      const { examples } = operationsOf(await document()).get('POST /orders')!;
      expect(examples.length).toBeGreaterThanOrEqual(2);
      for (const it of examples) await world.api.placed(it);
    });
  });

  describe('/docs', () => {
    it('serves Swagger UI and all its assets', async () => {
      const page = await world.api.get('/docs');
      expect(page.status).toBe(200);
      expect(page.headers.get('content-type')).toMatch(/^text\/html/);
      expect(page.text).toContain('swagger-ui');
      const links = [...page.text.matchAll(/(?:src|href)="([^"]+)"/g)].map((it) => it[1]!);
      expect(links.length).toBeGreaterThan(2);
      for (const link of links) {
        const { origin, pathname } = new URL(link, `${world.api.baseUrl}/docs`);
        expect(origin).toBe(world.api.baseUrl);
        expect([pathname, (await world.api.get(pathname)).status]).toEqual([pathname, 200]);
      }
    });
  });

  describe('a problem', () => {
    it('is explained at the address in its type', async () => {
      const { type } = refused(await world.api.get(`/products/${fresh('ghost')}`), '404 product-not-found');
      const answer = await world.api.get(type);
      expect(ok(answer)).toMatchObject({ type, code: 'product-not-found', status: 404, advice: expect.any(String) });
      refused(await world.api.get('/problems/no-such-code'), '404 not-found');
    });
  });
};
