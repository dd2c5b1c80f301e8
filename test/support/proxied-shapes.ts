import { testDatabase } from '#testing';
import { PostgresProxy } from './postgres-proxy.js';
import { servicePorts, splitServices, startPlan, type Plan, type Shape } from './shapes.js';

/** Whose statements the proxies see: one for each module, or the same where they share a database. */
interface Proxies {
  order: PostgresProxy;
  inventory: PostgresProxy;
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
    databaseUrls: () => Promise.resolve({ order: own[0]!.url, inventory: own.at(-1)!.url }),
    release: async () => {
      await Promise.all(proxies.map((it) => it.stop()));
      await Promise.all(own.map((it) => it.stop()));
    },
  };
};

const monolith = async (environment: Record<string, string>): Promise<Plan['services']> => {
  const [port] = await servicePorts(1);
  return [{ app: 'monolith', port: port!, environment }];
};

const services = {
  'one database': (proxies) => monolith({ DATABASE_URL: proxies.order.url }),
  'two databases': ({ order, inventory }) =>
    monolith({ ORDER_DATABASE_URL: order.url, INVENTORY_DATABASE_URL: inventory.url }),
  split: async ({ order, inventory }) => {
    const [inventoryPort, cachePort] = await servicePorts(2);
    const at = { inventory: `tcp://127.0.0.1:${inventoryPort}`, cache: `tcp://127.0.0.1:${cachePort}` };
    return splitServices(at, {
      order: { ORDER_DATABASE_URL: order.url },
      inventory: { INVENTORY_DATABASE_URL: inventory.url },
      cache: {},
    });
  },
} satisfies Record<string, (proxies: Proxies) => Promise<Plan['services']>>;

export type ProxiedShapeName = keyof typeof services;

/** Starts the monolith on one database or on two, or the services of the split shape, each behind its proxy. */
export const startProxied = async (name: ProxiedShapeName): Promise<ProxiedShape> => {
  const { order, inventory, databaseUrls, release } = await databases(name === 'one database' ? 1 : 2);
  const proxies = { order, inventory };
  const shape = await startPlan(name, { services: await services[name](proxies), databaseUrls, release });
  return { ...shape, proxies };
};
