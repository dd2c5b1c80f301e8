import { Injectable } from '@nestjs/common';
import { CacheEngine, CacheUnavailable, textCodec, type Found, type Namespace, type Written } from '#cache-engine';
import {
  CleaveError,
  defaultTenant,
  limits,
  type cacheContract,
  type cacheEntryWritten,
  type ReplyOf,
  type RequestOf,
} from '#contracts';
import type { z } from 'zod';

/** The owner of keys: a tenant, or the modules. Keys of different owners never collide. */
export type Owner = { tenant: string } | 'modules';

type Operations = (typeof cacheContract)['operations'];
type EntryWritten = z.output<typeof cacheEntryWritten>;

/** A value as JSON text, which is not parsed here. */
export interface JsonFound {
  json: string;
  version: string;
  /** Redis could not be asked, so the value may have been overwritten since. */
  isStale: boolean;
}

/** The operations of the cache, for REST and for messages. */
@Injectable()
export class Cache {
  /** Created once, because it is used most. */
  private readonly ofDefaultTenant: Namespace<string>;

  constructor(private readonly engine: CacheEngine) {
    this.ofDefaultTenant = this.named({ tenant: defaultTenant }, 'default');
  }

  /** @returns `undefined` for a miss; a cached null is the text `null`; no promise if the value is in this process */
  get(
    owner: Owner,
    { key, namespace }: RequestOf<Operations['get']>,
  ): JsonFound | undefined | Promise<JsonFound | undefined> {
    try {
      const found = this.space(owner, namespace).findAtOnce(key);
      return found instanceof Promise ? this.answered(async () => inJson(await found)) : inJson(found);
    } catch (error) {
      throw refusalOf(error);
    }
  }

  /** @throws CleaveError `precondition-failed` with the current version */
  put(owner: Owner, { namespace, if_version: expected, ...put }: RequestOf<Operations['put']>): Promise<EntryWritten> {
    const space = this.space(owner, namespace);
    return this.answered(async () => {
      if (put.lease !== undefined) {
        if (expected !== undefined) throw invalid('A write can have a lease or an expected version, not both.');
        const filled = await space.fillLeased(put.key, put.lease, ...textAndOptions(put));
        if (filled) return written(put.key, filled);
        const late =
          'The lease is no longer valid: the key was written or invalidated in the meantime, or the lease expired. Read the key again.';
        throw new CleaveError('precondition-failed', late, { version: null });
      }
      if (expected === undefined) return written(put.key, await space.set(put.key, ...textAndOptions(put)));
      const outcome = await space.compareAndSet(put.key, expected, ...textAndOptions(put));
      if (outcome.isWritten) return written(put.key, outcome);
      throw anotherIsThere(outcome);
    });
  }

  lease(
    owner: Owner,
    { key, namespace, lease_ms, tags }: RequestOf<Operations['lease']>,
  ): Promise<{ json: string; version: string } | { lease: string | null }> {
    return this.answered(async () => {
      const leased = await this.space(owner, namespace).findOrLease(key, lease_ms, tags);
      if ('lease' in leased) return leased;
      const { value, version } = leased.found;
      return value === undefined ? { lease: null } : { json: value, version };
    });
  }

  /** @throws CleaveError `precondition-failed` with the current version, if one is expected */
  delete(owner: Owner, { keys, namespace, if_version: expected }: RequestOf<Operations['delete']>): Promise<void> {
    const space = this.space(owner, namespace);
    return this.answered(async () => {
      if (expected === undefined) return space.delete(...keys);
      const outcome = await space.compareAndDelete(keys[0]!, expected);
      if (!outcome.isDeleted) throw anotherIsThere(outcome);
    });
  }

  /** @throws CleaveError `payload-too-large` if too much is found; the deletes and writes have been carried out by then */
  batch(owner: Owner, request: RequestOf<Operations['batch']>): Promise<BatchDone> {
    const { delete: toDelete = [], put = [], get = [], namespace } = request;
    const space = this.space(owner, namespace);
    return this.answered(async () => {
      await space.delete(...toDelete);
      const done = await space.setMany(put.map((it) => [it.key, ...textAndOptions(it)] as const));
      const found = await foundIn(space, get);
      return {
        found: [...found].map(([key, { value, version, isStale }]) => ({ key, json: value!, version, isStale })),
        missing: [...new Set(get)].filter((key) => !found.has(key)),
        written: done.map((it, at) => written(put[at]!.key, it)),
      };
    });
  }

  invalidate(owner: Owner, { namespace, tags }: RequestOf<Operations['invalidate']>): Promise<void> {
    const space = this.space(owner, namespace);
    return this.answered(() => (tags ? space.invalidateTags(...tags) : space.clear()));
  }

  async increment(
    owner: Owner,
    { key, namespace, by, ttl_ms }: RequestOf<Operations['increment']>,
  ): Promise<ReplyOf<Operations['increment']>> {
    const count = await this.answered(() => this.space(owner, namespace).increment(key, by, { ttl: ttl_ms }));
    return { key, count };
  }

