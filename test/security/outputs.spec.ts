import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { scopes, type IssuedKey } from '#contracts';
import { eventually, testDatabase, type TestDatabase } from '#testing';
import { Api, ok, type Answer } from '../support/api.js';
import { AppProcess } from '../support/app-process.js';
import { fresh } from '../support/fresh.js';
import { exchange } from '../support/raw-http.js';
import { servicePorts } from '../support/shapes.js';
import { bearer } from './world.js';

const secrets = {
  ADMIN_KEY: 'admin-key-that-nobody-may-ever-read-again',
  SERVICE_SECRET: 'service-secret-that-nobody-may-ever-read',
  STRIPE_SECRET_KEY: 'sk_test_thatnobodymayeverread0123456789',
  STRIPE_WEBHOOK_SECRET: 'whsec_dGhhdG5vYm9keW1heWV2ZXJyZWFk',
};

describe('the output of a process at log level trace', () => {
  let database: TestDatabase;
  let process: AppProcess;
  let api: Api;
  /** Secrets, each of which may appear only in the response that issued it. */
  const hidden: string[] = [...Object.values(secrets)];
  const said: string[] = [];
  beforeAll(async () => {
    database = await testDatabase();
    const { password } = new URL(database.url);
    expect(password.length).toBeGreaterThan(8);
    hidden.push(password);
    const [port] = await servicePorts(1);
    process = new AppProcess('monolith', {
      ...secrets,
      ...{ DATABASE_URL: database.url, PORT: String(port), WEBHOOKS_ALLOW_PRIVATE: 'true' },
      ...{ STRIPE_API_BASE: 'http://127.0.0.1:1', LOG_LEVEL: 'trace', LOG_REQUESTS: 'true' },
    });
    process.spawn();
    api = new Api(`http://127.0.0.1:${port}`);
    await process.untilReady(`${api.baseUrl}/health/ready`);
  });
  afterAll(async () => {
    expect(await process?.stop()).toBeUndefined();
    await database?.stop();
  });

  /** Sends a request and keeps the response, to be searched for secrets. */
  const asked = async (method: string, path: string, sent: Parameters<Api['send']>[2] = {}): Promise<Answer> => {
    const answer = await api.send(method, path, sent);
    said.push(JSON.stringify([...answer.headers]), answer.text);
    return answer;
  };

  it('contains no secret, in the log or in responses', async () => {
    const admin = bearer(secrets.ADMIN_KEY);
    const issued = ok(await api.send<IssuedKey>('POST', '/keys', { ...admin, body: { name: 'till', scopes } }), 201);
    const key = bearer(issued.key);
    hidden.push(issued.key.split('_')[2]!);
    const hook = { url: 'http://user:hook-password-nobody-reads@127.0.0.1:1/hook' };
    await asked('POST', '/webhook-endpoints', { ...key, body: hook });
    const endpoint = ok(
      await api.send<{ endpoint_id: string; secret: string }>('POST', '/webhook-endpoints', {
        ...key,
        body: { url: 'http://127.0.0.1:1/hook' },
      }),
      201,
    );
    const path = `/webhook-endpoints/${endpoint.endpoint_id}`;
    hidden.push(endpoint.secret.slice(6));
    const rotated = ok(await api.send<{ secret: string }>('POST', `${path}/rotate-secret`, key));
    hidden.push(rotated.secret.slice(6));
    for (const it of ['', '/deliveries']) await asked('GET', path + it, key);
    await asked('POST', `${path}/test`, key);

    const product = { body: { name: 'Mug', unit_price_minor: 1, currency: 'GBP' }, ...key };
    await asked('PUT', '/products/mug', product);
    await asked('PUT', '/stock/mug', { ...key, body: { on_hand: 5 } });
    const order = { customer_id: 'c', product_id: 'mug', quantity: 1 };
    // Stripe is unreachable, which is logged.
    const paid = { ...order, payment: { method: 'stripe', token: 'pm_card_visa' } };
    for (const body of [order, paid, { ...order, quantity: 'x' }]) await asked('POST', '/orders', { ...key, body });
    const signed = { 'stripe-signature': `t=1,v1=${secrets.STRIPE_WEBHOOK_SECRET}` };
    await asked('POST', '/payments/webhooks/stripe', { headers: signed, body: {} });

    // A refusal must not repeat the credential.
    for (const wrong of [`${secrets.ADMIN_KEY}x`, `${issued.key}0`, `Bearer ${issued.key}`])
      await asked('GET', '/orders', bearer(wrong));
    const leaked = encodeURIComponent(issued.key);
    await asked('GET', '/nothing/at/all?token=x', key);
    await api.send('GET', `/orders/${leaked}`, key);
    await api.send('GET', `/orders?cursor=${leaked}`, key);
    await asked('GET', '/keys', admin);
    for (const open of [
      '/health/live',
      '/health/ready',
      '/metrics',
      '/docs',
      '/docs/swagger-ui-init.js',
      '/openapi.json',
    ])
      await asked('GET', open);

    // The error of an unreachable database may contain its address.
    await database.stop();
    for (const it of ['/health/ready', '/orders', '/keys', '/products/mug']) await asked('GET', it, key);
    expect(process.log).not.toContain('hook-password');
    for (const secret of hidden) {
      expect(process.log).not.toContain(secret);
      for (const text of said) expect(text).not.toContain(secret);
    }
    // Requests are logged at all.
    expect(process.log).toContain('"route":"/orders"');
  });
});

