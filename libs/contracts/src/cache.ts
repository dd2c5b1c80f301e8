import { z } from 'zod';
import { contract } from './operation.js';
import { limits, moment, wholeNumber } from './values.js';

/** A key, a namespace or a tag: 1 to 1,024 bytes of UTF-8 without unpaired surrogates. */
const cacheName = z
  .string()
  .min(1, 'must not be empty')
  .refine((name) => name.isWellFormed() && Buffer.byteLength(name) <= limits.cacheKeyBytes, {
    error: `must be at most ${limits.cacheKeyBytes} bytes of UTF-8 without unpaired surrogates`,
  });

export const cacheKey = cacheName;

export const cacheNamespace = cacheName
  .refine((name) => Buffer.byteLength(name) <= limits.cacheNamespaceBytes, {
    error: `must be at most ${limits.cacheNamespaceBytes} bytes of UTF-8`,
  })
  .optional()
  .meta({
    description: 'The namespace of the key. The same key in another namespace is another entry. `default` if left out.',
    examples: ['default'],
  });

const ttlMs = wholeNumber(1, limits.cacheTtlMs).meta({
  description: 'Milliseconds until the entry expires. Without it, the entry stays until it is evicted.',
});

const tags = z
  .array(cacheName)
  .max(limits.cacheTags)
  .meta({ description: 'Tags of the entry: invalidating one of them removes it.' });

const isStale = z
  .boolean()
  .meta({ description: 'True if the value may be out of date because Redis cannot be reached.' });

const jsonValue = z
  .unknown()
  .refine((value) => value !== undefined, 'is required')
  .meta({ description: 'Any JSON value.' });

const version = z.string().meta({ description: 'Changes with every write to the key.' });

/** The version that the key must have, or several; `*` for any, `null` for none. */
const expectedVersion = z
  .union([z.string(), z.array(z.string()).max(limits.batch).readonly()])
  .nullable()
  .optional();

const cachePut = z.strictObject({
  key: cacheKey,
  value: jsonValue,
  ttl_ms: ttlMs.optional(),
  tags: tags.optional(),
});

const lease = z.string().min(1).max(limits.cacheLeaseBytes).meta({
  description: 'The right to fill the key, given on a miss. Any other write to the key ends it.',
});

const leasedPut = cachePut.extend({
  namespace: cacheNamespace,
  lease: lease.optional().meta({
    description: 'Writes only while this lease is valid. The tags are those that were given with the lease.',
  }),
});
const tagsAreOfTheLease = {
  check: (put: { lease?: string | undefined; tags?: string[] | undefined }) => !put.lease || !put.tags,
  told: { path: ['tags'], error: 'are given when the lease is taken, not with the value' },
};

export const putCacheEntryRequest = leasedPut
  .refine(tagsAreOfTheLease.check, tagsAreOfTheLease.told)
  .meta({ id: 'PutCacheEntryRequest', examples: [{ key: 'greeting', value: { text: 'hello' }, ttl_ms: 60000 }] });

export const leaseCacheKeyRequest = z
  .strictObject({
    key: cacheKey,
    namespace: cacheNamespace,
    lease_ms: wholeNumber(1, limits.cacheLeaseMs)
      .default(2_000)
      .meta({ description: 'Milliseconds after which another caller may get it.' }),
    tags: tags.optional(),
  })
  .meta({ id: 'LeaseCacheKeyRequest', examples: [{ key: 'greeting' }] });

export const cacheEntryWritten = z
  .object({ key: z.string(), version, expires_at: moment.nullable() })
  .meta({ id: 'CacheEntryWritten' });

export const cacheValue = z
  .object({ value: z.unknown() })
  .meta({ id: 'CacheValue', examples: [{ value: { text: 'hello' } }] });

export const cacheMiss = z
  .object({ error: z.literal('key not found') })
  .meta({ id: 'CacheMiss', examples: [{ error: 'key not found' }] });

/** The value or, for one caller at a time, a lease: the right to fill the key. */
export const cacheKeyLeased = z
  .discriminatedUnion('found', [
    z.object({ found: z.literal(true), value: z.unknown(), version }),
    z.object({
      found: z.literal(false),
      lease: lease.nullable().meta({ description: '`null` if another caller has it at present.' }),
    }),
  ])
  .meta({ id: 'CacheKeyLeased' });

export const cacheBatchRequest = z
  .strictObject({
    namespace: cacheNamespace,
    delete: z.array(cacheKey).max(limits.batch).optional(),
    put: z.array(cachePut).max(limits.batch).optional(),
    get: z.array(cacheKey).max(limits.batch).optional(),
  })
  .meta({
    id: 'CacheBatchRequest',
    description: 'Deletes first, then writes, then reads.',
    examples: [{ put: [{ key: 'greeting', value: 'hello' }], get: ['greeting', 'farewell'] }],
  });

export const cacheBatch = z
  .object({
    found: z.array(z.object({ key: z.string(), value: z.unknown(), version, is_stale: isStale })),
    missing: z.array(z.string()),
    written: z.array(cacheEntryWritten),
  })
  .meta({ id: 'CacheBatch' });

