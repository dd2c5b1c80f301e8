import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { logBeginning, type WebhookDeliveryDetail, type WebhookDeliveryDocument } from '#contracts';
import {
  SeededRandom,
  eventually,
  independentBits,
  samplesIn,
  testDatabase,
  twoInstances,
  type TwoInstances,
} from '#testing';
import { messageOf, type Happening } from '../src/domain/message.js';
import { Receiver, answering, verified } from './receiver.js';
import { newTenant, placed, startInstance, type Instance } from './webhooks-under-test.js';

const random = new SeededRandom();
let instances: TwoInstances<Instance>;
let one: Instance;
let two: Instance;
let receiver: Receiver;
let tenant: string;

beforeAll(async () => {
  instances = await twoInstances((url) => startInstance(url));
  ({ one, two } = instances);
});
afterAll(() => instances?.stop());
beforeEach(async () => {
  tenant = newTenant();
  receiver = await new Receiver().start();
});
afterEach(async () => {
  // Pending deliveries must not disturb the next test.
  await ask('DELETE FROM webhooks.endpoints WHERE tenant_id = $1', [tenant]);
  await receiver.stop();
});

const register = (path = '/', types?: ['order.placed'], instance = one) =>
  instance.endpoints.register(tenant, { url: receiver.url(path), types });
const listed = async (endpointId: string, instance = one): Promise<WebhookDeliveryDocument[]> =>
  (await instance.deliveries.list(tenant, endpointId, undefined, undefined, 1_000)).data;
const only = async (endpointId: string, instance = one): Promise<WebhookDeliveryDetail> => {
  const all = await listed(endpointId, instance);
  expect(all).toHaveLength(1);
  return instance.deliveries.one(tenant, all[0]!.delivery_id);
};
const settled = (endpointId: string, expected: object, instance = one): Promise<WebhookDeliveryDetail> =>
  eventually(async () => {
    const found = await only(endpointId, instance);
    expect(found).toMatchObject(expected);
    return found;
  });
/** Arguments of `claim` that do not limit it. */
const signing = { masterIds: ['usual'], othersForMs: 60_000 };
const unbounded = {
  ofOne: 1_000,
  exceptions: new Map<string, number>(),
  ofTenant: 1_000,
  tenants: new Map<string, number>(),
};
const events = (count: number, more: Partial<Happening> = {}): Happening[] =>
  Array.from({ length: count }, () => placed(tenant, more));
const ask = <Row>(text: string, values: unknown[], { sql } = one): Promise<Row[]> =>
  sql.query<Row>({ name: `test-webhooks-${text.length}-${text.slice(0, 30)}`, text }, values);

/** An instance on a database of its own, whose worker only runs when it is woken. */
const asleep = async (test: (instance: Instance, url: string) => Promise<void>): Promise<void> => {
  const database = await testDatabase();
  const instance = await startInstance(database.url, { limits: { pollMs: 100_000_000 } });
  try {
    await test(instance, database.url);
  } finally {
    await instance.stop();
    await database.stop();
  }
};

