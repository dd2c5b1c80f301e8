import { Logger } from '@nestjs/common';
import { TypeOrmModule, getDataSourceToken, getRepositoryToken } from '@nestjs/typeorm';
import { Test, type TestingModule } from '@nestjs/testing';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TLSSocket } from 'node:tls';
import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import {
  Column,
  Entity,
  PrimaryColumn,
  type DataSource,
  type MigrationInterface,
  type QueryRunner,
  type Repository,
} from 'typeorm';
import {
  freePort,
  RedisProxy,
  selfSignedCertificate,
  stopTestDatabases,
  testDatabase,
  type TestDatabase,
} from '#testing';
import { Sql, cursorSecret, databaseFor, sqlToken, startEmbeddedPostgres, type Database } from '../src/index.js';

@Entity({ schema: 'shop', name: 'things' })
class Thing {
  @PrimaryColumn('text')
  id!: string;

  @Column('bigint')
  units!: number;
}

class Things1700000000001 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`CREATE TABLE shop.things (id text PRIMARY KEY, units bigint NOT NULL)`);
    // Long enough for the other instances to start while this one migrates.
    await runner.query(`SELECT pg_sleep(0.2)`);
    await runner.query(`CREATE TABLE shop.settings (name text PRIMARY KEY, value text NOT NULL)`);
    await runner.query(`INSERT INTO shop.settings VALUES ('cursor_secret', 'of all instances')`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE shop.things, shop.settings`);
  }
}

class Broken1700000000002 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`CREATE TABLE shop.half (id text)`);
    await runner.query(`SELECT * FROM shop.nowhere`);
  }

  async down(): Promise<void> {}
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

let database: TestDatabase;
const modules: TestingModule[] = [];

const start = async (options: Partial<Database> = {}): Promise<TestingModule> => {
  const shop = {
    name: 'shop',
    url: database.url,
    schema: 'shop',
    entities: [Thing],
    migrations: [Things1700000000001],
    ...options,
  };
  const module = await Test.createTestingModule({
    imports: [databaseFor(shop), TypeOrmModule.forFeature([Thing], 'shop')],
  }).compile();
  modules.push(module);
  return module;
};

const sqlOf = (module: TestingModule): Sql => module.get<Sql>(sqlToken('shop'), { strict: false });
const thingsOf = (module: TestingModule): Repository<Thing> =>
  module.get<Repository<Thing>>(getRepositoryToken(Thing, 'shop'), { strict: false });

const failureOf = async (work: Promise<unknown>): Promise<Error & { code?: string; cause?: unknown }> => {
  try {
    await work;
  } catch (error) {
    return error as Error;
  }
  throw new Error('it did not fail');
};

const put = { name: 'put', text: 'INSERT INTO shop.things VALUES ($1, $2) RETURNING units' };
const read = { name: 'read', text: 'SELECT id, units FROM shop.things ORDER BY id' };

beforeAll(() => Logger.overrideLogger(false));

afterEach(async () => {
  for (const module of modules.splice(0)) await module.close();
  await database?.stop();
});

afterAll(async () => {
  await stopTestDatabases();
});

describe('a data source', () => {
  it('is migrated once when several instances start at the same time', async () => {
    database = await testDatabase();
    const instances = await Promise.all([start(), start(), start(), start()]);
    const done = await sqlOf(instances[0]).query({ name: 'done', text: 'SELECT name FROM shop.migrations' });
    expect(done).toEqual([{ name: 'Things1700000000001' }]);
    for (const instance of instances) {
      expect(await cursorSecret(sqlOf(instance), 'shop')).toBe('of all instances');
      await sqlOf(instance).condition();
    }
    await start();
  });

  it('does not start if a migration fails, and rolls that migration back', async () => {
    database = await testDatabase();
    const error = await failureOf(start({ migrations: [Broken1700000000002, Things1700000000001] }));
    expect(error.message).toMatch(/Broken1700000000002 of shop failed: relation "shop.nowhere"/);
    const module = await start();
    const tables = {
      name: 'tables',
      text: `SELECT to_regclass('shop.half') AS half, to_regclass('shop.things') IS NULL AS no`,
    };
    expect(await sqlOf(module).query(tables)).toEqual([{ half: null, no: false }]);
  });

  it('reads int8 as numbers on its own connections only, and refuses to round', async () => {
    database = await testDatabase();
    const module = await start();
    await thingsOf(module).insert({ id: 'a', units: Number.MAX_SAFE_INTEGER });
    expect(await thingsOf(module).find()).toEqual([{ id: 'a', units: Number.MAX_SAFE_INTEGER }]);
    const values = {
      name: 'values',
      text: `SELECT 5::bigint AS one, ARRAY[1, NULL, 3]::bigint[] AS more, now() AS at`,
    };
    expect(await sqlOf(module).query(values)).toEqual([{ one: 5, more: [1, null, 3], at: expect.any(Date) }]);
    const tooLarge = { name: 'too-large', text: 'SELECT 9007199254740993::bigint' };
    await expect(sqlOf(module).query(tooLarge)).rejects.toThrow(RangeError);
    await sqlOf(module).condition();
    expect(pg.types.getTypeParser(pg.types.builtins.INT8)('5')).toBe('5');
  });

  it('names the address of a Postgres that is not there, without the password', async () => {
    database = await testDatabase();
    const port = await freePort();
    const url = `postgres://somebody:secret@127.0.0.1:${port}/shop`;
    const error = await failureOf(start({ url, connectWithinMs: 200 }));
    expect(error.message).toContain(`Cannot use Postgres at 127.0.0.1:${port}, database "shop" for shop`);
    expect(error.message).toContain('SHOP_DATABASE_URL');
    expect(`${error.message} ${error.stack}`).not.toContain('secret');
  });

  it('fails at once if the database does not exist or the password is wrong', async () => {
    database = await testDatabase();
    const elsewhere = new URL(database.url);
    elsewhere.pathname = '/nowhere';
    await expect(start({ url: elsewhere.href })).rejects.toThrow('database "nowhere" does not exist');
    const stranger = new URL(database.url);
    stranger.password = 'guessed';
    const error = await failureOf(start({ url: stranger.href }));
    expect(error.message).toContain('password authentication failed');
    expect(`${error.message} ${error.stack}`).not.toContain('guessed');
  });

  it('names the server that does not support the required TLS', async () => {
    database = await testDatabase();
    const secured = new URL(database.url);
    secured.searchParams.set('sslmode', 'verify-full');
    const error = await failureOf(start({ url: secured.href }));
    expect(error.message).toContain(`Cannot use Postgres at ${secured.host}`);
    expect(error.message).toMatch(/SSL.*SHOP_DATABASE_URL/);
  });

  it('says what to do if the certificate is not trusted', async () => {
    database = await testDatabase();
    const { cert, key, remove } = await selfSignedCertificate();
    const server = createServer((socket) => {
      socket.once('data', () => {
        socket.write('S');
        new TLSSocket(socket, { isServer: true, cert, key }).on('error', () => undefined);
      });
    }).listen(0, '127.0.0.1');
    try {
      await once(server, 'listening');
      const { port } = server.address() as AddressInfo;
      const error = await failureOf(start({ url: `postgres://u:p@127.0.0.1:${port}/shop?sslmode=verify-full` }));
      expect(error.message).toMatch(
        /certificate is not trusted \(self-signed certificate.*\); name that of your own authority in NODE_EXTRA_CA_CERTS\. Correct SHOP_/,
      );
    } finally {
      server.close();
      await remove();
    }
  });
});

