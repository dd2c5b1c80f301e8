import { scopes } from '#contracts';

/** The open operations. They are repeated here so that none is opened by mistake. */
export const openOperations = [
  'GET /health/live',
  'GET /health/ready',
  'GET /metrics',
  'POST /payments/webhooks/stripe',
  'GET /problems/{code}',
];

/** Changes that are too frequent to be audited. */
export const everydayOperations = [
  ...[
    'POST /orders',
    'POST /order',
    'POST /orders/{id}/cancel',
    'POST /orders/{id}/fulfil',
    'POST /orders/{id}/returns',
  ],
  ...['PUT /products/{id}', 'POST /products/batch', 'POST /stock/{product_id}/adjustments'],
  ...['PUT /cache', 'DELETE /cache', 'POST /cache/batch', 'POST /cache/lease', 'POST /cache/invalidate'],
  ...['POST /cache/counters', 'POST /webhook-endpoints/{endpoint_id}/test'],
  ...['POST /webhook-endpoints/{endpoint_id}/redeliver', 'POST /webhook-deliveries/{delivery_id}/redeliver'],
];

/** All scopes except one. */
export const allBut = (scope: string): string[] => scopes.filter((it) => it !== scope);