describe('an event', () => {
  it('is sent, signed, to the endpoints that subscribe to its type', async () => {
    const [all, some] = [await register('/all'), await register('/some', ['order.placed'])];
    const event = placed(tenant);
    expect(await one.accept(event, placed(tenant, { type: 'order.cancelled' }))).toBe(3);
    const { message_id, payload, attempt_log } = await settled(some.endpoint_id, { status: 'delivered' });
    await eventually(() => expect(receiver.received).toHaveLength(3));
    const told = { type: 'order.placed', timestamp: event.at.toISOString(), data: event.data };
    expect(payload).toEqual(told);
    expect(attempt_log).toMatchObject([{ response_status: 200, error: null, response_snippet: null }]);
    expect(Math.abs(Date.now() - attempt_log[0]!.at.getTime())).toBeLessThan(60_000);
    const [received] = receiver.at('/some');
    expect(verified(received!, some.secret)).toEqual(told);
    expect(() => verified(received!, all.secret)).toThrow();
    expect(received!.headers['webhook-id']).toBe(message_id);
    expect(receiver.at('/all').map((it) => verified(it, all.secret))).toContainEqual(told);
  });

  it('is sent to each endpoint once, even if both instances accept it several times', async () => {
    const endpoints = [await register('/a'), await register('/b')];
    const batch = events(20);
    const made = await Promise.all(
      Array.from({ length: 6 }, (_, index) => (index % 2 ? one : two).accept(...random.shuffled(batch))),
    );
    expect(made.reduce((sum, it) => sum + it)).toBe(40);
    expect(await one.accept(...batch, ...batch)).toBe(0);
    await eventually(() => expect(receiver.received).toHaveLength(40));
    for (const { endpoint_id } of endpoints) {
      await eventually(async () =>
        expect((await listed(endpoint_id)).map(({ status, attempts }) => [status, attempts])).toEqual(
          batch.map(() => ['delivered', 1]),
        ),
      );
    }
    const kept = await ask('SELECT 1 FROM webhooks.messages WHERE tenant_id = $1', [tenant]);
    expect(kept).toHaveLength(20);
  });

  it('is stored only if an enabled endpoint of its tenant subscribes to it', async () => {
    const endpoint = await register('/', ['order.placed']);
    const of = async (...some: Happening[]) => ({
      made: await one.accept(...some),
      kept: (await ask('SELECT 1 FROM webhooks.messages WHERE tenant_id = $1', [tenant])).length,
    });
    expect(await of(placed(tenant, { type: 'order.returned' }))).toEqual({ made: 0, kept: 0 });
    expect(await of(placed(newTenant()))).toEqual({ made: 0, kept: 0 });
    expect(await of()).toEqual({ made: 0, kept: 0 });
    await one.endpoints.change(tenant, endpoint.endpoint_id, { enabled: false });
    expect(await of(placed(tenant))).toEqual({ made: 0, kept: 0 });
    await one.endpoints.change(tenant, endpoint.endpoint_id, { enabled: true });
    expect(await of(placed(tenant))).toEqual({ made: 1, kept: 1 });
  });

  it('is not stored if the checkpoint cannot be moved with it', async () => {
    const { endpoint_id } = await register();
    const lost = one.checkpoints.at('webhooks', [{ part: 0, epoch: '0', position: logBeginning }]);
    await expect(one.acceptEvents.accept(events(3), lost)).rejects.toThrow('taken over');
    expect(await listed(endpoint_id)).toEqual([]);
  });

  it('arrives unchanged whatever text it contains', async () => {
    const { secret } = await register();
    const data = { text: '\0 \ud800 ä 🦊 "\\', __proto__x: { deep: [null, 1e300, 0.1] } };
    await one.accept(placed(tenant, { id: 'ä\n🦊'.repeat(50), data }));
    await eventually(() => expect(receiver.received).toHaveLength(1));
    expect(verified(receiver.received[0]!, secret)).toMatchObject({ data });
  });
});