describe('Sql', () => {
  it('commits transactions, and rolls failed ones back', async () => {
    database = await testDatabase();
    // A single connection, so that whatever a transaction leaves open on it is met by what comes next.
    const sql = sqlOf(await start({ poolSize: 1 }));
    const ids = async () => (await sql.query<{ id: string }>(read)).map((it) => it.id);
    expect(await sql.query(put, ['a', 1])).toEqual([{ units: 1 }]);
    await sql.transaction(async (within) => {
      await within.query(put, ['b', 2]);
      await within.query(put, ['c', 3]);
    });
    const refusal = new Error('not today');
    const refused = sql.transaction(async (within) => {
      await within.query(put, ['d', 4]);
      throw refusal;
    });
    expect(await failureOf(refused)).toBe(refusal);
    expect(await ids()).toEqual(['a', 'b', 'c']);
    // A failure that the work swallows rolls the transaction back nevertheless.
    const hidden = sql.transaction(async (within) => {
      await within.query(put, ['e', 5]);
      await failureOf(within.query(put, ['a', 1]));
    });
    await expect(hidden).rejects.toThrow('rolled back');
    expect(await ids()).toEqual(['a', 'b', 'c']);
  });

  it('passes on errors of a statement, and keeps the connection with its prepared statements', async () => {
    database = await testDatabase();
    const sql = sqlOf(await start({ poolSize: 1 }));
    const prepared = { name: 'prepared', text: 'SELECT name FROM pg_prepared_statements' };
    await sql.query(put, ['a', 1]);
    expect(await failureOf(sql.query(put, ['a', 1]))).toMatchObject({ code: '23505', constraint: 'things_pkey' });
    await failureOf(sql.transaction(() => Promise.reject(new Error('not today'))));
    expect(await sql.query(prepared)).toContainEqual({ name: 'put' });
  });

  it('sets timeouts for locks, statements, transactions and idle transactions', async () => {
    database = await testDatabase();
    const limits = `SELECT name, setting || unit AS "most" FROM pg_settings WHERE name LIKE '%\\_timeout' AND setting <> '0'`;
    const set = await sqlOf(await start()).query<{ name: string; most: string }>({ name: 'limits', text: limits });
    expect(Object.fromEntries(set.map((it) => [it.name, it.most]))).toMatchObject({
      ...{ lock_timeout: '5000ms', statement_timeout: '10000ms', transaction_timeout: '15000ms' },
      idle_in_transaction_session_timeout: '10000ms',
    });
  });

  it('reads what was committed meanwhile, commits durably and reads times, whatever the defaults of the database are', async () => {
    database = await testDatabase();
    const { pathname } = new URL(database.url);
    const client = new pg.Client(database.url);
    await client.connect();
    for (const setting of [
      `default_transaction_isolation = 'serializable'`,
      `synchronous_commit = off`,
      `datestyle = 'German, DMY'`,
    ])
      await client.query(`ALTER DATABASE ${pathname.slice(1)} SET ${setting}`);
    await client.end();
    const sql = sqlOf(await start());
    await sql.query(put, ['a', 1]);
    const change = { name: 'change', text: 'UPDATE shop.things SET units = units + 1 RETURNING units' };
    // Those that wait for the row see the units of those before them.
    await Promise.all(Array.from({ length: 20 }, () => sql.transaction((within) => within.query(change))));
    expect(await sql.query(read)).toEqual([{ id: 'a', units: 21 }]);
    const durable = { name: 'durable', text: `SELECT current_setting('synchronous_commit') AS on, now() AS at` };
    expect(await sql.query(durable)).toEqual([{ on: 'on', at: expect.any(Date) }]);
  });

  it.each([
    ['local', 'on'],
    ['on', 'on'],
    ['remote_write', 'remote_write'],
    ['remote_apply', 'remote_apply'],
  ])('waits for a standby if the default is not to (%s), and otherwise as the default says', async (given, waits) => {
    database = await testDatabase();
    const url = new URL(database.url);
    url.searchParams.set('options', `-c synchronous_commit=${given}`);
    const commit = {
      name: 'commit',
      text: `SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'`,
    };
    // From another source, it would change with the configuration of the server.
    expect(await sqlOf(await start({ url: url.href })).query(commit)).toEqual([{ setting: waits, source: 'session' }]);
  });

  it('fails as unavailable if a lock times out or the pool has no free connection', async () => {
    database = await testDatabase();
    const url = new URL(database.url);
    url.searchParams.set('lock_timeout', '50');
    const sql = sqlOf(await start({ url: url.href }));
    await sql.query(put, ['a', 1]);
    const change = { name: 'change', text: 'UPDATE shop.things SET units = units + 1' };
    await sql.transaction(async (within) => {
      await within.query(change);
      const error = await failureOf(sql.query(change));
      expect(error).toMatchObject({
        code: 'unavailable',
        detail: expect.stringContaining('waiting for a lock timed out'),
      });
      expect(error.cause).toMatchObject({ code: '55P03' });
    });
    // Connecting alone must not take that long, also on a busy machine.
    const pool = new pg.Pool({ connectionString: database.url, max: 1, connectionTimeoutMillis: 3_000 });
    // Of a connection that is idle when the database is dropped.
    pool.on('error', () => undefined);
    const crowded = new Sql(pool, 'shop', 12_000);
    expect(await failureOf(crowded.transaction(() => crowded.condition()))).toMatchObject({ code: 'unavailable' });
    await crowded.condition();
    await pool.end();
  });

  it.each([
    ['42501', 'the user lacks a privilege'],
    ['53100', 'its disk is full'],
    ['57014', 'the statement timed out or was cancelled'],
    ['58030', 'its storage fails'],
  ])('fails as unavailable and says why if Postgres cannot carry out a statement (%s)', async (code, why) => {
    database = await testDatabase();
    const sql = sqlOf(await start());
    const failing = { name: `fails-${code}`, text: `DO $$ BEGIN RAISE 'no' USING ERRCODE = '${code}'; END $$` };
    expect(await failureOf(sql.query(failing))).toMatchObject({
      code: 'unavailable',
      detail: expect.stringContaining(why),
    });
  });

  it('is degraded while the database is read-only, reads, and writes again once it is not', async () => {
    database = await testDatabase();
    const sql = sqlOf(await start());
    await sql.query(put, ['a', 1]);
    const operator = new pg.Client(database.url);
    await operator.connect();
    const setting = `ALTER DATABASE "${new URL(database.url).pathname.slice(1)}" SET default_transaction_read_only`;
    await operator.query(`${setting} = on`);
    await operator.query(`SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid()`);
    // The first one may still get a connection whose end was not noticed yet.
    await failureOf(sql.query(put, ['b', 2]));
    const error = await failureOf(sql.query(put, ['b', 2]));
    expect(error).toMatchObject({ code: 'unavailable', detail: expect.stringContaining('it is read-only') });
    const details = { writes: 'are refused, because the database is read-only' };
    expect(await sql.condition()).toEqual({ isDegraded: true, details });
    expect(await sql.query(read)).toEqual([{ id: 'a', units: 1 }]);
    await operator.query(`${setting} = off`);
    await operator.end();
    // The check closes the connection that had been opened before.
    await sql.condition();
    expect(await sql.condition()).toEqual({ isDegraded: false, details: {} });
    await sql.query(put, ['b', 2]);
  });

  it('waits for the standby on the connection that has read, and only if the result counts', async () => {
    database = await testDatabase();
    const sql = sqlOf(await start());
    const nap = { name: 'nap', text: 'SELECT pg_sleep(0.05)' };
    // Several connections, any of which could be used.
    await Promise.all([1, 2, 3].map(() => sql.query(nap)));
    const whoAmI = { name: 'who-reads', text: 'SELECT pg_backend_pid() AS pid' };
    const who = async (isTold: boolean): Promise<number> => {
      const [me] = await sql.readSafely(
        (reading) => reading.query<{ pid: number }>(whoAmI),
        () => isTold,
      );
      return me!.pid;
    };
    const observer = new pg.Client(database.url);
    await observer.connect();
    const lastOf = async (pid: number): Promise<string> => {
      const { rows } = await observer.query<{ query: string }>('SELECT query FROM pg_stat_activity WHERE pid = $1', [
        pid,
      ]);
      return rows[0]!.query;
    };
    expect(await lastOf(await who(false))).toBe(whoAmI.text);
    expect(await lastOf(await who(true))).toContain('pg_logical_emit_message');
    await observer.end();
  });

  it('fails as unavailable if its connection is cut in a transaction, and continues with another', async () => {
    database = await testDatabase();
    const sql = sqlOf(await start());
    const whoAmI = { name: 'who', text: 'SELECT pg_backend_pid() AS pid' };
    const cut = { name: 'cut', text: 'SELECT pg_terminate_backend($1, 5000)' };
    const cutOff = sql.transaction(async (within) => {
      const [me] = await within.query<{ pid: number }>(whoAmI);
      await sql.query(cut, [me!.pid]);
      await within.query(put, ['a', 1]);
    });
    expect(await failureOf(cutOff)).toMatchObject({ code: 'unavailable' });
    expect(await sql.query(read)).toEqual([]);
  });

  it('lets the young generation be collected: values and rows of earlier queries do not reach the old one', async () => {
    database = await testDatabase();
    const module = await start();
    const oldBytes = (): number =>
      getHeapSpaceStatistics().find((it) => it.space_name === 'old_space')!.space_used_size;
    const echo = { name: 'echo', text: 'SELECT unnest($1::text[]) AS echo' };
    const values = (query: number): string[] =>
      Array.from({ length: 200 }, (_, it) => `${query} ${it} `.padEnd(500, '.'));
    // What earlier tests have left must not move to the old generation meanwhile.
    collectGarbage();
    const before = oldBytes();
    // 50 MB of values and as many of rows.
    for (let query = 0; query < 500; query += 1) await sqlOf(module).query(echo, [values(query)]);
    expect(oldBytes() - before).toBeLessThan(30_000_000);
  });

  it('prepares a statement again after a migration has changed its table', async () => {
    database = await testDatabase();
    const sql = sqlOf(await start({ poolSize: 1 }));
    const everything = { name: 'everything', text: 'SELECT * FROM shop.things' };
    await sql.query(everything);
    await sql.query({ name: 'alter', text: `ALTER TABLE shop.things ADD COLUMN colour text DEFAULT 'red'` });
    await sql.query(put, ['a', 1]);
    expect(await failureOf(sql.query(everything))).toMatchObject({ code: 'unavailable' });
    expect(await sql.query(everything)).toEqual([{ id: 'a', units: 1, colour: 'red' }]);
  });
});

