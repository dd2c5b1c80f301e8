import { followEvents, type FollowOptions } from './follow.js';
import { operations, type OperationTypes } from './generated/operations.gen.js';
import type { LogLevel, OrderEvent } from './generated/types.gen.js';
import { Listing, type Page } from './listing.js';
import { resources, type OperationId } from './resources.js';
import { Transport, type CallOptions, type CleaveOptions } from './transport.js';

type Takes<Id extends OperationId> = OperationTypes[Id]['takes'];
type Answers<Id extends OperationId> = OperationTypes[Id]['answers'][keyof OperationTypes[Id]['answers']];

/** The id in the path, as an argument. */
type Of<T> = T extends { path: infer Path } ? [id: Path[keyof Path]] : [];
/** The limit of a page may be a number; the OpenAPI document types every query parameter as a string. */
type Query<T> = { [Name in keyof T]: Name extends 'limit' ? T[Name] | number : T[Name] };
type Input<T> = T extends { body: infer Body }
  ? [body: Body]
  : T extends { query: infer Asked }
    ? [query: Query<Asked>]
    : T extends { body?: infer Body; query?: infer Asked }
      ? [NonNullable<Body>] extends [never]
        ? [NonNullable<Asked>] extends [never]
          ? []
          : [query?: Query<NonNullable<Asked>>]
        : [body?: NonNullable<Body>]
      : [];

type Method<Id extends OperationId> = (
  ...args: [...Of<Takes<Id>>, ...Input<Takes<Id>>, options?: CallOptions]
) => (typeof operations)[Id] extends { pagedBy: string }
  ? Answers<Id> extends Page<infer Item>
    ? Listing<Item, Answers<Id>>
    : never
  : Promise<Answers<Id>>;

type Table = typeof resources;
type Resource<Name extends keyof Table> = {
  [Verb in keyof Table[Name]]: Table[Name][Verb] extends OperationId ? Method<Table[Name][Verb]> : never;
};

interface Health extends Omit<Resource<'health'>, 'logLevel'> {
  /** The level of the process that answers, or of each instance of the requested `service`. */
  logLevel(query: { service: string }, options?: CallOptions): Promise<Extract<LogLevel, { instances: unknown }>>;
  logLevel(query?: { service?: never }, options?: CallOptions): Promise<Extract<LogLevel, { level: unknown }>>;
  logLevel(query?: { service?: string }, options?: CallOptions): Promise<LogLevel>;
}

interface Events extends Resource<'events'> {
  /**
   * Every event from `after` on, each once and in order, as it happens. It reconnects whenever the connection breaks. It
   * ends only by `break`, by its signal, or with an error that trying again cannot solve.
   */
  follow(options?: FollowOptions): AsyncGenerator<OrderEvent, void, undefined>;
}

/**
 * The API of Cleave. Each method takes the id in the path, if there is one, then the body or the query, then the options
 * of the call. It resolves with the body of the response, or rejects with a `CleaveApiError`. Lists are read page by
 * page: `for await (const order of cleave.orders.list({ customer_id: 'c-1' }))`.
 */
export class Cleave implements Omit<{ [Name in keyof Table]: Resource<Name> }, 'events'> {
  readonly orders: Resource<'orders'>;
  readonly customers: Resource<'customers'>;
  readonly payments: Resource<'payments'>;
  readonly events: Events;
  readonly products: Resource<'products'>;
  readonly stock: Resource<'stock'>;
  readonly sales: Resource<'sales'>;
  readonly webhookEndpoints: Resource<'webhookEndpoints'>;
  readonly webhookDeliveries: Resource<'webhookDeliveries'>;
  readonly cache: Resource<'cache'>;
  readonly keys: Resource<'keys'>;
  readonly audit: Resource<'audit'>;
  readonly deadLetters: Resource<'deadLetters'>;
  readonly health: Health;
  readonly problems: Resource<'problems'>;

  constructor(options: CleaveOptions) {
    const transport = new Transport(options);
    const the = <Name extends keyof Table>(name: Name): Resource<Name> => resourceOf(transport, name);
    this.orders = the('orders');
    this.customers = the('customers');
    this.payments = the('payments');
    this.events = { ...the('events'), follow: (from = {}) => followEvents(transport, from) };
    this.products = the('products');
    this.stock = the('stock');
    this.sales = the('sales');
    this.webhookEndpoints = the('webhookEndpoints');
    this.webhookDeliveries = the('webhookDeliveries');
    this.cache = the('cache');
    this.keys = the('keys');
    this.audit = the('audit');
    this.deadLetters = the('deadLetters');
    this.health = the('health') as Health;
    this.problems = the('problems');
  }
}

const resourceOf = <Name extends keyof Table>(transport: Transport, name: Name): Resource<Name> =>
  Object.fromEntries(
    Object.entries<OperationId>(resources[name]).map(([verb, id]) => [verb, methodOf(transport, id)]),
  ) as unknown as Resource<Name>;

const methodOf = (transport: Transport, id: OperationId) => {
  const { path, ...operation } = operations[id];
  const takes = 'takes' in operation ? operation.takes : undefined;
  return (...args: unknown[]): unknown => {
    const of = path.includes('{') ? idIn(path, args.shift()) : undefined;
    const input = takes ? (args.shift() as Record<string, unknown> | undefined) : undefined;
    const options = args.shift() as CallOptions | undefined;
    const call = { id, ...(of !== undefined && { of }), ...(takes && input !== undefined && { [takes]: input }) };
    if (!('pagedBy' in operation)) return transport.ask(call, options);
    const { pagedBy } = operation;
    return new Listing((cursor) => {
      const query = { ...input, ...(cursor !== undefined && { [pagedBy]: cursor }) };
      return transport.ask({ ...call, query }, options) as Promise<Page<unknown>>;
    });
  };
};

/**
 * Without its id, a path would lead to another resource; so it would with `.` or `..`, however they are encoded. A lone
 * surrogate cannot be encoded at all.
 */
const idIn = (path: string, id: unknown): string | number => {
  if (typeof id === 'number' || (typeof id === 'string' && !/^\.{0,2}$|\p{Surrogate}/u.test(id))) return id;
  throw new TypeError(`${path} needs an id, not ${JSON.stringify(id)}`);
};
