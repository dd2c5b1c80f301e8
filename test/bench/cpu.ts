import { execFile } from 'node:child_process';
import { readFile, readdir } from 'node:fs/promises';
import { promisify } from 'node:util';

const execute = promisify(execFile);

/** On every Linux that Node runs on, the kernel counts in ticks of 10 ms, so a run has to be much longer than that. */
const tickMs = 10;

/** Fields of /proc/<pid>/stat after the name, which is in parentheses and may contain anything. */
const parentAt = 1;
const timesAt = 11;

/** User and system time of a process, and of its children that have ended and were waited for. */
interface Times {
  parent: number;
  ownMs: number;
  endedChildrenMs: number;
}

const timesOf = async (pid: number): Promise<Times | undefined> => {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  const fields = text
    ?.slice(text.lastIndexOf(') ') + 2)
    .split(' ')
    .map(Number);
  if (!fields) return undefined;
  const [user = 0, system = 0, childrenUser = 0, childrenSystem = 0] = fields.slice(timesAt, timesAt + 4);
  return {
    parent: fields[parentAt]!,
    ownMs: (user + system) * tickMs,
    endedChildrenMs: (childrenUser + childrenSystem) * tickMs,
  };
};

/** The CPU time that processes have used so far, with all their threads; NaN without /proc. */
export const cpuMsOf = async (pids: readonly number[]): Promise<number> => {
  const times = await Promise.all(pids.map(timesOf));
  return times.reduce((sum, it) => sum + (it?.ownMs ?? Number.NaN), 0);
};

/**
 * The CPU time that a Postgres server has used so far: the postmaster, its living children, and those that have ended, whose
 * time the kernel adds to the postmaster's when it waits for them. So a connection that is closed during a run still counts,
 * and the sum never falls.
 */
export const cpuMsOfServer = async (postmaster: number): Promise<number> => {
  const own = await timesOf(postmaster);
  if (!own) return Number.NaN;
  const children = await childrenOf(postmaster);
  return children.reduce((sum, { times }) => sum + times.ownMs, own.ownMs + own.endedChildrenMs);
};

const childrenOf = async (parent: number): Promise<{ pid: number; times: Times }[]> => {
  const entries = await readdir('/proc').catch(() => []);
  const pids = entries.filter((it) => /^\d+$/.test(it)).map(Number);
  const all = await Promise.all(pids.map(async (pid) => ({ pid, times: await timesOf(pid) })));
  return all.flatMap(({ pid, times }) => (times?.parent === parent ? [{ pid, times }] : []));
};

/** Restricts a process, with all its threads and children, to these cores; needs Linux with `taskset`. */
export const runOn = async (cores: readonly number[], pid: number): Promise<void> => {
  const children = await childrenOf(pid);
  // The process comes first, so that children started from now on inherit the restriction.
  for (const it of [pid, ...children.map((child) => child.pid)])
    await execute('taskset', ['--all-tasks', '--cpu-list', '--pid', cores.join(','), String(it)]);
};

/** The resident memory of a process; NaN without /proc. */
export const residentMbOf = async (pid: number): Promise<number> => {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? Number.NaN) / 1_024;
};
