import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp } from 'node:fs/promises';
import os from 'node:os';
import { join } from 'node:path';
import pg from 'pg';

export interface TestDatabase {
  url: string;
  /** Drops the database. */
  stop(): Promise<void>;
}

interface Server {
  /** A database from which others can be created. */
  url: string;
  stop(): Promise<void>;
}

/**
 * Stops the server and removes its folder as soon as standard input closes, that is, when the process at the other end is
 * gone for whatever reason: jest may kill a worker before it can clean up.
 */
const watchdogProgram = `
  const { readFileSync, rmSync } = require('node:fs');
  const [folder] = process.argv.slice(1);
  const postmaster = () => {
    try {
      return Number(readFileSync(folder + '/postgres/data/postmaster.pid', 'utf8').split('\\n')[0]);
    } catch {
      return 0;
    }
  };
  const end = (attemptsLeft) => {
    const pid = postmaster();
    if (pid > 0 && attemptsLeft > 0) {
      try {
        process.kill(pid, 'SIGINT');
      } catch {}
      return setTimeout(end, 100, attemptsLeft - 1);
    }
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  };
  process.stdin.resume().on('end', () => end(100)).on('error', () => end(100));
`;

function watch(folder: string): ChildProcess {
  const watchdog = spawn(process.execPath, ['-e', watchdogProgram, folder], {
    stdio: ['pipe', 'ignore', 'ignore'],
    // A Ctrl-C for jest must not reach it.
    detached: true,
    windowsHide: true,
  });
  watchdog.unref();
  (watchdog.stdin as unknown as { unref(): void }).unref();
  return watchdog;
}

async function startServer(): Promise<Server> {
  const given = process.env['TEST_DATABASE_URL'];
  if (given) return { url: given, stop: async () => undefined };
  const folder = await mkdtemp(join(os.tmpdir(), 'cleave-test-'));
  const watchdog = watch(folder);
  // Loaded on demand: most test files find a server running, and need not load TypeORM and Nest.
  const { startEmbeddedPostgres } = await import('#database');
  const server = await startEmbeddedPostgres({ dataDir: folder });
  const stop = async () => {
    await server.stop();
    const ended = once(watchdog, 'exit');
    watchdog.ref();
    watchdog.stdin?.end();
    await ended;
  };
  return { url: server.url('postgres'), stop };
}

const key = Symbol.for('cleave.testing.postgres');

/**
 * Jest gives every test file its own globals and its own copy of every module, except those of Node itself. So the
 * servers are kept on one of these, where all test files of a worker find them.
 */
const holder = os as unknown as Record<typeof key, Map<string, Promise<Server>> | undefined>;

async function execute(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}

/**
 * A fresh, empty database on a real Postgres: the server at TEST_DATABASE_URL (a superuser's URL), or else an embedded
 * one that the test files of a jest worker share. That one ends with the worker.
 *
 * @param of which embedded server: two of them share no snapshots, and a transaction on one delays nothing on the other
 * @param collation the ICU locale of its default collation; if left out, that of the server (of an embedded one, byte order)
 */
export async function testDatabase(
  of: 'a server' | 'another server' = 'a server',
  collation?: string,
): Promise<TestDatabase> {
  const servers = (holder[key] ??= new Map());
  const starting = servers.get(of) ?? startServer();
  servers.set(of, starting);
  const server = await starting;
  const name = `test_${randomBytes(8).toString('hex')}`;
  const locale = collation === undefined ? '' : `TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE '${collation}'`;
  await execute(server.url, `CREATE DATABASE ${name} ${locale}`);
  const url = new URL(server.url);
  url.pathname = `/${name}`;
  return { url: url.href, stop: () => execute(server.url, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`) };
}

/** Two instances of a module on one database. */
export interface TwoInstances<Instance> {
  /** The URL of the database that both use. */
  url: string;
  one: Instance;
  two: Instance;
  stop(): Promise<void>;
}

/** @param start starts an instance on the database with this URL */
export async function twoInstances<Instance extends { stop(): Promise<void> }>(
  start: (url: string) => Promise<Instance>,
): Promise<TwoInstances<Instance>> {
  const database = await testDatabase();
  const started: Instance[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(started.map((it) => it.stop()));
    await database.stop();
  };
  try {
    const one = await start(database.url);
    started.push(one);
    const two = await start(database.url);
    started.push(two);
    return { url: database.url, one, two, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Stops the embedded servers now; the next `testDatabase` starts another. */
export async function stopTestDatabases(): Promise<void> {
  const servers = [...(holder[key]?.values() ?? [])];
  delete holder[key];
  await Promise.all(servers.map(async (it) => (await it).stop()));
}
