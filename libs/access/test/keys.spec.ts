import { randomBytes } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import pg from 'pg';
import { AccessModule } from '#access';
import type { ApiKey, IssuedKey } from '#contracts';
import { createService, type Service } from '#service';
import { Authenticator } from '#security';
import { PostgresBetween } from './postgres-between.js';
import { RedisProxy, independentBits, testDatabase, twoInstances, until, type TwoInstances } from '#testing';

Logger.overrideLogger(false);

const ADMIN_KEY = 'the-admin-key-of-this-test-is-long-enough';

interface Instance {
  url: string;
  databaseUrl: string;
  authenticator: Authenticator;
  stop(): Promise<void>;
}

const start = async (databaseUrl: string, more: Partial<Service> = {}): Promise<Instance> => {
  const app = await createService({
    ...{ name: 'access', HOST: '127.0.0.1', PORT: 0, ADMIN_KEY: [ADMIN_KEY], ...more },
    document: { title: 'Access', description: '' },
    modules: [AccessModule.register({ ACCESS_DATABASE_URL: databaseUrl })],
  });
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as AddressInfo;
  const authenticator = app.get(Authenticator, { strict: false });
  return { url: `http://127.0.0.1:${port}`, databaseUrl, authenticator, stop: () => app.close() };
};

let both: TwoInstances<Instance>;
let one: Instance;
let two: Instance;
let sql: pg.Client;
beforeAll(async () => {
  both = await twoInstances((databaseUrl) => start(databaseUrl));
  ({ one, two } = both);
  sql = new pg.Client(one.databaseUrl);
  await sql.connect();
});
afterAll(async () => {
  await sql.end();
  await both.stop();
});

interface Answer<Body> {
  status: number;
  body: Body;
}

