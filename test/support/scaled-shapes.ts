import { startNats, startRedis, testDatabase } from '#testing';
import { servicePorts, startPlan, type Plan, type Shape } from './shapes.js';
import { allAt } from './tables.js';

const scaled = ['order', 'inventory', 'payment', 'cache'] as const;
type Scaled = (typeof scaled)[number];
/** Consumers of the order events; only the gateway sends them requests. */
const followers = ['sales', 'webhooks'] as const;

/** The ports of a module's instances. */
interface Instances {
  rest: number[];
  messages: number[];
}

const instances = 2;

const urls = (ports: number[]): string => ports.map((port) => `http://127.0.0.1:${port}`).join(',');
const tcp = (ports: number[]): string => `tcp://${ports.map((port) => `127.0.0.1:${port}`).join(',')}`;

/** The transports between the services. */
export const transports = ['tcp', 'redis', 'nats'] as const;
export type Transport = (typeof transports)[number];

/**
 * The split shape, with two instances of each module and of the gateway, one database, and one Redis for the two caches.
 * The instances are called `order-1`, `order-2` and so on; the test starts the second ones.
 *
 * @param home where the first instances were compiled, if not here
 */
export const startScaled = async (home?: string, transport: Transport = 'tcp'): Promise<Shape> => {
  const [redis, database] = await Promise.all([startRedis(), testDatabase()]);
  const nats = transport === 'nats' ? await startNats() : undefined;
  const addressOf = (messages: number[]): string => {
    if (nats) return nats.url;
    return transport === 'redis' ? redis.url : tcp(messages);
  };
  const [gatewayOne, gatewayTwo, salesOne, salesTwo, webhooksOne, webhooksTwo, ...ports] = await servicePorts(
    6 + scaled.length * 2 * instances,
  );
  const gateways = [gatewayOne!, gatewayTwo!];
  const following = { sales: [salesOne!, salesTwo!], webhooks: [webhooksOne!, webhooksTwo!] };
  const older = home === undefined ? {} : { home };
  const places = Object.fromEntries(
    scaled.map((module, at): [Scaled, Instances] => {
      const own = ports.slice(at * 2 * instances, (at + 1) * 2 * instances);
      return [module, { rest: own.slice(0, instances), messages: own.slice(instances) }];
    }),
  ) as Record<Scaled, Instances>;
  const neighbours: Record<Scaled, Record<string, string>> = {
    order: {
      ...{ INVENTORY_AT: addressOf(places.inventory.messages), PAYMENT_AT: addressOf(places.payment.messages) },
      // Short enough for a test to wait until stock that no order claimed is released.
      ...{ ORDER_HOLD_MS: '20000', ORDER_SWEEP_MS: '500' },
    },
    inventory: { CACHE_AT: addressOf(places.cache.messages) },
    payment: {},
    cache: { CACHE_REDIS_URL: redis.url, CACHE_REDIS_DEADLINE_MS: '5000' },
  };
  const gatewayTo = Object.fromEntries(
    scaled.map((module) => [`${module.toUpperCase()}_URL`, urls(places[module].rest)]),
  );
  const own = { DATABASE_URL: database.url, ORDER_AT: addressOf(places.order.messages) };
  const plan: Plan = {
    services: [
      ...gateways.map((port, at) => ({
        ...{ app: 'gateway', name: `gateway-${at + 1}`, port, isEntrance: true, isLater: at > 0 },
        ...(at === 0 && older),
        environment: { ...gatewayTo, SALES_URL: urls(following.sales), WEBHOOKS_URL: urls(following.webhooks) },
      })),
      ...scaled.flatMap((module) =>
        places[module].rest.map((port, at) => ({
          ...{ app: module, name: `${module}-${at + 1}`, port, isLater: at > 0, ...(at === 0 && older) },
          environment: {
            ...(module !== 'cache' && { DATABASE_URL: database.url }),
            ...neighbours[module],
            [`${module.toUpperCase()}_LISTEN`]: addressOf([places[module].messages[at]!]),
          },
        })),
      ),
      ...followers.flatMap((module) =>
        following[module].map((port, at) => ({
          ...{ app: module, name: `${module}-${at + 1}`, port, isLater: at > 0, ...(at === 0 && older) },
          environment: { ...own, ...(module === 'sales' && { INVENTORY_AT: addressOf(places.inventory.messages) }) },
        })),
      ),
    ],
    databaseUrls: () => Promise.resolve(allAt(database.url)),
    release: async () => {
      await Promise.all([redis.stop(), nats?.stop()]);
      await database.stop();
    },
  };
  return startPlan('scaled', plan);
};

/**
 * Two slots for the single process behind a gateway, and one for inventory: `shop-1` has every module; `shop-2` has all
 * but inventory, which it reaches at `inventory`; `shop-back` takes the place of `shop-1`, with the database of
 * `inventory`. At first, only `shop-1` and the gateway run.
 *
 * @param inventoryUrl the database of `inventory`, if it is not that of the others
 */
export const startExtractable = async (inventoryUrl?: (own: string) => string): Promise<Shape> => {
  const [redis, database] = await Promise.all([startRedis(), testDatabase()]);
  const [gateway, one, two, rest, cacheOne, cacheTwo, messages] = await servicePorts(7);
  const inventoryAt = inventoryUrl?.(database.url) ?? database.url;
  const shops = urls([one!, two!]);
  const own = { DATABASE_URL: database.url, CACHE_REDIS_URL: redis.url, CACHE_REDIS_DEADLINE_MS: '5000' };
  const plan: Plan = {
    services: [
      {
        app: 'gateway',
        port: gateway!,
        environment: {
          ...{ ORDER_URL: shops, INVENTORY_URL: shops, CACHE_URL: shops },
          ...{ PAYMENT_URL: shops, SALES_URL: shops, WEBHOOKS_URL: shops },
        },
      },
      {
        ...{ app: 'monolith', name: 'shop-1', port: one! },
        environment: { ...own, CACHE_LISTEN: tcp([cacheOne!]) },
      },
      {
        ...{ app: 'monolith', name: 'shop-2', port: two!, isLater: true },
        environment: {
          ...own,
          CACHE_LISTEN: tcp([cacheTwo!]),
          ...{ INVENTORY_AT: tcp([messages!]), INVENTORY_URL: urls([rest!]) },
        },
      },
      {
        ...{ app: 'monolith', name: 'shop-back', port: one!, isLater: true },
        environment: { ...own, CACHE_LISTEN: tcp([cacheOne!]), INVENTORY_DATABASE_URL: inventoryAt },
      },
      {
        ...{ app: 'inventory', port: rest!, isLater: true },
        environment: {
          DATABASE_URL: inventoryAt,
          INVENTORY_LISTEN: tcp([messages!]),
          CACHE_AT: tcp([cacheOne!, cacheTwo!]),
        },
      },
    ],
    databaseUrls: () => Promise.resolve(allAt(database.url)),
    release: async () => {
      await redis.stop();
      await database.stop();
    },
  };
  return startPlan('extractable', plan);
};
