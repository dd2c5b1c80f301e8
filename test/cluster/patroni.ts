import { execFile } from 'node:child_process';
import { chown, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { eventually, orSkip } from '#testing';
import { guardFolder, guardProcess, unguardFolder, unguardProcess } from '../support/app-process.js';
import { servicePorts } from '../support/shapes.js';
import { query } from '../support/tables.js';
import { Daemon, postgresAccount, type Account } from './daemon.js';
import { Link } from '../support/link.js';

const run = promisify(execFile);

const packages = 'apt-get install patroni etcd-server haproxy postgresql';
const patienceMs = 120_000;
const size = 3;
const password = 'only-for-tests';

const versionsOf = '/usr/lib/postgresql';

/** The programs of the newest installed version; undefined if there is none. */
const binariesOfPostgres = async (): Promise<string | undefined> => {
  const versions = await readdir(versionsOf).catch(() => []);
  const newest = versions.map(Number).toSorted((a, b) => b - a)[0];
  return newest === undefined ? undefined : join(versionsOf, String(newest), 'bin');
};

const isInstalled = (command: string): Promise<boolean> =>
  run('sh', ['-c', `command -v ${command}`]).then(
    () => true,
    () => false,
  );

/** For test files: `describe` if everything needed is installed (`orSkip`). */
export const patroniOrSkip = async <Describe extends { skip: unknown }>(describe: Describe): Promise<Describe> => {
  const there = await Promise.all(['patroni', 'etcd', 'haproxy'].map(isInstalled));
  const isThere = there.every(Boolean) && (await binariesOfPostgres()) !== undefined;
  return orSkip(isThere, describe, `Patroni, etcd, HAProxy and Postgres are not all here: ${packages}`);
};

/** The timing of the leader election, in seconds: an outage is hardly longer than the lease (`ttl`). */
const timing = { ttl: 20, loop_wait: 2, retry_timeout: 5 };

interface Place {
  folder: string;
  postgres: number;
  rest: number;
  /** The links through which other nodes reach it, and its link to etcd. */
  links: { postgres: Link; rest: Link; etcd: Link };
}

/**
 * The configuration of Patroni; JSON is YAML. In strict synchronous mode, nothing is acknowledged that no standby has.
 */
const settingsOf = (name: string, place: Place, binaries: string): object => ({
  scope: 'cleave',
  name,
  restapi: { listen: `127.0.0.1:${place.rest}`, connect_address: `127.0.0.1:${place.links.rest.port}` },
  // As proxies, because Patroni would otherwise connect to the members directly, past the link.
  etcd3: { hosts: [`127.0.0.1:${place.links.etcd.port}`], use_proxies: true },
  bootstrap: {
    dcs: {
      ...timing,
      synchronous_mode: true,
      synchronous_mode_strict: true,
      postgresql: {
        use_pg_rewind: true,
        parameters: {
          max_connections: 200,
          max_prepared_transactions: 64,
          wal_log_hints: 'on',
          fsync: 'on',
          synchronous_commit: 'on',
          shared_buffers: '64MB',
          wal_keep_size: '256MB',
          // Detects a disconnected standby or client before TCP gives up by itself.
          wal_sender_timeout: '5s',
          wal_receiver_timeout: '5s',
          tcp_user_timeout: '10s',
        },
      },
    },
    initdb: [{ encoding: 'UTF8' }, { locale: 'C.UTF-8' }, 'data-checksums'],
  },
  postgresql: {
    listen: `127.0.0.1:${place.postgres}`,
    connect_address: `127.0.0.1:${place.links.postgres.port}`,
    data_dir: dataOf(place.folder),
    bin_dir: binaries,
    pgpass: join(place.folder, 'pgpass'),
    parameters: { unix_socket_directories: place.folder, timezone: 'UTC' },
    pg_hba: [
      'local all all scram-sha-256',
      'host all all 127.0.0.1/32 scram-sha-256',
      'host replication all 127.0.0.1/32 scram-sha-256',
    ],
    authentication: Object.fromEntries(
      Object.entries({ superuser: 'postgres', replication: 'replicator', rewind: 'rewinder' }).map(
        ([purpose, username]) => [purpose, { username, password }],
      ),
    ),
    remove_data_directory_on_rewind_failure: true,
    remove_data_directory_on_diverged_timelines: true,
  },
});

/** Where the watchdog of the tests looks for a Postgres. */
const dataOf = (folder: string): string => join(folder, 'postgres', 'data');

const textOf = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '');

