import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from '@jest/globals';
import { Api, ok } from '../support/api.js';
import { AppProcess, guardFolder, unguardFolder } from '../support/app-process.js';
import { refusedStart } from '../support/refused-start.js';
import { servicePorts } from '../support/shapes.js';

const secret = 'a-secret-of-32-characters-or-more';
const far = 'tcp://127.0.0.1:1';
const urls = Object.fromEntries(
  ['ORDER', 'INVENTORY', 'CACHE', 'PAYMENT', 'SALES', 'WEBHOOKS'].map((it) => [`${it}_URL`, 'http://127.0.0.1:1']),
);
const database = { DATABASE_URL: 'postgres://nobody:x@127.0.0.1:1/nowhere' };

describe('the start', () => {
  const started: AppProcess[] = [];
  afterEach(async () => {
    await Promise.all(started.splice(0).map((it) => it.stop()));
  });

  it.each<[app: string, environment: Record<string, string>, variable: string, advice: string]>([
    ['monolith', { HOST: '0.0.0.0', ...database }, 'HOST', 'ADMIN_KEY'],
    ['monolith', { HOST: '::', ...database }, 'HOST', 'OIDC_ISSUER'],
    ['monolith', { ORDER_GRPC_LISTEN: '0.0.0.0:1', ...database }, 'ORDER_GRPC_LISTEN', 'ADMIN_KEY'],
    ['monolith', { ADMIN_KEY: 'short', ...database }, 'ADMIN_KEY', '32'],
    ['monolith', { ADMIN_KEY: 'nothing that a header could carry as one word', ...database }, 'ADMIN_KEY', 'A-Z'],
    ['monolith', { OIDC_ISSUER: 'http://issuer.example', OIDC_AUDIENCE: 'x', ...database }, 'OIDC_ISSUER', 'https'],
    ['monolith', { OIDC_ISSUER: 'https://issuer.example', ...database }, 'OIDC_AUDIENCE', 'audience'],
    [
      'monolith',
      { ADMIN_KEY: secret, SALES_URL: 'http://127.0.0.1:1', ...database },
      'SERVICE_SECRET',
      'services behind',
    ],
    ['gateway', { HOST: '0.0.0.0', ...urls }, 'HOST', 'ADMIN_KEY'],
    ['gateway', { HOST: '192.0.2.1', SERVICE_SECRET: secret, ...urls }, 'HOST', 'ADMIN_KEY'],
    ['gateway', { ADMIN_KEY: secret, ...urls }, 'SERVICE_SECRET', 'services behind'],
    ['gateway', { RATE_LIMIT_REDIS_URL: 'redis://127.0.0.1:1', ...urls }, 'RATE_LIMIT', '600/minute'],
    ['monolith', { RATE_LIMIT_REDIS_URL: 'redis://127.0.0.1:1', ...database }, 'RATE_LIMIT', '600/minute'],
    ['cache', { HOST: '0.0.0.0' }, 'HOST', 'SERVICE_SECRET'],
    ['cache', { CORS_ORIGINS: '*' }, 'CORS_ORIGINS', 'origins'],
    ['cache', { CORS_ORIGINS: 'https://shop.example/' }, 'CORS_ORIGINS', 'origins'],
    ['cache', { CORS_ORIGINS: 'https://shop.example,shop.example' }, 'CORS_ORIGINS', 'origins'],
    ['cache', { HTTP_MAX_CONNECTIONS: '0' }, 'HTTP_MAX_CONNECTIONS', 'whole number from 1'],
    ['cache', { HTTP_REQUEST_MS: '1e3' }, 'HTTP_REQUEST_MS', 'milliseconds'],
    ['cache', { HSTS_SECONDS: 'true' }, 'HSTS_SECONDS', 'seconds'],
    ['cache', { CACHE_LISTEN: 'tcp://0.0.0.0:1' }, 'SERVICE_SECRET', 'the same'],
    ['cache', { CACHE_LISTEN: 'redis://redis.example:6379' }, 'SERVICE_SECRET', 'redis.example'],
    ['cache', { CACHE_LISTEN: 'nats://127.0.0.1:1,nats.example:2' }, 'SERVICE_SECRET', 'nats.example'],
    [
      'sales',
      { EVENTS_AT: 'nats://nats.example:2', ORDER_AT: far, INVENTORY_AT: far, ...database },
      'SERVICE_SECRET',
      'nats.example',
    ],
    [
      'order',
      { EVENTS_AT: 'nats://nats.example:2', INVENTORY_AT: far, PAYMENT_AT: far, ...database },
      'SERVICE_SECRET',
      'nats.example',
    ],
    ['monolith', { EVENTS_AT: 'nats://nats.example:2', ...database }, 'SERVICE_SECRET', 'nats.example'],
    ['order', { HOST: '0.0.0.0', INVENTORY_AT: far, PAYMENT_AT: far, ...database }, 'HOST', 'SERVICE_SECRET'],
  ])('of %s is refused with %j: %s', async (app, environment, variable, advice) => {
    const { code, output } = await refusedStart(`dist/apps/${app}/src/main.js`, { PORT: '0', ...environment });
    expect([code, output]).toEqual([1, output]);
    const line = output.split('\n').find((it) => it.trimStart().startsWith(`${variable}: `));
    expect(line).toContain(advice);
    expect(output).not.toContain(secret);
  });

  it.each([
    [{}, true],
    [{ ADMIN_KEY: secret }, false],
  ])('with %j logs whether authentication is off (%s), and behaves accordingly', async (environment, isOpen) => {
    const [port, messages] = await servicePorts(2);
    const process = new AppProcess('cache', {
      ...{ HOST: 'localhost', PORT: String(port), CACHE_LISTEN: `tcp://127.0.0.1:${messages}` },
      ...environment,
    });
    started.push(process);
    process.spawn();
    const url = `http://localhost:${port}`;
    await process.untilReady(`${url}/health/ready`);
    expect(process.log.includes('authentication is off')).toBe(isOpen);
    expect((await new Api(url).get('/cache?key=x')).status).toBe(isOpen ? 404 : 401);
    // With authentication off, pages of other sites in a local browser are still refused.
    for (const [site, status] of Object.entries({
      'cross-site': 403,
      'same-site': 403,
      'same-origin': 404,
      none: 404,
    })) {
      const answer = await new Api(url).send('GET', '/cache?key=x', { headers: { 'sec-fetch-site': site } });
      expect([site, answer.status]).toEqual([site, isOpen ? status : 401]);
    }
  });

  it('of a monolith with ADMIN_KEY logs how to create the first key, and those commands work', async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'cleave-e2e-'));
    guardFolder(dataDir);
    try {
      const [port] = await servicePorts(1);
      const process = new AppProcess('monolith', {
        ...{ DATA_DIR: dataDir, PORT: String(port), ADMIN_KEY: secret },
        // The text format shows what a person sees in a terminal.
        LOG_FORMAT: 'text',
      });
      started.push(process);
      process.spawn();
      const api = new Api(`http://127.0.0.1:${port}`);
      await process.untilReady(`${api.baseUrl}/health/ready`);
      const [wanted, order] = ['"scopes"', '"customer_id"'].map(
        (part) => new RegExp(`-d '(\\{[^']*${part}[^']*\\})'`).exec(process.log)![1]!,
      );
      const admin = { authorization: `Bearer ${secret}` };
      const { key } = ok(await api.send<{ key: string }>('POST', '/keys', { headers: admin, raw: wanted! }), 201);
      ok(await api.send('POST', '/orders', { headers: { authorization: `Bearer ${key}` }, raw: order! }), 201);
      expect(process.log).not.toContain(secret);
      expect(await process.stop()).toBeUndefined();
    } finally {
      await rm(dataDir, { recursive: true, force: true, maxRetries: 5 });
      unguardFolder(dataDir);
    }
  });
});
