import { createHmac } from 'node:crypto';
import { beforeAll, describe, expect, it } from '@jest/globals';
import { scopes } from '#contracts';
import { Api, ok, refused } from '../support/api.js';
import { fresh, randomOf } from '../support/fresh.js';
import { exchange } from '../support/raw-http.js';
import { securityTests } from './suite.js';
import { bearer, keyFor, type World } from './world.js';

const worldOfSuite = securityTests('split-tcp');

/** The signed header by which the gateway tells a service who the caller is. */
const told = (secret: string, { at, ...said }: ReturnType<typeof caller>, path: string, method = 'GET'): string => {
  const payload = Buffer.from(JSON.stringify(said)).toString('base64url');
  const head = JSON.stringify(['cleave-caller', method, path, String(at)]);
  return `${payload}.${at}.${createHmac('sha256', secret).update(`${head}\n${payload}`).digest('base64url')}`;
};

const caller = (more: { tenant?: string; at?: number } = {}) => ({
  ...{ tenant: 'default', account: 'default', scopes, at: Date.now() },
  ...more,
});

const sent = (caller: string) => ({ headers: { 'cleave-caller': caller } });

describe('a service behind the gateway', () => {
  let world: World;
  /** One path of each service. */
  let asked: { api: Api; path: string }[];
  beforeAll(() => {
    world = worldOfSuite();
    const paths = {
      order: '/orders',
      inventory: '/products',
      cache: '/cache?key=x',
      sales: '/sales',
      webhooks: '/webhook-endpoints',
    };
    asked = Object.entries(paths).map(([name, path]) => ({ api: new Api(world.shape.service(name).url), path }));
  });

  it('refuses requests that bypass the gateway, with any credential', async () => {
    const { key } = await keyFor(world);
    const token = await world.issuer.token({ tenant: 'default', scope: scopes.join(' ') });
    for (const { api, path } of asked)
      for (const credential of [undefined, key, token, world.admin])
        refused(await api.send('GET', path, credential === undefined ? {} : bearer(credential)), '401 unauthenticated');
  });

  it('accepts a caller header signed with the secret for this request, and refuses all others', async () => {
    for (const { api, path } of asked) {
      const answer = await api.send('GET', path, sent(told(world.secret, caller(), path)));
      expect([path, [200, 404]]).toEqual([path, expect.arrayContaining([answer.status])]);
      const right = told(world.secret, caller(), path);
      const [, ...ofRight] = right.split('.');
      const forged = [
        told('x'.repeat(32), caller(), path),
        told(world.secret, caller({ at: Date.now() - 61_000 }), path),
        told(world.secret, caller({ at: Date.now() + 65_000 }), path),
        [told(world.secret, caller({ tenant: 'other' }), path).split('.')[0], ...ofRight].join('.'),
        ...[`${right}x`, `${right}.x`, right.split('.')[0]!, '..', ''],
        // Signed for another request.
        told(world.secret, caller(), `${path}/other`),
        told(world.secret, caller(), path, 'PUT'),
      ];
      for (const it of forged) refused(await api.send('GET', path, sent(it)), '401 unauthenticated');
    }
  });

  it('ignores a caller header that a client sends to the gateway', async () => {
    const { key, tenant } = await keyFor(world, {
      tenant: fresh('t').toLowerCase(),
      scopes: ['products:read', 'products:write'],
    });
    const product = fresh('product');
    const claims = told(world.secret, caller(), '/orders');
    const headers = { authorization: `Bearer ${key}`, 'cleave-caller': claims };
    const body = { name: 'Mug', unit_price_minor: 1, currency: 'GBP' };
    ok(await world.api.send('PUT', `/products/${product}`, { headers, body }), 201);
    refused(await world.api.send('GET', '/orders', { headers }), '403 forbidden');
    refused(await world.api.send('GET', '/orders', sent(claims)), '401 unauthenticated');
    const inventory = new Api(world.shape.service('inventory').url);
    ok(
      await inventory.send(
        'GET',
        `/products/${product}`,
        sent(told(world.secret, caller({ tenant }), `/products/${product}`)),
      ),
    );
    const ofOther = told(world.secret, caller(), `/products/${product}`);
    refused(await inventory.send('GET', `/products/${product}`, sent(ofOther)), '404 product-not-found');
  });

  it('authenticates the caller however the URL is encoded', async () => {
    const { key } = await keyFor(world);
    const random = randomOf('addresses behind the gateway');
    const signs = [
      'a',
      'Z',
      '0',
      '%20',
      '%2F',
      '%C3%BC',
      '"',
      "'",
      '<',
      '{',
      '|',
      '^',
      '`',
      ';',
      ',',
      '~',
      '$',
      '!',
      '*',
    ];
    for (let times = 0; times < 300; times += 1) {
      const some = () =>
        Array.from({ length: random.integer(1, 8) }, () => random.pick([...signs, '+', '@', ':'])).join('');
      const path = `/products/x${some()}${random.next() < 0.5 ? `?${some()}=${some()}` : ''}`;
      const line = `GET ${path} HTTP/1.1`;
      const { status } = await exchange(world.shape.baseUrl, { line, headers: [`Authorization: Bearer ${key}`] });
      expect([path, status]).not.toEqual([path, 401]);
    }
  });

  it('serves health and metrics without authentication, and leaves the Stripe webhook open', async () => {
    for (const { api } of asked)
      for (const path of ['/health/ready', '/metrics']) expect((await api.get(path)).status).toBe(200);
    refused(await world.api.send('POST', '/payments/webhooks/stripe', { body: {} }), '404 not-found');
  });
});
