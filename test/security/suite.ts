import { randomBytes, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { auditedOperations, scopes, type IssuedKey } from '#contracts';
import { eventually } from '#testing';
import { ok, refused, type Answer, type Problem, type Sent } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import type { Refusal } from '../support/grpc.js';
import { operationsIn, pathOf, type Operation } from '../support/openapi.js';
import type { ShapeName } from '../support/shapes.js';
import { allBut, everydayOperations, openOperations } from './operations.js';
import { As, bearer, keyFor, seen, startWorld, type World } from './world.js';

const lifeMs = 3_000;

/**
 * Calls every operation of the OpenAPI document, with and without permission.
 *
 * @returns the world of these tests, once it has started
 */
export const securityTests = (name: ShapeName): (() => World) => {
  let world: World;
  let operations: Operation[];
  let guarded: Operation[];
  beforeAll(async () => {
    world = await startWorld(name);
    operations = operationsIn(ok(await world.api.get('/openapi.json')));
    guarded = operations.filter((it) => it.scope !== undefined);
  });
  afterAll(() => world.stop());

  const call = (it: Operation, sent: Sent = {}, ids: (name: string) => string = () => randomUUID()): Promise<Answer> =>
    world.api.send(it.method, pathOf(it, ids), {
      ...(it.body && { body: it.examples[0] }),
      ...(it.takesKey && { key: fresh('key') }),
      ...sent,
    });

  /** Calls every guarded operation, and returns the answers. */
  const ofEach = async (sent: (it: Operation) => Sent | Promise<Sent>): Promise<[Operation, Answer][]> => {
    const answers: [Operation, Answer][] = [];
    for (const it of guarded) answers.push([it, await call(it, await sent(it))]);
    return answers;
  };

  /** All invalid credentials get the same refusal. */
  const notValid = (answer: Answer): void => {
    refused(answer, '401 unauthenticated');
    expect(answer.headers.get('www-authenticate')).toBe('Bearer error="invalid_token"');
    expect((answer.body as Problem).detail).toContain('is not valid, or no longer valid');
  };

  it('declares a scope for every operation except the known open ones', () => {
    expect(operations.length).toBeGreaterThan(50);
    const open = operations.filter((it) => it.scope === undefined).map((it) => it.name);
    expect(open.toSorted()).toEqual(openOperations.toSorted());
    for (const it of guarded) expect([...scopes, 'operator']).toContain(it.scope);
  });

  it('serves open operations without a credential', async () => {
    for (const it of operations.filter(({ scope }) => scope === undefined))
      expect([it.name, (await call(it, {}, () => 'out-of-stock')).status]).not.toEqual([it.name, 401]);
    for (const path of ['/docs', '/openapi.json']) expect((await world.api.get(path)).status).toBe(200);
  });

  describe('every guarded operation', () => {
    it('refuses a request without a credential', async () => {
      for (const [, answer] of await ofEach(() => ({}))) {
        refused(answer, '401 unauthenticated');
        expect(answer.headers.get('www-authenticate')).toBe('Bearer');
      }
    });

    it('refuses an unknown key, and a known key id with a wrong secret', async () => {
      const { key } = await keyFor(world);
      const [, id] = key.split('_');
      for (const made of [
        `ck_${randomBytes(16).toString('hex')}_${randomBytes(32).toString('hex')}`,
        `ck_${id}_${randomBytes(32).toString('hex')}`,
      ])
        for (const [, answer] of await ofEach(() => bearer(made))) notValid(answer);
    });

    it('refuses a revoked and an expired key', async () => {
      const revoked = await keyFor(world);
      const expired = await keyFor(world, { expires_at: new Date(Date.now() + lifeMs).toISOString() });
      for (const { key } of [revoked, expired]) ok(await world.api.send('GET', '/orders', bearer(key)));
      expect((await world.api.send('DELETE', `/keys/${revoked.key_id}`, bearer(world.admin))).status).toBe(204);
      await sleep(lifeMs);
      for (const { key } of [revoked, expired])
        for (const [, answer] of await ofEach(() => bearer(key))) notValid(answer);
    });

    it('refuses an expired token', async () => {
      const scope = scopes.join(' ');
      const expired = await world.issuer.token({ tenant: 'default', scope, exp: Math.floor(Date.now() / 1_000) - 60 });
      for (const [, answer] of await ofEach(() => bearer(expired))) notValid(answer);
    });

    it('refuses a caller with every scope but its own, and names the missing scope', async () => {
      const byScope = new Map<string, string>();
      for (const scope of scopes) byScope.set(scope, (await keyFor(world, { scopes: allBut(scope) })).key);
      byScope.set('operator', (await keyFor(world)).key);
      for (const [{ scope }, answer] of await ofEach((it) => bearer(byScope.get(it.scope!)!))) {
        refused(answer, '403 forbidden');
        expect(answer.body).toMatchObject({ scope });
        expect(answer.headers.get('www-authenticate')).toBe(`Bearer error="insufficient_scope", scope="${scope}"`);
      }
      for (const [{ scope }, answer] of await ofEach(async (it) =>
        bearer(await world.issuer.token({ tenant: 'default', scope: allBut(it.scope!).join(' ') })),
      ))
        expect([answer.status, answer.body]).toMatchObject([403, { scope }]);
    });

    it('refuses the ADMIN_KEY if it concerns neither keys nor the installation, and names the missing scope', async () => {
      const ofTenants = guarded.filter(({ scope }) => scope !== 'admin' && scope !== 'operator');
      expect(ofTenants.length).toBeGreaterThan(30);
      for (const it of ofTenants) {
        const answer = await call(it, bearer(world.admin));
        refused(answer, '403 forbidden');
        expect([it.name, answer.body]).toMatchObject([it.name, { scope: it.scope }]);
      }
    });

    it('accepts a caller with only its scope', async () => {
      const byScope = new Map<string, string>();
      for (const scope of scopes) byScope.set(scope, (await keyFor(world, { scopes: [scope] })).key);
      byScope.set('operator', world.admin);
      // The key ids are random, so no key in use is revoked.
      for (const [it, answer] of await ofEach((it) => bearer(byScope.get(it.scope!)!)))
        expect([it.name, answer.status === 401 || answer.status === 403]).toEqual([it.name, false]);
      for (const [it, answer] of await ofEach(async ({ scope }) =>
        bearer(scope === 'operator' ? world.admin : await world.issuer.token({ tenant: 'default', scope: scope! })),
      ))
        expect([it.name, answer.status === 401 || answer.status === 403]).toEqual([it.name, false]);
    });

    it('refuses an unauthenticated request before it parses the body', async () => {
      const large = 'x'.repeat(2_000_000);
      for (const it of guarded.filter(({ body }) => body !== undefined))
        for (const raw of ['{', large]) refused(await call(it, { body: undefined, raw }), '401 unauthenticated');
    });

    it('refuses HEAD as it refuses GET', async () => {
      for (const it of guarded.filter(({ method }) => method === 'GET'))
        expect(
          (
            await world.api.send(
              'HEAD',
              pathOf(it, () => 'x'),
            )
          ).status,
        ).toBe(401);
    });
  });

  describe('an Authorization header', () => {
    it.each([
      ['empty', ''],
      ['of another scheme', 'Basic YWRtaW46YWRtaW4='],
      ['without a credential', 'Bearer'],
      ['with two credentials', `Bearer a, Bearer b`],
      ['too long', `Bearer ${'x'.repeat(9_000)}`],
      ['named like an object property', 'Bearer __proto__'],
    ])('is refused if it is %s', async (_what, authorization) => {
      const answer = await world.api.send<Problem>('GET', '/orders', { headers: { authorization } });
      refused(answer, '401 unauthenticated');
    });

    it('is compared in full: nearly correct credentials are refused', async () => {
      const { key } = await keyFor(world);
      ok(await world.api.send('GET', '/orders', bearer(key)));
      const others = [
        `${key}0`,
        key.slice(0, -1),
        key.toUpperCase(),
        `${key.slice(0, -1)}${key.endsWith('0') ? '1' : '0'}`,
      ];
      for (const other of others) notValid(await world.api.send('GET', '/orders', bearer(other)));
      notValid(await world.api.send('GET', '/orders', bearer(`${world.admin}0`)));
    });

    it('appears neither in the log nor in the list of keys', async () => {
      const { key } = await keyFor(world);
      const secret = key.split('_')[2]!;
      ok(await world.api.send('GET', '/orders', bearer(key)));
      const listed = await world.api.send('GET', '/keys?limit=200', bearer(world.admin));
      expect(listed.text).toContain('key_id');
      for (const text of [listed.text, world.shape.log()])
        for (const hidden of [secret, world.admin, world.secret]) expect(text).not.toContain(hidden);
    });
  });

  describe('another tenant', () => {
    let one: As;
    let other: As;
    const ids: Record<string, string> = {};
    beforeAll(async () => {
      const [mine, theirs] = [fresh('t').toLowerCase(), fresh('t').toLowerCase()];
      const keys = await Promise.all([mine, theirs].map((tenant) => keyFor(world, { tenant })));
      [one, other] = keys.map(({ key }) => new As(world.api, key)) as [As, As];
      ids['product_id'] = fresh('product');
      ok(
        await one.send('PUT', `/products/${ids['product_id']}`, {
          body: { name: 'Mug', unit_price_minor: 850, currency: 'GBP' },
        }),
        201,
      );
      ok(await one.send('PUT', `/stock/${ids['product_id']}`, { body: { on_hand: 100 } }));
      const body = { customer_id: 'c', product_id: ids['product_id'], quantity: 1, payment: { method: 'manual' } };
      const placed = ok(await one.send<{ order_id: string }>('POST', '/orders', { body, key: 'the-same-key' }), 201);
      ids['order_id'] = placed.order_id;
      ids['customer_id'] = body.customer_id;
      const endpoint = { url: 'https://example.com/hook' };
      const made = ok(await one.send<{ endpoint_id: string }>('POST', '/webhook-endpoints', { body: endpoint }), 201);
      ids['endpoint_id'] = made.endpoint_id;
      const test = await one.send<{ delivery_id: string }>('POST', `/webhook-endpoints/${ids['endpoint_id']}/test`);
      ids['delivery_id'] = ok(test, 202).delivery_id;
      ids['key_id'] = keys[0]!.key_id;
    });

    /** The id that a path parameter stands for. */
    const idFor = ({ template }: Operation, parameter: string): string =>
      ids[parameter === 'id' ? (idsIn[template.split('/')[1]!] ?? 'order_id') : parameter]!;
    const idsIn: Record<string, string> = { products: 'product_id', customers: 'customer_id' };

    /** A new tenant with at least two entries in every list. */
    const furnished = async (): Promise<{ by: As; key: string; ids: string[]; order: string; endpoint: string }> => {
      const tenant = fresh('t').toLowerCase();
      const [{ key, key_id }, { key_id: second }] = [await keyFor(world, { tenant }), await keyFor(world, { tenant })];
      const by = new As(world.api, key);
      const ids = [key_id, second];
      let [order, endpoint] = ['', ''];
      for (let times = 0; times < 2; times += 1) {
        const product_id = fresh('product');
        const product = { name: 'Mug', unit_price_minor: 850, currency: 'GBP' };
        ok(await by.send('PUT', `/products/${product_id}`, { body: product }), 201);
        ok(await by.send('PUT', `/stock/${product_id}`, { body: { on_hand: 1 } }));
        // The capture is refused, which produces a dead letter.
        const payment = { method: 'simulated', token: 'tok_slow_capture_refused' };
        const body = { customer_id: 'c', product_id, quantity: 1, contact: { name: 'x' }, payment };
        order = ok(await by.send<{ order_id: string }>('POST', '/orders', { body }), 201).order_id;
        await eventually(async () => ok(await by.send('POST', `/orders/${order}/fulfil`)));
        const hook = { body: { url: 'https://example.com/hook' } };
        const made = await by.send<{ endpoint_id: string }>('POST', '/webhook-endpoints', hook);
        endpoint = ok(made, 201).endpoint_id;
        ids.push(product_id, order, endpoint);
      }
      for (let times = 0; times < 2; times += 1) {
        const test = await by.send<{ delivery_id: string }>('POST', `/webhook-endpoints/${endpoint}/test`);
        ids.push(ok(test, 202).delivery_id);
      }
      return { by, key, ids, order, endpoint };
    };

    it('gets the same refusal for what is not its own as for what does not exist', async () => {
      const named = guarded.filter(
        ({ template, method }) => template.includes('{') && !(method === 'PUT' && template.startsWith('/products')),
      );
      const of = async (it: Operation, path: string): Promise<Answer> =>
        other.send(it.method, path, {
          ...(it.body && { body: it.examples[0] }),
          ...(it.takesKey && { key: fresh('key') }),
        });
      for (const it of named) {
        const theirs = (parameter: string): string => idFor(it, parameter);
        const nowhere = (parameter: string): string =>
          parameter === 'product_id' || it.template.startsWith('/products') ? fresh('product') : randomUUID();
        const missing: Record<string, string> = {};
        const asked = await of(it, pathOf(it, theirs));
        const alike = await of(
          it,
          pathOf(it, (parameter) => (missing[parameter] = nowhere(parameter))),
        );
        const text = Object.entries(missing).reduce(
          (said, [parameter, id]) => said.replaceAll(id, theirs(parameter)),
          alike.text,
        );
        expect([it.name, asked.status]).toEqual([it.name, it.scope === 'operator' ? 403 : 404]);
        const length = String(Buffer.byteLength(text));
        const headers = new Headers(alike.headers);
        if (headers.has('content-length')) headers.set('content-length', length);
        expect([it.name, seen(asked)]).toEqual([it.name, seen({ ...alike, text, headers })]);
      }
    });

    it('does not see it in lists', async () => {
      for (const path of [
        '/orders',
        '/products',
        '/webhook-endpoints',
        '/sales',
        '/dead-letters',
        '/events',
        '/orders?customer_id=c',
      ])
        expect([path, ok(await other.send<{ data: unknown[] }>('GET', path)).data]).toEqual([path, []]);
      const { data } = ok(await one.send<{ data: { order_id: string }[] }>('GET', '/orders'));
      expect(data.map((it) => it.order_id)).toEqual([ids['order_id']]);
    });

    it('has its own orders, products and idempotency keys under the same names', async () => {
      const body = { customer_id: 'c', product_id: ids['product_id'], quantity: 1 };
      refused(await other.send<Problem>('POST', '/orders', { body, key: 'the-same-key' }), '422 unknown-product');
      const product = { name: 'Another', unit_price_minor: 1, currency: 'EUR' };
      ok(await other.send('PUT', `/products/${ids['product_id']}`, { body: product }), 201);
      ok(await other.send('PUT', `/stock/${ids['product_id']}`, { body: { on_hand: 5 } }));
      const placed = ok(
        await other.send<{ order_id: string; total_minor: number }>('POST', '/orders', { body, key: 'the-same-key' }),
        201,
      );
      expect(placed.order_id).not.toBe(ids['order_id']);
      expect(placed.total_minor).toBe(1);
      for (let again = 0; again < 2; again += 1)
        expect(ok(await one.send('GET', `/products/${ids['product_id']}`))).toMatchObject({
          name: 'Mug',
          currency: 'GBP',
        });
      expect(ok(await one.send('GET', `/stock/${ids['product_id']}`))).toMatchObject({ on_hand: 100, available: 99 });
    });

    it('has its own cache', async () => {
      const [key, namespace] = [fresh('key'), fresh('space')];
      for (const space of [{}, { namespace }] as Record<string, string>[]) {
        const path = `/cache?${new URLSearchParams({ key, ...space }).toString()}`;
        ok(await one.send('PUT', '/cache', { body: { key, value: 'mine', ...space } }));
        const miss = await other.send('GET', path);
        expect([miss.status, miss.text]).toEqual([404, '{"error":"key not found"}']);
        ok(await other.send('POST', '/cache/counters', { body: { key, by: 5, ...space } }));
        expect(ok(await one.send('POST', '/cache/counters', { body: { key, by: 1, ...space } }))).toMatchObject({
          count: 1,
        });
        await other.send('DELETE', path);
        await other.send('POST', '/cache/invalidate', { body: { ...space } });
        expect(ok(await one.send('GET', path))).toEqual({ value: 'mine' });
      }
      const mine = new As(world.api, (await keyFor(world)).key);
      expect((await mine.send('GET', `/cache?key=${key}`)).status).toBe(404);
    });

    it('does not change products and stock of others in batches', async () => {
      const product_id = fresh('product');
      const mug = { product_id, name: 'Mug', unit_price_minor: 850, currency: 'GBP' };
      ok(await one.send('POST', '/products/batch', { body: { products: [mug] } }));
      ok(await one.send('POST', '/stock/batch', { body: { stock: [{ product_id, on_hand: 100 }] } }));
      const counted = (product_id: string) => ({ body: { stock: [{ product_id, on_hand: 5 }] } });
      const nowhere = fresh('product');
      const theirs = await other.send('POST', '/stock/batch', counted(product_id));
      const missing = await other.send('POST', '/stock/batch', counted(nowhere));
      refused(theirs, '404 product-not-found');
      expect(theirs.text).toBe(missing.text.replaceAll(nowhere, product_id));
      const another = { ...mug, name: 'Another', unit_price_minor: 1, currency: 'EUR' };
      const put = await other.send('POST', '/products/batch', { body: { products: [another] } });
      expect(ok(put)).toMatchObject({ data: [another] });
      expect(ok(await other.send('POST', '/stock/batch', counted(product_id)))).toMatchObject({
        data: [{ product_id, on_hand: 5, available: 5 }],
      });
      // The list bypasses the cache, the product does not.
      const { data } = ok(await one.send<{ data: object[] }>('GET', '/products?limit=200'));
      expect(data).toContainEqual(expect.objectContaining(mug));
      expect(ok(await one.send('GET', `/products/${product_id}`))).toMatchObject(mug);
      expect(ok(await one.send('GET', `/stock/${product_id}`))).toMatchObject({ on_hand: 100, available: 100 });
      const levels = ok(await other.send<{ data: object[] }>('GET', '/stock?limit=200'));
      expect(levels.data).toContainEqual(expect.objectContaining({ product_id, on_hand: 5 }));
      expect(levels.data).not.toContainEqual(expect.objectContaining({ product_id, on_hand: 100 }));
    });

    it('can neither read, write nor fill the cache of others by batches and leases, nor read cache statistics', async () => {
      for (const space of [{}, { namespace: fresh('space') }] as Record<string, string>[]) {
        const [key, toFill, tag] = [fresh('key'), fresh('key'), fresh('tag')];
        ok(await one.send('PUT', '/cache', { body: { key, value: 'mine', tags: [tag], ...space } }));
        const read = { get: [key], ...space };
        const unseen = await other.send('POST', '/cache/batch', { body: read });
        expect(ok(unseen)).toEqual({ found: [], missing: [key], written: [] });
        const changing = { ...read, delete: [key], put: [{ key, value: 'theirs', tags: [tag] }] };
        expect(ok(await other.send('POST', '/cache/batch', { body: changing }))).toMatchObject({
          found: [{ key, value: 'theirs' }],
        });
        expect((await other.send('POST', '/cache/invalidate', { body: { tags: [tag], ...space } })).status).toBe(204);
        expect(ok(await one.send('POST', '/cache/batch', { body: read }))).toMatchObject({
          found: [{ key, value: 'mine' }],
        });

        type Leased = { found: boolean; lease: string | null };
        const lease = async (by: As, key: string): Promise<Leased> =>
          ok(await by.send<Leased>('POST', '/cache/lease', { body: { key, lease_ms: 60_000, ...space } }));
        const free = { found: false, lease: expect.any(String) };
        expect(await lease(other, key)).toEqual(free);
        const mine = await lease(one, toFill);
        expect(mine).toEqual(free);
        // In its own tenant, the lease is free.
        expect(await lease(other, toFill)).toEqual(free);
        const filled = { key: toFill, value: 'theirs', ...space };
        const stolen = await other.send('PUT', '/cache', { body: { ...filled, lease: mine.lease } });
        refused(stolen, '412 precondition-failed');
        ok(await other.send('PUT', '/cache', { body: filled }));
        ok(await one.send('PUT', '/cache', { body: { ...filled, value: 'mine', lease: mine.lease } }));
        expect(await lease(one, toFill)).toMatchObject({ found: true, value: 'mine' });
      }
      refused(await other.send<Problem>('GET', '/cache/stats'), '403 forbidden');
    });

    it('gets nothing of others by their cursors', async () => {
      const [mine, theirs] = [await furnished(), await furnished()];
      const holdsMine = (text: string): boolean => mine.ids.some((id) => text.includes(id));
      for (const [list, name] of [
        ['/orders', 'cursor'],
        ['/orders/{order}/history', 'cursor'],
        ['/products', 'cursor'],
        ['/sales', 'cursor'],
        ['/dead-letters', 'cursor'],
        ['/webhook-endpoints', 'cursor'],
        ['/webhook-endpoints/{endpoint}/deliveries', 'cursor'],
        ['/keys', 'cursor'],
        ['/customers/c/export', 'cursor'],
        ['/audit', 'after'],
        ['/events', 'after'],
      ] as const) {
        const of = ({ order, endpoint }: typeof mine, query: string): string =>
          `${list.replace('{order}', order).replace('{endpoint}', endpoint)}?${query}`;
        const cursor = await eventually(async () => {
          const first = await mine.by.send<{ next_cursor: string | null }>('GET', of(mine, 'limit=1'));
          const next = `${name}=${ok(first).next_cursor}`;
          expect([list, holdsMine((await mine.by.send('GET', of(mine, next))).text)]).toEqual([list, true]);
          return next;
        });
        const answer = await theirs.by.send('GET', of(theirs, cursor));
        expect([list, answer.status, holdsMine(answer.text)]).toEqual([list, 200, false]);
      }
      const withKey = ({ key }: { key: string }) => ({ metadata: { authorization: `Bearer ${key}` } });
      const { next_page_token } = await world.grpc.ok('ListOrders', { page_size: 1 }, withKey(mine));
      const [own, foreign] = await Promise.all(
        [mine, theirs].map((it) => world.grpc.ok('ListOrders', { page_token: next_page_token }, withKey(it))),
      );
      expect([own, foreign].map((it) => holdsMine(JSON.stringify(it)))).toEqual([true, false]);
    });

    it('erases and exports only its own customer of the same id', async () => {
      const personal = { contact: { name: 'Zebra' } };
      const body = { customer_id: 'c', product_id: ids['product_id'], quantity: 1, ...personal };
      const { order_id } = ok(await one.send<{ order_id: string }>('POST', '/orders', { body }), 201);
      ok(await other.send('POST', '/orders', { body }), 201);
      ok(await other.send('DELETE', '/customers/c'));
      expect(ok(await one.send('GET', `/orders/${order_id}`))).toMatchObject({ personal: 'kept', ...personal });
      expect((await other.send('GET', '/customers/c/export')).text).not.toContain('Zebra');
    });

    it('does not read the audit log of others', async () => {
      const audit = async (by: As) => ok(await by.send<{ data: { tenant: string }[] }>('GET', '/audit')).data;
      const [mine, theirs] = [await audit(one), await audit(other)];
      expect(mine.length).toBeGreaterThan(0);
      expect(mine.filter((it) => theirs.some(({ tenant }) => tenant === it.tenant))).toEqual([]);
    });

    it('creates keys only for itself, and never with the scope operator', async () => {
      const body = { name: 'x', scopes: ['orders:read'], tenant: 'default' };
      const answer = await other.send<Problem>('POST', '/keys', { body });
      refused(answer, '403 forbidden');
      expect(answer.body).toMatchObject({ scope: 'operator' });
      refused(await other.send<Problem>('GET', '/keys?tenant=default'), '403 forbidden');
      const { tenant, ...own } = body;
      const made = ok(await other.send<IssuedKey>('POST', '/keys', { body: own }), 201);
      expect(made.tenant).not.toBe(tenant);
      const admin = new As(world.api, (await keyFor(world, { scopes: ['admin'] })).key);
      expect(ok(await admin.send('POST', '/keys', { body: { ...own, scopes } }), 201)).toMatchObject({
        tenant,
        scopes,
      });
      const escalated = await other.send<Problem>('POST', '/keys', { body: { ...own, scopes: ['operator'] } });
      refused(escalated, '400 invalid-request');
    });

    it('has its events followed by sales and webhooks', async () => {
      const until = async (path: string): Promise<unknown[]> => {
        for (let attempts = 0; attempts < 200; attempts += 1) {
          const { data } = ok(await one.send<{ data: unknown[] }>('GET', path));
          if (data.length > 0) return data;
          await sleep(50);
        }
        return [];
      };
      const sold = await until('/sales');
      expect(sold).toMatchObject([{ product_id: ids['product_id'], currency: 'GBP' }]);
      const sent = await until(`/webhook-endpoints/${ids['endpoint_id']}/deliveries`);
      expect(sent.length).toBeGreaterThan(0);
    });
  });

  describe('a gRPC call', () => {
    const calls: [method: string, message: object, scope: string][] = [
      ['PlaceOrder', { customer_id: 'c', lines: [{ product_id: 'nothing', quantity: 1 }] }, 'orders:write'],
      ['GetOrder', { order_id: randomUUID() }, 'orders:read'],
      ['ListOrders', {}, 'orders:read'],
      ['WatchEvents', {}, 'events:read'],
    ];
    const withKey = (key: string) => ({ metadata: { authorization: `Bearer ${key}` } });
    const refusal = (method: string, message: object, sent = {}): Promise<Refusal> =>
      method === 'WatchEvents'
        ? world.grpc.stream(method, message, sent).refusal()
        : world.grpc.refused(method, message, sent);

    it('is refused without a valid credential or without the scope', async () => {
      const ended = await keyFor(world, { expires_at: new Date(Date.now() + lifeMs).toISOString() });
      const revoked = await keyFor(world);
      expect((await world.api.send('DELETE', `/keys/${revoked.key_id}`, bearer(world.admin))).status).toBe(204);
      const expired = await world.issuer.token({ tenant: 'default', scope: scopes.join(' '), exp: 1 });
      await sleep(lifeMs);
      for (const [method, message, scope] of calls) {
        const refusals = await Promise.all([
          refusal(method, message),
          ...[ended.key, revoked.key, expired, 'nonsense'].map((it) => refusal(method, message, withKey(it))),
        ]);
        for (const it of refusals)
          expect([method, it]).toMatchObject([method, { code: 'UNAUTHENTICATED', reason: 'unauthenticated' }]);
        const { key } = await keyFor(world, { scopes: allBut(scope) });
        for (const it of [key, world.admin])
          expect([method, await refusal(method, message, withKey(it))]).toMatchObject([
            method,
            { code: 'PERMISSION_DENIED', reason: 'forbidden', info: { scope } },
          ]);
      }
    });

    it('gets the same NOT_FOUND for the order of another tenant as for one that does not exist', async () => {
      const [one, other] = await Promise.all([keyFor(world), keyFor(world, { tenant: fresh('t').toLowerCase() })]);
      const product_id = fresh('product');
      const shop = new As(world.api, one.key);
      ok(
        await shop.send('PUT', `/products/${product_id}`, {
          body: { name: 'Mug', unit_price_minor: 1, currency: 'GBP' },
        }),
        201,
      );
      ok(await shop.send('PUT', `/stock/${product_id}`, { body: { on_hand: 1 } }));
      const order = { customer_id: 'c', lines: [{ product_id, quantity: 1 }] };
      const nowhere = randomUUID();
      const placed = await world.grpc.ok<{ order_id: string }>('PlaceOrder', order, withKey(one.key));
      const [theirs, missing] = await Promise.all(
        [placed.order_id, nowhere].map((order_id) => world.grpc.refused('GetOrder', { order_id }, withKey(other.key))),
      );
      const { message } = missing!;
      expect({ ...theirs, message: message.replaceAll(nowhere, placed.order_id) }).toEqual(theirs);
      expect({ ...theirs, message }).toEqual(missing);
      expect(theirs).toMatchObject({ code: 'NOT_FOUND' });
      expect(await world.grpc.ok('ListOrders', {}, withKey(other.key))).not.toHaveProperty('orders.0');
      expect(await world.grpc.ok('GetOrder', { order_id: placed.order_id }, withKey(one.key))).toMatchObject(placed);
    });
  });

  describe('custom prices', () => {
    it('require orders:price, over REST and gRPC', async () => {
      const all = await keyFor(world);
      const shop = new As(world.api, all.key);
      const product_id = fresh('product');
      const product = { name: 'Mug', unit_price_minor: 500, currency: 'GBP' };
      ok(await shop.send('PUT', `/products/${product_id}`, { body: product }), 201);
      ok(await shop.send('PUT', `/stock/${product_id}`, { body: { on_hand: 10 } }));
      const listed = { product_id, quantity: 1 };
      const ordered = (...lines: object[]) => ({ customer_id: 'c', lines });
      const cheap = ordered(listed, { ...listed, unit_price_minor: 1 });
      const withKey = ({ key }: IssuedKey) => ({ metadata: { authorization: `Bearer ${key}` } });

      const till = await keyFor(world, { scopes: ['orders:write'] });
      const seller = new As(world.api, till.key);
      const adjusted = (kind: string) => ({
        ...{ customer_id: 'c', product_id, quantity: 1 },
        adjustments: [{ kind, label: kind, amount_minor: 499 }],
      });
      for (const path of ['/orders', '/order'])
        for (const body of [cheap, adjusted('discount')]) {
          const answer = await seller.send<Problem>('POST', path, { body });
          expect(refused(answer, '403 forbidden')).toMatchObject({ scope: 'orders:price' });
        }
      expect(await world.grpc.refused('PlaceOrder', cheap, withKey(till))).toMatchObject({
        ...{ code: 'PERMISSION_DENIED', reason: 'forbidden', info: { scope: 'orders:price' } },
      });
      expect(ok(await shop.send('GET', `/stock/${product_id}`))).toMatchObject({ reserved: 0 });
      expect(ok(await seller.send('POST', '/orders', { body: ordered(listed) }), 201)).toMatchObject({
        total_minor: 500,
      });

      expect(ok(await seller.send('POST', '/orders', { body: adjusted('shipping') }), 201)).toMatchObject({
        total_minor: 999,
      });

      const both = await keyFor(world, { scopes: ['orders:write', 'orders:price'] });
      expect(
        ok(await new As(world.api, both.key).send('POST', '/orders', { body: adjusted('discount') }), 201),
      ).toMatchObject({
        total_minor: 1,
      });
      expect(ok(await new As(world.api, both.key).send('POST', '/orders', { body: cheap }), 201)).toMatchObject({
        total_minor: 501,
      });
      expect(await world.grpc.ok('PlaceOrder', cheap, withKey(both))).toMatchObject({ total_minor: 501 });
    });
  });

  describe('personal data of an order', () => {
    it('is returned only with personal:read, over REST and gRPC', async () => {
      const contact = { name: 'Zebra Quagga', email: 'zebra@quagga.example' };
      const shipping_address = { line1: '12 Okapi Street', city: 'Gnuville', country: 'GB' };
      const key = await keyFor(world);
      const shop = new As(world.api, key.key);
      const product_id = fresh('product');
      const product = { name: 'Mug', unit_price_minor: 1, currency: 'GBP' };
      ok(await shop.send('PUT', `/products/${product_id}`, { body: product }), 201);
      ok(await shop.send('PUT', `/stock/${product_id}`, { body: { on_hand: 2 } }));
      const lines = [{ product_id, quantity: 1 }];
      const body = { customer_id: 'zebra', lines, contact, shipping_address };
      const placed = await shop.send<{ order_id: string }>('POST', '/orders', { body });
      const { order_id } = ok(placed, 201);
      expect(placed.text).not.toContain('Zebra');
      const withKey = ({ key }: IssuedKey) => ({ metadata: { authorization: `Bearer ${key}` } });
      const overGrpc = await world.grpc.ok<{ order_id: string }>('PlaceOrder', body, withKey(key));
      expect(JSON.stringify(overGrpc)).not.toContain('Zebra');
      const blind = await keyFor(world, { scopes: allBut('personal:read') });
      for (const id of [order_id, overGrpc.order_id]) {
        const seen = await shop.send('GET', `/orders/${id}`);
        expect(ok(seen)).toMatchObject({ personal: 'kept', contact, shipping_address });
        expect(seen.headers.get('cache-control')).toBe('no-store');
        expect(await world.grpc.ok('GetOrder', { order_id: id }, withKey(key))).toMatchObject({
          ...{ personal: 'PERSONAL_DATA_KEPT', contact, shipping_address },
        });
        const unseen = [
          (await new As(world.api, blind.key).send('GET', `/orders/${id}`)).text,
          JSON.stringify(await world.grpc.ok('GetOrder', { order_id: id }, withKey(blind))),
          (await shop.send('GET', '/orders?customer_id=zebra')).text,
          JSON.stringify(await world.grpc.ok('ListOrders', { customer_id: 'zebra' }, withKey(key))),
          (await shop.send('GET', `/orders/${id}/history`)).text,
        ];
        for (const text of unseen) {
          for (const part of ['Zebra', 'quagga', 'Okapi', 'Gnuville', '"kept"', '_KEPT'])
            expect(text).not.toContain(part);
        }
      }
      ok(await shop.send('DELETE', '/customers/zebra'));
      expect(await world.grpc.ok('GetOrder', { order_id }, withKey(key))).toMatchObject({
        personal: 'PERSONAL_DATA_ERASED',
      });
    });
  });

  describe('the audit log', () => {
    it('covers every changing operation except the everyday ones', () => {
      const documented = new Map(operations.map((it) => [it.operationId, `${it.name} ${it.scope}`]));
      const audited = Object.entries(auditedOperations).map(([operation, [method, path, scope]]) => [
        operation,
        `${method} ${path.replaceAll(/:(\w+)/g, '{$1}')} ${scope}`,
      ]);
      expect(audited.map(([operation]) => [operation, documented.get(operation!)])).toEqual(audited);
      const changing = guarded.filter((it) => it.method !== 'GET' && !(it.operationId in auditedOperations));
      expect(changing.map((it) => it.name).toSorted()).toEqual(everydayOperations.toSorted());
    });

    it('records an operation however its path is spelled', async () => {
      const key = await keyFor(world, { tenant: fresh('t').toLowerCase() });
      const shop = new As(world.api, key.key);
      await shop.send('DELETE', '/%63ustomers/c%2D1');
      await shop.send('GET', '/customers/c-1/export?limit=3');
      await shop.send('POST', `/orders/${randomUUID()}/refunds`, { body: { amount_minor: 1, reason: 'x' }, key: 'k' });
      await shop.send('PUT', '/stock/nothing', { body: { on_hand: 1 } });
      await shop.send('GET', '/orders');
      await shop.send('PUT', '/admin/log-level', { body: { level: 'info' } });
      type Entry = { operation: string; key_id: string; target: string; status: number | null };
      const { data } = ok(await shop.send<{ data: Entry[] }>('GET', '/audit'));
      expect(new Set(data.map((it) => it.key_id))).toEqual(new Set([key.key_id]));
      const told = data.filter((it) => it.status !== null);
      expect(told.map((it) => [it.operation, it.target, it.status])).toEqual([
        ['eraseCustomer', '/%63ustomers/c%2D1', 404],
        ['exportCustomer', '/customers/c-1/export', 404],
        ['refundPayment', expect.stringContaining('/refunds'), 404],
        ['putStock', '/stock/nothing', 404],
        ['putLogLevel', '/admin/log-level', 403],
      ]);
      for (const it of told.slice(0, -1)) expect(data).toContainEqual({ ...it, at: expect.any(String), status: null });
    });

    it.each([
      ['while it runs', 'orders.customer_keys'],
      ['before it starts', 'access.audit'],
    ])('records the outcome of an operation whose client disconnects %s', async (_, locked) => {
      const key = await keyFor(world, { tenant: fresh('t').toLowerCase() });
      const database = new pg.Client({ connectionString: (await world.shape.databaseUrls()).order });
      await database.connect();
      try {
        await database.query(`BEGIN; LOCK TABLE ${locked}`);
        const leaving = new AbortController();
        const erased = fetch(`${world.api.baseUrl}/customers/slow`, {
          ...{ method: 'DELETE', signal: leaving.signal, headers: bearer(key.key).headers! },
        }).then(
          ({ status }) => status,
          ({ name }: Error) => name,
        );
        const waiting = `SELECT 1 FROM pg_locks WHERE NOT granted`;
        await eventually(async () => expect((await database.query(waiting)).rowCount).toBe(1));
        leaving.abort();
        expect(await erased).toBe('AbortError');
        await sleep(500);
      } finally {
        await database.end();
      }
      type Entry = { target: string; status: number | null };
      const shop = new As(world.api, key.key);
      await eventually(async () => {
        const { data } = ok(await shop.send<{ data: Entry[] }>('GET', '/audit'));
        const told = data.filter((it) => it.target === '/customers/slow').map((it) => it.status);
        expect(told).toEqual([null, expect.any(Number)]);
      });
    });

    it('records each forbidden attempt once, under the key that made it', async () => {
      const tenant = fresh('t').toLowerCase();
      const [shop, nosy] = [await keyFor(world, { tenant }), await keyFor(world, { tenant, scopes: ['orders:read'] })];
      for (const [method, path] of [
        ['DELETE', '/customers/c-1'],
        ['GET', '/customers/c-1/export'],
        ['PUT', '/stock/nothing'],
        ['DELETE', '/keys/nothing'],
      ] as const) {
        const answer = await world.api.send(method, path, bearer(nosy.key));
        refused(answer, '403 forbidden');
        expect(answer.headers.get('www-authenticate')).toContain('insufficient_scope');
      }
      type Entry = { operation: string; key_id: string; status: number | null; requests: number };
      const { data } = ok(await new As(world.api, shop.key).send<{ data: Entry[] }>('GET', '/audit'));
      expect(data.map((it) => [it.key_id, it.operation, it.status, it.requests])).toEqual(
        ['eraseCustomer', 'exportCustomer', 'putStock', 'revokeKey'].map((it) => [nosy.key_id, it, 403, 1]),
      );
    });
  });

  describe('an event stream', () => {
    it('is cut off when its key is revoked, over REST and gRPC', async () => {
      const { key, key_id } = await keyFor(world);
      const response = await fetch(`${world.api.baseUrl}/events`, {
        headers: { accept: 'text/event-stream', authorization: `Bearer ${key}` },
      });
      expect(response.status).toBe(200);
      const read = response.body!.pipeTo(new WritableStream()).then(
        () => 'ended',
        () => 'cut off',
      );
      const followed = world.grpc.stream('WatchEvents', {}, { metadata: { authorization: `Bearer ${key}` } }).refusal();
      expect(await Promise.race([read, followed, sleep(2_500, 'goes on')])).toBe('goes on');
      expect((await world.api.send('DELETE', `/keys/${key_id}`, bearer(world.admin))).status).toBe(204);
      expect(await read).toBe('cut off');
      expect(await followed).toMatchObject({ code: 'UNAUTHENTICATED' });
    });
  });

  describe('a token', () => {
    it('is accepted when the issuer changes to an RSA key, and so are tokens of the previous key', async () => {
      const token = (): Promise<string> => world.issuer.token({ tenant: 'default', scope: 'orders:read' });
      const before = await token();
      const isTaken = async (credential: string): Promise<void> => {
        ok(await world.api.send('GET', '/orders', bearer(credential)));
        await world.grpc.ok('ListOrders', {}, { metadata: bearer(credential).headers! });
      };
      await isTaken(before);
      await world.issuer.addKey('RS256');
      // Keys are not fetched again at once, however many tokens name unknown ones.
      await eventually(async () => isTaken(await token()));
      await isTaken(before);
      await isTaken(await token());
    });
  });

  describe('a key', () => {
    it('stays valid for the overlap after it is rotated', async () => {
      const before = await keyFor(world, { scopes: ['orders:read'], account: 'till-1' });
      const path = `/keys/${before.key_id}/rotate`;
      const sent = { ...bearer(world.admin), body: { overlap_seconds: 2 } };
      const after = ok(await world.api.send<IssuedKey>('POST', path, sent), 201);
      expect(after).toMatchObject({ account: 'till-1', scopes: ['orders:read'], tenant: 'default' });
      for (const { key } of [before, after]) ok(await world.api.send('GET', '/orders', bearer(key)));
      refused(await world.api.send<Problem>('POST', path, sent), '409 illegal-transition');
      await sleep(2_100);
      notValid(await world.api.send('GET', '/orders', bearer(before.key)));
      ok(await world.api.send('GET', '/orders', bearer(after.key)));
    });

    it('is refused as soon as it is revoked, even if it was used often', async () => {
      const { key, key_id } = await keyFor(world);
      for (let times = 0; times < 20; times += 1) ok(await world.api.send('GET', '/orders', bearer(key)));
      expect((await world.api.send('DELETE', `/keys/${key_id}`, bearer(world.admin))).status).toBe(204);
      notValid(await world.api.send('GET', '/orders', bearer(key)));
      expect((await world.api.send('DELETE', `/keys/${key_id}`, bearer(world.admin))).status).toBe(204);
    });
  });
  return () => world;
};
