import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import pg from 'pg';
import type { z } from 'zod';
import { AccessModule } from '#access';
import { Admission } from '#admission';
import type { IssuedKey, auditPage } from '#contracts';
import type { SecuritySettings } from '#security';
import { createService } from '#service';
import { twoInstances, type TwoInstances } from '#testing';
import { PostgresAudit } from '../src/adapters/postgres-audit.js';
import { KeepAudit } from '../src/use-cases/keep-audit.js';

Logger.overrideLogger(false);

const ADMIN_KEY = 'the-admin-key-of-this-test-is-long-enough';

interface Instance {
  url: string;
  databaseUrl: string;
  app: NestFastifyApplication;
  stop(): Promise<void>;
}

const start = async (databaseUrl: string, settings: SecuritySettings = {}): Promise<Instance> => {
  const app = await createService({
    ...{ name: 'access', HOST: '127.0.0.1', PORT: 0, ADMIN_KEY: [ADMIN_KEY], ...settings },
    document: { title: 'Access', description: '' },
    modules: [AccessModule.register({ ACCESS_DATABASE_URL: databaseUrl })],
  });
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, databaseUrl, app, stop: () => app.close() };
};

type Page = z.input<typeof auditPage>;

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

const send = async (at: Instance, method: string, path: string, body?: object, by = ADMIN_KEY): Promise<Response> =>
  fetch(at.url + path, {
    method,
    headers: { authorization: `Bearer ${by}`, ...(body && { 'content-type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) }),
  });

const page = async (at: Instance, query = '', by = ADMIN_KEY): Promise<Page> => {
  const answer = await send(at, 'GET', `/audit?${query}`, undefined, by);
  expect(answer.status).toBe(200);
  return (await answer.json()) as Page;
};

const end = async (): Promise<string> => {
  for (let cursor = ''; ;) {
    const { data, next_cursor } = await page(one, `limit=200${cursor && `&after=${cursor}`}`);
    cursor = next_cursor;
    if (data.length === 0) return cursor;
  }
};

const keyOf = async (more: object = {}): Promise<IssuedKey> => {
  const answer = await send(one, 'POST', '/keys', { name: 'x', scopes: ['admin'], ...more });
  expect(answer.status).toBe(201);
  return (await answer.json()) as IssuedKey;
};

describe('the audit log', () => {
  it('records who requests an operation before it is performed, and its status afterwards', async () => {
    const before = await end();
    const { key, key_id } = await keyOf();
    const answer = await send(two, 'POST', `/keys/${key_id}/rotate`, { overlap_seconds: 60 }, key);
    expect(answer.status).toBe(201);
    expect((await send(two, 'DELETE', '/keys/nothing', undefined, key)).status).toBe(404);
    const { data } = await page(one, `after=${before}`);
    const by = { tenant: 'default', account: 'default' };
    const admin = { ...by, key_id: null, is_operator: true };
    const withKey = { ...by, key_id, is_operator: false };
    expect(data).toMatchObject([
      { ...admin, operation: 'createKey', target: '/keys', status: null },
      { ...admin, operation: 'createKey', target: `/keys/${key_id}`, status: 201 },
      { ...withKey, operation: 'rotateKey', target: `/keys/${key_id}/rotate`, status: null },
      { ...withKey, operation: 'rotateKey', target: `/keys/${key_id}/rotate`, status: 201 },
      { ...withKey, operation: 'revokeKey', target: '/keys/nothing', status: null },
      { ...withKey, operation: 'revokeKey', target: '/keys/nothing', status: 404 },
    ]);
    expect(data[2]!.request_id).toBe(answer.headers.get('x-request-id'));
    expect(data[3]!.request_id).toBe(answer.headers.get('x-request-id'));
    expect(JSON.stringify(data)).not.toContain(key.split('_')[2]);
  });

  it('masks a key that is sent in place of its id, and the key is revoked', async () => {
    const { key, key_id } = await keyOf({ scopes: ['admin'] });
    const before = await end();
    expect((await send(one, 'DELETE', `/keys/${key}`)).status).toBe(204);
    expect((await send(one, 'GET', '/keys', undefined, key)).status).toBe(401);
    const { data } = await page(one, `after=${before}`);
    const target = `/keys/ck_${key_id.replaceAll('-', '')}_***`;
    expect(data).toMatchObject([
      { operation: 'revokeKey', target, status: null },
      { operation: 'revokeKey', target, status: 204 },
    ]);
  });

  it('masks a key that is truncated, extended, in upper case or without its prefix', async () => {
    const { key, key_id } = await keyOf({ scopes: ['admin'] });
    const before = await end();
    const written = [key.slice(0, -1), `${key}0`, key.toUpperCase(), key.slice('ck_'.length)];
    const answers: number[] = [];
    for (const it of written) answers.push((await send(one, 'DELETE', `/keys/${it}`)).status);
    expect(answers).toEqual([404, 404, 404, 204]);
    const id = key_id.replaceAll('-', '');
    const targets = [`ck_${id}`, `ck_${id}`, `CK_${id.toUpperCase()}`, id].map((it) => `/keys/${it}_***`);
    const { data } = await page(one, `after=${before}`);
    expect(data.map((it) => it.target)).toEqual(targets.flatMap((it) => [it, it]));
  });

  it('masks a key that is percent-encoded once or twice', async () => {
    const { key, key_id } = await keyOf({ scopes: ['admin'] });
    const before = await end();
    const encoded = (text: string) => [...Buffer.from(text)].map((it) => `%${it.toString(16)}`).join('');
    const twice = [key.replaceAll('_', '%255F'), encoded(key).replaceAll('%', '%25'), encoded(encoded(key))];
    const answers: number[] = [];
    for (const it of [key.replaceAll('_', '%5F'), `${encoded(key)}x`, ...twice])
      answers.push((await send(one, 'DELETE', `/keys/${it}`)).status);
    expect(answers).toEqual([204, 404, 404, 404, 404]);
    const { data } = await page(one, `after=${before}`);
    const id = key_id.replaceAll('-', '');
    const rests = ['', 'x', ...twice.map(() => '')];
    const targets = rests.map((it) => `/keys/ck_${id}_***${it}`);
    expect(data.map((it) => it.target)).toEqual(targets.flatMap((it) => [it, it]));
  });

  it('records forbidden requests, but no unauthenticated ones', async () => {
    const { key, key_id } = await keyOf({ scopes: ['orders:read'] });
    const before = await end();
    expect((await send(one, 'POST', '/keys', { name: 'more', scopes: ['admin'] }, key)).status).toBe(403);
    expect((await send(one, 'POST', '/keys', { name: 'more', scopes: ['admin'] }, 'nobody')).status).toBe(401);
    const { data } = await page(one, `after=${before}`);
    expect(data).toMatchObject([{ key_id, operation: 'createKey', target: '/keys', status: 403 }]);
  });

  it('records the first ten refusals of a caller one by one, and then their number', async () => {
    const { key, key_id } = await keyOf({ scopes: ['orders:read'] });
    const { key: next } = (await (
      await send(one, 'POST', `/keys/${key_id}/rotate`, { overlap_seconds: 60 })
    ).json()) as IssuedKey;
    const before = await end();
    const ask = async (by: string): Promise<string | null> => {
      const answer = await send(one, 'DELETE', '/keys/nothing', undefined, by);
      expect(answer.status).toBe(403);
      return answer.headers.get('x-request-id');
    };
    const asked: (string | null)[] = [];
    // A key and its replacement count as one caller.
    for (let times = 0; times < 15; times += 1) asked.push(await ask(key), await ask(next));
    // A refusal of another operation gets an entry of its own.
    const hidden = await send(one, 'POST', '/keys', { name: 'more', scopes: ['admin'] }, key);
    const other = await keyOf({ scopes: ['orders:read'] });
    const last = await ask(other.key);
    await one.app.get(KeepAudit).execute();
    await one.app.get(KeepAudit).execute();
    const { data } = await page(one, `after=${before}`);
    const refusals = data.filter((it) => it.status === 403);
    expect(refusals.map((it) => [it.request_id, it.requests])).toEqual([
      ...asked.slice(0, 10).map((it) => [it, 1]),
      ...[
        [hidden.headers.get('x-request-id'), 1],
        [last, 1],
        [asked.at(-1), 20],
      ],
    ]);
    expect(refusals.at(-1)).toMatchObject({ operation: 'revokeKey', target: '/keys/nothing' });
    expect(await ask(key)).toBe((await page(one, `after=${before}`)).data.at(-1)!.request_id);
  });

  it('keeps the number of refusals if writing it fails, and writes it when the process stops', async () => {
    const third = await start(one.databaseUrl);
    const { key } = await keyOf({ scopes: ['orders:read'] });
    const before = await end();
    for (let times = 0; times < 25; times += 1) await send(third, 'DELETE', '/keys/nothing', undefined, key);
    await sql.query('ALTER TABLE access.audit RENAME TO away');
    try {
      await expect(third.app.get(KeepAudit).execute()).rejects.toThrow('does not exist');
      expect((await send(third, 'DELETE', '/keys/nothing', undefined, key)).status).toBe(403);
    } finally {
      await sql.query('ALTER TABLE access.away RENAME TO audit');
    }
    await third.stop();
    const { data } = await page(one, `after=${before}`);
    expect(data.map((it) => it.requests)).toEqual([...Array.from({ length: 10 }, () => 1), 16]);
  });

  it('records nothing about requests over the rate limit or refused by admission', async () => {
    const limited = await start(one.databaseUrl, { RATE_LIMIT: { requests: 3, perSeconds: 3_600 } });
    try {
      const { key } = await keyOf({ scopes: ['orders:read'] });
      const before = await end();
      const statuses: number[] = [];
      for (let times = 0; times < 6; times += 1)
        statuses.push((await send(limited, 'DELETE', '/keys/nothing', undefined, key)).status);
      expect(statuses).toEqual([403, 403, 403, 429, 429, 429]);
      const writes = limited.app.get(Admission).limiterOf('write');
      while (writes.inFlight < writes.limit) writes.enter();
      const { key: admin } = await keyOf();
      expect((await send(limited, 'DELETE', '/keys/nothing', undefined, admin)).status).toBe(503);
      const { data } = await page(one, `after=${before}`);
      expect(data.filter((it) => it.operation === 'revokeKey').map((it) => it.status)).toEqual([403, 403, 403]);
    } finally {
      await limited.stop();
    }
  });

  it('does not delay a request with a new key while writes to it are blocked', async () => {
    const { key } = await keyOf({ scopes: ['admin'] });
    await sql.query('BEGIN');
    await sql.query(`SELECT pg_advisory_xact_lock(hashtextextended('access.audit', 0))`);
    const writing = Array.from({ length: 20 }, () => send(one, 'DELETE', '/keys/nothing'));
    try {
      // By then, the requests have arrived and wait for the lock.
      await sql.query('SELECT pg_sleep(0.3)');
      const startedAt = performance.now();
      expect((await send(one, 'GET', '/keys', undefined, key)).status).toBe(200);
      // Statements that wait for the lock hold their connections for up to 10 s.
      expect(performance.now() - startedAt).toBeLessThan(8_000);
    } finally {
      await sql.query('ROLLBACK');
    }
    // An entry that has waited for more than 2 s is refused.
    for (const { status } of await Promise.all(writing)) expect([404, 503]).toContain(status);
  });

  it('writes outcomes before the entries of new requests that wait', async () => {
    const audit = one.app.get(PostgresAudit, { strict: false });
    const entry = { tenant: 'waiting', account: 'x', key_id: null, is_operator: false, operation: 'createKey' };
    const begin = { ...entry, target: '/keys', request_id: 'r', status: null };
    let begun = 0;
    await sql.query('BEGIN');
    await sql.query(`SELECT pg_advisory_xact_lock(hashtextextended('access.audit', 0))`);
    const others = Array.from({ length: 1_000 }, () =>
      audit.add(begin, 1).then(
        () => (begun += 1),
        () => undefined,
      ),
    );
    const ends = Array.from({ length: 20 }, () => audit.addEnd({ ...begin, status: 201 }));
    await sql.query('ROLLBACK');
    await Promise.all(ends);
    expect(begun).toBeLessThan(500);
    await Promise.all(others);
  });

  it('writes waiting entries in few statements, in their order', async () => {
    const audit = one.app.get(PostgresAudit, { strict: false });
    const entry = { tenant: 'many', account: 'x', key_id: null, is_operator: false, operation: 'createKey' };
    const ids = Array.from({ length: 400 }, (_, index) => `r-${index}`);
    await Promise.all(ids.map((it) => audit.add({ ...entry, target: '/keys', request_id: it, status: null }, 1)));
    const { rows } = await sql.query<{ request_id: string; xmin: string }>(
      `SELECT request_id, xmin FROM access.audit WHERE tenant_id = 'many' ORDER BY entry_id`,
    );
    expect(rows.map((it) => it.request_id)).toEqual(ids);
    expect(new Set(rows.map((it) => it.xmin)).size).toBeLessThan(10);
  });

  it('stores the other entries of a batch if one of them cannot be stored', async () => {
    const audit = one.app.get(PostgresAudit, { strict: false });
    const entry = { tenant: 'mixed', account: 'x', key_id: null, is_operator: false, operation: 'createKey' };
    const add = (request_id: string) => audit.add({ ...entry, target: '/keys', request_id, status: null }, 1);
    // Postgres cannot store text with NUL.
    const ids = ['r-0', 'r-1', 'r-\u0000', 'r-3', 'r-4'];
    const settled = await Promise.allSettled(ids.map(add));
    expect(settled.map((it) => it.status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'fulfilled', 'fulfilled']);
    const { rows } = await sql.query(`SELECT request_id FROM access.audit WHERE tenant_id = 'mixed' ORDER BY entry_id`);
    expect(rows.map((it) => it.request_id)).toEqual(['r-0', 'r-1', 'r-3', 'r-4']);
  });

  it('comes first: if the entry cannot be written, the operation is not performed', async () => {
    const count = async () => (await sql.query<{ count: string }>('SELECT count(*) FROM access.keys')).rows[0]!.count;
    const keys = await count();
    await sql.query('ALTER TABLE access.audit RENAME TO away');
    try {
      expect((await send(one, 'POST', '/keys', { name: 'x', scopes: ['admin'] })).status).toBe(500);
    } finally {
      await sql.query('ALTER TABLE access.away RENAME TO audit');
    }
    expect(await count()).toBe(keys);
  });

  it('contains the operation even if its outcome can no longer be written', async () => {
    await sql.query(`
      CREATE FUNCTION access.refuse_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN RAISE EXCEPTION 'as if the process had ended here'; END $$;
      CREATE TRIGGER no_outcome BEFORE INSERT ON access.audit FOR EACH ROW WHEN (NEW.status IS NOT NULL)
      EXECUTE FUNCTION access.refuse_outcome()`);
    const before = await end();
    let made: IssuedKey;
    try {
      made = await keyOf();
    } finally {
      await sql.query('DROP TRIGGER no_outcome ON access.audit; DROP FUNCTION access.refuse_outcome');
    }
    expect((await page(one, `after=${before}`)).data).toMatchObject([{ operation: 'createKey', status: null }]);
    expect((await send(one, 'GET', '/keys', undefined, made.key)).status).toBe(200);
  });

  it('cannot be changed or deleted, even by the owner of the table with triggers disabled', async () => {
    await keyOf();
    for (const role of ['origin', 'replica'])
      for (const statement of [
        `UPDATE access.audit SET account_id = 'another'`,
        'DELETE FROM access.audit',
        'TRUNCATE access.audit',
        'TRUNCATE access.audit CASCADE',
        `INSERT INTO access.audit OVERRIDING SYSTEM VALUE SELECT * FROM access.audit LIMIT 1
         ON CONFLICT (entry_id) DO UPDATE SET account_id = 'another'`,
      ]) {
        await sql.query(`SET session_replication_role = ${role}`);
        await expect(sql.query(statement)).rejects.toThrow('is neither changed nor removed');
      }
    await sql.query('RESET session_replication_role');
  });

  it('shows each tenant its own entries, and the operator those of any tenant', async () => {
    const { key } = await keyOf({ tenant: 'another' });
    await send(one, 'POST', '/keys', { name: 'own', scopes: ['admin'] }, key);
    const { data } = await page(two, '', key);
    expect(data).toMatchObject([
      { tenant: 'another', operation: 'createKey', status: null },
      { tenant: 'another', operation: 'createKey', status: 201 },
    ]);
    expect((await page(two, 'tenant=another')).data).toEqual(data);
    expect((await send(two, 'GET', '/audit?tenant=default', undefined, key)).status).toBe(403);
  });

  it('returns each entry once to a reader that follows its cursor while two instances write', async () => {
    const start = await end();
    const rounds = 30;
    let writing = true;
    const seen: string[] = [];
    const read = async (): Promise<void> => {
      for (let cursor = start, isLast = false; ;) {
        const { data, next_cursor } = await page(two, `after=${cursor}&limit=7`);
        seen.push(...data.map((it) => `${it.request_id} ${it.status}`));
        cursor = next_cursor;
        if (data.length === 0 && isLast) return;
        isLast = !writing && data.length === 0;
      }
    };
    const write = async (at: Instance): Promise<string[]> => {
      const ids: string[] = [];
      for (let times = 0; times < rounds; times += 1) {
        const answer = await send(at, 'DELETE', '/keys/nothing');
        ids.push(`${answer.headers.get('x-request-id')} null`, `${answer.headers.get('x-request-id')} 404`);
      }
      return ids;
    };
    const reading = read();
    const written = (await Promise.all([one, one, two, two].map(write))).flat();
    writing = false;
    await reading;
    expect(seen.toSorted()).toEqual(written.toSorted());
  });
});