  statistics(): ReplyOf<Operations['statistics']> {
    const it = this.engine.statistics;
    return {
      l1_hits: it.l1Hits,
      l2_hits: it.l2Hits,
      stale_hits: it.staleHits,
      misses: it.misses,
      loads: it.loads,
      load_failures: it.loadFailures,
      loads_spared: it.sharedLoads + it.awaitedLoads,
      fills_refused: it.fillsRefused,
      unavailable: it.unavailable,
      is_l1_used: it.isL1Used,
      l1: {
        entries: it.l1.entries,
        bytes: it.l1.bytes,
        max_bytes: it.l1.maxBytes,
        evictions: it.l1.evictions,
        promotions_refused: it.l1.promotionsRefused,
        leases_evicted: it.l1.leasesEvicted,
      },
      latency_ms: it.latency,
      hot_keys: it.hotKeys,
    };
  }

  private space(owner: Owner, namespace = 'default'): Namespace<string> {
    const isUsual = namespace === 'default' && owner !== 'modules' && owner.tenant === defaultTenant;
    return isUsual ? this.ofDefaultTenant : this.named(owner, namespace);
  }

  private named(owner: Owner, namespace: string): Namespace<string> {
    // No jitter, so that an expiry that was promised to the caller is exact.
    return this.engine.namespace(`${nameOf(owner)}:${namespace}`, { codec: textCodec, jitter: 0 });
  }

  private async answered<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw refusalOf(error);
    }
  }
}

/** The error that a caller gets. */
const refusalOf = (error: unknown): unknown => {
  if (error instanceof RangeError) return invalid(error.message);
  if (error instanceof CacheUnavailable) return new CleaveError('unavailable', error.message, {}, { cause: error });
  return error;
};

const inJson = (found: Found<string> | undefined): JsonFound | undefined => {
  if (found?.value === undefined) return undefined;
  const { value: json, version, isStale } = found;
  return { json, version, isStale };
};

/** How many keys are read at once, which bounds how much is read beyond the limit of the answer. */
const readAtOnce = 256;

const foundIn = async (space: Namespace<string>, keys: readonly string[]): Promise<Map<string, Found<string>>> => {
  const found = new Map<string, Found<string>>();
  const asked = [...new Set(keys)];
  let left: number = limits.cacheBatchCharacters;
  for (let at = 0; at < asked.length; at += readAtOnce) {
    for (const [key, it] of await space.getMany(asked.slice(at, at + readAtOnce))) {
      found.set(key, it);
      left -= it.value!.length;
    }
    if (left < 0) throw new CleaveError('payload-too-large', tooMuchFound);
  }
  return found;
};

const tooMuchFound =
  `The values under these keys have more than ${limits.cacheBatchCharacters} characters together. Ask for fewer keys at once. ` +
  'The deletes and writes of this request were carried out.';

/** No tenant has a colon in its name, so the name ends at the first one. */
const nameOf = (owner: Owner): string => {
  if (owner === 'modules') return owner;
  return owner.tenant === defaultTenant ? 'callers' : `callers@${owner.tenant}`;
};

const invalid = (detail: string) => new CleaveError('invalid-request', detail, { faults: [] });

const anotherIsThere = ({ version }: { version: string | null }) => {
  const detail = `The cache holds ${version === null ? 'nothing' : 'another version'} under this key. Read it again.`;
  return new CleaveError('precondition-failed', detail, { version });
};

/** Serialises the value that was found, or the lease, as the contract's JSON. */
export const leasedJson = (leased: Awaited<ReturnType<Cache['lease']>>): string =>
  'lease' in leased
    ? JSON.stringify({ found: false, lease: leased.lease })
    : `{"found":true,"value":${leased.json},"version":"${leased.version}"}`;

/** Serialises the result of a batch as the contract's JSON, without parsing the values. */
export const batchJson = ({ found, missing, written }: BatchDone): string => {
  const told = found.map(
    ({ key, json, version, isStale }) =>
      `{"key":${JSON.stringify(key)},"value":${json},"version":"${version}","is_stale":${isStale}}`,
  );
  return `{"found":[${told.join()}],"missing":${JSON.stringify(missing)},"written":${JSON.stringify(written)}}`;
};

interface BatchDone {
  found: ({ key: string } & JsonFound)[];
  missing: string[];
  written: EntryWritten[];
}

interface Put {
  value: unknown;
  ttl_ms?: number | undefined;
  tags?: string[] | undefined;
}

const textAndOptions = ({ value, ttl_ms: ttl, tags }: Put) => [JSON.stringify(value), { ttl, tags }] as const;

const written = (key: string, { version, expiresAt }: Written): EntryWritten => ({
  key,
  version,
  expires_at: expiresAt === null ? null : new Date(expiresAt),
});
