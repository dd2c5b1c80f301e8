import { createHmac } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { scopes } from '#contracts';
import { Api, ok, refused } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { securityTests } from './suite.js';
import { bearer, keyFor, startWorld, type World } from './world.js';

securityTests('split-tcp');

/** As the gateway tells a service who asks. */
const told = (secret: string, said: object): string => {
  const payload = Buffer.from(JSON.stringify(said)).toString('base64url');
  return `${payload}.${createHmac('sha256', secret).update(`cleave-caller\n${payload}`).digest('base64url')}`;
};

const sent = (caller: string) => ({ headers: { 'cleave-caller': caller } });

describe('a service behind the gateway', () => {
  let world: World;
  /** One address of each. */
  let asked: { api: Api; path: string }[];
  const caller = (more: object = {}) => ({
    ...{ tenant: 'default', account: 'default', scopes, at: Date.now() },
    ...more,
  });
  beforeAll(async () => {
    world = await startWorld('split-tcp');
    const paths = {
      order: '/orders',
      inventory: '/products',
      cache: '/cache?key=x',
      sales: '/sales',
      webhooks: '/webhook-endpoints',
    };
    asked = Object.entries(paths).map(([name, path]) => ({ api: new Api(world.shape.service(name).url), path }));
  });
  afterAll(() => world.stop());

  it('gives nothing to who comes past the gateway, whatever they have', async () => {
    const { key } = await keyFor(world);
    const token = await world.issuer.token({ tenant: 'default', scope: scopes.join(' ') });
    for (const { api, path } of asked)
      for (const credential of [undefined, key, token, world.admin])
        refused(await api.send('GET', path, credential === undefined ? {} : bearer(credential)), '401 unauthenticated');
  });

  it('believes what is signed with the secret, and as little else as nothing', async () => {
    for (const { api, path } of asked) {
      const answer = await api.send('GET', path, sent(told(world.secret, caller())));
      expect([path, [200, 404]]).toEqual([path, expect.arrayContaining([answer.status])]);
      const right = told(world.secret, caller());
      const forged = [
        told('x'.repeat(32), caller()),
        told(world.secret, caller({ at: Date.now() - 61_000 })),
        told(world.secret, caller({ at: Date.now() + 65_000 })),
        `${told(world.secret, caller({ tenant: 'other' })).split('.')[0]}.${right.split('.')[1]}`,
        ...[`${right}x`, `${right}.x`, right.split('.')[0]!, '.', ''],
      ];
      for (const it of forged) refused(await api.send('GET', path, sent(it)), '401 unauthenticated');
    }
  });

  it('is told nothing of what a client says of itself at the gateway', async () => {
    const { key, tenant } = await keyFor(world, {
      tenant: fresh('t').toLowerCase(),
      scopes: ['products:read', 'products:write'],
    });
    const product = fresh('product');
    const claims = told(world.secret, caller());
    const headers = { authorization: `Bearer ${key}`, 'cleave-caller': claims };
    const body = { name: 'Mug', unit_price_minor: 1, currency: 'GBP' };
    ok(await world.api.send('PUT', `/products/${product}`, { headers, body }), 201);
    refused(await world.api.send('GET', '/orders', { headers }), '403 forbidden');
    refused(await world.api.send('GET', '/orders', sent(claims)), '401 unauthenticated');
    const inventory = new Api(world.shape.service('inventory').url);
    ok(await inventory.send('GET', `/products/${product}`, sent(told(world.secret, caller({ tenant })))));
    refused(await inventory.send('GET', `/products/${product}`, sent(claims)), '404 product-not-found');
  });

  it('is still known by how it does, and still hears of payments from who provides them', async () => {
    for (const { api } of asked)
      for (const path of ['/health/ready', '/metrics']) expect((await api.get(path)).status).toBe(200);
    refused(await world.api.send('POST', '/payments/webhooks/stripe', { body: {} }), '404 not-found');
  });
});
