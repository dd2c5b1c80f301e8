import { z } from 'zod';
import { defaultTenant, defaultAccount, limits, moment, pageOf, text, wholeNumber } from './values.js';
import { uuid } from './uuid.js';

/** What a key or a token can be allowed to do. */
export const scopes = [
  'orders:read',
  'orders:write',
  'orders:price',
  'personal:read',
  'personal:erase',
  'payments:read',
  'payments:write',
  'events:read',
  'products:read',
  'products:write',
  'stock:read',
  'stock:write',
  'sales:read',
  'webhooks:read',
  'webhooks:write',
  'cache:read',
  'cache:write',
  'admin',
] as const;

/** `operator` covers the installation as a whole, all tenants at once. No API key and no token can have it. */
export type Scope = (typeof scopes)[number] | 'operator';

const tenantMessage = 'must be 1 to 63 characters of a-z, 0-9 and hyphen, and not begin with a hyphen';
/** The tenant that owns the data. */
export const tenantId = z
  .string(tenantMessage)
  .regex(/^[a-z0-9][a-z0-9-]{0,62}$/, tenantMessage)
  .meta({
    description: 'The tenant whose data the key can access. Data of different tenants never mix.',
    examples: [defaultTenant],
  });

/** The account that acts for the tenant. Each Idempotency-Key belongs to one account. */
export const accountId = text(limits.idLength, 1).meta({
  description: 'The account that acts for the tenant. Each account has its own Idempotency-Keys.',
  examples: [defaultAccount],
});

const name = text(limits.textLength, 1).meta({ description: 'A name by which people recognise the key.' });
const keyScopes = z.array(z.enum(scopes)).min(1).max(scopes.length);
const expiresAt = moment.nullable().meta({ description: 'When the key expires; null for never.' });

export const createKeyRequest = z
  .strictObject({
    name,
    scopes: keyScopes.meta({ description: 'What the key may do.' }),
    tenant: tenantId.optional().meta({
      description: 'Another tenant than that of the caller. For operators only. The tenant of the caller if left out.',
    }),
    account: accountId.optional().meta({ description: `\`${defaultAccount}\` when left out.` }),
    expires_at: expiresAt.optional(),
  })
  .meta({
    id: 'CreateKeyRequest',
    examples: [{ name: 'The till', scopes: ['orders:write', 'orders:read', 'products:read'] }],
  });
export type CreateKeyRequest = z.output<typeof createKeyRequest>;

const key = z.object({
  key_id: uuid,
  tenant: tenantId,
  account: accountId,
  name: z.string(),
  scopes: z.array(z.string()),
  created_at: moment,
  expires_at: expiresAt,
  revoked_at: moment.nullable(),
  rotated_to: uuid.nullable().meta({ description: 'The key that replaces it.' }),
});
export const apiKey = key.meta({ id: 'ApiKey' });
export type ApiKey = z.output<typeof apiKey>;

/** The answer that issues or rotates a key: the only one that contains the key itself. */
export const issuedKey = key
  .extend({
    key: z.string().meta({
      description: 'Send it as `Authorization: Bearer …`. It is shown only in this answer and is not stored.',
    }),
  })
  .meta({ id: 'IssuedKey' });
export type IssuedKey = z.output<typeof issuedKey>;

export const keyQuery = z.strictObject({
  tenant: tenantId.optional().meta({ description: 'Another tenant than that of the caller. For operators only.' }),
  limit: z.string().optional(),
  cursor: z.string().optional(),
});

export const keyPage = pageOf(apiKey).meta({ id: 'ApiKeyPage' });

const longestOverlapSeconds = 30 * 24 * 3_600;

export const rotateKeyRequest = z
  .strictObject({
    overlap_seconds: wholeNumber(0, longestOverlapSeconds).meta({
      description: 'How long the old key stays valid beside the new one.',
    }),
  })
  .meta({ id: 'RotateKeyRequest', examples: [{ overlap_seconds: 86_400 }] });
