import { execFile } from 'node:child_process';
import { chown, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { guardFolder, unguardFolder } from '../support/app-process.js';
import { eventually } from '../support/eventually.js';
import { servicePorts } from '../support/shapes.js';
import { query } from '../support/tables.js';
import { Daemon, postgresAccount, type Account } from '../cluster/daemon.js';

const run = promisify(execFile);
const versionsOf = '/usr/lib/postgresql';

/** Of the newest version that is installed, with its tools. Where there is none, undefined. */
const binaries = async (): Promise<string | undefined> => {
  const versions = await readdir(versionsOf).catch(() => []);
  const newest = versions.map(Number).toSorted((a, b) => b - a)[0];
  return newest === undefined ? undefined : join(versionsOf, String(newest), 'bin');
};

/** For test files: `describe` where a Postgres with `pg_dump` and `pg_basebackup` is installed, else `describe.skip`. */
export const postgresOrSkip = async <Describe extends { skip: unknown }>(describe: Describe): Promise<Describe> => {
  const folder = await binaries();
  const tools = folder === undefined ? [] : await readdir(folder);
  if (['postgres', 'initdb', 'pg_dump', 'pg_basebackup'].every((it) => tools.includes(it))) return describe;
  process.stderr.write('SKIPPED: there is no Postgres with its tools here: apt-get install postgresql\n');
  return describe.skip as Describe;
};

/** A program of the installed Postgres, as it is run by whoever owns the data. */
export const tool = async (name: string, ...args: string[]): Promise<string> => {
  const account = await postgresAccount();
  const options = { ...account, cwd: tmpdir(), timeout: 120_000, maxBuffer: 2 ** 30 };
  return (await run(join((await binaries())!, name), args, options)).stdout;
};

/** A Postgres as it is installed, apart from the embedded one. */
export class InstalledPostgres {
  private constructor(
    readonly url: string,
    private readonly folder: string,
    private readonly daemon: Daemon,
  ) {}

  /** A folder that the account of Postgres may write into. */
  static async folder(): Promise<string> {
    const folder = await mkdtemp(join(tmpdir(), 'cleave-installed-'));
    guardFolder(folder);
    const account = await postgresAccount();
    if (account) await chown(folder, account.uid, account.gid);
    return folder;
  }

  /** New and empty. */
  static async start(): Promise<InstalledPostgres> {
    const folder = await this.folder();
    await tool('initdb', '-D', join(folder, 'data'), '-U', 'cleave', '--auth=trust', '--encoding=UTF8', '--locale=C');
    const postgres = await this.on(folder);
    await query(postgres.url.replace(/\/cleave$/, '/postgres'), 'CREATE DATABASE cleave');
    return postgres;
  }

  /** On what lies in the folder's `data`. */
  static async on(folder: string): Promise<InstalledPostgres> {
    const account: Account | undefined = await postgresAccount();
    const [port] = await servicePorts(1);
    const sockets = join(folder, 'sockets');
    await mkdir(sockets, { recursive: true });
    if (account) await chown(sockets, account.uid, account.gid);
    const server = join((await binaries())!, 'postgres');
    const daemon = new Daemon('postgres', [server, '-D', join(folder, 'data'), '-p', String(port), '-k', sockets], {
      account,
      folder,
    });
    await daemon.start();
    const url = `postgres://cleave@127.0.0.1:${port}/cleave`;
    await eventually(() => query(url.replace(/\/cleave$/, '/postgres'), 'SELECT 1'));
    return new InstalledPostgres(url, folder, daemon);
  }

  async stop(): Promise<void> {
    await this.daemon.kill('SIGINT');
    await rm(this.folder, { recursive: true, force: true, maxRetries: 5 });
    unguardFolder(this.folder);
  }
}
