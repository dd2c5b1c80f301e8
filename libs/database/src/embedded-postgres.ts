import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { open, readFile, rename, stat } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { clusterIn, ensureCluster, nameOfData, serverEnvironment, superuser, type Cluster } from './cluster.js';
import { runnableBinaries } from './postgres-binaries.js';
import {
  disownLockFile,
  endsWithin,
  isAlive,
  isPostmasterOf,
  isThere,
  lastStart,
  ownerSetting,
  readLockFile,
  startOf,
  type Process,
} from './postmaster.js';
import { serverUserFor, type ServerUser } from './server-user.js';

const run = promisify(execFile);

export interface EmbeddedPostgresOptions {
  /** The data is in `<dataDir>/postgres`, which is created if it is missing. */
  dataDir: string;
  /** Receives messages for the operator, one line at a time. */
  log?: (line: string) => void;
  maxConnections?: number;
  /** Called if the server has ended and cannot be kept running: it is not started again after that. */
  onExit?: (error: Error) => void;
}

/** A Postgres server of our own on 127.0.0.1. It does not keep the process alive, and ends when the process exits. */
export interface EmbeddedPostgres {
  readonly port: number;
  /** The process id of the postmaster, which changes if the server is restarted. */
  readonly pid: number;
  /** `postgres://user:password@127.0.0.1:port/database` */
  url(database: string): string;
  /** Leaves an existing database as it is. */
  createDatabase(name: string): Promise<void>;
  /** Closes the connections and shuts down. Call it last, when the databases are no longer used. */
  stop(): Promise<void>;
}

const busyTimeoutMs = 30_000;
const recoveryTimeoutMs = 600_000;
const fastStopTimeoutMs = 20_000;
const immediateStopTimeoutMs = 10_000;
const restartsPerMinute = 3;
const logBytes = 1_048_576;

const mebibyte = 2 ** 20;

/** An eighth of the available memory, from 128 MB to 4 GB; the memory is allocated only when it is used. */
const sharedBuffersMb = (): number => {
  const bytes = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
  return Math.round(Math.min(4_096, Math.max(128, bytes / mebibyte / 8)));
};

