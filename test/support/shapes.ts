import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { SeededRandom, startNats, startRedis, testDatabase } from '#testing';
import { allAt, keepers, ofEach, type DatabaseUrls, type Keeper } from './tables.js';
import { AppProcess, guardFolder, unguardFolder, type Exit } from './app-process.js';

export type ShapeName = 'monolith' | 'split-tcp' | 'split-redis' | 'split-nats' | 'half-split';

export interface RunningService {
  name: string;
  url: string;
  readonly pid: number;
  readonly isRunning: boolean;
  readonly log: string;
  /** Sends the signal and waits for the end. */
  kill(signal?: NodeJS.Signals): Promise<Exit>;
  /** Starts it again as it was, once it has ended, and waits until it is ready. */
  restart(): Promise<void>;
}

/** The brokers that carry messages and hold the cache; without one, both stay within the processes. */
export interface Brokers {
  redis?: string;
  nats?: string;
}

/** The system, running. */
export interface Shape {
  name: string;
  baseUrl: string;
  /** The URLs that callers may use, `baseUrl` first. */
  entrances: string[];
  services: RunningService[];
  service(name: string): RunningService;
  /** Where the data is. It is looked up each time, because an embedded server may come back on another port. */
  databaseUrls(): Promise<DatabaseUrls>;
  readonly brokers: Brokers;
  /** The process id of the Postgres that the monolith has started. */
  postmasterPid(): Promise<number>;
  log(): string;
  /** Ends everything; rejects if a service did not shut down properly by itself. */
  stop(): Promise<void>;
}

interface PlannedService {
  app: string;
  /** Distinguishes several instances of one app; the name of the app if left out. */
  name?: string;
  port: number;
  environment: Record<string, string>;
  /** Started by `restart`, not together with the others. */
  isLater?: boolean;
  /** Where it was compiled, if not here. */
  home?: string;
  /** Callers may use this one as well as the first. */
  isEntrance?: boolean;
}

/** What runs, and where its data is. */
export interface Plan {
  /** The first one is the one that callers use. */
  services: PlannedService[];
  databaseUrls: Shape['databaseUrls'];
  brokers?: Brokers;
  postmasterPid?: Shape['postmasterPid'];
  release: () => Promise<void>;
}

// Not the seed of the tests, which test files that run in parallel share. Parallel workers draw from separate ranges.
const random = new SeededRandom(process.pid);
const shares = 4;
const share = Number(process.env['JEST_WORKER_ID'] ?? 0) % shares;
const lowest = 12_000;
const perShare = 4_750;
const given = new Set<number>();

const canListen = async (port: number): Promise<boolean> => {
  const server = createServer();
  const listening = once(server, 'listening').then(
    () => true,
    () => false,
  );
  server.listen(port, '127.0.0.1');
  if (!(await listening)) return false;
  server.close();
  await once(server, 'close');
  return true;
};

/**
 * Ports below those that the system uses for outgoing connections, so that none is taken by chance while its service is
 * down. None is given out twice.
 */
export const servicePorts = async (count: number): Promise<number[]> => {
  const ports: number[] = [];
  while (ports.length < count) ports.push(await portWith([]));
  return ports;
};

/** Such a port, if the ports at these offsets above it are free as well. */
export const portWith = async (above: readonly number[]): Promise<number> => {
  for (;;) {
    const port = lowest + share * perShare + random.integer(0, perShare - 1 - Math.max(0, ...above));
    const ports = [port, ...above.map((it) => port + it)];
    if (ports.some((it) => given.has(it))) continue;
    if (!(await Promise.all(ports.map(canListen))).every(Boolean)) continue;
    for (const it of ports) given.add(it);
    return port;
  }
};

/** The URL of the server that a running monolith has in this DATA_DIR. */
export const embeddedDatabaseUrl = async (dataDir: string): Promise<string> => {
  const home = join(dataDir, 'postgres');
  const password = (await readFile(join(home, 'password'), 'utf8')).trim();
  const port = (await readFile(join(home, 'data', 'postmaster.pid'), 'utf8')).split('\n')[3];
  return `postgres://cleave:${password}@127.0.0.1:${port}/cleave`;
};

const postmasterOf = async (dataDir: string): Promise<number> => {
  const text = await readFile(join(dataDir, 'postgres', 'data', 'postmaster.pid'), 'utf8').catch(() => '0');
  return Number(text.split('\n')[0]);
};

