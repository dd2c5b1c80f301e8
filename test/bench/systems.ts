import { freePort } from '#testing';
import { Backlog } from './backlog.js';
import type { Bench } from './bench.js';
import { Child } from './child.js';
import { Program, type ShopCommands } from './commands.js';
import { echoNames, type EchoCommands, type EchoServer } from './echo/commands.js';
import { Shelf } from './shelf.js';
import type { CatalogueEntry } from './workloads.js';

interface Stoppable {
  stop(): Promise<unknown>;
}

/** A running system that takes orders over HTTP. */
export interface System {
  name: string;
  /** Where orders are placed; callers are spread over them. */
  urls: string[];
  /** Headers that its callers send, such as a key. */
  headers?: Record<string, string>;
  /** Its Node processes. */
  pids: number[];
  shelf?: Shelf;
  backlog?: Backlog;
  databaseUrl?: string;
  parts: Stoppable[];
}

const ordinary = { HOST: '127.0.0.1', DEMO_PRODUCTS: 'false' };

/** Starts a compiled app of Cleave, and waits until it is ready. */
const startApp = async (
  { started }: Bench,
  app: string,
  environment: Record<string, string>,
): Promise<{ child: Child; url: string }> => {
  const port = await freePort();
  const child = started.add(new Child(`apps/${app}/src/main.js`, { ...ordinary, ...environment, PORT: String(port) }));
  const url = `http://127.0.0.1:${port}`;
  await child.untilReady(`${url}/health/ready`);
  return { child, url };
};

/** Starts Cleave in one process, on a database that may contain orders. */
export const startMonolith = async (
  bench: Bench,
  name: string,
  databaseUrl: string,
  shelfAt: (url: string) => Shelf | Promise<Shelf>,
  environment: Record<string, string> = {},
): Promise<System> => {
  const { child, url } = await startApp(bench, 'monolith', { DATABASE_URL: databaseUrl, ...environment });
  const backlog = bench.started.add(await Backlog.of(databaseUrl));
  return {
    name,
    databaseUrl,
    urls: [url],
    pids: [child.pid],
    shelf: await shelfAt(url),
    backlog,
    parts: [child, backlog],
  };
};

export const startOurs = async (
  bench: Bench,
  catalogue: readonly CatalogueEntry[],
  name = 'ours',
  environment: Record<string, string> = {},
): Promise<System> =>
  startMonolith(bench, name, await bench.server.freshDatabase(), (url) => Shelf.fill(url, catalogue), environment);

/** A system of services that communicate over TCP. */
interface Split extends System {
  databaseUrl: string;
  /** Their addresses for messages, each with all instances of the module. */
  orderAt: string;
  inventoryAt: string;
  /** Their addresses for REST, one instance of each, as configured in the gateway. */
  services: Record<'ORDER_URL' | 'INVENTORY_URL' | 'CACHE_URL' | 'PAYMENT_URL', string>;
}

/** Starts Cleave as services that communicate over TCP, with several instances of order and inventory on one database. */
export const startSplit = async (
  bench: Bench,
  catalogue: readonly CatalogueEntry[],
  name: string,
  instances: number,
): Promise<Split> => {
  const databaseUrl = await bench.server.freshDatabase();
  const address = async (): Promise<string> => `tcp://127.0.0.1:${await freePort()}`;
  const cacheAt = await address();
  const cache = await startApp(bench, 'cache', { CACHE_LISTEN: cacheAt });
  const inventories: Awaited<ReturnType<typeof startApp>>[] = [];
  const inventoriesAt: string[] = [];
  for (let instance = 0; instance < instances; instance += 1) {
    const at = await address();
    const environment = { DATABASE_URL: databaseUrl, INVENTORY_LISTEN: at, CACHE_AT: cacheAt };
    inventories.push(await startApp(bench, 'inventory', environment));
    inventoriesAt.push(at.slice('tcp://'.length));
  }
  const paymentAt = await address();
  const payment = await startApp(bench, 'payment', { DATABASE_URL: databaseUrl, PAYMENT_LISTEN: paymentAt });
  const orders: typeof inventories = [];
  const ordersAt: string[] = [];
  const inventoryAt = `tcp://${inventoriesAt.join(',')}`;
  const environment = { DATABASE_URL: databaseUrl, INVENTORY_AT: inventoryAt, PAYMENT_AT: paymentAt };
  for (let instance = 0; instance < instances; instance += 1) {
    const at = await address();
    orders.push(await startApp(bench, 'order', { ...environment, ORDER_LISTEN: at }));
    ordersAt.push(at.slice('tcp://'.length));
  }
  const backlog = bench.started.add(await Backlog.of(databaseUrl));
  const apps = [cache, payment, ...inventories, ...orders];
  return {
    name,
    databaseUrl,
    urls: orders.map((it) => it.url),
    pids: apps.map((it) => it.child.pid),
    shelf: await Shelf.fill(inventories[0]!.url, catalogue),
    backlog,
    parts: [...apps.map((it) => it.child), backlog],
    orderAt: `tcp://${ordersAt.join(',')}`,
    inventoryAt,
    services: {
      ORDER_URL: orders[0]!.url,
      INVENTORY_URL: inventories[0]!.url,
      CACHE_URL: cache.url,
      PAYMENT_URL: payment.url,
    },
  };
};

