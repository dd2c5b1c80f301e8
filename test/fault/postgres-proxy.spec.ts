import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { eventually, testDatabase, type TestDatabase } from '#testing';
import { PostgresProxy, has } from '../support/postgres-proxy.js';

const add = { name: 'add', text: 'INSERT INTO kept VALUES ($1) RETURNING value' };
const slow = { name: 'slow', text: 'WITH s AS (SELECT pg_sleep(0.3)) INSERT INTO kept SELECT $1::int FROM s' };

describe('the Postgres proxy', () => {
  let database: TestDatabase;
  let direct: pg.Client;
  let proxy: PostgresProxy;
  let clients: pg.Client[];

  const connected = async (url = proxy.url): Promise<pg.Client> => {
    // Sends statements without waiting for the results of earlier ones.
    const client = new pg.Client({ connectionString: url, pipeline: true });
    client.on('error', () => undefined);
    clients.push(client);
    await client.connect();
    return client;
  };
  const kept = async (): Promise<number[]> => {
    const { rows } = await direct.query<{ value: number }>('SELECT value FROM kept ORDER BY value');
    return rows.map((it) => it.value);
  };
  /** Whether the work is still pending, was answered, or has failed. */
  const stateOf = (work: Promise<unknown>): Promise<string> =>
    Promise.race([
      work.then(
        () => 'answered',
        () => 'failed',
      ),
      setTimeout(50, 'waiting'),
    ]);

  beforeAll(async () => {
    database = await testDatabase();
    direct = new pg.Client({ connectionString: database.url });
    await direct.connect();
    await direct.query('CREATE TABLE kept (value int PRIMARY KEY CHECK (value < 1000))');
  });
  beforeEach(async () => {
    clients = [];
    await direct.query('TRUNCATE kept');
    proxy = await PostgresProxy.start(database.url);
  });
  afterEach(async () => {
    await Promise.allSettled(clients.map((it) => it.end()));
    await proxy.stop();
  });
  afterAll(async () => {
    await direct.end();
    await database.stop();
  });

  it('forwards what it does not catch: large, pipelined and failing statements, transactions, notifications', async () => {
    const client = await connected();
    const large = 'x'.repeat(3_000_000);
    expect((await client.query('SELECT $1::text AS text', [large])).rows).toEqual([{ text: large }]);
    const many = Array.from({ length: 300 }, (_, value) => client.query({ ...add, values: [value] }));
    expect((await Promise.all(many)).map((it) => it.rows[0].value)).toEqual(many.map((_, value) => value));
    await expect(client.query({ ...add, values: [7] })).rejects.toMatchObject({ code: '23505' });
    await client.query('BEGIN');
    await client.query({ ...add, values: [500] });
    await client.query('ROLLBACK');
    const heard = new Promise((resolve) => client.once('notification', resolve));
    await client.query('LISTEN news');
    await direct.query(`NOTIFY news, 'now'`);
    expect(await heard).toMatchObject({ payload: 'now' });
    expect(await kept()).toHaveLength(300);
  });

  it('forwards a refused password, and the reason when the server ends a connection', async () => {
    const url = new URL(proxy.url);
    url.password = 'wrong';
    await expect(connected(url.href)).rejects.toMatchObject({ code: '28P01' });
    const client = await connected();
    const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    const ended = new Promise((resolve) => client.once('error', resolve));
    await direct.query('SELECT pg_terminate_backend($1)', [rows[0]!.pid]);
    expect(await ended).toMatchObject({ code: '57P01' });
  });

  it('forwards a request for TLS to the server', async () => {
    const client = new pg.Client({ connectionString: proxy.url, ssl: { rejectUnauthorized: false } });
    await expect(client.connect()).rejects.toThrow('The server does not support SSL connections');
  });

  it.each([false, true])('catches a statement before Postgres receives it (prepared: %s)', async (prepared) => {
    const client = await connected();
    if (prepared) await client.query({ ...add, values: [0] });
    const catching = proxy.next({ statement: 'add', moment: 'before' });
    const adding = client.query({ ...add, values: [1] });
    const following = client.query('SELECT 1');
    const caught = await catching;
    expect(caught).toMatchObject({ statement: 'add', outcome: undefined });
    expect(await stateOf(adding)).toBe('waiting');
    expect(await kept()).not.toContain(1);
    // Other connections are not held up.
    await (await connected()).query({ ...add, values: [2] });
    caught.pass();
    await Promise.all([adding, following]);
    expect(await kept()).toEqual(prepared ? [0, 1, 2] : [1, 2]);
  });

  it('catches a statement after its commit and before the app receives the result', async () => {
    const client = await connected();
    const catching = proxy.next({ statement: 'add', moment: 'after' });
    const adding = client.query({ ...add, values: [1] });
    const following = client.query({ ...add, values: [2] });
    const caught = await catching;
    expect(caught.outcome).toBe('committed');
    expect(await kept()).toContain(1);
    expect(await stateOf(adding)).toBe('waiting');
    caught.pass();
    expect((await adding).rows).toEqual([{ value: 1 }]);
    expect((await following).rows).toEqual([{ value: 2 }]);
  });

  it('selects statements by their values', async () => {
    const client = await connected();
    const both = { name: 'both', text: 'SELECT $1::text[], $2::text' };
    const catching = proxy.next({ statement: 'both', moment: 'before', with: has('capture') }, 2);
    const ask = (kinds: string[], text: string | null) => client.query({ ...both, values: [kinds, text] });
    await ask(['authorise'], 'capture_refused');
    await ask(['authorise', 'capture'], null);
    await ask([], null);
    const asking = ask(['refund'], '{"kind":"capture"}');
    const caught = await catching;
    expect(caught.values).toEqual(['{"refund"}', '{"kind":"capture"}']);
    caught.pass();
    await asking;
  });

  it('selects statements by the statement before them on their connection', async () => {
    const [client, other] = [await connected(), await connected()];
    const catching = proxy.next({ statement: 'COMMIT', moment: 'before', follows: 'add' });
    await Promise.all([client, other].map((it) => it.query('BEGIN')));
    await client.query({ ...add, values: [1] });
    await other.query('COMMIT');
    const committing = client.query('COMMIT');
    const caught = await catching;
    expect(await kept()).toEqual([]);
    caught.pass();
    await committing;
    expect(await kept()).toEqual([1]);
  });

  it('reports whether a caught statement failed, is in a transaction, or is committed', async () => {
    const client = await connected();
    const failing = proxy.next({ statement: 'add', moment: 'after' });
    const adding = client.query({ ...add, values: [1000] });
    const failed = await failing;
    expect(failed.outcome).toBe('failed');
    failed.pass();
    await expect(adding).rejects.toMatchObject({ code: '23514' });

    await client.query('BEGIN');
    const [within, commit] = ['add', 'COMMIT'].map((statement) => proxy.next({ statement, moment: 'after' }));
    void client.query({ ...add, values: [1] });
    const open = await within!;
    expect(open.outcome).toBe('in a transaction');
    open.pass();
    const committing = client.query('COMMIT');
    const committed = await commit!;
    expect(committed.outcome).toBe('committed');
    expect(await kept()).toEqual([1]);
    committed.pass();
    await committing;
  });

  it('loses the result of a statement that Postgres executes', async () => {
    const client = await connected();
    const catching = proxy.next({ statement: 'slow', moment: 'sent' });
    const adding = client.query({ ...slow, values: [1] });
    (await catching).cut();
    await expect(adding).rejects.toThrow();
    // The app learns that the connection has ended before the commit happens.
    expect(await kept()).toEqual([]);
    await eventually(async () => expect(await kept()).toEqual([1]));
  });

  it('withholds the result of a sent statement until it is passed', async () => {
    const client = await connected();
    const catching = proxy.next({ statement: 'add', moment: 'sent' });
    const adding = client.query({ ...add, values: [1] });
    const caught = await catching;
    await eventually(async () => expect(await kept()).toEqual([1]));
    expect(await stateOf(adding)).toBe('waiting');
    caught.pass();
    expect((await adding).rows).toEqual([{ value: 1 }]);
  });

  it.each(['before', 'after'] as const)('drops a caught statement when the app disconnects (%s)', async (moment) => {
    const client = await connected();
    const catching = proxy.next({ statement: 'add', moment });
    const adding = client.query({ ...add, values: [1] });
    await catching;
    (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
    await expect(adding).rejects.toThrow();
    await setTimeout(50);
    expect(await kept()).toEqual(moment === 'after' ? [1] : []);
    const { rows } = await direct.query(
      `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`,
    );
    expect(rows).toEqual([]);
  });

  it('catches the n-th statement, or every n-th until it is stopped', async () => {
    const client = await connected();
    const third = proxy.next({ statement: 'add', moment: 'after' }, 3);
    const seen: string[] = [];
    const stop = proxy.each({ statement: 'add', moment: 'before' }, 2, ({ statement, pass }) => {
      seen.push(statement);
      pass();
    });
    for (const value of [1, 2]) await client.query({ ...add, values: [value] });
    const adding = client.query({ ...add, values: [3] });
    (await third).pass();
    await adding;
    await client.query({ ...add, values: [4] });
    stop();
    for (const value of [5, 6]) await client.query({ ...add, values: [value] });
    expect(seen).toEqual(['add', 'add']);
  });

  it('delays statements, cuts all connections, and refuses new ones', async () => {
    const client = await connected();
    proxy.delayMs = 100;
    const startedAt = Date.now();
    await client.query('SELECT 1');
    expect(Date.now() - startedAt).toBeGreaterThanOrEqual(95);
    proxy.delayMs = 0;

    const ended = new Promise((resolve) => client.once('error', resolve));
    proxy.refuse();
    proxy.cutAll();
    await ended;
    await expect(connected()).rejects.toThrow();
    proxy.refuse(false);
    await (await connected()).query({ ...add, values: [1] });
    expect(await kept()).toEqual([1]);
  });
});
