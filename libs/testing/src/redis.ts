import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onFreePorts, orSkip, startServer, type ServerProgram } from './servers.js';

const program: ServerProgram = {
  title: 'Redis',
  command: 'redis-server',
  brew: 'redis',
  image: 'redis:7-alpine',
  ready: 'Ready to accept connections',
};

export interface RedisServer {
  /** `redis://127.0.0.1:<port>` */
  url: string;
  port: number;
  pid: number;
  stop(): Promise<void>;
}

/** For test files: `describe` where a Redis server can be started (`orSkip`). */
export const redisOrSkip = <Describe extends { skip: unknown }>(describe: Describe): Promise<Describe> =>
  orSkip(program, describe);

const serverArguments = ['--save', '', '--appendonly', 'no', '--daemonize', 'no'];

async function startAt(port: number): Promise<RedisServer> {
  const directory = await mkdtemp(join(tmpdir(), 'redis-test-'));
  const clear = () => rm(directory, { recursive: true, force: true });
  const own = ['--port', String(port), '--bind', '127.0.0.1', '--dir', directory];
  const publish = ['run', '--rm', '--init', '-p', `127.0.0.1:${port}:6379`, program.image as string];
  try {
    const { pid, stop } = await startServer(program, (way) =>
      way === 'path'
        ? ['redis-server', ...own, ...serverArguments]
        : ['docker', ...publish, 'redis-server', ...serverArguments],
    );
    return { url: `redis://127.0.0.1:${port}`, port, pid, stop: () => stop('SIGTERM').then(clear) };
  } catch (error) {
    await clear();
    throw error;
  }
}

/**
 * A Redis server of the test's own: real, empty, without persistence, on 127.0.0.1.
 *
 * @param port the port to listen on; a free one when left out
 * @throws Error that says what to install when there is none
 */
export const startRedis = ({ port }: { port?: number } = {}): Promise<RedisServer> =>
  port === undefined ? onFreePorts(1, (free) => startAt(free)) : startAt(port);