/**
 * Starts the monolith's work as services, and the same services behind a gateway: one system under two addresses, ended in
 * reverse order.
 */
export const startWholeSplit = async (
  bench: Bench,
  catalogue: readonly CatalogueEntry[],
  names: { direct: string; behindGateway: string },
): Promise<{ direct: System; behindGateway: System }> => {
  const split = await startSplit(bench, catalogue, names.direct, 1);
  const { databaseUrl, orderAt, inventoryAt } = split;
  const follows = { DATABASE_URL: databaseUrl, ORDER_AT: orderAt };
  const sales = await startApp(bench, 'sales', { ...follows, INVENTORY_AT: inventoryAt });
  const webhooks = await startApp(bench, 'webhooks', follows);
  const urls = { ...split.services, SALES_URL: sales.url, WEBHOOKS_URL: webhooks.url };
  const gateway = await startApp(bench, 'gateway', urls);
  const pids = [...split.pids, sales.child.pid, webhooks.child.pid];
  return {
    direct: { ...split, pids, parts: [...split.parts, sales.child, webhooks.child] },
    behindGateway: {
      name: names.behindGateway,
      urls: [gateway.url],
      pids: [...pids, gateway.child.pid],
      shelf: split.shelf!,
      backlog: split.backlog!,
      parts: [gateway.child],
    },
  };
};

/** Starts a program that implements the part of the API that the benchmark uses, on a database of its own. */
export const startProgram = async (
  name: 'bare' | 'baseline',
  bench: Bench,
  catalogue: readonly CatalogueEntry[],
): Promise<System> => {
  const databaseUrl = await bench.server.freshDatabase();
  const program = bench.started.add(new Program<ShopCommands>(name));
  const url = await program.call('listen', { databaseUrl });
  return {
    name,
    databaseUrl,
    urls: [url],
    pids: [program.pid],
    shelf: await Shelf.fill(url, catalogue),
    parts: [program],
  };
};

/** Starts the cache alone, over a Redis. */
export const startCache = async (bench: Bench, redisUrl: string): Promise<System> => {
  const listen = `tcp://127.0.0.1:${await freePort()}`;
  const { child, url } = await startApp(bench, 'cache', { CACHE_LISTEN: listen, CACHE_REDIS_URL: redisUrl });
  return { name: 'ours', urls: [url], pids: [child.pid], parts: [child] };
};

/** @param answer the answer to every request */
export const startEcho = async (bench: Bench, answer: string, server: EchoServer = 'node'): Promise<System> => {
  const program = bench.started.add(new Program<EchoCommands>('echo'));
  const url = await program.call('listen', { server });
  await program.call('answerWith', { text: answer });
  return { name: echoNames[server], urls: [url], pids: [program.pid], parts: [program] };
};

/** Stops the system and drops its data. */
export const endSystem = async ({ started, server }: Bench, { parts, databaseUrl }: System): Promise<void> => {
  await started.stop(...parts);
  if (databaseUrl !== undefined) await server.drop(databaseUrl);
};
