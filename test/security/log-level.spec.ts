import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { scopes, type IssuedKey } from '#contracts';
import { eventually, testDatabase } from '#testing';
import { Api, ok, refused } from '../support/api.js';
import { servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { allAt } from '../support/tables.js';
import { As, bearer } from './world.js';

const admin = 'an-admin-key-of-32-characters-or-more';
const secret = 'a-secret-of-32-characters-or-more';
const path = '/admin/log-level';

interface Changed {
  level: string;
  told?: string[];
  not_told?: { address: string; why: string }[];
}

describe('the log level of a service behind the gateway', () => {
  let shape: Shape;
  let api: Api;
  let operator: As;
  /** The two instances of the cache. */
  let addresses: string[];

  beforeAll(async () => {
    const database = await testDatabase();
    const [gateway, one, two, oneAt, twoAt, nowhere] = (await servicePorts(6)) as [number, ...number[]];
    addresses = [one, two].map((port) => `127.0.0.1:${port}`);
    const elsewhere = Object.fromEntries(
      ['ORDER', 'INVENTORY', 'PAYMENT', 'SALES', 'WEBHOOKS'].map((it) => [`${it}_URL`, `http://127.0.0.1:${nowhere}`]),
    );
    const cache = (name: string, port: number, messages: number) => ({
      ...{ app: 'cache', name, port },
      environment: { SERVICE_SECRET: secret, CACHE_LISTEN: `tcp://127.0.0.1:${messages}` },
    });
    shape = await startPlan('two caches behind a gateway', {
      services: [
        {
          ...{ app: 'gateway', port: gateway },
          environment: {
            ...{ ADMIN_KEY: admin, SERVICE_SECRET: secret, ACCESS_DATABASE_URL: database.url },
            ...{ ...elsewhere, CACHE_URL: addresses.map((it) => `http://${it}`).join() },
          },
        },
        cache('cache-1', one!, oneAt!),
        cache('cache-2', two!, twoAt!),
      ],
      databaseUrls: () => Promise.resolve(allAt(database.url)),
      release: () => database.stop(),
    });
    api = new Api(shape.baseUrl);
    operator = new As(api, admin);
  });
  afterAll(() => shape?.stop());

  const change = (body: object) => operator.send<Changed>('PUT', path, { body });
  const levels = (query: string) =>
    operator.send<{ level?: string; instances?: { address: string; level?: string; why?: string }[] }>(
      'GET',
      `${path}${query}`,
    );
  const levelsSaid = (name: string) =>
    [...shape.service(name).log.matchAll(/"msg":"the log level is (\w+) and was (\w+)"/g)].map(
      ([, level, before]) => `${before} to ${level}`,
    );

  it('changes in all instances of the service at once, and not in the gateway', async () => {
    const { told, ...rest } = ok(await change({ level: 'debug', service: 'cache' }));
    expect(rest).toEqual({ level: 'debug', not_told: [] });
    expect(told?.toSorted()).toEqual(addresses.toSorted());
    ok(await change({ level: 'info', service: 'cache' }));
    for (const name of ['cache-1', 'cache-2'])
      await eventually(async () => expect(levelsSaid(name)).toEqual(['info to debug', 'debug to info']));
    expect(levelsSaid('gateway')).toEqual([]);
    expect(ok(await operator.send('GET', path))).toEqual({ level: 'info' });
    ok(await change({ level: 'debug' }));
    expect(ok(await change({ level: 'info' }))).toEqual({ level: 'info' });
    expect(levelsSaid('gateway')).toEqual(['info to debug', 'debug to info']);
  });

  it('is reported for each instance', async () => {
    ok(await change({ level: 'debug', service: 'cache' }));
    const { instances, ...rest } = ok(await levels('?service=cache'));
    expect(rest).toEqual({});
    expect(instances?.toSorted((one, other) => one.address.localeCompare(other.address))).toEqual(
      addresses.toSorted().map((address) => ({ address, level: 'debug' })),
    );
    expect(ok(await levels(''))).toEqual({ level: 'info' });
    ok(await change({ level: 'info', service: 'cache' }));
    expect(ok(await levels('?service=cache')).instances?.map(({ level }) => level)).toEqual(['info', 'info']);
    refused(await levels('?service=caches'), '400 invalid-request', ['service']);
    refused(await api.send('GET', `${path}?service=cache`), '401 unauthenticated');
  });

  it('is set back after for_ms', async () => {
    ok(await change({ level: 'trace', for_ms: 1, service: 'cache' }));
    await setTimeout(500);
    ok(await change({ level: 'info', service: 'cache' }));
    for (const name of ['cache-1', 'cache-2'])
      await eventually(async () => expect(levelsSaid(name).slice(-2)).toEqual(['info to trace', 'info to info']));
  });

  it('is changed only by the operator through the gateway; changes and forbidden attempts are audited', async () => {
    const body = { level: 'debug', service: 'cache' };
    refused(await api.send('PUT', path, { body }), '401 unauthenticated');
    const { key } = ok(await operator.send<IssuedKey>('POST', '/keys', { body: { name: 'of a test', scopes } }), 201);
    refused(await api.send('PUT', path, { ...bearer(key), body }), '403 forbidden');
    // Requests that bypass the gateway, even with the ADMIN_KEY.
    for (const address of addresses)
      refused(await new As(new Api(`http://${address}`), admin).send('PUT', path, { body }), '401 unauthenticated');
    const { data } = ok(
      await operator.send<{ data: { operation: string; is_operator: boolean; status: number | null }[] }>(
        'GET',
        '/audit',
      ),
    );
    const entries = data.filter((it) => it.operation === 'putLogLevel');
    expect(entries.slice(0, 2)).toMatchObject([
      { is_operator: true, status: null },
      { is_operator: true, status: 200 },
    ]);
    expect(entries.at(-1)).toMatchObject({ is_operator: false, status: 403 });
  });

  it('is refused for an unknown service, and the error lists the known ones', async () => {
    const { detail } = refused(await change({ level: 'debug', service: 'caches' }), '400 invalid-request', ['service']);
    for (const name of ['order', 'inventory', 'cache', 'payment', 'sales', 'webhooks']) expect(detail).toContain(name);
    refused(await change({ level: 'loud', service: 'cache' }), '400 invalid-request', ['level']);
  });

  it('is changed in the reachable instances, and the response names the unreachable ones', async () => {
    await shape.service('cache-2').kill('SIGKILL');
    const { told, not_told } = ok(await change({ level: 'info', service: 'cache' }));
    expect(told).toEqual([addresses[0]]);
    expect(not_told).toEqual([{ address: addresses[1], why: expect.stringMatching(/\S/) }]);
    const { instances } = ok(await levels('?service=cache'));
    expect(instances).toContainEqual({ address: addresses[0], level: 'info' });
    expect(instances).toContainEqual({ address: addresses[1], why: expect.stringMatching(/\S/) });
    expect(refused(await levels('?service=order'), '503 unavailable').detail).toContain('ECONNREFUSED');
    const nobody = refused(await change({ level: 'info', service: 'order' }), '503 unavailable');
    expect(nobody.detail).toContain('ECONNREFUSED');
  });
});