describe('a Postgres that refuses connections', () => {
  const asAdmin = async (...statements: string[]): Promise<void> => {
    const admin = new pg.Client(Object.assign(new URL(database.url), { pathname: '/postgres' }).href);
    await admin.connect();
    for (const statement of statements) await admin.query(statement);
    await admin.end();
  };

  /** Starts as a user with all privileges on the database, but none of a superuser. */
  const startAs = async (user: string): Promise<TestingModule> => {
    const name = new URL(database.url).pathname.slice(1);
    await asAdmin(
      `CREATE ROLE ${user} LOGIN PASSWORD 'right'`,
      `GRANT ALL ON DATABASE "${name}" TO ${user}`,
      `REVOKE CONNECT ON DATABASE "${name}" FROM PUBLIC`,
    );
    return start({ url: Object.assign(new URL(database.url), { username: user, password: 'right' }).href });
  };

  const cut = (user: string): string =>
    `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '${user}'`;

  afterAll(() =>
    asAdmin(...['wrong_password', 'too_many', 'not_granted', 'no_database'].map((it) => `DROP ROLE IF EXISTS ${it}`)),
  );

  /** The errors of a statement, of a transaction and of TypeORM. */
  const answersOf = async (module: TestingModule): Promise<unknown[]> => {
    const source = module.get<DataSource>(getDataSourceToken('shop'), { strict: false });
    const asked = [
      () => sqlOf(module).condition(),
      () => sqlOf(module).transaction((within) => within.query(read)),
      () => thingsOf(module).find(),
      () => source.transaction((within) => within.count(Thing)),
    ];
    return Promise.all(
      asked.map(async (ask) => {
        // The first query may still get a connection whose end was not noticed yet.
        await failureOf(ask());
        const { code, detail } = (await failureOf(ask())) as Error & { code: string; detail: string };
        return `${code}: ${detail}`;
      }),
    );
  };

  it.each([
    {
      user: 'wrong_password',
      change: [`ALTER ROLE wrong_password PASSWORD 'another'`],
      why: 'it refuses the user or the password. Correct them in SHOP_DATABASE_URL (else DATABASE_URL) and start again.',
      back: [`ALTER ROLE wrong_password PASSWORD 'right'`],
    },
    {
      user: 'too_many',
      change: ['ALTER ROLE too_many CONNECTION LIMIT 0'],
      why: 'all of its connections are taken. Raise its max_connections, or run fewer instances.',
      back: ['ALTER ROLE too_many CONNECTION LIMIT -1'],
    },
    {
      user: 'not_granted',
      change: ['REVOKE CONNECT ON DATABASE "{}" FROM not_granted'],
      why: 'the user may not connect to it. Grant CONNECT.',
      back: ['GRANT CONNECT ON DATABASE "{}" TO not_granted'],
    },
    {
      user: 'no_database',
      change: ['ALTER DATABASE "{}" RENAME TO "{}_away"'],
      why: 'there is no such database. Restore it, or correct SHOP_DATABASE_URL (else DATABASE_URL) and start again.',
      back: ['ALTER DATABASE "{}_away" RENAME TO "{}"'],
    },
  ])('is unavailable and says what to do: $user', async ({ user, change, why, back }) => {
    database = await testDatabase();
    const named = (it: string): string => it.replaceAll('{}', new URL(database.url).pathname.slice(1));
    const module = await startAs(user);
    await asAdmin(`ALTER ROLE ${user} NOLOGIN`, cut(user), `ALTER ROLE ${user} LOGIN`, ...change.map(named));
    const answers = await answersOf(module);
    await asAdmin(...back.map(named));
    expect(new Set(answers)).toEqual(new Set([`unavailable: The shop database cannot be used: ${why}`]));
    await sqlOf(module).condition();
    for (const it of modules.splice(0)) await it.close();
  });
});

