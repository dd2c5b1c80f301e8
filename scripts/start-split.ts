import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { env, readEnvironment } from '#config';
import { address } from '#messaging';
import { restEnvironment, run, startDatabaseFor, welcome, withDatabaseUrls, withDefaults } from '#service';

/** A service that is to be kept running. */
interface Service {
  name: string;
  url: string;
  variables: Record<string, string>;
  child?: ChildProcess;
}

const readyTimeoutMs = 60_000;
const stopTimeoutMs = 30_000;

/** Starts order, inventory, cache and the gateway as processes of their own on this machine, and keeps them running. */
run(async () => {
  const given = withDatabaseUrls(process.env, 'ORDER_DATABASE_URL', 'INVENTORY_DATABASE_URL');
  const port = Number(process.env['PORT'] || 3000);
  const settings = withDefaults(given, {
    INVENTORY_AT: `tcp://127.0.0.1:${port + 1002}`,
    CACHE_AT: `tcp://127.0.0.1:${port + 1003}`,
    DEMO_PRODUCTS: given['INVENTORY_DATABASE_URL'] ? 'false' : 'true',
  });
  const environment = readEnvironment(
    {
      ...restEnvironment(3000),
      DATA_DIR: env.directory('.data'),
      ORDER_DATABASE_URL: env.postgresUrl.optional(),
      INVENTORY_DATABASE_URL: env.postgresUrl.optional(),
      INVENTORY_AT: address,
      CACHE_AT: address,
      DEMO_PRODUCTS: env.flag,
    },
    settings,
  );
  const { ORDER_DATABASE_URL, INVENTORY_DATABASE_URL } = environment;
  const database = await startDatabaseFor({ ORDER_DATABASE_URL, INVENTORY_DATABASE_URL }, environment.DATA_DIR);

  const urlOf = (offset: number) => `http://127.0.0.1:${port + offset}`;
  const wanted: Service[] = [
    { name: 'cache', url: urlOf(3), variables: { CACHE_LISTEN: settings['CACHE_AT']! } },
    { name: 'inventory', url: urlOf(2), variables: { INVENTORY_LISTEN: settings['INVENTORY_AT']! } },
    { name: 'order', url: urlOf(1), variables: {} },
    {
      name: 'gateway',
      url: `http://${environment.HOST}:${port}`,
      variables: {
        HOST: environment.HOST,
        ORDER_URL: urlOf(1),
        INVENTORY_URL: urlOf(2),
        CACHE_URL: urlOf(3),
      },
    },
  ];
  const services = wanted.map((service) => ({
    ...service,
    variables: {
      ...(settings as Record<string, string>),
      ...database.urls,
      HOST: '127.0.0.1',
      PORT: new URL(service.url).port,
      ...service.variables,
    },
  }));

  const supervisor = new Supervisor(services);
  const stop = async (code: number): Promise<never> => {
    await supervisor.stop();
    await database.stop();
    process.exit(code);
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void stop(0));
  try {
    await supervisor.start();
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    await stop(1);
  }
  welcome(services.at(-1)!.url, environment.DEMO_PRODUCTS);
});

class Supervisor {
  private stopping = false;

  constructor(private readonly services: Service[]) {}

  /** The gateway last: what it passes requests on to is there by then. */
  async start(): Promise<void> {
    await Promise.all(this.services.slice(0, -1).map((service) => this.launch(service)));
    await this.launch(this.services.at(-1)!);
  }

  /** In the order in which requests come in, so that each can still be finished by those behind. */
  async stop(): Promise<void> {
    this.stopping = true;
    for (const { child } of this.services.toReversed()) {
      if (!child || child.exitCode !== null || child.signalCode !== null) continue;
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      const inTime = await Promise.race([ended, delay(stopTimeoutMs, undefined, { ref: false })]);
      if (!inTime) child.kill('SIGKILL');
    }
  }

  private async launch(service: Service): Promise<void> {
    const main = new URL(`../apps/${service.name}/src/main.js`, import.meta.url).pathname;
    const child = spawn(process.execPath, ['--enable-source-maps', main], {
      env: service.variables,
      // The channel tells the child when we are gone; its own group keeps Ctrl-C for us.
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      detached: process.platform !== 'win32',
    });
    service.child = child;
    for (const stream of [child.stdout!, child.stderr!])
      createInterface(stream).on('line', (line) => process.stdout.write(`${service.name.padEnd(9)} | ${line}\n`));
    const ended = once(child, 'exit').then(([code, signal]) => String(signal ?? `exit code ${code}`));
    await this.ready(service, ended);
    void ended.then((how) => {
      if (this.stopping) return;
      process.stderr.write(`${service.name} ended (${how}); starting it again\n`);
      this.launch(service).catch((error: unknown) => process.stderr.write(`${String(error)}\n`));
    });
  }

  private async ready(service: Service, ended: Promise<string>): Promise<void> {
    let end: string | undefined;
    void ended.then((how) => (end = how));
    const giveUpAt = Date.now() + readyTimeoutMs;
    while (end === undefined && Date.now() < giveUpAt) {
      const answer = await fetch(`${service.url}/health/ready`).catch(() => undefined);
      if (answer?.ok) return;
      await delay(100);
    }
    if (this.stopping) return;
    throw new Error(`${service.name} did not become ready (${end ?? 'it took too long'}); see its lines above.`);
  }
}
