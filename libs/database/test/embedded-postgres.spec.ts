import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, cp, lstat, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import {
  startEmbeddedPostgres,
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
} from '../src/embedded-postgres.js';
import { packagedBinaries, runnableBinaries } from '../src/postgres-binaries.js';
import { startOf } from '../src/postmaster.js';

const isRoot = process.getuid?.() === 0;
const idOfNobody = 2_147_483_646;

const query = async (url: string, text: string): Promise<Record<string, unknown>[]> => {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(text)).rows as Record<string, unknown>[];
  } finally {
    await client.end();
  }
};

let folder: string;
let dataDir: string;
const servers: EmbeddedPostgres[] = [];
const processes: ChildProcess[] = [];
/** Servers whose owner a test kills; the next start stops them, unless the test has failed. */
const leftBehind: number[] = [];

const start = async (options: Partial<EmbeddedPostgresOptions> = {}): Promise<EmbeddedPostgres> => {
  const server = await startEmbeddedPostgres({ dataDir, ...options });
  servers.push(server);
  return server;
};

/** Starts the compiled server in another process, which then stays idle and prints the result as its first line. */
const startElsewhere = async (): Promise<{ child: ChildProcess; url?: string; pid?: number; error?: string }> => {
  const program = `
    import { startEmbeddedPostgres } from '#database';
    try {
      const server = await startEmbeddedPostgres({ dataDir: process.argv[1] });
      console.log(JSON.stringify({ url: server.url('postgres'), pid: server.pid }));
    } catch (error) {
      console.log(JSON.stringify({ error: error.message }));
    }
    setInterval(() => {}, 60_000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, dataDir], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  processes.push(child);
  const ended = once(child, 'exit').then(([code, signal]) => {
    throw new Error(`the process ended (${String(signal ?? code)}) without a word`);
  });
  ended.catch(() => undefined);
  const [line] = (await Promise.race([once(createInterface(child.stdout), 'line'), ended])) as [string];
  const told = JSON.parse(line) as { url?: string; pid?: number; error?: string };
  if (told.pid) leftBehind.push(told.pid);
  return { child, ...told };
};

const kill = async (child: ChildProcess): Promise<void> => {
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
};

const until = async (condition: () => Promise<boolean>): Promise<void> => {
  while (!(await condition())) await setTimeout(20);
};
const isGone = async (pid: number): Promise<boolean> => (await startOf(pid)) === undefined;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cleave-database-'));
  // Every account may traverse it; a separate test covers a folder that is closed to others.
  await chmod(folder, 0o755);
  dataDir = join(folder, 'data');
});

afterEach(async () => {
  for (const child of processes.splice(0)) if (child.exitCode === null && child.signalCode === null) await kill(child);
  for (const server of servers.splice(0)) await server.stop();
  for (const pid of leftBehind.splice(0)) if (!(await isGone(pid))) process.kill(pid, 'SIGQUIT');
});

afterAll(() => rm(folder, { recursive: true, force: true }));

describe('an embedded Postgres', () => {
  it('creates its data, keeps data and port over a restart, and listens on loopback only', async () => {
    // Left over from an interrupted first start.
    await mkdir(join(dataDir, `postgres.new-${idOfNobody}`, 'data', 'base'), { recursive: true });
    const first = await start();
    expect(await readdir(dataDir)).toEqual(['postgres']);
    await first.createDatabase('orders');
    await first.createDatabase('orders');
    await query(first.url('orders'), 'CREATE TABLE kept AS SELECT 42 AS answer');
    await first.stop();
    expect(await isGone(first.pid)).toBe(true);

    const second = await start();
    expect(second.port).toBe(first.port);
    expect(await query(second.url('orders'), 'SELECT answer FROM kept')).toEqual([{ answer: 42 }]);
    const settings = await query(
      second.url('orders'),
      `SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'listen_addresses',
         'unix_socket_directories', 'max_prepared_transactions', 'password_encryption', 'server_encoding')`,
    );
    expect(Object.fromEntries(settings.map((it) => [it['name'], it['setting']]))).toEqual({
      fsync: 'on',
      synchronous_commit: 'on',
      listen_addresses: '127.0.0.1',
      unix_socket_directories: '',
      max_prepared_transactions: '64',
      password_encryption: 'scram-sha-256',
      server_encoding: 'UTF8',
    });
    const withoutPassword = second.url('orders').replace(/:[^:@/]+@/, ':wrong@');
    await expect(query(withoutPassword, 'SELECT 1')).rejects.toMatchObject({ code: '28P01' });
    expect((await lstat(join(dataDir, 'postgres', 'password'))).mode & 0o077).toBe(0);
  });

  it('uses another port if its last one is taken', async () => {
    const first = await start();
    await first.stop();
    const { createServer } = await import('node:net');
    const somebody = createServer().listen(first.port, '127.0.0.1');
    await once(somebody, 'listening');
    const second = await start();
    expect(second.port).not.toBe(first.port);
    await query(second.url('postgres'), 'SELECT 1');
    somebody.close();
  });

  it('refuses a second start on the same data while the first runs', async () => {
    const server = await start();
    const inUse = `is already used by process ${process.pid}`;
    await expect(startEmbeddedPostgres({ dataDir })).rejects.toThrow(inUse);
    expect((await startElsewhere()).error).toContain(inUse);
    expect(await query(server.url('postgres'), 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  it('keeps its data after its process was killed', async () => {
    const killed = await startElsewhere();
    await query(killed.url!, 'CREATE TABLE survives AS SELECT 7 AS answer');
    await kill(killed.child);
    expect(await isGone(killed.pid!)).toBe(false);

    const lines: string[] = [];
    const server = await start({ log: (line) => lines.push(line) });
    expect(lines).toEqual([
      `stopping the Postgres that process ${killed.child.pid} left behind (process ${killed.pid})`,
    ]);
    expect(await isGone(killed.pid!)).toBe(true);
    expect(await query(server.url('postgres'), 'SELECT answer FROM survives')).toEqual([{ answer: 7 }]);
  });

  it('starts again after its process and its postmaster were killed', async () => {
    const killed = await startElsewhere();
    process.kill(killed.pid!, 'SIGKILL');
    await kill(killed.child);
    const server = await start();
    expect(await query(server.url('postgres'), 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  it('is started by one of two processes at the same time, on new and on existing data', async () => {
    const before = dataDir;
    dataDir = join(folder, 'raced');
    try {
      const racers = await Promise.all([startElsewhere(), startElsewhere()]);
      const winner = racers.find((it) => it.url)!;
      const loser = racers.find((it) => it !== winner)!;
      expect(loser.error).toContain(`is already used by process ${winner.child.pid}`);
      expect(await query(winner.url!, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
      await Promise.all(racers.map((it) => kill(it.child)));
      // And once more, on data whose server was left behind.
      const again = await Promise.all([startElsewhere(), startElsewhere()]);
      expect(again.filter((it) => it.url)).toHaveLength(1);
      expect(await query(again.find((it) => it.url)!.url!, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
      await Promise.all(again.map((it) => kill(it.child)));
      // Stops the server that is left.
      await (await start()).stop();
    } finally {
      dataDir = before;
    }
  });

  it('waits for the lock file that another server is about to write', async () => {
    await (await start()).stop();
    const lock = join(dataDir, 'postgres', 'data', 'postmaster.pid');
    await writeFile(lock, '');
    const starting = start();
    await setTimeout(500);
    await rm(lock);
    expect(await query((await starting).url('postgres'), 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  it('ignores an old lock file whose process id belongs to another program', async () => {
    await (await start()).stop();
    const sharedMemory = '  1234567         1';
    const lock = [process.pid, join(dataDir, 'postgres', 'data'), 1, 54321, '', '127.0.0.1', sharedMemory, 'ready', ''];
    await writeFile(join(dataDir, 'postgres', 'data', 'postmaster.pid'), lock.join('\n'));
    const server = await start();
    expect(await query(server.url('postgres'), 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  it('is restarted on its port when killed, and reported at the fourth time within a minute', async () => {
    const reported: Error[] = [];
    const server = await start({ onExit: (error) => reported.push(error) });
    const { port } = server;
    for (let kills = 1; kills <= 3; kills += 1) {
      const { pid } = server;
      process.kill(pid, 'SIGKILL');
      await until(async () => server.pid !== pid);
      expect(await query(server.url('postgres'), 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    }
    expect(server.port).toBe(port);
    expect(reported).toEqual([]);

    process.kill(server.pid, 'SIGKILL');
    await until(async () => reported.length > 0);
    expect(reported[0]?.message).toContain('4th time within a minute');
    await server.stop();
  });

  it('reports an incomplete data folder', async () => {
    const password = join(dataDir, 'postgres', 'password');
    await rename(password, `${password}.away`);
    await expect(start()).rejects.toThrow('Move it away to start with an empty database');
    await rename(`${password}.away`, password);
  });

  const asRoot = isRoot && process.platform === 'linux' ? it : it.skip;
  if (asRoot === it.skip) process.stderr.write('SKIPPED: data below a closed folder need root on Linux\n');
  asRoot('works below a folder that only root can enter, through checkpoint, crash and restart', async () => {
    const before = dataDir;
    const home = join(folder, 'home');
    await mkdir(home, { mode: 0o700 });
    dataDir = join(home, 'data');
    try {
      const server = await start();
      await query(server.url('postgres'), 'CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number');
      await query(server.url('postgres'), 'CHECKPOINT');
      const [backend] = await query(
        server.url('postgres'),
        `SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'`,
      );
      process.kill(backend!['pid'] as number, 'SIGKILL');
      await until(() =>
        query(server.url('postgres'), 'SELECT 1').then(
          () => true,
          () => false,
        ),
      );
      await server.createDatabase('another');
      await server.stop();
      const again = await start();
      expect(await query(again.url('postgres'), 'SELECT count(*)::int FROM kept')).toEqual([{ count: 1000 }]);
    } finally {
      await servers.pop()?.stop();
      dataDir = before;
    }
  });
});

