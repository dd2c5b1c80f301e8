import type { z } from 'zod';
import { env } from '#config';

export type UpstreamName = 'order' | 'inventory' | 'cache';

/** Who answers which addresses: the prefix itself and everything below it. */
const routes: readonly { prefix: string; upstream: UpstreamName }[] = [
  { prefix: '/orders', upstream: 'order' },
  { prefix: '/order', upstream: 'order' },
  { prefix: '/products', upstream: 'inventory' },
  { prefix: '/stock', upstream: 'inventory' },
  { prefix: '/cache', upstream: 'cache' },
];

/** A service behind the gateway. */
export interface Upstream {
  name: UpstreamName;
  /** Such as `http://order:3001`. */
  origin: string;
  /** The prefixes of the addresses that it answers. */
  prefixes: string[];
}

// A path would have to be taken out of every Location again, and no service of ours needs one.
const origin = env.httpUrl
  .transform((text) => new URL(text))
  .refine((url) => url.href === `${url.origin}/`, 'must have no path, query or credentials: http://host:3001')
  .transform((url) => url.origin);

/** What the gateway reads from the environment: where the services answer REST. */
export const gatewayEnvironment = { ORDER_URL: origin, INVENTORY_URL: origin, CACHE_URL: origin };
export type GatewayEnvironment = z.output<z.ZodObject<typeof gatewayEnvironment>>;

export const upstreamsIn = ({ ORDER_URL, INVENTORY_URL, CACHE_URL }: GatewayEnvironment): Upstream[] =>
  Object.entries({ order: ORDER_URL, inventory: INVENTORY_URL, cache: CACHE_URL }).map(([name, origin]) => ({
    name: name as UpstreamName,
    origin,
    prefixes: routes.filter(({ upstream }) => upstream === name).map(({ prefix }) => prefix),
  }));
