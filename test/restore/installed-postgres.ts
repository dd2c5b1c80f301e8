import { execFile } from 'node:child_process';
import { appendFile, chown, mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { eventually, orSkip } from '#testing';
import { guardFolder, unguardFolder } from '../support/app-process.js';
import { servicePorts } from '../support/shapes.js';
import { query } from '../support/tables.js';
import { Daemon, postgresAccount, type Account } from '../cluster/daemon.js';

const run = promisify(execFile);
const versionsOf = '/usr/lib/postgresql';

/** The program folders of all installed versions that have these programs, oldest first. */
const versionsWith = async (programs: readonly string[]): Promise<string[]> => {
  const versions = await readdir(versionsOf).catch(() => []);
  const bins = versions.toSorted((a, b) => Number(a) - Number(b)).map((it) => join(versionsOf, it, 'bin'));
  const tools = await Promise.all(bins.map((it) => readdir(it).catch((): string[] => [])));
  return bins.filter((_, at) => programs.every((it) => tools[at]!.includes(it)));
};

/** The major version of a program folder. */
export const majorOf = (bin: string): number => Number(basename(dirname(bin)));

const clientPrograms = ['pg_dump', 'pg_restore', 'psql'];
const serverPrograms = ['postgres', 'initdb', 'pg_basebackup', 'pg_upgrade', 'pg_controldata', 'vacuumdb'];

/** The program folders of all installed versions, oldest first. */
export const installedVersions = (): Promise<string[]> => versionsWith([...clientPrograms, ...serverPrograms]);

/** The program folder of the newest client of at least this major version; undefined if there is none. */
export const installedClient = async (atLeast: number): Promise<string | undefined> =>
  (await versionsWith(clientPrograms)).findLast((it) => majorOf(it) >= atLeast);

/** For test files: `describe` if a Postgres with its tools is installed (`orSkip`). */
export const postgresOrSkip = async <Describe extends { skip: unknown }>(describe: Describe): Promise<Describe> =>
  orSkip(
    (await installedVersions()).length > 0,
    describe,
    'There is no Postgres with its tools for the tests: install it (apt-get install postgresql)',
  );

/** Runs a program of Postgres as the owner of the data. */
const asOwner = async (program: string, args: string[], env: Record<string, string> = {}): Promise<string> => {
  const account = await postgresAccount();
  const options = { ...account, cwd: tmpdir(), timeout: 120_000, maxBuffer: 2 ** 30 };
  return (await run(program, args, { ...options, env: { PATH: process.env['PATH'], LC_ALL: 'C', ...env } })).stdout;
};

/** Runs a program of the newest installed Postgres. */
export const tool = async (name: string, ...args: string[]): Promise<string> =>
  asOwner(join((await installedVersions()).at(-1)!, name), args);

/** Runs documented commands, with the programs of the newest installed Postgres on the PATH. */
export const shell = async (commands: string, env: Record<string, string> = {}): Promise<string> => {
  const path = `${(await installedVersions()).at(-1)}:${process.env['PATH']}`;
  return asOwner('bash', ['-euo', 'pipefail', '-c', commands], { PATH: path, ...env });
};

/** Options for `initdb`, so that the new data have checksums exactly if those of the other server do. */
const checksumsLike = async (other: { bin: string; data: string }, bin: string): Promise<string[]> => {
  const told = await asOwner(join(other.bin, 'pg_controldata'), [other.data]);
  const version = /^Data page checksum version: +(\d+)$/m.exec(told)?.[1];
  if (version === undefined) throw new Error(`pg_controldata tells nothing of checksums:\n${told}`);
  if (version !== '0') return ['--data-checksums'];
  // Before version 18, checksums are off by default.
  return majorOf(bin) >= 18 ? ['--no-data-checksums'] : [];
};

/** An installed Postgres, as opposed to the embedded one. */
export class InstalledPostgres {
  private constructor(
    readonly url: string,
    readonly folder: string,
    private readonly daemon: Daemon,
  ) {}

  /** Creates a folder that the account of Postgres may write to. */
  static async folder(): Promise<string> {
    const folder = await mkdtemp(join(tmpdir(), 'cleave-installed-'));
    guardFolder(folder);
    const account = await postgresAccount();
    if (account) await chown(folder, account.uid, account.gid);
    return folder;
  }

  /** Removes the folder. */
  static async discard(folder: string): Promise<void> {
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
    unguardFolder(folder);
  }

  /**
   * Creates the data of a new server in `data` below the folder.
   *
   * @param like data and programs of the server that `pg_upgrade` is to upgrade from, which requires the same setting
   * of checksums
   */
  static async init(folder: string, bin: string, like?: { bin: string; data: string }): Promise<void> {
    const access = ['-U', 'cleave', '--auth=trust', '--encoding=UTF8', '--locale=C'];
    const checksums = like ? await checksumsLike(like, bin) : [];
    await asOwner(join(bin, 'initdb'), ['-D', join(folder, 'data'), ...access, ...checksums]);
  }

  /**
   * Starts a new and empty server.
   *
   * @param given `bin`, the folder of its programs, by default those of the newest version; `settings`, lines for
   * `postgresql.conf`; `folder`, where to put its data
   */
  static async start(given: { bin?: string; settings?: string; folder?: string } = {}): Promise<InstalledPostgres> {
    const { bin, settings = '' } = given;
    const folder = given.folder ?? (await this.folder());
    const programs = bin ?? (await installedVersions()).at(-1)!;
    await this.init(folder, programs);
    await appendFile(join(folder, 'data', 'postgresql.conf'), settings);
    const postgres = await this.on(folder, programs);
    await query(postgres.url.replace(/\/cleave$/, '/postgres'), 'CREATE DATABASE cleave');
    return postgres;
  }

  /**
   * Starts a server on the data in `data` below the folder.
   *
   * @param password of the superuser, if local connections require one
   */
  static async on(folder: string, bin?: string, password = ''): Promise<InstalledPostgres> {
    // Runs as the owner of the data, if this process is root.
    const { uid, gid } = await stat(join(folder, 'data'));
    const account: Account | undefined = process.getuid?.() === 0 ? { uid, gid } : undefined;
    const [port] = await servicePorts(1);
    const sockets = join(folder, 'sockets');
    await mkdir(sockets, { recursive: true });
    if (account) await chown(sockets, account.uid, account.gid);
    const server = join(bin ?? (await installedVersions()).at(-1)!, 'postgres');
    const daemon = new Daemon('postgres', [server, '-D', join(folder, 'data'), '-p', String(port), '-k', sockets], {
      account,
      folder,
    });
    await daemon.start();
    const url = `postgres://cleave:${password}@127.0.0.1:${port}/cleave`;
    await eventually(async () => {
      if (!daemon.isRunning) throw new Error(`Postgres ended: ${daemon.output}`);
      await query(url.replace(/\/cleave$/, '/postgres'), 'SELECT 1');
    });
    return new InstalledPostgres(url, folder, daemon);
  }

  get isRunning(): boolean {
    return this.daemon.isRunning;
  }

  /** Starts it again at the same address, after it has ended. */
  async again(): Promise<void> {
    await this.daemon.start();
  }

  /** Stops it and keeps its data. */
  async end(): Promise<void> {
    await this.daemon.kill('SIGINT');
  }

  async stop(): Promise<void> {
    await this.end();
    await InstalledPostgres.discard(this.folder);
  }
}
