import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import pg from 'pg';
import type { z } from 'zod';
import { AccessModule } from '#access';
import type { IssuedKey, auditPage } from '#contracts';
import { createService } from '#service';
import { twoInstances, type TwoInstances } from '#testing';

Logger.overrideLogger(false);

const ADMIN_KEY = 'the-admin-key-of-this-test-is-long-enough';

interface Instance {
  url: string;
  databaseUrl: string;
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
  return { url: `http://127.0.0.1:${port}`, databaseUrl, stop: () => app.close() };
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

describe('what is written down', () => {
  it('is who asked for what before it was done, and how it ended', async () => {
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

  it('is also what somebody was not allowed, and not what nobody asked who is known', async () => {
    const { key, key_id } = await keyOf({ scopes: ['orders:read'] });
    const before = await end();
    expect((await send(one, 'POST', '/keys', { name: 'more', scopes: ['admin'] }, key)).status).toBe(403);
    expect((await send(one, 'POST', '/keys', { name: 'more', scopes: ['admin'] }, 'nobody')).status).toBe(401);
    const { data } = await page(one, `after=${before}`);
    expect(data).toMatchObject([{ key_id, operation: 'createKey', target: '/keys', status: 403 }]);
  });

  it('comes first: where it cannot be written nothing is done', async () => {
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

  it('is neither changed nor removed, also by the owner of the table and where triggers are put aside', async () => {
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

  it('is seen by each tenant alone, and by whoever operates them all', async () => {
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

  it('is read once by whoever goes on from where they were, while two instances write', async () => {
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
