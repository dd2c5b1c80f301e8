import { z } from 'zod';
import { balancePolicy, type BalancePolicy } from '#balancing';
import { env } from '#config';

/**
 * Which service answers which paths: a prefix itself and everything below it. `variable` names the variable with the address
 * of the service. Paths below an `open` prefix have their own way to authenticate. A POST to a `keyed` path is carried out
 * once for each Idempotency-Key.
 */
const services = [
  {
    name: 'order',
    variable: 'ORDER_URL',
    prefixes: ['/orders', '/order', '/events', '/dead-letters', '/customers'],
    open: [],
    keyed: /^\/orders?$|^\/orders\/[^/]+\/(cancel|captures|fulfil|refunds|returns)$/,
  },
  {
    name: 'inventory',
    variable: 'INVENTORY_URL',
    prefixes: ['/products', '/stock'],
    open: [],
    keyed: /^\/stock\/[^/]+\/adjustments$/,
  },
  { name: 'cache', variable: 'CACHE_URL', prefixes: ['/cache'], open: [], keyed: undefined },
  {
    name: 'payment',
    variable: 'PAYMENT_URL',
    prefixes: ['/payments'],
    open: ['/payments/webhooks'],
    keyed: undefined,
  },
  { name: 'sales', variable: 'SALES_URL', prefixes: ['/sales'], open: [], keyed: undefined },
  {
    name: 'webhooks',
    variable: 'WEBHOOKS_URL',
    prefixes: ['/webhook-endpoints', '/webhook-deliveries'],
    open: [],
    keyed: undefined,
  },
] as const;

/** The prefixes that the gateway itself answers. Operators ask each instance for `/metrics` and `/admin`, from inside. */
export const ownPrefixes = ['/health', '/docs', '/openapi.json', '/problems', '/keys', '/audit'] as const;

type Service = (typeof services)[number];
type Variable = Service['variable'];
type BalanceVariable = Variable extends `${infer Name}_URL` ? `${Name}_BALANCE` : never;

/** A service behind the gateway. */
export interface Upstream {
  name: Service['name'];
  /** Where its instances are, such as `http://order:3001`; a host name stands for one instance at each of its addresses. */
  origins: readonly string[];
  balance: BalancePolicy;
  /** The path prefixes that it answers. */
  prefixes: readonly string[];
  /** Below these, the gateway does not authenticate callers. */
  open: readonly string[];
  /** The paths where a POST with an Idempotency-Key may be sent twice, if any. */
  keyed: RegExp | undefined;
}

// A path would have to be removed from every Location header, and none of our services needs one.
const origin = env.httpUrl
  .transform((text) => new URL(text))
  .refine((url) => url.href === `${url.origin}/`, 'must have no path, query or credentials: http://host:3001')
  .transform((url) => url.origin);

const origins = env
  .list('must be http://host:port, or several of them: http://one:3001,http://other:3001')
  .pipe(z.array(origin));

const balanceVariable = (variable: Variable) => variable.replace(/_URL$/, '_BALANCE') as BalanceVariable;

/** The gateway's environment variables: where the services answer REST, and how requests are balanced. */
export const gatewayEnvironment = Object.fromEntries(
  services.flatMap(({ variable }) => [
    [variable, origins],
    [balanceVariable(variable), balancePolicy],
  ]),
) as Record<Variable, typeof origins> & Record<BalanceVariable, typeof balancePolicy>;

type Read = z.output<z.ZodObject<typeof gatewayEnvironment>>;
export type GatewayEnvironment = Pick<Read, Variable> & Partial<Pick<Read, BalanceVariable>>;

/** The services that have an address. */
export const upstreamsIn = (environment: Partial<GatewayEnvironment>): Upstream[] =>
  services.flatMap(({ name, variable, prefixes, open, keyed }) => {
    const at = environment[variable];
    if (at === undefined) return [];
    return [
      {
        name,
        prefixes,
        open,
        keyed,
        origins: at,
        balance: environment[balanceVariable(variable)] ?? 'least-loaded',
      },
    ];
  });
