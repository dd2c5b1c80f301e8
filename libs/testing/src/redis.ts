import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { onFreePorts, serverOrSkip, startServer, type ServerProgram } from './servers.js';

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
  /** Ends it at once. */
  kill(): Promise<void>;
}

/** For test files: `describe` if a Redis server can be started (`orSkip`). */
export const redisOrSkip = <Describe extends { skip: unknown }>(describe: Describe): Promise<Describe> =>
  serverOrSkip(program, describe);

const serverArguments = ['--save', '', '--appendonly', 'no', '--daemonize', 'no'];

const newDirectory = (): Promise<string> => mkdtemp(join(tmpdir(), 'redis-test-'));
const removed = (directory: string): Promise<void> => rm(directory, { recursive: true, force: true });

/** @param kept a directory that outlives this server, and that the caller removes */
async function startAt(port: number, more: readonly string[] = [], kept?: string): Promise<RedisServer> {
  const directory = kept ?? (await newDirectory());
  const clear = async () => (kept === undefined ? removed(directory) : undefined);
  const own = ['--port', String(port), '--bind', '127.0.0.1', '--dir', directory, ...more];
  const publish = ['run', '--rm', '--init', '-p', `127.0.0.1:${port}:6379`, program.image as string];
  try {
    const { pid, stop } = await startServer(program, (way) =>
      way === 'path'
        ? ['redis-server', ...own, ...serverArguments]
        : ['docker', ...publish, 'redis-server', ...serverArguments],
    );
    const end = (signal: NodeJS.Signals): Promise<void> => stop(signal).then(clear);
    const [stopped, killed] = [() => end('SIGTERM'), () => end('SIGKILL')];
    return { url: `redis://127.0.0.1:${port}`, port, pid, stop: stopped, kill: killed };
  } catch (error) {
    await clear();
    throw error;
  }
}

/**
 * A Redis server for this test alone: real, empty, without persistence, on 127.0.0.1.
 *
 * @param port the port to listen on; a free one if left out
 * @throws Error that says what to install if there is none
 */
export const startRedis = ({ port }: { port?: number } = {}): Promise<RedisServer> =>
  port === undefined ? onFreePorts(1, (free) => startAt(free)) : startAt(port);

interface MoveSteps {
  moveKeys(): Promise<void>;
  /** Leaves the slot where it was, and the keys where they are now. */
  giveUp(): Promise<void>;
  /** Gives the slot to the other master, of which the others hear later. Keys that were not moved are lost. */
  takeOver(): Promise<void>;
}

export interface RedisCluster {
  /** `redis://127.0.0.1:<port>,127.0.0.1:<port>,…` */
  url: string;
  /** The masters in the order of their slots, then their replicas in the same order. */
  servers: RedisServer[];
  /** The keys of all servers that match the pattern. */
  keys(pattern: string): Promise<string[]>;
  /** Whether a key is in one of the slots of this master. */
  isOn(at: number, key: string): Promise<boolean>;
  /**
   * Begins to move the slot of a key to the next master, as `redis-cli --cluster reshard` does.
   *
   * @param to another server to move it to
   * @returns a function that moves the keys in the slot and completes the move, which has the steps of it as well
   */
  move(key: string, to?: number): Promise<(() => Promise<void>) & MoveSteps>;
  /** Kills a server, like a power failure. What it stored is lost. */
  kill(at: number): Promise<void>;
  /** Starts it again on the same port, empty. It reclaims its slots, or follows the server that has them now. */
  restart(at: number): Promise<void>;
  stop(): Promise<void>;
}

const slots = 16_384;
const masters = 3;

interface ClusterOptions {
  /** Each master has a replica that can take its place. */
  isReplicated?: boolean;
  /** Masters that have no slot yet. */
  spares?: number;
  /** How long a master is silent before the others count it as dead. */
  nodeTimeoutMs?: number;
  /** If a master is dead, the others still serve their own slots, instead of refusing everything. */
  isPartial?: boolean;
}

/**
 * A cluster for this test alone: masters that share the slots, and on request a replica of each. It needs a Redis on the
 * PATH.
 */
