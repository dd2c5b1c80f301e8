import { execFile } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** The contents of `postmaster.pid`, the lock file of a data directory. */
export interface LockFile {
  pid: number;
  port: number;
  /** `starting`, `ready`, `stopping`; empty until `postmaster.opts` is written. */
  status: string;
}

/** A process, identified such that a later one with the same id is not mistaken for it. */
export interface Process {
  pid: number;
  startedAt: string;
}

const lockFile = (data: string): string => join(data, 'postmaster.pid');

const textOf = async (path: string): Promise<string | undefined> => {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
};

export async function readLockFile(data: string): Promise<LockFile | undefined> {
  const lines = (await textOf(lockFile(data)))?.split('\n');
  const pid = Number(lines?.[0]);
  return lines && pid > 0 ? { pid, port: Number(lines[3]), status: lines[7]?.trim() ?? '' } : undefined;
}

/** A setting that records who started a postmaster. Like the port, it is kept in `postmaster.opts`. */
export const ownerSetting = ({ pid, startedAt }: Process): string => `cleave.owner=${pid}:${startedAt}`;

/** The port and the owner with which the server of the data directory was last started. */
export async function lastStart(data: string): Promise<{ port?: number; owner?: Process }> {
  const options = (await textOf(join(data, 'postmaster.opts'))) ?? '';
  const port = /"port=(\d+)"/.exec(options)?.[1];
  const owner = /"cleave\.owner=(\d+):([\w-]*)"/.exec(options);
  return {
    ...(port && { port: Number(port) }),
    ...(owner && { owner: { pid: Number(owner[1]), startedAt: owner[2]! } }),
  };
}

/**
 * The start time of a process on Linux: a field of /proc/<pid>/stat after the name, which is in brackets and may contain
 * anything.
 */
async function linuxStartOf(pid: number): Promise<string | undefined> {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined))?.split(') ').at(-1)?.split(' ');
  const state = fields?.[0];
  return state === undefined || state === 'Z' || state === 'X' ? undefined : fields?.[19];
}

/** Whether any process has the id, even a zombie or one of another user. */
export const isThere = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
};

/**
 * The start of the process, as a text that differs between processes with the same id; undefined if there is none, or only
 * a zombie.
 */
export async function startOf(pid: number): Promise<string | undefined> {
  if (process.platform === 'linux') return linuxStartOf(pid);
  if (!isThere(pid)) return undefined;
  if (process.platform === 'win32') return 'unknown';
  const listed = await run('ps', ['-o', 'state=,lstart=', '-p', String(pid)]).catch(() => undefined);
  const [state, ...start] = listed?.stdout.trim().split(/\s+/) ?? [];
  return state === undefined || state.startsWith('Z') ? undefined : start.join('-').replaceAll(/[^\w-]/g, '-');
}

export const isAlive = async ({ pid, startedAt }: Process): Promise<boolean> => (await startOf(pid)) === startedAt;

/** Whether the process is the postmaster of the data directory, and not a later process with the same id. */
export async function isPostmasterOf(pid: number, data: string): Promise<boolean> {
  if ((await startOf(pid)) === undefined) return false;
  if (process.platform === 'linux') {
    // The working directory of a postmaster is its data directory.
    const [its, ours] = await Promise.all([stat(`/proc/${pid}/cwd`).catch(() => undefined), stat(data)]);
    return its !== undefined && its.ino === ours.ino && its.dev === ours.dev;
  }
  if (process.platform === 'win32') {
    const listed = await run('tasklist', ['/FI', `PID eq ${pid}`, '/FO', 'CSV', '/NH'], { windowsHide: true });
    return /^"postgres\.exe"/i.test(listed.stdout.trim());
  }
  const listed = await run('ps', ['-o', 'command=', '-p', String(pid)]).catch(() => undefined);
  return listed?.stdout.includes(data) ?? false;
}

/**
 * Postgres refuses to start while any process has the id in the lock file. If that is an unrelated process, this replaces
 * the id with one that no process can have. The file stays, because Postgres needs it to find out whether children of the
 * dead server still work on the data.
 */
export function disownLockFile(data: string, strangerPid: number): void {
  const text = readFileSync(lockFile(data), 'utf8');
  const [pid, ...rest] = text.split('\n');
  // Synchronous and read again, so that a server that started meanwhile does not lose its lock.
  if (Number(pid) === strangerPid) writeFileSync(lockFile(data), ['2147483646', ...rest].join('\n'));
}

/** @returns true once the process is gone, false if it still runs after the time */
export async function endsWithin(timeoutMs: number, ended: Process): Promise<boolean> {
  const giveUpAt = Date.now() + timeoutMs;
  while (await isAlive(ended)) {
    if (Date.now() > giveUpAt) return false;
    await setTimeout(20);
  }
  return true;
}