describe('the server binaries', () => {
  /** A package as npm installs it without running scripts. */
  const withoutLinks = async (target: string): Promise<string> => {
    const native = packagedBinaries();
    await mkdir(target);
    await cp(join(dirname(native), 'package.json'), join(target, 'package.json'));
    await cp(native, join(target, 'native'), {
      recursive: true,
      filter: async (path) => !(await lstat(path)).isSymbolicLink() && !/\.a$|[\\/]share$/.test(path),
    });
    return join(target, 'native');
  };

  it('get the links that npm does not create without install scripts', async () => {
    const native = await withoutLinks(join(folder, 'package'));
    expect(await runnableBinaries(undefined, { native, caches: [] })).toBe(native);
    const links = JSON.parse(await readFile(join(native, 'pg-symlinks.json'), 'utf8')) as { target: string }[];
    for (const { target } of links) expect((await lstat(join(native, '..', target))).isSymbolicLink()).toBe(true);
  });

  const asRoot = isRoot ? it : it.skip;
  if (!isRoot) process.stderr.write('SKIPPED: binaries below a closed folder need root\n');
  asRoot('are copied to a folder where the server may run them if they are below a closed one', async () => {
    const closed = join(folder, 'closed');
    await mkdir(closed, { mode: 0o700 });
    const native = await withoutLinks(join(closed, 'package'));
    const caches = [join(folder, 'cache')];
    const user = { uid: 65_534, gid: 65_534 };
    const copies = await Promise.all([
      runnableBinaries(user, { native, caches }),
      runnableBinaries(user, { native, caches }),
    ]);
    expect(copies[0]).toBe(copies[1]);
    expect(copies[0]).toContain(caches[0]);
    await expect(runnableBinaries(user, { native, caches: [] })).rejects.toThrow('DATABASE_URL=postgres://');

    await chmod(caches[0]!, 0o777);
    await expect(runnableBinaries(user, { native, caches })).rejects.toThrow('owned or writable by another user');
  });

  it('are reported as missing on an unsupported platform, with a hint to set DATABASE_URL', () => {
    const { arch } = process;
    Object.defineProperty(process, 'arch', { value: 'pdp11', configurable: true });
    try {
      expect(packagedBinaries).toThrow(/-pdp11 is not installed.*DATABASE_URL=postgres:\/\//);
    } finally {
      Object.defineProperty(process, 'arch', { value: arch, configurable: true });
    }
  });
});
