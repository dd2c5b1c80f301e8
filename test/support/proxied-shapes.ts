import { testDatabase } from '#testing';
import { PostgresProxy } from './postgres-proxy.js';
import { dataKeys, servicePorts, splitServices, startPlan, tcpAddresses, type Plan, type Shape } from './shapes.js';
import { ofEach, type DatabaseUrls, type Keeper } from './tables.js';

/** The proxy that each module's statements pass. Modules that share a database share one, as all but order do. */
type Proxies = Record<Keeper, PostgresProxy>;

/** The system with a proxy in front of each database. `databaseUrls` bypass the proxies. */
export interface ProxiedShape extends Shape {
  proxies: Proxies;
}

interface Databases {
  proxies: Proxies;
  urls: DatabaseUrls;
  release: Plan['release'];
}

/** The second one is on a server of its own, so its transactions and snapshots are independent of the first. */
const databases = async (count: 1 | 2): Promise<Databases> => {
  const servers = ['a server', 'another server'] as const;
  const own = await Promise.all(servers.slice(0, count).map((it) => testDatabase(it)));
  const proxies = await Promise.all(own.map((it) => PostgresProxy.start(it.url)));
  const of = <Each>(each: Each[], keeper: Keeper): Each => (keeper === 'order' ? each[0]! : each.at(-1)!);
  return {
    proxies: ofEach((keeper) => of(proxies, keeper)),
    urls: ofEach((keeper) => of(own, keeper).url),
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

/** The database of each module, through its proxy. */
const databaseVariables = (proxies: Proxies): Record<Keeper, Record<string, string>> =>
  ofEach((keeper) => ({ [`${keeper.toUpperCase()}_DATABASE_URL`]: proxies[keeper].url }));

const services = {
  'one database': ({ proxies }) => monoliths({ DATABASE_URL: proxies.order.url }),
  'two databases': ({ proxies, urls }) =>
    monoliths(Object.assign({ ACCESS_DATABASE_URL: urls.order }, ...Object.values(databaseVariables(proxies)))),
  /** Both on one database; the second bypasses the proxy. */
  'two instances': ({ proxies, urls }) => monoliths({ DATABASE_URL: proxies.order.url }, { DATABASE_URL: urls.order }),
  split: async ({ proxies }) => splitServices(await tcpAddresses(), { ...databaseVariables(proxies), cache: {} }),
} satisfies Record<string, (databases: Databases) => Promise<Plan['services']>>;

export type ProxiedShapeName = keyof typeof services;

/**
 * Starts the monolith, once or twice, or the services of the split shape, each behind its proxy.
 *
 * @param environment for every process
 */
export const startProxied = async (
  name: ProxiedShapeName,
  environment: Record<string, string> = {},
): Promise<ProxiedShape> => {
  const own = await databases(name === 'two databases' || name === 'split' ? 2 : 1);
  const { proxies, urls, release } = own;
  const common = { WEBHOOKS_ALLOW_PRIVATE: 'true', DATA_KEYS: dataKeys, ...environment };
  const planned = await services[name](own);
  const all = planned.map((it) => ({ ...it, environment: { ...it.environment, ...common } }));
  const shape = await startPlan(name, { services: all, databaseUrls: () => Promise.resolve(urls), release });
  return { ...shape, proxies };
};
