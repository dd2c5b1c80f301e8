import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { limits, type WebhookEndpointDocument } from '#contracts';
import { eventually, testDatabase, type TestDatabase } from '#testing';
import { Receiver, answering } from './receiver.js';
import { placed, startInstance, type Instance } from './webhooks-under-test.js';

/** The tenant of requests without an API key. */
const tenant = 'default';
const absent = '019a5f00-0000-7000-8000-00000000000a';

let database: TestDatabase;
let instance: Instance;
let receiver: Receiver;

beforeAll(async () => {
  receiver = await new Receiver().start();
  database = await testDatabase();
  instance = await startInstance(database.url);
});
afterAll(async () => {
  await instance?.stop();
  await database?.stop();
  await receiver?.stop();
});
afterEach(async () => {
  const { data } = await instance.endpoints.list(tenant, undefined, 200);
  for (const { endpoint_id } of data) await instance.endpoints.forget(tenant, endpoint_id);
});

interface Answered {
  status: number;
  // oxlint-disable-next-line typescript/no-explicit-any
  body: any;
  headers: Headers;
}

const call = async (method: string, path: string, body?: unknown, base = instance): Promise<Answered> => {
  const response = await fetch(`${base.url}${path}`, {
    method,
    ...(body !== undefined && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
  });
  const text = await response.text();
  return { status: response.status, body: text === '' ? undefined : JSON.parse(text), headers: response.headers };
};
const create = async (more: object = {}): Promise<WebhookEndpointDocument & { secret: string }> => {
  const { status, body } = await call('POST', '/webhook-endpoints', { url: receiver.url('/hook'), ...more });
  expect(status).toBe(201);
  return body;
};

describe('a webhook endpoint', () => {
  it('is registered, read, changed and deleted', async () => {
    const url = receiver.url('/a?b=c');
    const created = await call('POST', '/webhook-endpoints', { url, types: ['order.placed'], description: 'ä 🦊' });
    expect(created.status).toBe(201);
    const { secret, ...document } = created.body;
    expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
    expect(document).toEqual({
      ...{ endpoint_id: expect.any(String), url, types: ['order.placed'], description: 'ä 🦊' },
      ...{ enabled: true, disabled_reason: null, created_at: expect.any(String), updated_at: expect.any(String) },
    });
    const path = `/webhook-endpoints/${document.endpoint_id}`;
    expect(created.headers.get('location')).toBe(path);
    expect((await call('GET', path)).body).toEqual(document);
    expect((await call('GET', path.toUpperCase().replace('/WEBHOOK-ENDPOINTS', '/webhook-endpoints'))).body).toEqual(
      document,
    );
    expect((await call('GET', `${path}/secret`)).body).toEqual({ secret, previous_until: null });

    const changes = { types: null, description: null, enabled: false, url: receiver.url('/new') };
    const changed = await call('PATCH', path, changes);
    expect([changed.status, changed.body]).toEqual([200, { ...document, ...changes, updated_at: expect.any(String) }]);
    expect((await call('PATCH', path, {})).body).toMatchObject(changes);
    expect((await call('PATCH', path, { enabled: true })).body).toMatchObject({ ...changes, enabled: true });

    const rotated = await call('POST', `${path}/rotate-secret`);
    expect(rotated).toMatchObject({ status: 200, body: { previous_until: expect.any(String) } });
    expect(rotated.body.secret).not.toBe(secret);
    expect((await call('GET', `${path}/secret`)).body).toEqual(rotated.body);

    expect(await call('DELETE', path)).toMatchObject({ status: 204, body: undefined });
    for (const [method, rest, body] of [
      ...[['GET', ''] as const, ['DELETE', ''] as const, ['PATCH', '', {}] as const, ['GET', '/secret'] as const],
      ...[['POST', '/rotate-secret'] as const, ['POST', '/test'] as const, ['GET', '/deliveries'] as const],
      ['POST', '/redeliver', { since: '2026-01-01T00:00:00Z' }] as const,
    ])
      for (const it of [path, `/webhook-endpoints/${absent}`, '/webhook-endpoints/nonsense', '/webhook-endpoints/%00'])
        expect(await call(method, `${it}${rest}`, body)).toMatchObject({
          ...{ status: 404, body: { code: 'webhook-endpoint-not-found' } },
        });
  });

  it('is listed once across pages, newest first, even while others are being registered', async () => {
    const made: string[] = [];
    for (let count = 0; count < 7; count += 1) made.push((await create()).endpoint_id);
    const seen: string[] = [];
    for (let cursor: string | null = ''; cursor !== null;) {
      const { body } = await call('GET', `/webhook-endpoints?limit=3${cursor && `&cursor=${cursor}`}`);
      expect(body.data.length).toBeLessThanOrEqual(3);
      seen.push(...body.data.map((it: WebhookEndpointDocument) => it.endpoint_id));
      expect(body.data.every((it: object) => !('secret' in it))).toBe(true);
      cursor = body.next_cursor as string | null;
      await create();
    }
    expect(seen).toEqual(made.toReversed());
  });

  it('is refused beyond the limit per tenant, even when registered concurrently', async () => {
    const answers = await Promise.all(
      Array.from({ length: limits.webhookEndpoints + 10 }, () =>
        call('POST', '/webhook-endpoints', { url: receiver.url() }),
      ),
    );
    const counts = Map.groupBy(answers, ({ status }) => status);
    expect([counts.get(201)?.length, counts.get(409)?.length]).toEqual([limits.webhookEndpoints, 10]);
    expect(counts.get(409)![0]!.body.code).toBe('too-many-webhook-endpoints');
    const { data } = await instance.endpoints.list(tenant, undefined, 1);
    await call('DELETE', `/webhook-endpoints/${data[0]!.endpoint_id}`);
    await create();
  });

  it.each([
    [{}, 'url'],
    [{ url: null }, 'url'],
    [{ url: 1 }, 'url'],
    [{ url: '' }, 'url'],
    [{ url: 'example.com' }, 'url'],
    [{ url: '/path' }, 'url'],
    [{ url: 'ftp://example.com' }, 'url'],
    [{ url: 'file:///etc/passwd' }, 'url'],
    [{ url: 'https://' }, 'url'],
    [{ url: 'https://user@example.com' }, 'url'],
    [{ url: 'https://:password@example.com' }, 'url'],
    [{ url: 'https://example.com/#fragment' }, 'url'],
    [{ url: 'https://example.com:99999/' }, 'url'],
    [{ url: 'https://exa mple.com/' }, 'url'],
    [{ url: 'https://[::1/' }, 'url'],
    [{ url: 'https://example.com/\0' }, 'url'],
    [{ url: 'https://example.com/\ud800' }, 'url'],
    [{ url: `https://example.com/${'x'.repeat(2_000)}` }, 'url'],
    [{ url: 'https://example.com', types: [] }, 'types'],
    [{ url: 'https://example.com', types: ['order.eaten'] }, 'types.0'],
    [{ url: 'https://example.com', types: ['webhook.test'] }, 'types.0'],
    [{ url: 'https://example.com', types: 'order.placed' }, 'types'],
    [{ url: 'https://example.com', types: Array.from({ length: 1_000 }, () => 'order.placed') }, 'types'],
    [{ url: 'https://example.com', description: 'x'.repeat(501) }, 'description'],
    [{ url: 'https://example.com', description: '\0' }, 'description'],
    [{ url: 'https://example.com', secret: 'whsec_AAAA' }, 'secret'],
  ])('is refused when registered with %j, with a fault at %s', async (given, path) => {
    const answer = await call('POST', '/webhook-endpoints', given);
    expect(answer).toMatchObject({ status: 400, body: { code: 'invalid-request' } });
    expect(answer.body.faults[0].path).toBe(path);
  });

  it.each([
    { enabled: 'yes' },
    { enabled: null },
    { url: null },
    { url: 'nonsense' },
    { types: [] },
    { secret: 'x' },
    [],
  ])('refuses the change %j', async (given) => {
    const { endpoint_id } = await create();
    const answer = await call('PATCH', `/webhook-endpoints/${endpoint_id}`, given);
    expect(answer).toMatchObject({ status: 400, body: { code: 'invalid-request' } });
  });

  it('has its own limit of test messages per minute', async () => {
    const [one, other] = [await create(), await create()];
    const test = ({ endpoint_id }: typeof one) => call('POST', `/webhook-endpoints/${endpoint_id}/test`);
    for (let count = 0; count < limits.webhookTestsAMinute; count += 1) expect((await test(one)).status).toBe(202);
    const { status, body, headers } = await test(one);
    expect([status, body.code]).toEqual([429, 'too-many-requests']);
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
    expect((await test(other)).status).toBe(202);
  });

  it('shares a limit of test messages per minute with all endpoints of its tenant, deleted ones included', async () => {
    const fresh = await startInstance(database.url);
    const statuses: number[] = [];
    while (statuses.length <= limits.webhookTestsAMinuteOfTenant) {
      const { endpoint_id } = await create();
      const path = `/webhook-endpoints/${endpoint_id}`;
      for (let count = 0; count < limits.webhookTestsAMinute; count += 1)
        statuses.push((await call('POST', `${path}/test`, undefined, fresh)).status);
      expect((await call('DELETE', path, undefined, fresh)).status).toBe(204);
    }
    await fresh.stop();
    expect(statuses.indexOf(429)).toBe(limits.webhookTestsAMinuteOfTenant);
  });

  it('is refused at a private address or without https, unless WEBHOOKS_ALLOW_PRIVATE is set', async () => {
    const strict = await startInstance(database.url, { WEBHOOKS_ALLOW_PRIVATE: false });
    const refused = { status: 422, body: { code: 'webhook-url-refused' } };
    const { endpoint_id } = await create();
    for (const url of [
      ...[
        'http://example.com/',
        'https://127.0.0.1/',
        'https://10.0.0.1:8443/a',
        'https://[::1]/',
        'https://2130706433/',
      ],
      ...['https://localhost/', 'https://[::ffff:192.168.0.1]/', 'https://169.254.169.254/latest/meta-data'],
    ]) {
      expect(await call('POST', '/webhook-endpoints', { url }, strict)).toMatchObject(refused);
      expect(await call('PATCH', `/webhook-endpoints/${endpoint_id}`, { url }, strict)).toMatchObject(refused);
    }
    const url = 'https://example.com/hooks';
    expect(await call('POST', '/webhook-endpoints', { url }, strict)).toMatchObject({ status: 201, body: { url } });
    await strict.stop();
  });
});

describe('a delivery', () => {
  it('is listed in pages, newest first, filtered by status, and shows every attempt', async () => {
    const { endpoint_id } = await create();
    const path = `/webhook-endpoints/${endpoint_id}/deliveries`;
    const statuses = async (count: number) =>
      eventually(async () => {
        const { body } = await call('GET', `${path}?limit=200`);
        const all = (body.data as { status: string }[]).map(({ status }) => status);
        expect([all.length, all.includes('pending')]).toEqual([count, false]);
      });
    for (let count = 1; count <= 6; count += 1) {
      receiver.answer = answering(count % 2 === 0 ? 200 : 500, {}, 'told');
      await instance.accept(placed(tenant));
      await statuses(count);
    }
    const seen: { status: string; delivery_id: string; created_at: string }[] = [];
    for (let cursor: string | null = ''; cursor !== null;) {
      const { body } = await call('GET', `${path}?limit=2${cursor && `&cursor=${cursor}`}`);
      seen.push(...body.data);
      cursor = body.next_cursor as string | null;
      await instance.accept(placed(tenant));
    }
    expect(seen.map(({ status }) => status)).toEqual([
      'delivered',
      'failed',
      'delivered',
      'failed',
      'delivered',
      'failed',
    ]);
    expect(seen.map((it) => it.created_at)).toEqual(
      seen
        .map((it) => it.created_at)
        .toSorted()
        .toReversed(),
    );
    await statuses(9);
    for (const [status, count] of Object.entries({ failed: 3, delivered: 6, pending: 0 })) {
      const { body } = await call('GET', `${path}?status=${status}`);
      expect(body.data.map((it: { status: string }) => it.status)).toEqual(Array.from({ length: count }, () => status));
    }
    const { status, body } = await call('GET', `/webhook-deliveries/${seen[1]!.delivery_id}`);
    expect([status, body]).toEqual([
      200,
      {
        ...{ delivery_id: seen[1]!.delivery_id, endpoint_id, message_id: expect.stringMatching(/^msg_/) },
        ...{ type: 'order.placed', status: 'failed', attempts: 3, next_attempt_at: null },
        ...{ last_response_status: 500, last_error: 'answered 500', created_at: seen[1]!.created_at },
        payload: { type: 'order.placed', timestamp: expect.any(String), data: expect.any(Object) },
        attempt_log: Array.from({ length: 3 }, () => ({
          ...{ at: expect.any(String), duration_ms: expect.any(Number), response_status: 500 },
          ...{ error: 'answered 500', response_snippet: 'told' },
        })),
      },
    ]);
  });

  it('is redelivered on request, alone or with all failed ones', async () => {
    receiver.answer = answering(500);
    const { endpoint_id } = await create();
    await instance.accept(placed(tenant), placed(tenant));
    const path = `/webhook-endpoints/${endpoint_id}`;
    const failed = await eventually(async () => {
      const { body } = await call('GET', `${path}/deliveries?status=failed`);
      expect(body.data).toHaveLength(2);
      return body.data as { delivery_id: string }[];
    });
    receiver.answer = answering(200);
    const again = await call('POST', `/webhook-deliveries/${failed[0]!.delivery_id}/redeliver`);
    expect(again).toMatchObject({ status: 202, body: { delivery_id: failed[0]!.delivery_id, status: 'pending' } });
    const delivered = (count: number) =>
      eventually(async () => {
        const { body } = await call('GET', `${path}/deliveries?status=delivered`);
        expect(body.data).toHaveLength(count);
      });
    await delivered(1);
    const since = new Date(Date.now() - 3_600_000).toISOString();
    const rest = await call('POST', `${path}/redeliver`, { since });
    expect(rest).toMatchObject({ status: 202, body: { redelivered: 1, more: false } });
    await delivered(2);
    expect(await call('POST', `${path}/test`)).toMatchObject({ status: 202, body: { type: 'webhook.test' } });
    await delivered(3);
  });

  it('is redelivered at most a limited number of times per minute and endpoint', async () => {
    const [one, other] = [await create(), await create()];
    await instance.accept(placed(tenant));
    const pathOf = ({ endpoint_id }: typeof one): Promise<string> =>
      eventually(async () => {
        const { body } = await call('GET', `/webhook-endpoints/${endpoint_id}/deliveries`);
        expect(body.data).toMatchObject([{ status: 'delivered' }]);
        return `/webhook-deliveries/${body.data[0].delivery_id}`;
      });
    const [path, otherPath] = [await pathOf(one), await pathOf(other)];
    const again = (of: string) => call('POST', `${of}/redeliver`);
    for (let count = 0; count < limits.webhookRedeliveriesAMinute; count += 1)
      expect((await again(path)).status).toBe(202);
    const { status, body, headers } = await again(path);
    expect([status, body.code]).toEqual([429, 'too-many-requests']);
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
    expect((await again(otherPath)).status).toBe(202);
    const { body: detail } = await eventually(async () => {
      const answer = await call('GET', path);
      expect(answer.body.status).toBe('delivered');
      return answer;
    });
    expect(detail.attempts).toBeLessThanOrEqual(1 + limits.webhookRedeliveriesAMinute);
  });

  it('that does not exist is answered with 404 webhook-delivery-not-found', async () => {
    for (const id of [absent, 'nonsense', '%00'])
      for (const [method, rest] of [['GET', ''] as const, ['POST', '/redeliver'] as const])
        expect(await call(method, `/webhook-deliveries/${id}${rest}`)).toMatchObject({
          ...{ status: 404, body: { code: 'webhook-delivery-not-found' } },
        });
  });

  it.each([
    ['GET', '/deliveries?status=lost', undefined, 'invalid-request'],
    ['GET', '/deliveries?limit=0', undefined, 'invalid-request'],
    ['GET', '/deliveries?other=1', undefined, 'invalid-request'],
    ['GET', '/deliveries?cursor=nonsense', undefined, 'invalid-cursor'],
    ['GET', `/deliveries?cursor=${'x'.repeat(1_001)}`, undefined, 'invalid-request'],
    ['POST', '/redeliver', undefined, 'invalid-request'],
    ['POST', '/redeliver', {}, 'invalid-request'],
    ['POST', '/redeliver', { since: 'yesterday' }, 'invalid-request'],
    ['POST', '/redeliver', { since: '2026-01-02' }, 'invalid-request'],
    ['POST', '/redeliver', { since: '2026-01-02T00:00:00Z', until: '2026-01-01T00:00:00Z' }, 'invalid-request'],
  ])('is not listed or redelivered by the invalid request %s %s %j', async (method, rest, body, code) => {
    const { endpoint_id } = await create();
    const answer = await call(method, `/webhook-endpoints/${endpoint_id}${rest}`, body);
    expect(answer).toMatchObject({ status: 400, body: { code } });
  });

  it('is redelivered if it is in the given time range, which may begin or end in the year 0 or 9999', async () => {
    receiver.answer = answering(500);
    const { endpoint_id } = await create();
    await instance.accept(placed(tenant));
    const path = `/webhook-endpoints/${endpoint_id}`;
    const [first, last] = ['0000-01-01T00:00:00Z', '9999-12-31T23:59:59Z'];
    for (const [body, redelivered] of [
      [{ since: first }, 1],
      [{ since: first, until: last }, 1],
      [{ since: first, until: '0001-01-01T00:00:00Z' }, 0],
      [{ since: last }, 0],
    ] as const) {
      await eventually(async () => {
        const { data } = (await call('GET', `${path}/deliveries`)).body;
        expect(data).toMatchObject([{ status: 'failed' }]);
      });
      const answer = await call('POST', `${path}/redeliver`, body);
      expect([body, answer.status, answer.body]).toEqual([body, 202, { redelivered, more: false }]);
    }
  });
});