export const invalidateCacheRequest = z.strictObject({ namespace: cacheNamespace, tags: tags.min(1).optional() }).meta({
  id: 'InvalidateCacheRequest',
  description: 'Removes the entries that have one of the tags; without tags, the whole namespace.',
  examples: [{ tags: ['product:demo-mug'] }],
});

export const incrementCounterRequest = z
  .strictObject({
    key: cacheKey,
    namespace: cacheNamespace,
    by: wholeNumber().optional().meta({
      description: 'The amount to add: 1 if left out. 0 only reads the counter; a negative amount subtracts.',
    }),
    ttl_ms: ttlMs
      .optional()
      .meta({ description: 'Milliseconds until the counter expires, from its first increment on.' }),
  })
  .meta({ id: 'IncrementCounterRequest', examples: [{ key: 'visits' }] });

export const counter = z
  .object({ key: z.string(), count: z.int() })
  .meta({ id: 'CacheCounter', examples: [{ key: 'visits', count: 1 }] });

const latency = z.object({ count: z.number(), p50: z.number(), p99: z.number(), max: z.number() });
const count = z.int();

export const cacheStatistics = z
  .object({
    l1_hits: count.meta({ description: 'Reads answered from this process.' }),
    l2_hits: count.meta({ description: 'Reads answered from Redis.' }),
    stale_hits: count.meta({ description: 'Reads answered with an expired value, because there was nothing better.' }),
    misses: count,
    loads: count,
    load_failures: count,
    loads_spared: count.meta({
      description: 'Loads saved by using a load that was running already, in this process or in another one.',
    }),
    fills_refused: count.meta({
      description: 'Loads that were discarded, because the key was written or invalidated meanwhile.',
    }),
    unavailable: count.meta({ description: 'Calls to Redis that failed or were skipped.' }),
    is_l1_used: z.boolean().meta({ description: 'False while Redis does not answer.' }),
    l1: z.object({
      entries: count,
      bytes: count,
      max_bytes: count,
      evictions: count,
      promotions_refused: count,
      leases_evicted: count,
    }),
    latency_ms: z.object({ redis: latency, load: latency }),
    hot_keys: z.array(z.object({ namespace: z.string(), key: z.string(), reads: count })),
  })
  .meta({ id: 'CacheStatistics', description: 'Of this process, since it started.' });

const common = {
  errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
  deadlineMs: 250,
  maxBytes: 1_048_576,
} as const;

/** A reply has more around a value than the request that wrote it, so that the largest value can also be read. */
const withValue = { ...common, maxBytes: common.maxBytes + 1_024 };

/**
 * The operations that the cache offers to other modules: those of its REST API. A value is any JSON; a miss is
 * `found: false`. Over REST an unknown member is refused, as a mistake; here it comes from a newer version, and is ignored.
 */
export const cacheContract = contract('cache', {
  get: {
    summary: 'Reads the value under a key.',
    request: z.object({ key: cacheKey, namespace: cacheNamespace }),
    reply: z.discriminatedUnion('found', [
      z.object({ found: z.literal(true), value: z.unknown(), version, is_stale: isStale }),
      z.object({ found: z.literal(false) }),
    ]),
    idempotent: true,
    ...withValue,
  },
  put: {
    summary:
      'Writes a value under a key; with if_version only over one of these versions, with * over any, with null only if there is none.',
    request: leasedPut
      .extend({ if_version: expectedVersion })
      .strip()
      .refine(tagsAreOfTheLease.check, tagsAreOfTheLease.told),
    reply: cacheEntryWritten,
    idempotent: true,
    ...common,
    errors: [...common.errors, 'precondition-failed'],
  },
  lease: {
    summary: 'Reads the value under a key; on a miss, the first caller gets a lease to fill it.',
    request: leaseCacheKeyRequest.strip(),
    reply: cacheKeyLeased,
    idempotent: true,
    ...withValue,
  },
  delete: {
    summary:
      'Deletes keys; a key that does not exist counts as deleted. With if_version, as in put, deletes a single key.',
    request: z
      .object({
        keys: z.array(cacheKey).min(1).max(limits.batch),
        namespace: cacheNamespace,
        if_version: expectedVersion,
      })
      .refine(({ keys, if_version }) => if_version === undefined || keys.length === 1, {
        path: ['if_version'],
        error: 'applies to a single key',
      }),
    reply: z.object({}),
    idempotent: true,
    ...common,
    errors: [...common.errors, 'precondition-failed'],
  },
  batch: {
    summary: 'Deletes, writes and reads many keys, in this order.',
    request: cacheBatchRequest.extend({ put: z.array(cachePut.strip()).max(limits.batch).optional() }).strip(),
    reply: cacheBatch,
    idempotent: true,
    ...withValue,
  },
  invalidate: {
    summary: 'Removes the entries that have a tag, or a whole namespace.',
    request: invalidateCacheRequest.strip(),
    reply: z.object({}),
    idempotent: true,
    ...common,
  },
  increment: {
    summary: 'Counts.',
    request: incrementCounterRequest.strip(),
    reply: counter,
    idempotent: false,
    ...common,
  },
  statistics: {
    summary: 'Reads the statistics of the instance that answers.',
    request: z.object({}),
    reply: cacheStatistics,
    idempotent: true,
    ...common,
  },
});
