import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onFreePorts, serverOrSkip, startServer, type RunningServer, type ServerProgram } from './servers.js';

const program: ServerProgram = {
  title: 'NATS',
  command: 'nats-server',
  brew: 'nats-server',
  ready: 'Server is ready',
};

/** A NATS server with JetStream. What it stores survives until `stop`. */
export class NatsServer {
  private running: RunningServer | undefined;

  private constructor(
    readonly port: number,
    private readonly directory: string,
    private readonly more: readonly string[],
  ) {}

  static async start(port: number, more: readonly string[] = [], config = ''): Promise<NatsServer> {
    const directory = await mkdtemp(join(tmpdir(), 'nats-test-'));
    const file = join(directory, 'server.conf');
    await writeFile(file, config);
    const server = new NatsServer(port, directory, ['-c', file, ...more]);
    await server.revive().catch(async (error: unknown) => {
      await server.stop();
      throw error;
    });
    return server;
  }

  /** `nats://127.0.0.1:<port>` */
  get url(): string {
    return `nats://127.0.0.1:${this.port}`;
  }

  /** The id of its process; undefined while it does not run. */
  get pid(): number | undefined {
    return this.running?.pid;
  }

  /** Kills it like a power failure, except that the operating system still writes its buffers. */
  async kill(): Promise<void> {
    await this.running?.stop('SIGKILL');
    this.running = undefined;
  }

  /** Starts it again with what it has stored. */
  async revive(): Promise<void> {
    const own = ['-a', '127.0.0.1', '-p', String(this.port), '-js', '-sd', this.directory];
    this.running = await startServer(program, () => [program.command, ...own, ...this.more]);
  }

  /** Freezes it until `resume`: it answers nothing, and no connection ends. */
  pause(): void {
    process.kill(this.running!.pid, 'SIGSTOP');
  }

  resume(): void {
    process.kill(this.running!.pid, 'SIGCONT');
  }

  async stop(): Promise<void> {
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}

export interface NatsCluster {
  /** `nats://127.0.0.1:<port>,127.0.0.1:<port>…` */
  url: string;
  servers: readonly NatsServer[];
  stop(): Promise<void>;
}

/** For test files: `describe` if a NATS server can be started (`orSkip`). */
export const natsOrSkip = <Describe extends { skip: unknown }>(describe: Describe): Promise<Describe> =>
  serverOrSkip(program, describe);

/**
 * A NATS server for this test alone: real, empty, with JetStream, on 127.0.0.1.
 *
 * @param port the port to listen on; a free one if left out
 * @param config further content of its configuration file
 * @throws Error that says what to install if there is none
 */
export const startNats = ({ port, config }: { port?: number; config?: string } = {}): Promise<NatsServer> => {
  const startAt = (at: number) => NatsServer.start(at, [], config);
  return port === undefined ? onFreePorts(1, startAt) : startAt(port);
};

/**
 * Servers that replicate what JetStream stores. They elect their leaders after they have started.
 *
 * @param via the port through which one server reaches the port of another one; by default that port itself
 */
export const startNatsCluster = (
  size: number,
  via: (from: number, to: number, port: number) => Promise<number> = (_from, _to, port) => Promise.resolve(port),
): Promise<NatsCluster> =>
  onFreePorts(2 * size, async (...ports) => {
    const [own, between] = [ports.slice(0, size), ports.slice(size)];
    const urlAt = (port: number): string => `nats://127.0.0.1:${port}`;
    const routesFrom = (from: number): Promise<string[]> =>
      Promise.all(between.flatMap((port, to) => (to === from ? [] : [via(from, to, port).then(urlAt)])));
    const started = await Promise.allSettled(
      own.map(async (port, at) =>
        NatsServer.start(port, [
          ...['-n', `server-${at}`, '--cluster_name', 'test'],
          ...['--cluster', urlAt(between[at]!), '--routes', (await routesFrom(at)).join(',')],
          // The others are told where to reach it; they may not learn of another way from each other.
          ...['--cluster_advertise', '127.0.0.1:1'],
        ]),
      ),
    );
    const servers = started.flatMap((it) => (it.status === 'fulfilled' ? [it.value] : []));
    const stop = async () => void (await Promise.all(servers.map((it) => it.stop())));
    const failed = started.find((it) => it.status === 'rejected');
    if (failed) {
      await stop();
      throw failed.reason;
    }
    return { url: `nats://${servers.map(({ port }) => `127.0.0.1:${port}`).join(',')}`, servers, stop };
  });