const childrenOf = async (pid: number): Promise<number[]> => {
  const text = await textOf(`/proc/${pid}/task/${pid}/children`);
  const children = text.trim().split(' ').filter(Boolean).map(Number);
  return [...children, ...(await Promise.all(children.map(childrenOf))).flat()];
};

/**
 * Before 3.0.3, a paused leader that resumes overwrites the lock of its successor, whose commits are then lost:
 * https://github.com/patroni/patroni/pull/2689
 */
const overwritesTheLeader = async (): Promise<boolean> => {
  const [, ...version] = / (\d+)\.(\d+)\.(\d+)/.exec((await run('patroni', ['--version'])).stdout)!;
  const [major, minor, patch] = version.map(Number) as [number, number, number];
  return major < 3 || (major === 3 && minor === 0 && patch < 3);
};

/** A Postgres with its Patroni. */
class PatroniNode {
  constructor(
    readonly name: string,
    readonly place: Place,
    readonly patroni: Daemon,
  ) {}

  /** Whether it has this role according to Patroni, which answers 200 if so. */
  async is(what: 'primary' | 'sync' | 'replica'): Promise<boolean> {
    const answer = await fetch(`http://127.0.0.1:${this.place.rest}/${what}`, {
      signal: AbortSignal.timeout(2_000),
    }).catch(() => undefined);
    await answer?.body?.cancel();
    return answer?.status === 200;
  }

  async postmaster(): Promise<number> {
    return Number((await textOf(join(dataOf(this.place.folder), 'postmaster.pid'))).split('\n')[0]);
  }

  /** Kills Patroni and Postgres at once, like a power failure. */
  async kill(): Promise<void> {
    const pid = await this.postmaster();
    await this.patroni.kill('SIGKILL');
    if (pid > 0) process.kill(pid, 'SIGKILL');
  }

  /** Pauses all of its processes. */
  stop(): Promise<void> {
    return this.signal('SIGSTOP');
  }

  /**
   * Resumes all processes as if no time had passed. If this version of Patroni would take the lock from its successor,
   * it is restarted instead, next to the resumed Postgres.
   */
  async goOn(): Promise<void> {
    const takesLocks = await overwritesTheLeader();
    if (takesLocks) await this.patroni.kill('SIGKILL');
    await this.signal('SIGCONT');
    if (takesLocks) await this.patroni.start();
  }

  private async signal(signal: 'SIGSTOP' | 'SIGCONT'): Promise<void> {
    const postmaster = await this.postmaster();
    for (const parent of [this.patroni.pid, postmaster].filter((it) => it > 0))
      for (const pid of [parent, ...(await childrenOf(parent))]) {
        // When the tests end, a paused process reacts to SIGKILL only.
        if (signal === 'SIGSTOP') guardProcess(pid);
        else if (pid !== this.patroni.pid) unguardProcess(pid);
        sent(pid, signal);
      }
  }

  /** Cuts it off from etcd and the other nodes, in both directions. Direct connections from elsewhere still work. */
  partition(): void {
    for (const link of Object.values(this.place.links)) link.cut();
  }

  rejoin(): void {
    for (const link of Object.values(this.place.links)) link.mend();
  }
}

export type { PatroniNode };

