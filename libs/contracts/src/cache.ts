import { z } from 'zod';
import { contract } from './operation.js';
import { limits, moment, wholeNumber } from './values.js';

/** A cache key: 1 to 1,024 bytes of UTF-8, any characters but unpaired surrogates. */
export const cacheKey = z
  .string()
  .min(1, 'must not be empty')
  .refine((key) => key.isWellFormed() && Buffer.byteLength(key) <= limits.cacheKeyBytes, {
    error: `must be at most ${limits.cacheKeyBytes} bytes of UTF-8 without unpaired surrogates`,
  });

const ttlMs = wholeNumber(1, limits.cacheTtlMs).meta({
  description: 'Milliseconds until the entry is gone; it stays until it is evicted when left out.',
});

const jsonValue = z
  .unknown()
  .refine((value) => value !== undefined, 'is required')
  .meta({ description: 'Any JSON value.' });

export const putCacheEntryRequest = z
  .strictObject({ key: cacheKey, value: jsonValue, ttl_ms: ttlMs.optional() })
  .meta({ id: 'PutCacheEntryRequest', examples: [{ key: 'greeting', value: { text: 'hello' }, ttl_ms: 60000 }] });

export const cacheEntryWritten = z
  .object({
    key: z.string(),
    version: z.string().meta({ description: 'Changes with every write of the key.' }),
    expires_at: moment.nullable(),
  })
  .meta({ id: 'CacheEntryWritten' });

export const cacheValue = z
  .object({ value: z.unknown() })
  .meta({ id: 'CacheValue', examples: [{ value: { text: 'hello' } }] });

export const cacheMiss = z
  .object({ error: z.literal('key not found') })
  .meta({ id: 'CacheMiss', examples: [{ error: 'key not found' }] });

/** What the cache answers to the other modules. A value is any JSON; a miss is `found: false`. */
export const cacheContract = contract('cache', {
  get: {
    summary: 'Reads the value under a key.',
    request: z.object({ key: cacheKey }),
    reply: z.discriminatedUnion('found', [
      z.object({ found: z.literal(true), value: z.unknown() }),
      z.object({ found: z.literal(false) }),
    ]),
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 250,
    maxBytes: 1_048_576,
  },
  put: {
    summary: 'Writes a value under a key.',
    request: z.object({ key: cacheKey, value: jsonValue, ttl_ms: ttlMs.optional() }),
    reply: cacheEntryWritten,
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 250,
    maxBytes: 1_048_576,
  },
  delete: {
    summary: 'Forgets a key; a key that is not there is forgotten already.',
    request: z.object({ keys: z.array(cacheKey).min(1).max(limits.batch) }),
    reply: z.object({}),
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 250,
    maxBytes: 1_048_576,
  },
});
