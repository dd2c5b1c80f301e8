import type { operations } from './generated/operations.gen.js';

/** The operation of the OpenAPI document that each method calls. */
export const resources = {
  orders: {
    place: 'placeOrder',
    get: 'getOrder',
    list: 'listOrders',
    history: 'getOrderHistory',
    cancel: 'cancelOrder',
    fulfil: 'fulfilOrder',
    returnGoods: 'returnGoods',
  },
  customers: { export: 'exportCustomer', erase: 'eraseCustomer' },
  payments: { get: 'getPayment', capture: 'capturePayment', refund: 'refundPayment' },
  events: { list: 'listEvents' },
  products: { put: 'putProduct', get: 'getProduct', list: 'listProducts', putMany: 'putProducts' },
  stock: { put: 'putStock', get: 'getStock', list: 'listStock', adjust: 'adjustStock', putMany: 'putStockBatch' },
  sales: { list: 'listSales', outlook: 'getStockOutlook', views: 'listSalesViews', rebuild: 'rebuildSales' },
  webhookEndpoints: {
    create: 'createWebhookEndpoint',
    get: 'getWebhookEndpoint',
    list: 'listWebhookEndpoints',
    change: 'changeWebhookEndpoint',
    delete: 'deleteWebhookEndpoint',
    secret: 'getWebhookSecret',
    rotateSecret: 'rotateWebhookSecret',
    test: 'testWebhookEndpoint',
    redeliverFailed: 'redeliverFailedWebhooks',
  },
  webhookDeliveries: { get: 'getWebhookDelivery', list: 'listWebhookDeliveries', redeliver: 'redeliverWebhook' },
  cache: {
    get: 'getCacheEntry',
    put: 'putCacheEntry',
    delete: 'deleteCacheEntry',
    batch: 'cacheBatch',
    lease: 'leaseCacheKey',
    increment: 'incrementCounter',
    invalidate: 'invalidateCache',
    statistics: 'getCacheStatistics',
  },
  keys: { create: 'createKey', list: 'listKeys', rotate: 'rotateKey', revoke: 'revokeKey' },
  audit: { list: 'listAuditEntries' },
  deadLetters: { list: 'listDeadLetters', retry: 'retryDeadLetter', resolve: 'resolveDeadLetter' },
  health: {
    live: 'getLiveness',
    ready: 'getReadiness',
    metrics: 'getMetrics',
    logLevel: 'getLogLevel',
    putLogLevel: 'putLogLevel',
  },
  problems: { explain: 'explainProblem' },
} as const satisfies Record<string, Record<string, OperationId>>;

/** `placeOrderByAlias` is `placeOrder` under another path; `receiveStripeEvent` is only for Stripe. */
type LeftOut = 'placeOrderByAlias' | 'receiveStripeEvent';

export type OperationId = keyof typeof operations;

type Table = typeof resources;
type Reached = { [Name in keyof Table]: Table[Name][keyof Table[Name]] }[keyof Table];

type Forgotten = Exclude<OperationId, Reached | LeftOut>;

/** Does not compile if an operation has no method: the compiler names it, because the type is written out here. */
const noneIsForgotten: [Forgotten] extends [never] ? true : Exclude<OperationId, Reached | LeftOut> = true;
void noneIsForgotten;
