import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import pg from 'pg';
import { AccessModule } from '#access';
import type { ApiKey, IssuedKey } from '#contracts';
import { createService } from '#service';
import { Authenticator } from '#security';
import { RedisProxy, testDatabase, twoInstances, type TwoInstances } from '#testing';

Logger.overrideLogger(false);

const ADMIN_KEY = 'the-admin-key-of-this-test-is-long-enough';

interface Instance {
  url: string;
  databaseUrl: string;
  authenticator: Authenticator;
  stop(): Promise<void>;
}

const start = async (databaseUrl: string): Promise<Instance> => {
  const app = await createService({
    ...{ name: 'access', HOST: '127.0.0.1', PORT: 0, ADMIN_KEY: [ADMIN_KEY] },
    document: { title: 'Access', description: '', version: '1' },
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
  both = await twoInstances(start);
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

/** Whether it is known without asking anybody. */
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

const until = async (check: () => boolean | Promise<boolean>, withinMs = 10_000): Promise<void> => {
  const giveUpAt = Date.now() + withinMs;
  while (!(await check())) {
    if (Date.now() > giveUpAt) throw new Error('it has not come to that');
    await sleep(10);
  }
};

/** Both hear of changes, so that they may remember. */
const bothRemember = async (key: string): Promise<void> => {
  for (const it of [one, two])
    await until(async () => {
      expect(await knows(it, key)).toBe(true);
      return isRemembered(it, key);
    });
};

describe('a key', () => {
  it('is told once, and kept as a hash', async () => {
    const { key, ...told } = await issued(one);
    expect(key).toMatch(/^ck_[0-9a-f]{32}_[0-9a-f]{64}$/);
    const listed = await send<{ data: ApiKey[] }>(one, 'GET', '/keys');
    expect(listed.body.data[0]).toEqual(told);
    const { rows } = await sql.query<{ text: string }>('SELECT k::text AS text FROM access.keys k');
    for (const { text } of rows) expect(text).not.toContain(key.split('_')[2]);
  });

  it('is revoked at once in the other instance as well, where it was remembered', async () => {
    const { key, key_id } = await issued(one);
    await bothRemember(key);
    expect((await send(two, 'DELETE', `/keys/${key_id}`)).status).toBe(204);
    expect(await knows(two, key)).toBe(false);
    await until(async () => !(await knows(one, key)), 1_000);
  });

  it('is revoked by hand in SQL too', async () => {
    const { key, key_id } = await issued(one);
    await bothRemember(key);
    await sql.query('UPDATE access.keys SET revoked_at = now() WHERE key_id = $1', [key_id]);
    for (const it of [one, two]) await until(async () => !(await knows(it, key)), 1_000);
  });

  it('is remembered by nobody who would not hear of its end, and refused all the same', async () => {
    const { key, key_id } = await issued(one);
    await bothRemember(key);
    // The connections are lost, and none can be made for a while; what was heard last is not trusted any more.
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

  it('is not remembered while the connection is silent, either', async () => {
    const database = await testDatabase();
    const url = new URL(database.url);
    // It passes on whatever comes.
    const proxy = await RedisProxy.start(Number(url.port));
    url.port = new URL(proxy.url).port;
    const instance = await start(url.href);
    try {
      const { key } = await issued(instance);
      await until(async () => (await knows(instance, key)) && isRemembered(instance, key));
      proxy.freeze();
      await until(() => !isRemembered(instance, key), 4_500);
      proxy.thaw();
      await until(async () => (await knows(instance, key)) && isRemembered(instance, key));
    } finally {
      proxy.thaw();
      await instance.stop();
      await proxy.stop();
      await database.stop();
    }
  });

  it('ends when it was to, also where it is remembered', async () => {
    const { key } = await issued(one, { expires_at: new Date(Date.now() + 1_500).toISOString() });
    await bothRemember(key);
    await until(async () => !(await knows(one, key)), 3_000);
    expect(await knows(two, key)).toBe(false);
    const past = await send<{ code: string }>(one, 'POST', '/keys', {
      ...{ name: 'x', scopes: ['admin'], expires_at: new Date(Date.now() - 1).toISOString() },
    });
    expect([past.status, past.body.code]).toEqual([400, 'invalid-request']);
  });

  it('is rotated by one of two who try at once, and ends after the overlap, or when it was to before', async () => {
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

  it('is found by its own tenant alone', async () => {
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

  it('is listed page by page, the newest first', async () => {
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
