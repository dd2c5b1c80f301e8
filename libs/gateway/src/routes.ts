import { z } from 'zod';
import { balancePolicy, type BalancePolicy } from '#balancing';
import { env } from '#config';

/**
 * Who answers which addresses: a prefix itself and everything below it. `variable` says where the service is. What is below
 * a prefix that is open is for those who have other ways to show who they are. A POST to what is `keyed` is carried out once
 * for each Idempotency-Key.
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

/**
 * What the gateway answers itself, in the same terms. What it tells of itself to those who operate it (`/metrics`, `/admin`)
 * is not among them: it is asked of each instance, from inside.
 */
export const ownPrefixes = ['/health', '/docs', '/openapi.json', '/problems', '/keys', '/audit'] as const;

type Service = (typeof services)[number];
type Variable = Service['variable'];
type BalanceVariable = Variable extends `${infer Name}_URL` ? `${Name}_BALANCE` : never;

/** A service behind the gateway. */
export interface Upstream {
  name: Service['name'];
  /** Where its instances are, such as `http://order:3001`: a name stands for one at each of its addresses. */
  origins: readonly string[];
  balance: BalancePolicy;
  /** The prefixes of the addresses that it answers. */
  prefixes: readonly string[];
  /** Below these, nobody is asked here who they are. */
  open: readonly string[];
  /** Where a POST that carries an Idempotency-Key may be sent twice, if anywhere. */
  keyed: RegExp | undefined;
}

// A path would have to be taken out of every Location again, and no service of ours needs one.
const origin = env.httpUrl
  .transform((text) => new URL(text))
  .refine((url) => url.href === `${url.origin}/`, 'must have no path, query or credentials: http://host:3001')
  .transform((url) => url.origin);

const origins = env
  .list('must be http://host:port, or several of them: http://one:3001,http://other:3001')
  .pipe(z.array(origin));

const balanceVariable = (variable: Variable) => variable.replace(/_URL$/, '_BALANCE') as BalanceVariable;

/** What the gateway reads from the environment: where the services answer REST, and how requests are shared. */
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
