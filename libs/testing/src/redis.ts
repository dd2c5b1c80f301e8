import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { createClient } from 'redis';
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

async function startAt(port: number, more: readonly string[] = []): Promise<RedisServer> {
  const directory = await mkdtemp(join(tmpdir(), 'redis-test-'));
  const clear = () => rm(directory, { recursive: true, force: true });
  const own = ['--port', String(port), '--bind', '127.0.0.1', '--dir', directory, ...more];
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

export interface RedisCluster {
  /** `redis://127.0.0.1:<port>,127.0.0.1:<port>,…` */
  url: string;
  servers: RedisServer[];
  /** The keys of all masters that fit the pattern. */
  keys(pattern: string): Promise<string[]>;
  stop(): Promise<void>;
}

const slots = 16_384;

/** A cluster of masters of the test's own, each with its share of the slots. It needs servers from the path. */
export const startRedisCluster = async (masters = 3): Promise<RedisCluster> => {
  const buses = new Map<number, number>();
  const servers = await Promise.all(
    Array.from({ length: masters }, () =>
      onFreePorts(2, async (port, bus) => {
        buses.set(port, bus);
        return startAt(port, ['--cluster-enabled', 'yes', '--cluster-port', String(bus)]);
      }),
    ),
  );
  const clients = await Promise.all(servers.map(({ url }) => createClient({ url }).connect()));
  const ends = Array.from({ length: masters + 1 }, (_, at) => Math.floor((at * slots) / masters));
  for (const [at, client] of clients.entries())
    await client.sendCommand(['CLUSTER', 'ADDSLOTSRANGE', String(ends[at]), String(ends[at + 1]! - 1)]);
  for (const [at, { port }] of servers.entries())
    if (at > 0) await clients[0]!.sendCommand(['CLUSTER', 'MEET', '127.0.0.1', String(port), String(buses.get(port))]);
  const isWhole = async (): Promise<boolean> => {
    const told = await Promise.all(clients.map((it) => it.sendCommand<string>(['CLUSTER', 'INFO'])));
    return told.every((it) => it.includes('cluster_state:ok') && it.includes(`cluster_known_nodes:${masters}`));
  };
  while (!(await isWhole())) await setTimeout(50);
  return {
    url: `redis://${servers.map(({ port }) => `127.0.0.1:${port}`).join(',')}`,
    servers,
    keys: async (pattern) => (await Promise.all(clients.map((it) => it.keys(pattern)))).flat(),
    stop: async () => {
      for (const client of clients) client.destroy();
      await Promise.all(servers.map((it) => it.stop()));
    },
  };
};
