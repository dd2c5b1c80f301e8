import type { z } from 'zod';
import { env } from '#config';

/** Who answers which addresses: a prefix itself and everything below it. `variable` says where the service is. */
const services = [
  { name: 'order', variable: 'ORDER_URL', prefixes: ['/orders', '/order', '/events', '/dead-letters'] },
  { name: 'inventory', variable: 'INVENTORY_URL', prefixes: ['/products', '/stock'] },
  { name: 'cache', variable: 'CACHE_URL', prefixes: ['/cache'] },
  { name: 'payment', variable: 'PAYMENT_URL', prefixes: ['/payments'] },
  { name: 'sales', variable: 'SALES_URL', prefixes: ['/sales'] },
  { name: 'webhooks', variable: 'WEBHOOKS_URL', prefixes: ['/webhook-endpoints', '/webhook-deliveries'] },
] as const;

type Service = (typeof services)[number];

/** A service behind the gateway. */
export interface Upstream {
  name: Service['name'];
  /** Such as `http://order:3001`. */
  origin: string;
  /** The prefixes of the addresses that it answers. */
  prefixes: readonly string[];
}

// A path would have to be taken out of every Location again, and no service of ours needs one.
const origin = env.httpUrl
  .transform((text) => new URL(text))
  .refine((url) => url.href === `${url.origin}/`, 'must have no path, query or credentials: http://host:3001')
  .transform((url) => url.origin);

/** What the gateway reads from the environment: where the services answer REST. */
export const gatewayEnvironment = Object.fromEntries(services.map(({ variable }) => [variable, origin])) as Record<
  Service['variable'],
  typeof origin
>;
export type GatewayEnvironment = z.output<z.ZodObject<typeof gatewayEnvironment>>;

/** The services that have an address. */
export const upstreamsIn = (environment: Partial<GatewayEnvironment>): Upstream[] =>
  services.flatMap(({ name, variable, prefixes }) => {
    const at = environment[variable];
    return at === undefined ? [] : [{ name, origin: at, prefixes }];
  });