describe.each(['json', 'text'])('the log in %s format', (format) => {
  it('cannot be forged by input: no injected lines or control characters', async () => {
    const [port, messages] = await servicePorts(2);
    const process = new AppProcess('cache', {
      ...{ PORT: String(port), CACHE_LISTEN: `tcp://127.0.0.1:${messages}` },
      ...{ LOG_FORMAT: format, LOG_LEVEL: 'trace', LOG_REQUESTS: 'true', NO_COLOR: '1' },
    });
    process.spawn();
    try {
      const baseUrl = `http://127.0.0.1:${port}`;
      await process.untilReady(`${baseUrl}/health/ready`);
      const forged = encodeURIComponent(
        '\r\n{"level":"fatal","msg":"forged"}\n12:00:00.000 FATAL forged\u001b[2J\u2028',
      );
      const latin1 = 'x {"msg":"forged"} \x85 \t \x9b31m forged';
      for (const line of [
        `GET /cache?key=${forged} HTTP/1.1`,
        `GET /cache/${forged} HTTP/1.1`,
        `GET /${forged} HTTP/1.1`,
        `PUT /cache?${forged} HTTP/1.1`,
        `DELETE /problems/${forged} HTTP/1.1`,
      ])
        for (const name of [
          'X-Request-Id',
          'Traceparent',
          'User-Agent',
          'Idempotency-Key',
          'Cleave-Caller',
          'Content-Type',
        ])
          await exchange(baseUrl, { line, headers: [`${name}: ${latin1}`] });
      const marked = fresh('marked');
      await new Api(baseUrl).send('GET', '/cache?key=x', { headers: { 'x-request-id': marked } });
      await eventually(async () => expect(process.log).toContain(marked));
      for (const it of process.log.trimEnd().split(/[\n\r\u2028\u2029]/)) {
        if (format === 'json')
          expect(JSON.parse(it)).toMatchObject({ level: expect.any(String), msg: expect.any(String) });
        else expect(it).toMatch(/^(?:\d\d:\d\d:\d\d\.\d{3} (?:INFO|WARN|DEBUG|TRACE|ERROR) | {4}\S)/);
        // oxlint-disable-next-line no-control-regex
        expect(it).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e]/);
      }
      expect(process.log).not.toMatch(/FATAL|"fatal"/);
    } finally {
      expect(await process.stop()).toBeUndefined();
    }
  });
});
