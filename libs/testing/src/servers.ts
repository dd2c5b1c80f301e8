import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';
import { orSkip } from './or-skip.js';
import { freePort } from './ports.js';

const run = promisify(execFile);

const startAttempts = 3;
const startTimeoutMs = 60_000;

/** A server that tests start. It is looked for on the PATH, then installed with apt-get, then run with Docker. */
export interface ServerProgram {
  title: string;
  /** The name of the program, and of the Debian package that contains it. */
  command: string;
  /** The Homebrew package. */
  brew: string;
  /** The Docker image that can run in its place. */
  image?: string;
  /** What it prints once it accepts connections. */
  ready: string;
}

export type Way = 'path' | 'docker';

export interface RunningServer {
  pid: number;
  stop: (signal: NodeJS.Signals) => Promise<void>;
}

const succeeds = async (command: string, ...args: string[]): Promise<boolean> =>
  run(command, args).then(
    () => true,
    () => false,
  );

async function installWithApt(command: string): Promise<boolean> {
  if (process.getuid?.() !== 0 || !(await succeeds('apt-get', '--version'))) return false;
  // RUNLEVEL keeps Debian from starting a service of its own; one that starts nevertheless stays on its usual port.
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
  const install = ['-o', 'DPkg::Lock::Timeout=120', 'install', '-y', '--no-install-recommends', command];
  try {
    await run('apt-get', ['update'], { env });
    await run('apt-get', install, { env });
  } catch (error) {
    process.stderr.write(`${command} could not be installed: ${(error as Error).message}\n`);
  }
  return succeeds(command, '--version');
}

async function findWay({ command, image }: ServerProgram): Promise<Way | undefined> {
  if (await succeeds(command, '--version')) return 'path';
  if (await installWithApt(command)) return 'path';
  if (image && (await succeeds('docker', 'info', '--format', '{{.ServerVersion}}'))) return 'docker';
  return undefined;
}

const ways = new Map<string, Promise<Way | undefined>>();

/** How it can be started, if at all. This is checked once, and may install it. */
async function wayTo(program: ServerProgram): Promise<Way | undefined> {
  const way = ways.get(program.command) ?? findWay(program);
  ways.set(program.command, way);
  return way;
}

const missing = ({ title, command, brew, image }: ServerProgram): string => {
  const docker = image ? ' or start Docker' : '';
  return `There is no ${title} server for the tests: install one (apt-get install ${command}, brew install ${brew})${docker}`;
};

/** For test files: `describe` if the server can be started (`orSkip`). */
export const serverOrSkip = async <Describe extends { skip: unknown }>(
  program: ServerProgram,
  describe: Describe,
): Promise<Describe> => orSkip((await wayTo(program)) !== undefined, describe, missing(program));

/** Resolves once the server accepts connections; rejects with what it printed if it ends before that. */
async function untilReady({ title, ready }: ServerProgram, server: ChildProcess, ended: Promise<void>): Promise<void> {
  const printed: string[] = [];
  const isUp = new Promise<true>((resolve) => {
    const watch = (line: string) => {
      printed.push(line);
      if (line.includes(ready)) resolve(true);
    };
    for (const output of [server.stdout, server.stderr]) if (output) createInterface(output).on('line', watch);
  });
  const timeout = new AbortController();
  const tooLate = setTimeout(startTimeoutMs, false as const, { signal: timeout.signal }).catch(() => false as const);
  const isReady = await Promise.race([isUp, ended.then(() => false), tooLate]);
  timeout.abort();
  if (!isReady) throw new Error(`${title} did not start. It printed:\n${printed.join('\n')}`);
}

/** @throws Error that says what to install if there is none */
export async function startServer(
  program: ServerProgram,
  commandLine: (way: Way) => readonly [string, ...string[]],
): Promise<RunningServer> {
  const way = await wayTo(program);
  if (!way) throw new Error(missing(program));
  const [command, ...args] = commandLine(way);
  const server = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise<void>((resolve) => {
    server.once('close', () => resolve());
    server.once('error', () => resolve());
  });
  const killWithUs = () => server.kill('SIGKILL');
  process.once('exit', killWithUs);
  const stop = async (signal: NodeJS.Signals) => {
    process.off('exit', killWithUs);
    server.kill(signal);
    await ended;
  };
  try {
    await untilReady(program, server, ended);
  } catch (error) {
    await stop('SIGKILL');
    throw error;
  }
  return { pid: server.pid as number, stop };
}

/** Starts something on free ports. They may be taken before it listens, so this is tried more than once. */
export async function onFreePorts<Started>(
  count: number,
  start: (...ports: number[]) => Promise<Started>,
): Promise<Started> {
  let last: unknown;
  for (let attempt = 0; attempt < startAttempts; attempt += 1) {
    try {
      return await start(...(await Promise.all(Array.from({ length: count }, freePort))));
    } catch (error) {
      last = error;
    }
  }
  throw last;
}
