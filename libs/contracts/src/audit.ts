import { z } from 'zod';
import { accountId, tenantId } from './access.js';
import { moment } from './values.js';

/**
 * What is written down whenever somebody does it: by the name that the OpenAPI document has for it, with its method and
 * path. Not what happens all day and is kept by itself, such as orders and their history.
 */
export const auditedOperations = {
  createKey: ['POST', '/keys'],
  rotateKey: ['POST', '/keys/:key_id/rotate'],
  revokeKey: ['DELETE', '/keys/:key_id'],
  eraseCustomer: ['DELETE', '/customers/:id'],
  exportCustomer: ['GET', '/customers/:id/export'],
  capturePayment: ['POST', '/orders/:id/captures'],
  refundPayment: ['POST', '/orders/:id/refunds'],
  retryDeadLetter: ['POST', '/dead-letters/:id/retry'],
  resolveDeadLetter: ['POST', '/dead-letters/:id/resolve'],
  putStock: ['PUT', '/stock/:product_id'],
  putStockBatch: ['POST', '/stock/batch'],
  createWebhookEndpoint: ['POST', '/webhook-endpoints'],
  changeWebhookEndpoint: ['PATCH', '/webhook-endpoints/:endpoint_id'],
  deleteWebhookEndpoint: ['DELETE', '/webhook-endpoints/:endpoint_id'],
  getWebhookSecret: ['GET', '/webhook-endpoints/:endpoint_id/secret'],
  rotateWebhookSecret: ['POST', '/webhook-endpoints/:endpoint_id/rotate-secret'],
  rebuildSales: ['POST', '/sales/views'],
  putLogLevel: ['PUT', '/admin/log-level'],
} as const satisfies Record<string, readonly [method: string, path: string]>;

export const auditEntry = z
  .object({
    at: moment,
    tenant: tenantId.meta({ description: 'The tenant of whoever did it.' }),
    account: accountId,
    key_id: z.uuid().nullable().meta({ description: 'The key that was sent; null for another credential, or none.' }),
    is_operator: z.boolean().meta({ description: 'Whether it was somebody who may do what concerns all tenants.' }),
    operation: z.string().meta({ description: 'Its `operationId` in the OpenAPI document.' }),
    target: z.string().meta({ description: 'The address that was asked, or that of what was made.' }),
    request_id: z.string().meta({ description: 'The same for the entries of one request; the log has it as well.' }),
    status: z.int().nullable().meta({
      description:
        'What it was answered with. Null before that: what has no entry with a status may have taken effect.',
    }),
  })
  .meta({ id: 'AuditEntry' });
export type AuditEntry = z.output<typeof auditEntry>;

export const auditPage = z
  .object({
    data: z.array(auditEntry),
    next_cursor: z.string().meta({ description: 'Pass it as `after` for what comes next.' }),
  })
  .meta({ id: 'AuditPage' });

export const auditQuery = z.strictObject({
  tenant: tenantId.optional().meta({ description: 'Another tenant than that of the caller, for operators only.' }),
  after: z.string().max(1_000).optional().meta({ description: 'A cursor of a page; the beginning when left out.' }),
  limit: z.string().optional(),
});