/** A proxy in front of a new database. */
const startProxy = async (): Promise<RedisProxy> => {
  database = await testDatabase();
  return RedisProxy.start(Number(new URL(database.url).port));
};

/** An instance with one connection, whose statements may take half a second. */
const startBehind = (proxy: RedisProxy): Promise<TestingModule> => {
  const url = new URL(database.url);
  url.port = new URL(proxy.url).port;
  return start({ url: url.href, poolSize: 1, answersWithinMs: 500 });
};

describe('a silent connection', () => {
  it.each([
    ['Sql', (module: TestingModule) => sqlOf(module).query(read), 'read'],
    ['TypeORM', (module: TestingModule) => thingsOf(module).find(), 'things'],
  ])('is abandoned by %s after the query timeout, and the next query gets another one', async (_, ask, word) => {
    const proxy = await startProxy();
    try {
      const module = await startBehind(proxy);
      expect(await ask(module)).toEqual([]);
      proxy.holdBack(word);
      expect(await failureOf(ask(module))).toMatchObject({ code: 'unavailable' });
      expect(proxy.holdsBack).toBe(true);
      expect(await ask(module)).toEqual([]);
      for (const started of modules.splice(0)) await started.close();
    } finally {
      await proxy.stop();
    }
  });
});

describe('a connection that takes longer than a statement may', () => {
  it('is not lost to the pool, whatever becomes of the query that opens it', async () => {
    const proxy = await startProxy();
    try {
      const module = await startBehind(proxy);
      await thingsOf(module).find();
      proxy.down();
      proxy.up();
      await failureOf(sqlOf(module).query(read));
      proxy.delayMs = 300;
      await thingsOf(module)
        .find()
        .catch(() => undefined);
      proxy.delayMs = 0;
      expect(await sqlOf(module).query(read)).toEqual([]);
      for (const started of modules.splice(0)) await started.close();
    } finally {
      await proxy.stop();
    }
  });
});