const settingsOf = (port: number, maxConnections: number): Record<string, string | number> => ({
  listen_addresses: '127.0.0.1',
  port,
  unix_socket_directories: '',
  max_connections: maxConnections,
  max_prepared_transactions: 64,
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  shared_buffers: `${sharedBuffersMb()}MB`,
  wal_buffers: '16MB',
  min_wal_size: '256MB',
  // The first change of a page after a checkpoint logs the whole page, so checkpoints are rare.
  max_wal_size: '2GB',
  checkpoint_timeout: '15min',
  jit: 'off',
  timezone: 'UTC',
  log_timezone: 'UTC',
  logging_collector: 'off',
  log_checkpoints: 'off',
  // Logs starts, stops and crashes. Failed statements are reported to their callers, and may contain personal data.
  log_min_messages: 'log',
  log_min_error_statement: 'panic',
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

class SupervisedPostgres implements EmbeddedPostgres {
  port = 0;
  private child?: ChildProcess;
  private restarting: Promise<void> = Promise.resolve();
  private stopping = false;
  private stopped?: Promise<void>;
  private exits: number[] = [];

  constructor(
    private readonly cluster: Cluster,
    private readonly binaries: string,
    private readonly user: ServerUser | undefined,
    private readonly password: string,
    private readonly options: Required<Pick<EmbeddedPostgresOptions, 'log' | 'maxConnections' | 'onExit'>>,
  ) {}

  get pid(): number {
    return this.child?.pid ?? 0;
  }

  url(database: string): string {
    return `postgres://${superuser}:${this.password}@127.0.0.1:${this.port}/${encodeURIComponent(database)}`;
  }

  async createDatabase(name: string): Promise<void> {
    const client = new pg.Client({ connectionString: this.url('postgres'), connectionTimeoutMillis: 10_000 });
    // The calls below report errors; without a listener, the event would end the process as well.
    client.on('error', (error) => this.options.log(`creating a database: ${error.message}`));
    await client.connect();
    try {
      const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [name]);
      if (rowCount === 0) await client.query(`CREATE DATABASE ${pg.escapeIdentifier(name)}`);
    } catch (error) {
      // Another process created it at the same moment: duplicate_database, or unique_violation if it was very close.
      if (!['42P04', '23505'].includes((error as pg.DatabaseError).code ?? '')) throw error;
    } finally {
      await client.end();
    }
  }

  async start(): Promise<void> {
    this.port = (await lastStart(this.cluster.data)).port ?? (await freePort());
    await this.launch({ mayChangePort: true });
  }

  stop(): Promise<void> {
    this.stopped ??= this.end();
    return this.stopped;
  }

  private async end(): Promise<void> {
    this.stopping = true;
    await this.restarting;
    const pid = this.child?.pid;
    const startedAt = pid === undefined ? undefined : await startOf(pid);
    if (pid !== undefined && startedAt !== undefined) await this.shutDown({ pid, startedAt });
  }

  /**
   * First a `fast` shutdown, which does not wait for clients, then an `immediate` one, after which the next start has to
   * recover.
   */
  private async shutDown(postmaster: Process): Promise<void> {
    await this.ask(postmaster.pid, 'fast');
    if (await endsWithin(fastStopTimeoutMs, postmaster)) return;
    await this.ask(postmaster.pid, 'immediate');
    if (await endsWithin(immediateStopTimeoutMs, postmaster)) return;
    throw new Error(
      `Postgres (process ${postmaster.pid}) does not stop; end it yourself. Log: ${this.cluster.logFile}`,
    );
  }

  private async ask(pid: number, mode: 'fast' | 'immediate'): Promise<void> {
    if (process.platform === 'win32') {
      const stop = ['stop', '-D', this.cluster.data, '-m', mode, '-W'];
      await run(join(this.binaries, 'bin', 'pg_ctl'), stop, { windowsHide: true });
    } else if (isThere(pid)) {
      process.kill(pid, mode === 'fast' ? 'SIGINT' : 'SIGQUIT');
    }
  }

  /**
   * Starts the server, however the last one ended. Postgres itself ensures that no two servers run on the same data. An
   * obstacle is waited for, cleared away, or reported to the operator.
   */
  private async launch({ mayChangePort }: { mayChangePort: boolean }): Promise<void> {
    const giveUpAt = Date.now() + busyTimeoutMs;
    while (!this.stopping) {
      await this.clearTheWay();
      const failure = await this.spawnOnce();
      if (failure === undefined) return;
      const portIsTaken = /could not bind|could not create any TCP\/IP sockets/.test(failure);
      // The children of a server that was killed need a moment to notice it, and another server to write its lock file.
      const isBusy =
        portIsTaken ||
        /lock file "[^"]{1,4096}" (?:already exists|is empty)|shared memory block .{1,100} still in use/.test(failure);
      if (!isBusy || Date.now() > giveUpAt) throw new Error(this.explain(failure));
      if (portIsTaken && mayChangePort) this.port = await freePort();
      else await setTimeout(100);
    }
  }

  private explain(failure: string): string {
    const { data, logFile } = this.cluster;
    const advice = failure.includes('still in use')
      ? 'Processes of a server that was killed still use the data: wait until they have ended or kill them, then start again.'
      : `Its log is ${logFile}.`;
    return `Postgres did not start on ${data}. ${advice}\n${failure.trim()}`;
  }

  /**
   * Stops a server whose owner was killed.
   *
   * @throws Error if its owner is still alive
   */
  private async clearTheWay(): Promise<void> {
    const { data, dataDir } = this.cluster;
    const giveUpAt = Date.now() + busyTimeoutMs;
    for (;;) {
      const lock = await readLockFile(data);
      if (!lock) return;
      const startedAt = await startOf(lock.pid);
      if (startedAt === undefined || !(await isPostmasterOf(lock.pid, data))) {
        if (isThere(lock.pid)) disownLockFile(data, lock.pid);
        return;
      }
      if (lock.status === '' && Date.now() < giveUpAt) {
        // It has only just been started and does not name its owner yet.
        await setTimeout(20);
        continue;
      }
      const { owner } = await lastStart(data);
      if (!owner || (await isAlive(owner))) {
        throw new Error(
          `${dataDir} is already used by process ${owner?.pid ?? lock.pid}. ` +
            'Stop that one first, or give this one another DATA_DIR.',
        );
      }
      this.options.log(`stopping the Postgres that process ${owner.pid} left behind (process ${lock.pid})`);
      await this.shutDown({ pid: lock.pid, startedAt });
    }
  }

  /** @returns what the server logged when it ended instead of becoming ready */
  private async spawnOnce(): Promise<string | undefined> {
    const { data, logFile } = this.cluster;
    const logged = await stat(logFile).then(
      (it) => it.size,
      () => 0,
    );
    if (logged > logBytes) await rename(logFile, `${logFile}.1`);
    const seen = logged > logBytes ? 0 : logged;
    const { child, ended, endWithUs } = await this.spawnServer();
    let end: string | undefined;
    void ended.then((how) => {
      process.off('exit', endWithUs);
      end = how;
    });
    const giveUpAt = Date.now() + recoveryTimeoutMs;
    while (end === undefined) {
      const lock = await readLockFile(data);
      // A server that follows another one reports `standby`.
      if (lock?.pid === child.pid && ['ready', 'standby'].includes(lock?.status ?? '')) {
        this.watch(child, ended);
        return undefined;
      }
      if (this.stopping || Date.now() > giveUpAt) child.kill('SIGINT');
      await setTimeout(10);
    }
    const log = (await readFile(logFile)).subarray(seen).toString().trim();
    return `${log.split('\n').slice(-20).join('\n')}\n(${end})`;
  }

  /** @returns the server, how it ends, and the exit listener that stops it together with this process */
  private async spawnServer(): Promise<{ child: ChildProcess; ended: Promise<string>; endWithUs: () => void }> {
    const { data, logFile } = this.cluster;
    const { pid } = process;
    const settings = Object.entries(settingsOf(this.port, this.options.maxConnections));
    const parameters = [
      ...settings.map(([name, value]) => `${name}=${value}`),
      ownerSetting({ pid, startedAt: (await startOf(pid)) ?? '' }),
    ];
    const name = await nameOfData(data, this.user);
    const log = await open(logFile, 'a', 0o600);
    try {
      const child = spawn(
        join(this.binaries, 'bin', 'postgres'),
        ['-D', name, ...parameters.flatMap((it) => ['-c', it])],
        {
          ...this.user,
          cwd: data,
          env: serverEnvironment(),
          stdio: ['ignore', log.fd, log.fd],
          // In its own process group, so that Ctrl-C reaches only this process and requests in flight can still be
          // finished.
          detached: process.platform !== 'win32',
          windowsHide: true,
        },
      );
      // Listens at once: a server that finds a lock file may end before the log is closed.
      const ended = new Promise<string>((resolve) => {
        child.once('error', (error) => resolve(error.message));
        child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`));
      });
      const endWithUs = () => void child.kill('SIGINT');
      process.once('exit', endWithUs);
      return { child, ended, endWithUs };
    } finally {
      await log.close();
    }
  }

  private watch(child: ChildProcess, ended: Promise<string>): void {
    child.unref();
    this.child = child;
    const onEnd = (how: string) => {
      if (!this.stopping) this.restarting = this.restart(how);
    };
    void ended.then(onEnd);
  }

  /** Never rejects: a server that cannot be kept up is reported to `onExit`. */
  private async restart(how: string): Promise<void> {
    const now = Date.now();
    this.exits = [...this.exits.filter((it) => it > now - 60_000), now];
    try {
      const ended = `Postgres ended unexpectedly (${how})`;
      if (this.exits.length > restartsPerMinute) {
        throw new Error(`${ended} for the ${this.exits.length}th time within a minute. Log: ${this.cluster.logFile}`);
      }
      this.options.log(`${ended}; starting it again`);
      await this.launch({ mayChangePort: false });
    } catch (error) {
      this.options.log((error as Error).message);
      this.options.onExit(error as Error);
    }
  }
}

/**
 * Starts and supervises a Postgres server of our own: if it ends unexpectedly, it is restarted. However the last process
 * ended, its data is intact; a server that it left behind is stopped first.
 *
 * @throws Error with advice if another living process uses the data, or if there is no server for this platform
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { dataDir, log = () => undefined, maxConnections = 100, onExit = () => undefined } = options;
  const cluster = clusterIn(dataDir);
  const user = await serverUserFor(cluster.data);
  const binaries = await runnableBinaries(user);
  const password = await ensureCluster(cluster, binaries, user, log);
  const server = new SupervisedPostgres(cluster, binaries, user, password, { log, maxConnections, onExit });
  await server.start();
  return server;
}