/** A process may have ended since it was listed. */
const sent = (pid: number, signal: NodeJS.Signals): void => {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
};

const proxySettings = (port: number, places: readonly Place[]): string => `
global
  maxconn 2000
defaults
  mode tcp
  maxconn 1000
  timeout connect 2s
  timeout check 2s
  timeout client 30m
  timeout server 30m
  option clitcpka
  option srvtcpka
listen primary
  bind 127.0.0.1:${port}
  option httpchk OPTIONS /primary
  http-check expect status 200
  default-server inter 1s fall 3 rise 1 on-marked-down shutdown-sessions
${places.map((it, at) => `  server node-${at} 127.0.0.1:${it.postgres} maxconn 300 check port ${it.rest}`).join('\n')}
`;

const newFolder = async (account: Account | undefined): Promise<string> => {
  const folder = await mkdtemp(join(tmpdir(), 'cleave-cluster-'));
  guardFolder(folder);
  await mkdir(join(folder, 'postgres'), { mode: 0o700 });
  if (account) for (const path of [folder, join(folder, 'postgres')]) await chown(path, account.uid, account.gid);
  return folder;
};

/**
 * Three Postgres nodes under Patroni, three members of etcd, and an HAProxy whose address always leads to the primary.
 */
export class PatroniCluster {
  private readonly started: Daemon[] = [];
  private readonly folders: string[] = [];
  private port = 0;
  readonly nodes: PatroniNode[] = [];

  static async start(): Promise<PatroniCluster> {
    const cluster = new PatroniCluster();
    try {
      await cluster.startAll();
      return cluster;
    } catch (error) {
      const said = cluster.output();
      await cluster.stop();
      throw new Error(`Patroni did not start. It printed:\n${said}`, { cause: error });
    }
  }

  /** Through HAProxy. */
  url(user = 'cleave', database = 'cleave'): string {
    return `postgres://${user}:${password}@127.0.0.1:${this.port}/${database}`;
  }

  /** The primary according to Patroni; rejects if there is none for long. */
  primary(): Promise<PatroniNode> {
    return eventually(() => this.oneThatIs('primary'), patienceMs);
  }

  /** The primary among the other nodes. */
  otherPrimary(than: PatroniNode): Promise<PatroniNode> {
    return this.oneThatIs(
      'primary',
      this.nodes.filter((it) => it !== than),
    );
  }

  /** The synchronous standby, which has everything that was acknowledged. */
  standby(): Promise<PatroniNode> {
    return eventually(() => this.oneThatIs('sync'), patienceMs);
  }

  /** Waits for a primary, a synchronous standby and other replicas that follow. */
  async whole(): Promise<void> {
    await eventually(async () => {
      const [primary] = await Promise.all([this.oneThatIs('primary'), this.oneThatIs('sync')]);
      const others = this.nodes.filter((it) => it !== primary);
      const running = await Promise.all(others.map((it) => it.is('replica')));
      if (!running.every(Boolean)) throw new Error(`not all nodes follow the primary: ${running.join()}`);
    }, patienceMs);
  }

  output(): string {
    return this.started.map((it) => `===== ${it.name}\n${it.output.slice(-8_000)}`).join('\n');
  }

  async stop(): Promise<void> {
    // Patroni first, because it would restart its Postgres.
    await Promise.all(this.started.map((it) => it.kill('SIGKILL')));
    for (const node of this.nodes) {
      const pid = await node.postmaster();
      if (pid > 0) for (const it of [pid, ...(await childrenOf(pid))]) sent(it, 'SIGKILL');
      await Promise.all(Object.values(node.place.links).map((it) => it.stop()));
    }
    for (const folder of this.folders) {
      await rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
      unguardFolder(folder);
    }
  }

  private async oneThatIs(what: 'primary' | 'sync', nodes = this.nodes): Promise<PatroniNode> {
    const answers = await Promise.all(nodes.map((it) => it.is(what)));
    const found = nodes.filter((_, at) => answers[at]);
    if (found.length !== 1) throw new Error(`${found.length} nodes say that they are the ${what}`);
    return found[0]!;
  }

