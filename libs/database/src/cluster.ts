import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chown, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { startOf } from './postmaster.js';
import { canReach, type ServerUser } from './server-user.js';

export const superuser = 'cleave';

/** The paths of the embedded server below DATA_DIR. */
export interface Cluster {
  dataDir: string;
  home: string;
  data: string;
  passwordFile: string;
  logFile: string;
}

export function clusterIn(dataDir: string): Cluster {
  const home = resolve(dataDir, 'postgres');
  return {
    dataDir: resolve(dataDir),
    home,
    data: join(home, 'data'),
    passwordFile: join(home, 'password'),
    logFile: join(home, 'postgres.log'),
  };
}

/** The environment of the server's programs: messages in English, and no `PG*` variables meant for another server. */
export const serverEnvironment = (): NodeJS.ProcessEnv => ({
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('PG'))),
  LC_ALL: 'C',
});

/**
 * How the server names its data directory. Its programs run with it as their working directory, so that an account that
 * cannot traverse the path to it (below root's home) can still name it on Linux.
 */
export async function nameOfData(data: string, user: ServerUser | undefined): Promise<string> {
  if (await canReach(user, data)) return data;
  if (process.platform === 'linux') return '/proc/self/cwd';
  throw new Error(
    `Postgres does not run as root, and the account it runs as cannot reach ${data}. ` +
      'Start as another user, or set DATA_DIR to a folder that every user can reach.',
  );
}

const exists = async (path: string): Promise<boolean> => {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
};

const cannotKeepIn =
  ({ dataDir }: Cluster) =>
  (error: Error): never => {
    const advice = 'Set DATA_DIR to a folder that can be written to, or DATABASE_URL to a Postgres of your own.';
    throw new Error(`Data cannot be kept in ${dataDir} (${error.message}). ${advice}`, { cause: error });
  };

/**
 * Node's own `mkdir` with `recursive` never returns if a folder exists but reports ENOENT when one is created in it, such
 * as /proc.
 */
async function makeFolder(folder: string): Promise<void> {
  const isThere = async (): Promise<boolean> => (await stat(folder).catch(() => undefined))?.isDirectory() ?? false;
  if (await isThere()) return;
  const above = dirname(folder);
  if (above !== folder) await makeFolder(above);
  await mkdir(folder).catch(async (error: unknown) => {
    // Another process was faster.
    if (!(await isThere())) throw error;
  });
}

const namePrefix = 'postgres.new-';

/** Removes what interrupted starts have left behind. */
async function removeLeftovers(dataDir: string): Promise<void> {
  for (const name of await readdir(dataDir)) {
    if (!name.startsWith(namePrefix)) continue;
    const pid = Number(name.slice(namePrefix.length));
    if (pid === process.pid || (await startOf(pid)) === undefined) {
      await rm(join(dataDir, name), { recursive: true, force: true, maxRetries: 5 });
    }
  }
}

async function runInitdb(cluster: Cluster, binaries: string, user: ServerUser | undefined): Promise<void> {
  // On standard input, because the account may be unable to traverse the path to the file.
  const passwordFile = process.platform === 'win32' ? cluster.passwordFile : '/dev/stdin';
  const data = await nameOfData(cluster.data, user);
  const locale = ['--encoding=UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8'];
  const access = ['--username', superuser, '--auth=scram-sha-256', `--pwfile=${passwordFile}`];
  const password = await open(cluster.passwordFile, 'r');
  try {
    const initdb = spawn(join(binaries, 'bin', 'initdb'), ['-D', data, ...locale, ...access], {
      ...user,
      cwd: cluster.data,
      env: serverEnvironment(),
      stdio: [password.fd, 'pipe', 'pipe'],
      windowsHide: true,
    });
    const ended = new Promise<string>((done) => {
      initdb.once('error', (error) => done(error.message));
      initdb.once('close', (code, signal) => done(String(signal ?? code)));
    });
    const [how, printed, complained] = await Promise.all([ended, text(initdb.stdout!), text(initdb.stderr!)]);
    if (how !== '0') {
      throw new Error(
        `Postgres could not create its data directory (initdb: ${how}):\n${printed}\n${complained}`.trim(),
      );
    }
  } finally {
    await password.close();
  }
}

async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return;
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Creates everything in a temporary folder and renames it once it is complete, so that an interrupted start leaves no
 * partial data.
 */
async function create(cluster: Cluster, binaries: string, user: ServerUser | undefined): Promise<void> {
  const home = join(cluster.dataDir, `${namePrefix}${process.pid}`);
  const made = { ...cluster, home, data: join(home, 'data'), passwordFile: join(home, 'password') };
  try {
    // The server's account must be able to traverse this folder; its contents are closed to others.
    await mkdir(home, { mode: user ? 0o711 : 0o700 }).catch(cannotKeepIn(cluster));
    await mkdir(made.data, { mode: 0o700 });
    await writeFile(made.passwordFile, randomBytes(24).toString('base64url'), { mode: 0o600, flush: true });
    if (user) for (const path of [made.data, made.passwordFile]) await chown(path, user.uid, user.gid);
    await runInitdb(made, binaries, user);
    await syncFolder(home);
    await rename(home, cluster.home).catch(async (error: unknown) => {
      // Another process was faster; its data directory is as good.
      if (!(await exists(cluster.home))) throw error;
    });
    await syncFolder(dirname(home));
  } finally {
    await rm(home, { recursive: true, force: true, maxRetries: 5 });
  }
}

/**
 * Creates the data directory if there is none.
 *
 * @returns the superuser's password
 */
export async function ensureCluster(
  cluster: Cluster,
  binaries: string,
  user: ServerUser | undefined,
  log: (line: string) => void,
): Promise<string> {
  await makeFolder(cluster.dataDir).catch(cannotKeepIn(cluster));
  await removeLeftovers(cluster.dataDir);
  if (!(await exists(cluster.home))) {
    log(`creating a Postgres data directory in ${cluster.home}`);
    await create(cluster, binaries, user);
  }
  try {
    await stat(join(cluster.data, 'PG_VERSION'));
    return (await readFile(cluster.passwordFile, 'utf8')).trim();
  } catch (error) {
    const [problem, remedy] =
      (error as NodeJS.ErrnoException).code === 'ENOENT'
        ? ['is not complete', 'Move it away to start with an empty database']
        : ['cannot be read', 'Start as the user that made it'];
    throw new Error(`${cluster.home} ${problem} (${(error as Error).message}). ${remedy}, or set another DATA_DIR.`, {
      cause: error,
    });
  }
}