export const startRedisCluster = async (options: ClusterOptions = {}): Promise<RedisCluster> => {
  const { isReplicated = false, spares = 0, nodeTimeoutMs = 15_000, isPartial = false } = options;
  const slotted = isReplicated ? 2 * masters : masters;
  const size = slotted + spares;
  const nodes = await Promise.all(
    Array.from({ length: size }, async () => {
      const directory = await newDirectory();
      return onFreePorts(2, async (port, bus) => {
        const more = ['--cluster-enabled', 'yes', '--cluster-port', String(bus)];
        more.push('--cluster-node-timeout', String(nodeTimeoutMs));
        more.push('--cluster-require-full-coverage', isPartial ? 'no' : 'yes');
        // By default, a master waits 5 s for other replicas before it sends its data to the first one.
        more.push('--repl-diskless-sync-delay', '0');
        const start = (): Promise<RedisServer> => startAt(port, more, directory);
        return { start, server: await start(), bus, directory };
      });
    }),
  );
  const servers = nodes.map((it) => it.server);
  // Loaded on demand, because it consists of hundreds of files, which every importing test file would load.
  const { createClient } = await import('@redis/client');
  const connect = async ({ url }: RedisServer) => {
    const client = createClient({ url, socket: { reconnectStrategy: false } });
    // A killed master ends its connections; commands on them fail by themselves.
    client.on('error', () => undefined);
    return client.connect();
  };
  const clients = await Promise.all(servers.map(connect));
  const ends = Array.from({ length: masters + 1 }, (_, at) => Math.floor((at * slots) / masters));
  for (const [at, client] of clients.slice(0, masters).entries())
    await client.sendCommand(['CLUSTER', 'ADDSLOTSRANGE', String(ends[at]), String(ends[at + 1]! - 1)]);
  // As redis-cli does: otherwise they choose new epochs themselves while they meet, and a replica that has not heard of
  // its master's last one is not elected, however often it asks.
  for (const [at, client] of clients.entries())
    await client.sendCommand(['CLUSTER', 'SET-CONFIG-EPOCH', String(at + 1)]);
  for (const [at, { port }] of servers.entries())
    if (at > 0) await clients[0]!.sendCommand(['CLUSTER', 'MEET', '127.0.0.1', String(port), String(nodes[at]!.bus)]);
  const isWhole = async (): Promise<boolean> => {
    const told = await Promise.all(clients.map((it) => it.sendCommand<string>(['CLUSTER', 'INFO'])));
    // A server that may go on without some slots reports `ok` before it has heard of them.
    const signs = ['cluster_state:ok', `cluster_known_nodes:${size}`, `cluster_slots_ok:${slots}`];
    return told.every((it) => signs.every((sign) => it.includes(sign)));
  };
  while (!(await isWhole())) await setTimeout(50);
  const replicas = clients.slice(masters, slotted);
  for (const [at, client] of replicas.entries())
    await client.sendCommand(['CLUSTER', 'REPLICATE', await clients[at]!.sendCommand<string>(['CLUSTER', 'MYID'])]);
  for (const client of replicas)
    while (!(await client.info('replication')).includes('master_link_status:up')) await setTimeout(50);
  const slotOf = async (key: string): Promise<number> => {
    const client = clients.find((it) => it.isReady)!;
    return Number(await client.sendCommand(['CLUSTER', 'KEYSLOT', key]));
  };
  return {
    url: `redis://${servers.map(({ port }) => `127.0.0.1:${port}`).join(',')}`,
    servers,
    keys: async (pattern) => (await Promise.all(clients.map((it) => it.keys(pattern)))).flat(),
    isOn: async (at, key) => {
      const slot = await slotOf(key);
      return slot >= ends[at]! && slot < ends[at + 1]!;
    },
    move: async (key, other) => {
      const slot = await slotOf(key);
      const at = ends.findIndex((end) => end > slot) - 1;
      const to = other ?? (at + 1) % masters;
      const [there, here] = [clients[to]!, clients[at]!];
      const ask = <Answer = string>(client: typeof here, ...words: string[]) =>
        client.sendCommand<Answer>(['CLUSTER', ...words]);
      const [from, into] = [await ask(here, 'MYID'), await ask(there, 'MYID')];
      await ask(there, 'SETSLOT', String(slot), 'IMPORTING', from);
      await ask(here, 'SETSLOT', String(slot), 'MIGRATING', into);
      const moveKeys = async (): Promise<void> => {
        const keys = await ask<string[]>(here, 'GETKEYSINSLOT', String(slot), '1000');
        const address = ['127.0.0.1', String(servers[to]!.port)];
        for (const it of keys) await here.sendCommand(['MIGRATE', ...address, it, '0', '5000']);
      };
      const end = async (): Promise<void> => {
        await moveKeys();
        for (const client of [there, here]) await ask(client, 'SETSLOT', String(slot), 'NODE', into);
      };
      const giveUp = async (): Promise<void> => {
        for (const client of [there, here]) await ask(client, 'SETSLOT', String(slot), 'STABLE');
      };
      const takeOver = async (): Promise<void> => {
        await ask(there, 'SETSLOT', String(slot), 'NODE', into);
      };
      return Object.assign(end, { moveKeys, giveUp, takeOver });
    },
    kill: async (at) => {
      await servers[at]!.kill();
      clients[at]!.destroy();
    },
    restart: async (at) => {
      servers[at] = await nodes[at]!.start();
      clients[at] = await connect(servers[at]);
    },
    stop: async () => {
      for (const client of clients) if (client.isOpen) client.destroy();
      await Promise.all(servers.map((it) => it.stop()));
      await Promise.all(nodes.map((it) => removed(it.directory)));
    },
  };
};