const send = async <Body = unknown>(
  { url }: Instance,
  method: string,
  path: string,
  body?: object,
  by = ADMIN_KEY,
): Promise<Answer<Body>> => {
  const answer = await fetch(url + path, {
    method,
    headers: { authorization: `Bearer ${by}`, ...(body && { 'content-type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  return { status: answer.status, body: (text === '' ? undefined : JSON.parse(text)) as Body };
};

const issued = async (at: Instance, more: object = {}): Promise<IssuedKey> => {
  const { status, body } = await send<IssuedKey>(at, 'POST', '/keys', { name: 'x', scopes: ['admin'], ...more });
  expect(status).toBe(201);
  return body;
};

/** Whether the key is accepted from the cache, without a lookup. */
const isRemembered = ({ authenticator }: Instance, key: string): boolean => {
  const caller = authenticator.callerOf(`Bearer ${key}`, undefined);
  if (!(caller instanceof Promise)) return true;
  void caller.catch(() => undefined);
  return false;
};

const knows = async ({ authenticator }: Instance, key: string): Promise<boolean> => {
  try {
    await authenticator.callerOf(`Bearer ${key}`, undefined);
    return true;
  } catch (error) {
    expect(error).toMatchObject({ code: 'unauthenticated' });
    return false;
  }
};

/** Waits until both instances are notified of changes, so that they may cache the key. */
const bothRemember = async (key: string): Promise<void> => {
  for (const it of [one, two])
    await until(async () => {
      expect(await knows(it, key)).toBe(true);
      return isRemembered(it, key);
    });
};

describe('an API key', () => {
  it('is shown only when it is created, and stored as a hash', async () => {
    const { key, ...told } = await issued(one);
    expect(key).toMatch(/^ck_[0-9a-f]{32}_[0-9a-f]{64}$/);
    const listed = await send<{ data: ApiKey[] }>(one, 'GET', '/keys');
    expect(listed.body.data[0]).toEqual(told);
    const { rows } = await sql.query<{ text: string }>('SELECT k::text AS text FROM access.keys k');
    for (const { text } of rows) expect(text).not.toContain(key.split('_')[2]);
  });

  it('that is revoked is refused within a second by an instance that had cached it', async () => {
    const { key, key_id } = await issued(one);
    await bothRemember(key);
    expect((await send(two, 'DELETE', `/keys/${key_id}`)).status).toBe(204);
    expect(await knows(two, key)).toBe(false);
    await until(async () => !(await knows(one, key)), 1_000);
    // Revoking it again is not an error, and does not change when it was revoked.
    const listed = async () => (await send<{ data: ApiKey[] }>(one, 'GET', '/keys')).body.data[0];
    const revoked = await listed();
    expect((await send(one, 'DELETE', `/keys/${key_id}`)).status).toBe(204);
    expect(await listed()).toEqual(revoked);
  });

  it('can be revoked with SQL', async () => {
    const { key, key_id } = await issued(one);
    await bothRemember(key);
    await sql.query('UPDATE access.keys SET revoked_at = now() WHERE key_id = $1', [key_id]);
    for (const it of [one, two]) await until(async () => !(await knows(it, key)), 1_000);
  });

  it('is not cached while notifications cannot arrive, and is refused once it is revoked', async () => {
    const { key, key_id } = await issued(one);
    await bothRemember(key);
    // The connections for notifications are lost again and again, so nothing that was cached may be trusted.
    const cut = async (): Promise<void> => {
      await sql.query(`
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'cleave-access-listens' AND datname = current_database()`);
    };
    await cut();
    for (const it of [one, two]) await until(() => !isRemembered(it, key), 3_000);
    await sql.query('UPDATE access.keys SET revoked_at = now() WHERE key_id = $1', [key_id]);
    for (let times = 0; times < 20; times += 1) {
      await cut();
      for (const it of [one, two]) expect(await knows(it, key)).toBe(false);
    }
    const next = await issued(one);
    await bothRemember(next.key);
  });

  it('is not cached while the connection for notifications is silent', async () => {
    const database = await testDatabase();
    const url = new URL(database.url);
    // `RedisProxy` forwards any protocol.
    const proxy = await RedisProxy.start(Number(url.port));
    url.port = new URL(proxy.url).port;
    const instance = await start(url.href);
    try {
      const { key } = await issued(instance);
      await until(async () => (await knows(instance, key)) && isRemembered(instance, key));
      proxy.freeze();
      await until(() => !isRemembered(instance, key), 4_500);
      // Degraded, not down: other instances would not do better.
      const health = await send<{ status: string }>(instance, 'GET', '/health/ready');
      expect([health.status, health.body.status]).toEqual([200, 'degraded']);
      proxy.thaw();
      await until(async () => (await knows(instance, key)) && isRemembered(instance, key));
    } finally {
      proxy.thaw();
      await instance.stop();
      await proxy.stop();
      await database.stop();
    }
  });

  it('is looked up each time if notifications do not arrive, and health says so', async () => {
    const database = await testDatabase();
    const between = await PostgresBetween.before(database.url);
    between.isDeaf = true;
    const instance = await start(between.url);
    const health = async () => (await send<{ status: string; details: object }>(instance, 'GET', '/health/ready')).body;
    const byHand = new pg.Client(database.url);
    await byHand.connect();
    try {
      const [{ key, key_id }, other] = [await issued(instance), await issued(instance)];
      await sleep(2_500);
      expect(await knows(instance, key)).toBe(true);
      expect(isRemembered(instance, key)).toBe(false);
      expect(JSON.stringify(await health())).toMatch(/"degraded".*changes do not arrive.*ACCESS_DATABASE_URL/);
      await byHand.query('UPDATE access.keys SET revoked_at = now() WHERE key_id = $1', [key_id]);
      expect(await knows(instance, key)).toBe(false);
      between.isDeaf = false;
      await until(async () => (await knows(instance, other.key)) && isRemembered(instance, other.key));
      await until(async () => (await health()).status === 'ok');
      // Also if notifications stop after they have arrived.
      between.isDeaf = true;
      await until(() => !isRemembered(instance, other.key), 15_000);
    } finally {
      await byHand.end();
      await instance.stop();
      await between.stop();
      await database.stop();
    }
  });

  it('that is valid is accepted quickly while 200 callers send unknown keys', async () => {
    const database = await testDatabase();
    const between = await PostgresBetween.before(database.url);
    const instance = await start(between.url);
    const byHand = new pg.Client(database.url);
    await byHand.connect();
    let isOver = false;
    const outcomes = new Set<unknown>();
    const flood = async (): Promise<void> => {
      while (!isOver) {
        const key = `ck_${randomBytes(16).toString('hex')}_${randomBytes(32).toString('hex')}`;
        await (async () => instance.authenticator.callerOf(`Bearer ${key}`, undefined))().catch(
          ({ code }: { code: unknown }) => outcomes.add(code),
        );
        await sleep(50);
      }
    };
    let flooding: Promise<unknown> = Promise.resolve();
    try {
      const [{ key }, newcomer, other] = [await issued(instance), await issued(instance), await issued(instance)];
      await until(async () => (await knows(instance, key)) && isRemembered(instance, key));
      between.delayMs = 30;
      flooding = Promise.all(Array.from({ length: 200 }, flood));
      await sleep(1_000);
      expect(isRemembered(instance, key)).toBe(true);
      const waits: number[] = [];
      for (let times = 0; times < 10; times += 1) {
        // A change of any key empties the cache, so all keys are looked up again.
        await byHand.query('UPDATE access.keys SET name = name WHERE key_id = $1', [other.key_id]);
        await sleep(50);
        const startedAt = performance.now();
        expect(await knows(instance, key)).toBe(true);
        waits.push(performance.now() - startedAt);
      }
      // The median, not the maximum, because a busy machine can stall that long.
      expect(waits.toSorted((a, b) => a - b)[5]).toBeLessThan(1_000);
      await until(() => knows(instance, newcomer.key).catch(() => false), 20_000);
      expect(outcomes).toEqual(new Set(['unauthenticated', 'unavailable']));
    } finally {
      isOver = true;
      await flooding;
      await byHand.end();
      await instance.stop();
      await between.stop();
      await database.stop();
    }
  });

  it('expires at its time even where it is cached, and cannot be created expired', async () => {
    const endsAt = Date.now() + 1_500;
    const { key } = await issued(one, { expires_at: new Date(endsAt).toISOString() });
    await bothRemember(key);
    await sleep(endsAt - Date.now() + 1);
    expect([await knows(one, key), await knows(two, key)]).toEqual([false, false]);
    const past = await send<{ code: string }>(one, 'POST', '/keys', {
      ...{ name: 'x', scopes: ['admin'], expires_at: new Date(Date.now() - 1).toISOString() },
    });
    expect([past.status, past.body.code]).toEqual([400, 'invalid-request']);
  });

  it('is rotated by one of two concurrent requests, and expires after the overlap or at its own earlier time', async () => {
    const expires_at = new Date(Date.now() + 60_000).toISOString();
    const { key, key_id } = await issued(one, { expires_at });
    const rotate = (at: Instance) => send<IssuedKey>(at, 'POST', `/keys/${key_id}/rotate`, { overlap_seconds: 3_600 });
    const answers = await Promise.all([rotate(one), rotate(two)]);
    expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([201, 409]);
    const { body } = answers.find(({ status }) => status === 201)!;
    expect(body.expires_at).toBe(expires_at);
    for (const it of [key, body.key]) expect(await knows(two, it)).toBe(true);
    const [, old] = (await send<{ data: ApiKey[] }>(one, 'GET', '/keys')).body.data;
    expect(old).toMatchObject({ key_id, rotated_to: body.key_id, expires_at });
    const again = await send<IssuedKey>(one, 'POST', `/keys/${body.key_id}/rotate`, { overlap_seconds: 0 });
    expect(again.status).toBe(201);
    expect(await knows(one, body.key)).toBe(false);
  });

  it('shares a family with those it was rotated from, of which at most three are valid at a time', async () => {
    const rotate = (id: string, overlap_seconds = 3_600) =>
      send<IssuedKey & { code: string }>(one, 'POST', `/keys/${id}/rotate`, { overlap_seconds });
    const first = await issued(one, { tenant: 'family' });
    const second = (await rotate(first.key_id)).body;
    const third = (await rotate(second.key_id)).body;
    const families = new Set<string | undefined>();
    for (const { key } of [first, second, third])
      families.add((await two.authenticator.callerOf(`Bearer ${key}`, undefined)).keyFamily);
    expect(families).toEqual(new Set([first.key_id]));
    const refusal = await rotate(third.key_id);
    expect([refusal.status, refusal.body.code]).toEqual([409, 'too-many-keys']);
    expect((await send(one, 'DELETE', `/keys/${first.key_id}`)).status).toBe(204);
    const fourth = await rotate(third.key_id);
    expect(fourth.status).toBe(201);
    expect((await rotate(third.key_id)).body.code).toBe('illegal-transition');
    // The whole family counts as one key of those that a tenant may have.
    await sql.query(
      `INSERT INTO access.keys (tenant_id, account_id, name, scopes, secret_hash)
       SELECT 'family', 'x', 'x', '{}', sha256('x') FROM generate_series(1, 998)`,
    );
    const more = { name: 'x', scopes: ['admin'], tenant: 'family' };
    // Nor do requests that are processed at the same time exceed the limit.
    await sql.query(`
      CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN new; END';
      CREATE TRIGGER slowly BEFORE INSERT ON access.keys FOR EACH ROW EXECUTE FUNCTION slowly()`);
    const asked = [one, two, one, two].map((it) => send<{ code?: string }>(it, 'POST', '/keys', more));
    const codes = (await Promise.all(asked)).map(({ body }) => body.code ?? 'created');
    await sql.query('DROP FUNCTION slowly CASCADE');
    expect(codes.toSorted()).toEqual(['created', ...Array<string>(3).fill('too-many-keys')]);
    expect((await rotate(fourth.body.key_id, 0)).status).toBe(409);
  });

  it('shares its rate limit with the key that replaces it', async () => {
    const limited = await start(one.databaseUrl, { RATE_LIMIT: { requests: 4, perSeconds: 3_600 } });
    try {
      const { key, key_id } = await issued(limited);
      const ask = async (by: string) => (await send(limited, 'GET', '/keys', undefined, by)).status;
      expect([await ask(key), await ask(key)]).toEqual([200, 200]);
      const { body } = await send<IssuedKey>(limited, 'POST', `/keys/${key_id}/rotate`, { overlap_seconds: 60 });
      expect([await ask(body.key), await ask(body.key), await ask(body.key)]).toEqual([200, 200, 429]);
      expect(await ask(key)).toBe(429);
    } finally {
      await limited.stop();
    }
  });

  it('is visible to its own tenant only', async () => {
    const mine = await issued(one, { tenant: 'mine' });
    const theirs = await issued(one, { tenant: 'theirs' });
    const as = (method: string, path: string, body?: object) => send(one, method, path, body, mine.key);
    const { data } = (await as('GET', '/keys')).body as { data: ApiKey[] };
    expect(data.map((it) => it.key_id)).toEqual([mine.key_id]);
    for (const id of [theirs.key_id, '019a5f00-0000-7000-8000-00000000000a', 'nothing']) {
      expect((await as('DELETE', `/keys/${id}`)).status).toBe(404);
      expect((await as('POST', `/keys/${id}/rotate`, { overlap_seconds: 1 })).status).toBe(404);
    }
    expect(await knows(one, theirs.key)).toBe(true);
    expect((await as('POST', '/keys', { name: 'x', scopes: ['admin'], tenant: 'theirs' })).status).toBe(403);
    expect((await as('DELETE', `/keys/${mine.key_id}`)).status).toBe(204);
    expect((await as('GET', '/keys')).status).toBe(401);
  });

  it('contains 256 random bits, and its id 74', async () => {
    const made: string[] = [];
    while (made.length < 380) made.push((await issued(one, { tenant: 'guessed' })).key);
    const parts = made.map((key) => key.match(/^ck_([0-9a-f]{32})_([0-9a-f]{64})$/)!);
    expect(independentBits(parts.map(([, , secret]) => secret!))).toBe(256);
    // The bits after the timestamp.
    expect(independentBits(parts.map(([, id]) => id!.slice(12)))).toBe(74);
  });

  it('is listed in pages, newest first', async () => {
    const made: string[] = [];
    for (let count = 0; count < 5; count += 1) made.unshift((await issued(one, { tenant: 'pages' })).key_id);
    const seen: string[] = [];
    for (let cursor: string | null = ''; cursor !== null;) {
      const query: string = `tenant=pages&limit=2${cursor === '' ? '' : `&cursor=${cursor}`}`;
      const answer = await send<{ data: ApiKey[]; next_cursor: string | null }>(two, 'GET', `/keys?${query}`);
      seen.push(...answer.body.data.map((it) => it.key_id));
      cursor = answer.body.next_cursor;
    }
    expect(seen).toEqual(made);
  });
});
