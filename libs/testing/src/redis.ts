import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';
import { freePort } from './ports.js';

const run = promisify(execFile);

const missing =
  'There is no Redis server for the tests: install one (apt-get install redis-server, brew install redis) or start Docker';
const image = 'redis:7-alpine';
const startAttempts = 3;
const startTimeoutMs = 60_000;

export interface RedisServer {
  /** `redis://127.0.0.1:<port>` */
  url: string;
  port: number;
  pid: number;
  stop(): Promise<void>;
}

type Way = 'path' | 'docker';

const succeeds = async (command: string, ...args: string[]): Promise<boolean> =>
  run(command, args).then(
    () => true,
    () => false,
  );

async function installWithApt(): Promise<boolean> {
  if (process.getuid?.() !== 0 || !(await succeeds('apt-get', '--version'))) return false;
  // RUNLEVEL keeps Debian from starting a service of its own; one that starts nevertheless stays on port 6379.
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
  const install = ['-o', 'DPkg::Lock::Timeout=120', 'install', '-y', '--no-install-recommends', 'redis-server'];
  try {
    await run('apt-get', ['update'], { env });
    await run('apt-get', install, { env });
  } catch (error) {
    process.stderr.write(`redis-server could not be installed: ${(error as Error).message}\n`);
  }
  return succeeds('redis-server', '--version');
}

async function findWay(): Promise<Way | undefined> {
  if (await succeeds('redis-server', '--version')) return 'path';
  if (await installWithApt()) return 'path';
  if (await succeeds('docker', 'info', '--format', '{{.ServerVersion}}')) return 'docker';
  return undefined;
}

let way: Promise<Way | undefined> | undefined;

/** Whether `startRedis` can start a server; looks once and may install one on the way. */
export async function redisIsAvailable(): Promise<boolean> {
  way ??= findWay();
  return (await way) !== undefined;
}

/**
 * For test files: `describe` where a Redis server can be started, `describe.skip` and a warning where not. In CI (`CI` is
 * set) a missing server is an error, so that nothing is skipped unseen.
 */
export async function redisOrSkip<Describe extends { skip: unknown }>(describe: Describe): Promise<Describe> {
  if (await redisIsAvailable()) return describe;
  if (process.env['CI']) throw new Error(missing);
  process.stderr.write(`SKIPPED: ${missing}\n`);
  return describe.skip as Describe;
}

const serverArguments = ['--save', '', '--appendonly', 'no', '--daemonize', 'no'];

function spawnServer(how: Way, port: number, directory: string): ChildProcess {
  const options = { stdio: ['ignore', 'pipe', 'pipe'] as ['ignore', 'pipe', 'pipe'] };
  if (how === 'path') {
    const own = ['--port', String(port), '--bind', '127.0.0.1', '--dir', directory];
    return spawn('redis-server', [...own, ...serverArguments], options);
  }
  const publish = ['run', '--rm', '--init', '-p', `127.0.0.1:${port}:6379`, image];
  return spawn('docker', [...publish, 'redis-server', ...serverArguments], options);
}

/** Resolves once the server accepts connections; rejects with what it printed when it ends before that. */
async function untilReady(server: ChildProcess, ended: Promise<unknown>): Promise<void> {
  const printed: string[] = [];
  const ready = new Promise<true>((resolve) => {
    const watch = (line: string) => {
      printed.push(line);
      if (line.includes('Ready to accept connections')) resolve(true);
    };
    for (const output of [server.stdout, server.stderr]) if (output) createInterface(output).on('line', watch);
  });
  const timeout = new AbortController();
  const tooLate = setTimeout(startTimeoutMs, false as const, { signal: timeout.signal }).catch(() => false as const);
  const isReady = await Promise.race([ready, ended.then(() => false), tooLate]);
  timeout.abort();
  if (!isReady) throw new Error(`Redis did not start. It printed:\n${printed.join('\n')}`);
}

async function startOnce(how: Way, port: number): Promise<RedisServer> {
  const directory = await mkdtemp(join(tmpdir(), 'redis-test-'));
  const server = spawnServer(how, port, directory);
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
    await rm(directory, { recursive: true, force: true });
  };
  try {
    await untilReady(server, ended);
  } catch (error) {
    await stop('SIGKILL');
    throw error;
  }
  return { url: `redis://127.0.0.1:${port}`, port, pid: server.pid as number, stop: () => stop('SIGTERM') };
}

/**
 * A Redis server of the test's own: real, empty, without persistence, on 127.0.0.1. It is looked for on the PATH, then
 * installed with apt-get where that is possible, then run with Docker.
 *
 * @param port the port to listen on; a free one when left out
 * @throws Error that says what to install when there is none
 */
export async function startRedis({ port }: { port?: number } = {}): Promise<RedisServer> {
  way ??= findWay();
  const how = await way;
  if (!how) throw new Error(missing);
  if (port !== undefined) return startOnce(how, port);
  let last: unknown;
  // A port that was free a moment ago may have been taken meanwhile.
  for (let attempt = 0; attempt < startAttempts; attempt += 1) {
    try {
      return await startOnce(how, await freePort());
    } catch (error) {
      last = error;
    }
  }
  throw last;
}
