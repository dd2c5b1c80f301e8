import { z } from 'zod';
import { accountId, tenantId, type Scope } from './access.js';
import { moment } from './values.js';
import { uuid } from './uuid.js';

/**
 * The operations that are written to the audit log, by their `operationId` in the OpenAPI document: method, path and
 * scope. Routine operations that leave a history of their own, such as placing an order, are left out.
 */
export const auditedOperations = {
  createKey: ['POST', '/keys', 'admin'],
  rotateKey: ['POST', '/keys/:key_id/rotate', 'admin'],
  revokeKey: ['DELETE', '/keys/:key_id', 'admin'],
  eraseCustomer: ['DELETE', '/customers/:id', 'personal:erase'],
  exportCustomer: ['GET', '/customers/:id/export', 'personal:read'],
  capturePayment: ['POST', '/orders/:id/captures', 'payments:write'],
  refundPayment: ['POST', '/orders/:id/refunds', 'payments:write'],
  retryDeadLetter: ['POST', '/dead-letters/:id/retry', 'admin'],
  resolveDeadLetter: ['POST', '/dead-letters/:id/resolve', 'admin'],
  putStock: ['PUT', '/stock/:product_id', 'stock:write'],
  putStockBatch: ['POST', '/stock/batch', 'stock:write'],
  createWebhookEndpoint: ['POST', '/webhook-endpoints', 'webhooks:write'],
  changeWebhookEndpoint: ['PATCH', '/webhook-endpoints/:endpoint_id', 'webhooks:write'],
  deleteWebhookEndpoint: ['DELETE', '/webhook-endpoints/:endpoint_id', 'webhooks:write'],
  getWebhookSecret: ['GET', '/webhook-endpoints/:endpoint_id/secret', 'webhooks:write'],
  rotateWebhookSecret: ['POST', '/webhook-endpoints/:endpoint_id/rotate-secret', 'webhooks:write'],
  rebuildSales: ['POST', '/sales/views', 'operator'],
  putLogLevel: ['PUT', '/admin/log-level', 'operator'],
} as const satisfies Record<string, readonly [method: string, path: string, scope: Scope]>;

export const auditEntry = z
  .object({
    at: moment,
    tenant: tenantId.meta({ description: 'The tenant of the caller.' }),
    account: accountId,
    key_id: uuid
      .nullable()
      .meta({ description: 'The key of the caller; null if the caller used another credential, or none.' }),
    is_operator: z.boolean().meta({ description: 'Whether the caller was an operator, who may act for all tenants.' }),
    operation: z.string().meta({ description: 'The `operationId` in this document.' }),
    target: z.string().meta({ description: 'The address of the request, or of what it created.' }),
    request_id: z.string().meta({ description: 'The id of the request, the same in all its entries and in the log.' }),
    status: z
      .int()
      .nullable()
      .meta({
        description:
          'The status of the answer. Null in the entry that is written before the operation. If there is no second ' +
          'entry with a status, the operation may or may not have taken effect.',
      }),
    requests: z.int().meta({
      description:
        'How many requests the entry stands for. If a caller is refused very often, one entry stands for several ' +
        'requests and describes the last of them.',
    }),
  })
  .meta({ id: 'AuditEntry' });
export type AuditEntry = z.output<typeof auditEntry>;

export const auditPage = z
  .object({
    data: z.array(auditEntry),
    next_cursor: z.string().meta({ description: 'Pass it as `after` to continue from here.' }),
  })
  .meta({ id: 'AuditPage' });

export const auditQuery = z.strictObject({
  tenant: tenantId.optional().meta({ description: 'Another tenant than that of the caller. For operators only.' }),
  after: z
    .string()
    .max(1_000)
    .optional()
    .meta({ description: 'A cursor from an earlier page. Starts at the beginning if left out.' }),
  limit: z.string().optional(),
});