describe('a Postgres that stops and starts again', () => {
  it('is unavailable meanwhile to Sql and TypeORM, and an instance that starts waits for it', async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'cleave-database-'));
    const first = await startEmbeddedPostgres({ dataDir });
    try {
      const url = first.url('postgres');
      database = { url, stop: async () => undefined };
      const module = await start();
      const source = module.get<DataSource>(getDataSourceToken('shop'), { strict: false });
      await Promise.all([sqlOf(module).query(put, ['a', 1]), sqlOf(module).condition(), thingsOf(module).find()]);

      await first.stop();
      expect(await failureOf(sqlOf(module).condition())).toMatchObject({ code: 'unavailable', status: 503 });
      expect(await failureOf(sqlOf(module).transaction((within) => within.query(read)))).toMatchObject({
        code: 'unavailable',
      });
      expect(await failureOf(thingsOf(module).find())).toMatchObject({ code: 'unavailable' });
      expect(await failureOf(source.transaction((within) => within.count(Thing)))).toMatchObject({
        code: 'unavailable',
      });

      const starting = start();
      const second = await startEmbeddedPostgres({ dataDir });
      try {
        expect(second.url('postgres')).toBe(url);
        expect(await sqlOf(await starting).query(read)).toEqual([{ id: 'a', units: 1 }]);
        expect(await sqlOf(module).query(read)).toEqual([{ id: 'a', units: 1 }]);
        expect(await thingsOf(module).find()).toHaveLength(1);
        for (const started of modules.splice(0)) await started.close();
      } finally {
        await second.stop();
      }
    } finally {
      await first.stop();
      await rm(dataDir, { recursive: true, force: true });
    }
  });
});