describe('a failed attempt', () => {
  it('is retried under the same id until it succeeds', async () => {
    const { endpoint_id, secret } = await register();
    receiver.answer = (response) => answering(receiver.received.length < 3 ? 500 : 200, {}, 'told')(response);
    await one.accept(placed(tenant));
    const { attempt_log, ...rest } = await settled(endpoint_id, { status: 'delivered', attempts: 3 });
    expect(rest).toMatchObject({ next_attempt_at: null, last_error: null, last_response_status: 200 });
    expect(attempt_log.map((it) => [it.response_status, it.error, it.response_snippet])).toEqual([
      [200, null, 'told'],
      [500, 'answered 500', 'told'],
      [500, 'answered 500', 'told'],
    ]);
    expect(new Set(receiver.received.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
    for (const it of receiver.received) verified(it, secret);
  });

  it('is counted apart from its retries in the metrics', () =>
    asleep(async (instance) => {
      const { endpoint_id } = await register('/', undefined, instance);
      receiver.answer = (response) => answering(receiver.received.length < 2 ? 500 : 200)(response);
      await instance.accept(placed(tenant));
      const [delivery] = await listed(endpoint_id, instance);
      for (const attempts of [1, 2]) {
        await instance.redeliver.one(tenant, delivery!.delivery_id);
        await settled(endpoint_id, { attempts }, instance);
      }
      const measured = samplesIn(await (await fetch(`${instance.url}/metrics`)).text());
      const counted = [...measured].filter(([it]) => it.startsWith('webhooks_attempt_duration_seconds_count'));
      expect(Object.fromEntries(counted)).toEqual({
        'webhooks_attempt_duration_seconds_count{outcome="pending",repeat="false"}': 1,
        'webhooks_attempt_duration_seconds_count{outcome="delivered",repeat="true"}': 1,
      });
    }));

  it('is not retried after the last delay', async () => {
    const { endpoint_id } = await register();
    receiver.answer = answering(302, { location: receiver.url('/elsewhere') });
    await one.accept(placed(tenant));
    const { attempt_log } = await settled(endpoint_id, { status: 'failed', attempts: 3, next_attempt_at: null });
    expect(attempt_log.map(({ error }) => error)).toEqual(
      Array.from({ length: 3 }, () => 'answered 302; redirects are not followed'),
    );
    await setTimeout(100);
    expect(receiver.received).toHaveLength(3);
    expect(receiver.at('/elsewhere')).toEqual([]);
  });

  it('is not retried before the time in Retry-After', async () => {
    const { endpoint_id } = await register();
    receiver.answer = answering(429, { 'retry-after': '3600' });
    await one.accept(placed(tenant));
    const { next_attempt_at, attempt_log } = await settled(endpoint_id, { status: 'pending', attempts: 1 });
    const waitMs = next_attempt_at!.getTime() - attempt_log[0]!.at.getTime();
    expect(waitMs).toBeGreaterThanOrEqual(3_600_000);
    expect(waitMs).toBeLessThan(3_660_000);
  });

  it('records the reason if the URL is no longer allowed', async () => {
    const { endpoint_id } = await register();
    await asleep(async (_, url) => {
      // Registered while private addresses are allowed, sent when they are not.
      const open = await startInstance(url);
      const endpoint = await register('/', undefined, open);
      await open.stop();
      const closed = await startInstance(url, { WEBHOOKS_ALLOW_PRIVATE: false });
      await closed.accept(placed(tenant));
      await settled(
        endpoint.endpoint_id,
        { status: 'failed', last_error: 'Webhooks are sent over https only.' },
        closed,
      );
      await closed.stop();
    });
    expect(await listed(endpoint_id)).toEqual([]);
    expect(receiver.received).toEqual([]);
  });
});

describe('an endpoint', () => {
  it('that answers 410 is disabled, and its pending delivery continues once it is enabled again', async () => {
    const { endpoint_id } = await register();
    receiver.answer = answering(410);
    await one.accept(placed(tenant));
    await eventually(async () =>
      expect(await one.endpoints.one(tenant, endpoint_id)).toMatchObject({
        enabled: false,
        disabled_reason: 'it answered 410 Gone',
      }),
    );
    receiver.answer = answering(200);
    await setTimeout(100);
    expect(await only(endpoint_id)).toMatchObject({ status: 'pending', attempts: 1, last_response_status: 410 });
    const changed = await two.endpoints.change(tenant, endpoint_id, { enabled: true });
    expect(changed).toMatchObject({ enabled: true, disabled_reason: null });
    await settled(endpoint_id, { status: 'delivered', attempts: 2 });
  });

  it('is not disabled by a 410 from a URL that was replaced meanwhile', async () => {
    const { endpoint_id } = await register('/old');
    receiver.answer = async (response, { path }) => {
      if (path === '/old') await one.endpoints.change(tenant, endpoint_id, { url: receiver.url('/new') });
      answering(path === '/old' ? 410 : 200)(response);
    };
    await one.accept(placed(tenant));
    await settled(endpoint_id, { status: 'delivered', attempts: 2 });
    expect(await one.endpoints.one(tenant, endpoint_id)).toMatchObject({ enabled: true });
  });

  it('that is disabled gets nothing, and its pending delivery is sent once it is enabled again', async () => {
    const { endpoint_id } = await register();
    const answered = Promise.withResolvers<void>();
    receiver.answer = async (response) => {
      await answered.promise;
      response.writeHead(500).end();
    };
    await one.accept(placed(tenant));
    await eventually(() => expect(receiver.received).toHaveLength(1));
    await one.endpoints.change(tenant, endpoint_id, { enabled: false });
    answered.resolve();
    await settled(endpoint_id, { status: 'pending', attempts: 1 });
    await setTimeout(100);
    expect(receiver.received).toHaveLength(1);
    receiver.answer = answering(200);
    await one.endpoints.change(tenant, endpoint_id, { enabled: true });
    await settled(endpoint_id, { status: 'delivered', attempts: 2 });
  });

  it('that is deleted gets nothing more, and its deliveries are deleted', async () => {
    const { endpoint_id } = await register();
    receiver.answer = answering(503, { 'retry-after': '1' });
    await one.accept(placed(tenant));
    const { delivery_id } = await settled(endpoint_id, { attempts: 1 });
    await one.endpoints.forget(tenant, endpoint_id);
    for (const refused of [
      one.deliveries.one(tenant, delivery_id),
      one.redeliver.one(tenant, delivery_id),
      one.endpoints.one(tenant, endpoint_id),
      one.endpoints.forget(tenant, endpoint_id),
      one.redeliver.test(tenant, endpoint_id),
      one.redeliver.failed(tenant, endpoint_id, new Date(0), undefined),
      listed(endpoint_id),
    ])
      await expect(refused).rejects.toThrow(/webhook-(endpoint|delivery)-not-found/);
    await setTimeout(1_200);
    expect(receiver.received).toHaveLength(1);
  });

  it('that hangs occupies only its own slots and does not delay others', async () => {
    const [hanging, swift] = [await register('/hanging'), await register('/swift')];
    const released = Promise.withResolvers<void>();
    let hangingAtOnce = 0;
    receiver.answer = async (response, { path }) => {
      if (path === '/hanging') {
        hangingAtOnce += 1;
        await released.promise;
      }
      response.end();
    };
    await one.accept(...events(60));
    await eventually(() => expect(receiver.at('/swift')).toHaveLength(60));
    await eventually(() => expect(hangingAtOnce).toBe(16));
    await setTimeout(100);
    // Eight for each of the two instances.
    expect(receiver.at('/hanging')).toHaveLength(16);
    released.resolve();
    for (const { endpoint_id } of [hanging, swift])
      await eventually(async () =>
        expect((await listed(endpoint_id)).filter(({ status }) => status === 'delivered')).toHaveLength(60),
      );
    expect(receiver.at('/hanging')).toHaveLength(60);
  });

  it('is served as soon as hanging requests time out, even if they occupied all slots', async () => {
    await asleep(async (_, url) => {
      const limits = { ofOne: 2, ofAll: 4, pollMs: 20, delaysMs: [3_600_000] };
      const small = await startInstance(url, { WEBHOOKS_TIMEOUT_MS: 300, limits });
      receiver.answer = (response, { path }) => void (path === '/swift' && response.end());
      for (const path of ['/a', '/b', '/c']) await register(path, undefined, small);
      await small.accept(...events(3));
      await eventually(() => expect(receiver.received.length).toBeGreaterThanOrEqual(4));
      await register('/swift', undefined, small);
      await small.accept(...events(10));
      await eventually(() => expect(receiver.at('/swift')).toHaveLength(10));
      await small.stop();
    });
  });
});

describe('a secret', () => {
  it('that was rotated out keeps signing beside the new one for a day', async () => {
    const { endpoint_id, secret: first } = await register();
    const rotated = await two.endpoints.rotate(tenant, endpoint_id);
    expect(rotated.secret).not.toBe(first);
    const leftMs = rotated.previous_until!.getTime() - Date.now();
    expect(leftMs).toBeGreaterThan(86_400_000 - 60_000);
    expect(leftMs).toBeLessThan(86_400_000 + 60_000);
    expect(await one.endpoints.secretOf(tenant, endpoint_id)).toEqual(rotated);
    const receivedNext = async () => {
      const before = receiver.received.length;
      await one.accept(placed(tenant));
      await eventually(() => expect(receiver.received).toHaveLength(before + 1));
      return receiver.received.at(-1)!;
    };
    const both = await receivedNext();
    for (const secret of [first, rotated.secret]) verified(both, secret);

    await ask(
      `UPDATE webhooks.endpoints SET secrets = jsonb_set(secrets, '{1,until}', to_jsonb(now() - interval '1 second'))
       WHERE tenant_id = $1`,
      [tenant],
    );
    const after = await receivedNext();
    verified(after, rotated.secret);
    expect(() => verified(after, first)).toThrow();
    expect(await one.endpoints.secretOf(tenant, endpoint_id)).toEqual({ ...rotated, previous_until: null });
  });

  it('signs together with at most four previous ones', async () => {
    const { endpoint_id, secret } = await register();
    const secrets = [secret];
    for (let round = 0; round < 6; round += 1) secrets.push((await one.endpoints.rotate(tenant, endpoint_id)).secret);
    await one.accept(placed(tenant));
    await eventually(() => expect(receiver.received).toHaveLength(1));
    const [received] = receiver.received;
    expect(received!.headers['webhook-signature']!.split(' ')).toHaveLength(5);
    for (const it of secrets.slice(-5)) verified(received!, it);
    for (const it of secrets.slice(0, -5)) expect(() => verified(received!, it)).toThrow();
  });
});

describe('workers', () => {
  it('send each message once', async () => {
    const endpoints = await Promise.all(['/a', '/b', '/c', '/d'].map((path) => register(path)));
    receiver.answer = async (response) => {
      await setTimeout(random.integer(0, 5));
      response.end();
    };
    for (let batch = 0; batch < 5; batch += 1) await random.pick([one, two]).accept(...events(50));
    await eventually(() => expect(receiver.received.length).toBeGreaterThanOrEqual(1_000));
    for (const { endpoint_id } of endpoints)
      await eventually(async () =>
        expect((await listed(endpoint_id)).every((it) => it.status === 'delivered' && it.attempts === 1)).toBe(true),
      );
    expect(receiver.received).toHaveLength(1_000);
    expect(new Set(receiver.received.map(({ path, headers }) => path + headers['webhook-id'])).size).toBe(1_000);
  });

  it('cannot settle a delivery whose lease expired and was claimed again', async () => {
    await asleep(async (instance) => {
      const { endpoint_id } = await register('/', undefined, instance);
      await instance.accept(placed(tenant));
      const slots = { ...unbounded, ofAll: 10 };
      const claim = (leaseMs: number) => instance.postgres.claim(leaseMs, slots, signing);
      const [paused] = await claim(1);
      await setTimeout(20);
      const [other] = await claim(60_000);
      expect(await claim(60_000)).toEqual([]);
      expect([paused!.epoch, other!.epoch, other!.deliveryId]).toEqual([1, 2, paused!.deliveryId]);
      const attempt = (status: number, error: string | null) => ({
        ...{ at: new Date(), durationMs: 5, answer: { status, error, snippet: null, retryAfter: null } },
        verdict: {
          status: error === null ? ('delivered' as const) : ('failed' as const),
          waitMs: 0,
          disabledFor: error,
        },
      });
      expect(await instance.postgres.settle(paused!, attempt(410, 'gone'))).toBe(false);
      expect(await only(endpoint_id, instance)).toMatchObject({ status: 'pending', attempts: 0, attempt_log: [] });
      expect(await instance.postgres.settle(other!, attempt(200, null))).toBe(true);
      expect(await instance.postgres.settle(paused!, attempt(410, 'gone'))).toBe(false);
      expect(await only(endpoint_id, instance)).toMatchObject({ status: 'delivered', attempts: 1 });
      expect(await instance.endpoints.one(tenant, endpoint_id)).toMatchObject({ enabled: true });
    });
  });

  it('claim at most the share of each tenant, so that others get theirs', async () => {
    await asleep(async (instance) => {
      const other = newTenant();
      const made = [tenant, tenant, other].map((of) => instance.endpoints.register(of, { url: receiver.url('/') }));
      await Promise.all(made);
      // All deliveries that have been due the longest are of one tenant.
      await instance.accept(...events(20));
      await setTimeout(20);
      await instance.accept(placed(other));
      const claim = async (tenants: ReadonlyMap<string, number>) => {
        const claimed = await instance.postgres.claim(
          60_000,
          { ...unbounded, ofAll: 10, ofTenant: 5, tenants },
          signing,
        );
        return [tenant, other].map((of) => claimed.filter((it) => it.tenant === of).length);
      };
      expect(await claim(new Map())).toEqual([5, 1]);
      expect(await claim(new Map([[tenant, 2]]))).toEqual([2, 0]);
      expect(await claim(new Map([[tenant, 0]]))).toEqual([0, 0]);
    });
  });

  it('take over the deliveries of a worker that died once its lease expires', async () => {
    await asleep(async (instance, url) => {
      const { endpoint_id } = await register('/', undefined, instance);
      await instance.accept(...events(3));
      const slots = { ...unbounded, ofAll: 10, exceptions: new Map([[endpoint_id, 2]]) };
      expect(await instance.postgres.claim(300, slots, signing)).toHaveLength(2);
      const other = await startInstance(url);
      await eventually(async () =>
        expect((await listed(endpoint_id, other)).map(({ status }) => status)).toEqual(
          Array.from({ length: 3 }, () => 'delivered'),
        ),
      );
      expect(receiver.received).toHaveLength(3);
      await other.stop();
    });
  });
});

it('a worker that stops finishes the deliveries being sent and leaves the rest pending', async () => {
  await asleep(async (instance, url) => {
    const { endpoint_id } = await register('/', undefined, instance);
    const released = Promise.withResolvers<void>();
    receiver.answer = async (response) => {
      await released.promise;
      response.end();
    };
    await instance.accept(...events(10));
    const stopping = await startInstance(url, { limits: { ofOne: 4 } });
    await eventually(() => expect(receiver.received).toHaveLength(4));
    const stopped = stopping.stop();
    await setTimeout(50);
    released.resolve();
    await stopped;
    const left = (await listed(endpoint_id, instance)).map((it) => `${it.status} ${it.attempts}`);
    const delivered = left.filter((it) => it === 'delivered 1');
    expect(delivered.length).toBeGreaterThanOrEqual(4);
    expect(delivered).toHaveLength(receiver.received.length);
    expect(left.filter((it) => it === 'pending 0')).toHaveLength(10 - delivered.length);
  });
});

describe('redelivery', () => {
  it('of a settled delivery makes one more attempt at once', async () => {
    const { endpoint_id } = await register();
    await one.accept(placed(tenant));
    const { delivery_id } = await settled(endpoint_id, { status: 'delivered', attempts: 1 });
    expect(await one.redeliver.one(tenant, delivery_id)).toMatchObject({ status: 'pending', attempts: 1 });
    await settled(endpoint_id, { status: 'delivered', attempts: 2 });
    receiver.answer = answering(500);
    await one.redeliver.one(tenant, delivery_id);
    await settled(endpoint_id, { status: 'failed', attempts: 3 });
    await setTimeout(100);
    expect(receiver.received).toHaveLength(3);
    expect(new Set(receiver.received.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
  });

  it('of a delivery that waits for a retry sends it at once and keeps its remaining retries', async () => {
    const { endpoint_id } = await register();
    receiver.answer = (response) =>
      answering(503, receiver.received.length === 1 ? { 'retry-after': '3600' } : {})(response);
    await one.accept(placed(tenant));
    const { delivery_id } = await settled(endpoint_id, { status: 'pending', attempts: 1 });
    await two.redeliver.one(tenant, delivery_id);
    await settled(endpoint_id, { status: 'failed', attempts: 3 });
  });

  it('of a delivery that is being sent makes no further attempt', async () => {
    const { endpoint_id } = await register();
    const released = Promise.withResolvers<void>();
    receiver.answer = (response) => void released.promise.then(() => answering(200)(response));
    await one.accept(placed(tenant));
    await eventually(() => expect(receiver.received).toHaveLength(1));
    const { delivery_id } = (await listed(endpoint_id))[0]!;
    for (const it of [one, two, one]) await it.redeliver.one(tenant, delivery_id);
    released.resolve();
    await settled(endpoint_id, { status: 'delivered', attempts: 1 });
    await setTimeout(200);
    expect(receiver.received).toHaveLength(1);
  });

  it('of all deliveries of an endpoint that failed in a time range retries them from the start', async () => {
    const { endpoint_id } = await register();
    const other = await register('/other');
    receiver.answer = answering(500);
    await one.accept(...events(8));
    const failed = (id: string, count: number) =>
      eventually(async () =>
        expect((await listed(id)).filter(({ status }) => status === 'failed')).toHaveLength(count),
      );
    await failed(endpoint_id, 8);
    await failed(other.endpoint_id, 8);
    await ask(
      `UPDATE webhooks.deliveries SET created_at = created_at - interval '1 day' WHERE tenant_id = $1 AND delivery_id IN (
        SELECT delivery_id FROM webhooks.deliveries WHERE tenant_id = $1 AND endpoint_id = $2 LIMIT 3)`,
      [tenant, endpoint_id],
    );
    const ago = (hours: number) => new Date(Date.now() - hours * 3_600_000);
    const sent = receiver.received.length;
    expect(await one.redeliver.failed(tenant, endpoint_id, ago(48), ago(30))).toEqual({ redelivered: 0, more: false });
    expect(await one.redeliver.failed(tenant, endpoint_id, ago(25), ago(1))).toEqual({ redelivered: 3, more: false });
    await eventually(() => expect(receiver.received).toHaveLength(sent + 9));
    await failed(endpoint_id, 8);
    receiver.answer = answering(200);
    expect(await one.redeliver.failed(tenant, endpoint_id, ago(25), undefined)).toEqual({
      redelivered: 8,
      more: false,
    });
    await eventually(async () =>
      expect((await listed(endpoint_id)).every((it) => it.status === 'delivered')).toBe(true),
    );
    await failed(other.endpoint_id, 8);
  });
});

it('a test message goes to its endpoint only, whatever the endpoint subscribes to', async () => {
  const { endpoint_id, secret } = await register('/tried', ['order.placed']);
  await register('/other');
  expect(await one.redeliver.test(tenant, endpoint_id)).toMatchObject({ type: 'webhook.test', endpoint_id });
  await settled(endpoint_id, { status: 'delivered' });
  expect(receiver.received.map(({ path }) => path)).toEqual(['/tried']);
  const told = { type: 'webhook.test', timestamp: expect.any(String), data: { endpoint_id } };
  expect(verified(receiver.received[0]!, secret)).toEqual(told);
});

it('old messages, deliveries and attempts are purged, pending deliveries included', async () => {
  const { endpoint_id } = await register();
  const disabled = await register('/disabled');
  await one.accept(...events(4));
  await eventually(async () => {
    for (const id of [endpoint_id, disabled.endpoint_id])
      expect((await listed(id)).every((it) => it.status === 'delivered')).toBe(true);
  });
  const [young, ...old] = await listed(endpoint_id);
  for (const table of ['deliveries', 'messages'])
    await ask(
      `UPDATE webhooks.${table} SET created_at = created_at - interval '30 days' WHERE tenant_id = $1 AND message_id = ANY ($2)`,
      [tenant, old.map((it) => it.message_id)],
    );
  // First, because deliveries that become due would be sent.
  await ask(`UPDATE webhooks.endpoints SET enabled = false WHERE tenant_id = $1 AND endpoint_id = $2`, [
    tenant,
    disabled.endpoint_id,
  ]);
  await ask(
    `UPDATE webhooks.deliveries SET status = 'pending', due_at = created_at WHERE tenant_id = $1 AND endpoint_id = $2`,
    [tenant, disabled.endpoint_id],
  );
  await one.purge.execute();
  expect((await listed(endpoint_id)).map((it) => it.delivery_id)).toEqual([young!.delivery_id]);
  expect(await listed(disabled.endpoint_id)).toHaveLength(1);
  const left = async (table: string) =>
    (await ask(`SELECT 1 FROM webhooks.${table} WHERE tenant_id = $1`, [tenant])).length;
  expect(await Promise.all(['messages', 'deliveries', 'attempts'].map(left))).toEqual([1, 2, 2]);
  expect(await one.deliveries.one(tenant, young!.delivery_id)).toMatchObject({ payload: { type: 'order.placed' } });
});

it('an old delivery that is redelivered is not purged until it is settled', async () => {
  const { endpoint_id } = await register();
  receiver.answer = answering(400);
  await one.accept(placed(tenant));
  const { delivery_id } = await settled(endpoint_id, { status: 'failed' });
  const age = (days: number) =>
    ask(
      `UPDATE webhooks.deliveries SET created_at = now() - $2 * interval '1 day', due_at = now() - $2 * interval '1 day'
       WHERE tenant_id = $1`,
      [tenant, days],
    );
  await age(30);
  await one.endpoints.change(tenant, endpoint_id, { enabled: false });
  await one.redeliver.one(tenant, delivery_id);
  await one.purge.execute();
  expect(await only(endpoint_id)).toMatchObject({ status: 'pending' });
  const answered = Promise.withResolvers<void>();
  receiver.answer = async (response) => {
    await answered.promise;
    response.end();
  };
  await one.endpoints.change(tenant, endpoint_id, { enabled: true });
  await eventually(() => expect(receiver.received).toHaveLength(4));
  // It is being sent.
  await age(61);
  await one.purge.execute();
  answered.resolve();
  await settled(endpoint_id, { status: 'delivered', attempts: 4 });
  await age(30);
  await one.purge.execute();
  expect(await listed(endpoint_id)).toEqual([]);
});

it('deliveries left waiting too long by a clock that was set back are sent, others wait as planned', async () => {
  await asleep(async (instance) => {
    const { endpoint_id } = await register('/', undefined, instance);
    await instance.accept(...events(3));
    const [leased, waiting, young] = await listed(endpoint_id, instance);
    const change = (delivery: typeof leased, column: string, by: string) =>
      ask(
        `UPDATE webhooks.deliveries SET ${column} = now() + $2::interval WHERE delivery_id = $1`,
        [delivery!.delivery_id, by],
        instance,
      );
    await change(leased, 'lease_until', '3 days');
    await change(waiting, 'due_at', '3 days');
    await change(young, 'due_at', '26 hours');
    const claim = async () =>
      (await instance.postgres.claim(60_000, { ...unbounded, ofAll: 10 }, signing)).map((it) => it.deliveryId);
    expect(await claim()).toEqual([leased!.delivery_id]);
    await instance.purge.execute();
    expect(await claim()).toEqual([waiting!.delivery_id]);
  });
});

it('a delivery that is still pending is purged at twice the retention time', async () => {
  const { endpoint_id } = await register();
  receiver.answer = answering(503, { 'retry-after': '3600' });
  await one.accept(placed(tenant));
  await settled(endpoint_id, { status: 'pending', attempts: 1 });
  for (const [days, left] of [
    [59, 1],
    [61, 0],
  ] as const) {
    await ask(`UPDATE webhooks.deliveries SET created_at = now() - $2 * interval '1 day' WHERE tenant_id = $1`, [
      ...[tenant, days],
    ]);
    await one.purge.execute();
    expect(await listed(endpoint_id)).toHaveLength(left);
  }
});

it('an attempt recorded while its delivery is being purged is purged as well', async () => {
  await asleep(async (instance) => {
    await register('/', undefined, instance);
    await instance.accept(...events(2));
    const [first, second] = await instance.postgres.claim(1, { ...unbounded, ofAll: 10 }, signing);
    await ask(
      `UPDATE webhooks.deliveries SET due_at = due_at - interval '31 days', lease_until = '-infinity',
         created_at = created_at - CASE delivery_id WHEN $1 THEN interval '32 days' ELSE interval '31 days' END`,
      [first!.deliveryId],
      instance,
    );
    // The purge has seen both deliveries when it stops at the first.
    await ask(
      `CREATE FUNCTION webhooks.wait() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN PERFORM pg_advisory_xact_lock(7); RETURN OLD; END $$`,
      [],
      instance,
    );
    await ask(
      `CREATE TRIGGER wait BEFORE DELETE ON webhooks.deliveries FOR EACH ROW EXECUTE FUNCTION webhooks.wait()`,
      [],
      instance,
    );
    const answer = { status: 400, error: 'answered 400', snippet: null, retryAfter: null };
    const verdict = { status: 'failed' as const, waitMs: 0, disabledFor: null };
    const attempt = { at: new Date(), durationMs: 5, answer, verdict };
    const { purging } = await instance.sql.transaction(async (tx) => {
      await tx.query({ name: 'test-hold', text: 'SELECT pg_advisory_xact_lock(7)' });
      const purging = instance.postgres.forgetDeliveries(30 * 86_400_000, 10);
      await eventually(async () => {
        const waiting = await ask(`SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted`, [], instance);
        expect(waiting).toHaveLength(1);
      });
      expect(await instance.postgres.settle(second!, attempt)).toBe(true);
      // Wrapped in an object, so that it is not awaited here.
      return { purging };
    });
    expect(await purging).toBe(2);
    expect(await ask('SELECT FROM webhooks.attempts', [], instance)).toEqual([]);
  });
});

it('a message that is being accepted again is not purged meanwhile', async () => {
  await asleep(async (instance) => {
    const { endpoint_id } = await register('/', undefined, instance);
    const event = placed(tenant);
    await instance.accept(event);
    await ask('DELETE FROM webhooks.deliveries', [], instance);
    await ask(`UPDATE webhooks.messages SET created_at = created_at - interval '30 days'`, [], instance);
    const { messageId, type, at, payload } = messageOf(event);
    await instance.sql.transaction(async (tx) => {
      await tx.query({ name: 'test-accept', text: 'SELECT webhooks.accept_events($1, $2, $3, $4, $5)' }, [
        ...[[tenant], [messageId], [type], [at], [payload]],
      ]);
      await instance.purge.execute();
    });
    expect(await only(endpoint_id, instance)).toMatchObject({ payload: JSON.parse(payload) });
    expect(await instance.postgres.claim(60_000, { ...unbounded, ofAll: 10 }, signing)).toMatchObject([{ messageId }]);
  });
});

it('a delivery whose message is gone takes no slot', async () => {
  await asleep(async (instance) => {
    await register('/', undefined, instance);
    const [kept, ...lost] = events(4);
    await instance.accept(...lost);
    await ask('DELETE FROM webhooks.messages', [], instance);
    await instance.accept(kept!);
    const slots = { ...unbounded, ofAll: 2, ofOne: 2 };
    const claimed = await instance.postgres.claim(60_000, slots, signing);
    expect(claimed.map((it) => it.messageId)).toEqual([messageOf(kept!).messageId]);
  });
});

it('ids of endpoints and deliveries contain 74 random bits', async () => {
  const rows = await ask<{ id: string }>(
    `SELECT replace(webhooks.new_id()::text, '-', '') AS id FROM generate_series(1, $1::int)`,
    [200],
  );
  // The bits after the timestamp.
  expect(independentBits(rows.map((it) => it.id.slice(12)))).toBe(74);
});