const sent = (pid: number, signal: NodeJS.Signals): boolean => {
  try {
    return process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
};

/** Postgres survives when its monolith is killed. */
const stopPostgresIn = async (dataDir: string): Promise<void> => {
  const pid = await postmasterOf(dataDir);
  // The server removes this file when it ends.
  while (pid > 0 && (await postmasterOf(dataDir)) === pid && sent(pid, 'SIGQUIT')) await setTimeout(100);
};

const monolith = async (): Promise<Plan> => {
  const dataDir = await mkdtemp(join(tmpdir(), 'cleave-e2e-'));
  guardFolder(dataDir);
  const [port] = await servicePorts(1);
  return {
    services: [{ app: 'monolith', port: port!, environment: { DATA_DIR: dataDir, WEBHOOKS_ALLOW_PRIVATE: 'true' } }],
    databaseUrls: async () => allAt(await embeddedDatabaseUrl(dataDir)),
    postmasterPid: () => postmasterOf(dataDir),
    release: async () => {
      await stopPostgresIn(dataDir);
      await rm(dataDir, { recursive: true, force: true, maxRetries: 5 });
      unguardFolder(dataDir);
    },
  };
};

/** The same for all instances; a monolith with an embedded server would create its own. */
export const dataKeys = `of-tests:${Buffer.alloc(32, 'cleave').toString('base64')}`;

/** Each module as a service behind the gateway. */
export const splitServices = async (
  at: Record<'order' | 'inventory' | 'cache' | 'payment', string>,
  own: Record<Keeper | 'cache', Record<string, string>> & { gateway?: Record<string, string> },
): Promise<Plan['services']> => {
  const [gateway, order, inventory, cache, payment, sales, webhooks] = await servicePorts(7);
  const local = (port: number | undefined) => `http://127.0.0.1:${port}`;
  return [
    {
      app: 'gateway',
      port: gateway!,
      environment: {
        ...{ ORDER_URL: local(order), INVENTORY_URL: local(inventory) },
        ...{ CACHE_URL: local(cache), PAYMENT_URL: local(payment) },
        ...{ SALES_URL: local(sales), WEBHOOKS_URL: local(webhooks) },
        ...own.gateway,
      },
    },
    {
      app: 'order',
      port: order!,
      environment: {
        ...{ ORDER_LISTEN: at.order, INVENTORY_AT: at.inventory, PAYMENT_AT: at.payment, DATA_KEYS: dataKeys },
        ...own.order,
      },
    },
    {
      app: 'inventory',
      port: inventory!,
      environment: { INVENTORY_LISTEN: at.inventory, CACHE_AT: at.cache, ...own.inventory },
    },
    { app: 'cache', port: cache!, environment: { CACHE_LISTEN: at.cache, ...own.cache } },
    { app: 'payment', port: payment!, environment: { PAYMENT_LISTEN: at.payment, ...own.payment } },
    { app: 'sales', port: sales!, environment: { ORDER_AT: at.order, INVENTORY_AT: at.inventory, ...own.sales } },
    {
      app: 'webhooks',
      port: webhooks!,
      environment: { ORDER_AT: at.order, WEBHOOKS_ALLOW_PRIVATE: 'true', DATA_KEYS: dataKeys, ...own.webhooks },
    },
  ];
};

/** Free addresses for the messages of the services. */
export const tcpAddresses = async (): Promise<Parameters<typeof splitServices>[0]> => {
  const [order, inventory, cache, payment] = (await servicePorts(4)).map((port) => `tcp://127.0.0.1:${port}`);
  return { order: order!, inventory: inventory!, cache: cache!, payment: payment! };
};

/** Each module with a database of its own. */
const splitOverTcp = async (): Promise<Plan> => {
  const at = await tcpAddresses();
  const databases = await Promise.all(keepers.map(() => testDatabase()));
  const urls = ofEach((_, index) => databases[index]!.url);
  const own = ofEach((keeper) => ({ [`${keeper.toUpperCase()}_DATABASE_URL`]: urls[keeper] }));
  return {
    services: await splitServices(at, {
      ...own,
      ...{ cache: {}, gateway: { ACCESS_DATABASE_URL: urls.order } },
      order: { ...own.order, ACCESS_DATABASE_URL: urls.order },
    }),
    databaseUrls: () => Promise.resolve(urls),
    release: async () => {
      await Promise.all(databases.map((it) => it.stop()));
    },
  };
};

/** One database with a schema a module; requests and the cache travel through Redis, events through NATS. */
const splitOverRedis = async (): Promise<Plan> => {
  const [redis, nats, database] = await Promise.all([startRedis(), startNats(), testDatabase()]);
  const at = { order: redis.url, inventory: redis.url, cache: redis.url, payment: redis.url };
  const own = ofEach(() => ({ DATABASE_URL: database.url, EVENTS_AT: nats.url }));
  return {
    services: await splitServices(at, {
      ...own,
      gateway: { ACCESS_DATABASE_URL: database.url },
      cache: { CACHE_REDIS_URL: `${redis.url}/1`, CACHE_REDIS_DEADLINE_MS: '5000' },
    }),
    databaseUrls: () => Promise.resolve(allAt(database.url)),
    brokers: { redis: redis.url, nats: nats.url },
    release: async () => {
      await Promise.all([redis.stop(), nats.stop()]);
      await database.stop();
    },
  };
};

/** One database with a schema a module; requests and events travel through one NATS server. */
const splitOverNats = async (): Promise<Plan> => {
  const [nats, database] = await Promise.all([startNats(), testDatabase()]);
  const at = { order: nats.url, inventory: nats.url, cache: nats.url, payment: nats.url };
  const own = ofEach(() => ({ DATABASE_URL: database.url, EVENTS_AT: nats.url }));
  return {
    services: await splitServices(at, { ...own, cache: {}, gateway: { ACCESS_DATABASE_URL: database.url } }),
    databaseUrls: () => Promise.resolve(allAt(database.url)),
    brokers: { nats: nats.url },
    release: async () => {
      await nats.stop();
      await database.stop();
    },
  };
};

const extracted = ['order', 'payment', 'webhooks'] as const;

/** Half of the modules are extracted from the monolith, which runs the other half, so that each half calls the other one. */
const halfSplit = async (): Promise<Plan> => {
  const [at, database, [port]] = await Promise.all([tcpAddresses(), testDatabase(), servicePorts(1)]);
  const own = { DATABASE_URL: database.url };
  const [gateway, ...services] = await splitServices(at, { ...ofEach(() => own), cache: {} });
  const urls = Object.fromEntries(
    extracted.map((it) => it.toUpperCase()).map((it) => [`${it}_URL`, gateway!.environment[`${it}_URL`]!]),
  );
  const shop = {
    ...{ INVENTORY_LISTEN: at.inventory, CACHE_LISTEN: at.cache, ORDER_AT: at.order, PAYMENT_AT: at.payment },
    ...{ ...own, ...urls, DEMO_PRODUCTS: 'true' },
  };
  return {
    services: [
      { app: 'monolith', port: port!, environment: shop },
      ...services.filter(({ app }) => (extracted as readonly string[]).includes(app)),
    ],
    databaseUrls: () => Promise.resolve(allAt(database.url)),
    release: () => database.stop(),
  };
};

const plans: Record<ShapeName, () => Promise<Plan>> = {
  monolith,
  'split-tcp': splitOverTcp,
  'split-redis': splitOverRedis,
  'split-nats': splitOverNats,
  'half-split': halfSplit,
};

/**
 * Starts the compiled system in one of its shapes, on free ports, with fresh data, and waits until all of it is ready.
 *
 * @param more further environment variables of each process
 */
export const startShape = async (name: ShapeName, more: Record<string, string> = {}): Promise<Shape> => {
  const plan = await plans[name]();
  return startPlan(name, {
    ...plan,
    services: plan.services.map((it) => ({ ...it, environment: { ...more, ...it.environment } })),
  });
};

/** Starts a plan. Its data is removed when it ends, however it ends. */
export const startPlan = async (name: string, plan: Plan): Promise<Shape> => {
  const processes = plan.services.map(
    (it) => new AppProcess(it.app, { ...it.environment, HOST: '127.0.0.1', PORT: String(it.port) }, it.home),
  );
  const services = plan.services.map((it, index): RunningService => {
    const process = processes[index]!;
    const url = `http://127.0.0.1:${it.port}`;
    const start = async (): Promise<void> => {
      process.spawn();
      await process.untilReady(`${url}/health/ready`);
    };
    return {
      name: it.name ?? it.app,
      url,
      get pid() {
        return process.pid;
      },
      get isRunning() {
        return process.isRunning;
      },
      get log() {
        return process.log;
      },
      kill: (signal) => process.kill(signal),
      restart: start,
    };
  });
  const stop = async (): Promise<void> => {
    const complaints = await Promise.all(processes.map((it) => it.stop()));
    await plan.release();
    const told = complaints.filter((it) => it !== undefined);
    if (told.length > 0) throw new Error(told.join('\n\n'));
  };
  try {
    // All at once: none needs another one to start.
    await Promise.all(services.filter((_, at) => !plan.services[at]!.isLater).map((it) => it.restart()));
  } catch (error) {
    await stop().catch(() => undefined);
    throw error;
  }
  return {
    name,
    baseUrl: services[0]!.url,
    entrances: services.filter((_, at) => at === 0 || plan.services[at]!.isEntrance).map((it) => it.url),
    services,
    service: (wanted) => {
      const found = services.find((it) => it.name === wanted);
      if (!found) throw new Error(`${name} has no service ${wanted}`);
      return found;
    },
    databaseUrls: plan.databaseUrls,
    brokers: plan.brokers ?? {},
    postmasterPid: plan.postmasterPid ?? (() => Promise.reject(new Error(`${name} has no Postgres of its own`))),
    log: () => services.map((it) => `===== ${it.name}\n${it.log}`).join('\n'),
    stop,
  };
};