  private async startAll(): Promise<void> {
    const account = await postgresAccount();
    const binaries = (await binariesOfPostgres())!;
    const etcd = await this.startEtcd();
    for (let at = 0; at < size; at += 1) this.nodes.push(await this.nodeAt(at, etcd, binaries, account));
    // One after the other, so that the first becomes the primary that the others copy.
    for (const { patroni } of this.nodes) {
      await patroni.start();
      await this.primary();
    }
    await this.startProxy();
    await this.whole();
    // Not a superuser, because the connections reserved for superusers are for Patroni.
    const superuser = this.url('postgres', 'postgres');
    await eventually(() => query(superuser, `CREATE ROLE cleave LOGIN PASSWORD '${password}'`), patienceMs);
    await query(superuser, 'CREATE DATABASE cleave OWNER cleave');
  }

  /** @returns the client ports of its members */
  private async startEtcd(): Promise<number[]> {
    const ports = await servicePorts(2 * size);
    const [clients, peers] = [ports.slice(0, size), ports.slice(size)];
    const local = (port: number | undefined): string => `http://127.0.0.1:${port}`;
    for (const [at, port] of clients.entries()) {
      const folder = await this.folder(undefined);
      const settings = {
        name: `etcd-${at}`,
        'data-dir': join(folder, 'etcd'),
        'listen-client-urls': local(port),
        'advertise-client-urls': local(port),
        'listen-peer-urls': local(peers[at]),
        'initial-advertise-peer-urls': local(peers[at]),
        'initial-cluster': peers.map((peer, index) => `etcd-${index}=${local(peer)}`).join(),
        'initial-cluster-state': 'new',
      };
      const args = Object.entries(settings).map(([name, value]) => `--${name}=${value}`);
      await this.daemon(`etcd-${at}`, ['etcd', ...args], folder).start();
    }
    await eventually(async () => {
      const answers = await Promise.all(clients.map((it) => fetch(`${local(it)}/health`)));
      if (!answers.every((it) => it.ok)) throw new Error('etcd has no leader yet');
    }, patienceMs);
    return clients;
  }

  private async nodeAt(
    at: number,
    etcd: readonly number[],
    binaries: string,
    account: Account | undefined,
  ): Promise<PatroniNode> {
    const folder = await this.folder(account);
    const [postgres, rest] = (await servicePorts(2)) as [number, number];
    const [toPostgres, toRest, toEtcd] = await Promise.all([Link.to(postgres), Link.to(rest), Link.to(...etcd)]);
    const place = { folder, postgres, rest, links: { postgres: toPostgres, rest: toRest, etcd: toEtcd } };
    const file = join(folder, 'patroni.json');
    await writeFile(file, JSON.stringify(settingsOf(`node-${at}`, place, binaries)));
    return new PatroniNode(`node-${at}`, place, this.daemon(`patroni-${at}`, ['patroni', file], folder, account));
  }

  private async startProxy(): Promise<void> {
    const folder = await this.folder(undefined);
    [this.port] = (await servicePorts(1)) as [number];
    const file = join(folder, 'haproxy.cfg');
    await writeFile(
      file,
      proxySettings(
        this.port,
        this.nodes.map((it) => it.place),
      ),
    );
    await this.daemon('haproxy', ['haproxy', '-db', '-f', file], folder).start();
  }

  private async folder(account: Account | undefined): Promise<string> {
    const folder = await newFolder(account);
    this.folders.push(folder);
    return folder;
  }

  private daemon(name: string, commandLine: [string, ...string[]], folder: string, account?: Account): Daemon {
    const daemon = new Daemon(name, commandLine, { folder, account });
    this.started.push(daemon);
    return daemon;
  }
}
