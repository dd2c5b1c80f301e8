import { testDatabase } from '#testing';
import { PostgresProxy } from './postgres-proxy.js';
import { allAt } from './tables.js';
import { servicePorts, splitServices, startPlan, tcpAddresses, type Plan, type Shape } from './shapes.js';

/** Whose statements the proxies see: one for each module, or the same where they share a database, as all but order do. */
interface Proxies {
  order: PostgresProxy;
  inventory: PostgresProxy;
  payment: PostgresProxy;
  sales: PostgresProxy;
}

/** The system with a proxy before each database. `databaseUrls` lead past them. */
export interface ProxiedShape extends Shape {
  proxies: Proxies;
}

interface Databases extends Proxies {
  databaseUrls: Plan['databaseUrls'];
  release: Plan['release'];
}

const databases = async (count: 1 | 2): Promise<Databases> => {
  const own = await Promise.all(Array.from({ length: count }, () => testDatabase()));
  const proxies = await Promise.all(own.map((it) => PostgresProxy.start(it.url)));
  return {
    order: proxies[0]!,
    inventory: proxies.at(-1)!,
    payment: proxies.at(-1)!,
    sales: proxies.at(-1)!,
    databaseUrls: () => Promise.resolve({ ...allAt(own.at(-1)!.url), order: own[0]!.url }),
    release: async () => {
      await Promise.all(proxies.map((it) => it.stop()));
      await Promise.all(own.map((it) => it.stop()));
    },
  };
};

const monoliths = async (...environments: Record<string, string>[]): Promise<Plan['services']> => {
  const ports = await servicePorts(environments.length);
  return environments.map((environment, at) => ({ app: 'monolith', port: ports[at]!, environment }));
};

const services = {
  'one database': (proxies) => monoliths({ DATABASE_URL: proxies.order.url }),
  'two databases': ({ order, inventory, payment }) =>
    monoliths({
      ORDER_DATABASE_URL: order.url,
      INVENTORY_DATABASE_URL: inventory.url,
      PAYMENT_DATABASE_URL: payment.url,
      SALES_DATABASE_URL: payment.url,
    }),
  /** On one database; the second goes past the proxy. */
  'two instances': async ({ order, databaseUrls }) =>
    monoliths({ DATABASE_URL: order.url }, { DATABASE_URL: (await databaseUrls()).order }),
  split: async ({ order, inventory, payment }) =>
    splitServices(await tcpAddresses(), {
      order: { ORDER_DATABASE_URL: order.url },
      inventory: { INVENTORY_DATABASE_URL: inventory.url },
      cache: {},
      payment: { PAYMENT_DATABASE_URL: payment.url },
      sales: { SALES_DATABASE_URL: payment.url },
    }),
} satisfies Record<string, (databases: Databases) => Promise<Plan['services']>>;

export type ProxiedShapeName = keyof typeof services;

/**
 * Starts the monolith, once or twice, or the services of the split shape, each behind its proxy.
 *
 * @param environment of every process
 */
export const startProxied = async (
  name: ProxiedShapeName,
  environment: Record<string, string> = {},
): Promise<ProxiedShape> => {
  const own = await databases(name === 'two databases' || name === 'split' ? 2 : 1);
  const { order, inventory, payment, sales, databaseUrls, release } = own;
  const planned = await services[name](own);
  const all = planned.map((it) => ({ ...it, environment: { ...it.environment, ...environment } }));
  const shape = await startPlan(name, { services: all, databaseUrls, release });
  return { ...shape, proxies: { order, inventory, payment, sales } };
};
