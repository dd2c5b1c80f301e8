/** A cached value, as JSON text, and when it is gone. */
export interface CacheEntry {
  json: string;
  /** Changes with every write of the key. */
  version: string;
  /** Milliseconds since the epoch; null for no end. */
  expiresAtMs: number | null;
}

/** Where cached values lie. */
export abstract class CacheStore {
  /** @returns `undefined` for a key that is not there or whose time is over */
  abstract get(key: string): Promise<CacheEntry | undefined>;
  abstract put(key: string, entry: CacheEntry): Promise<void>;
  /** A key that is not there is passed over. */
  abstract delete(keys: readonly string[]): Promise<void>;
  /** @throws CleaveError `unavailable` when values can neither be read nor written at present */
  abstract ping(): Promise<void>;
}
