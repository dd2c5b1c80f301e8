import { LRUCache } from 'lru-cache';
import { CacheStore, type CacheEntry } from './cache-store.js';

/** What an entry costs beyond its key and value: objects, map slots and pointers, measured roughly. */
const overheadBytes = 200;

/** Values in this process, the least recently used evicted first. */
export class MemoryCacheStore extends CacheStore {
  private readonly entries: LRUCache<string, CacheEntry>;

  /** @param maxBytes bounds keys, values and overhead together */
  constructor(maxBytes: number) {
    super();
    this.entries = new LRUCache({
      maxSize: maxBytes,
      sizeCalculation: (entry, key) => overheadBytes + 2 * (key.length + entry.json.length),
    });
  }

  get(key: string): Promise<CacheEntry | undefined> {
    const entry = this.entries.get(key);
    if (!entry || entry.expiresAtMs === null || entry.expiresAtMs > Date.now()) return Promise.resolve(entry);
    this.entries.delete(key);
    return Promise.resolve(undefined);
  }

  put(key: string, entry: CacheEntry): Promise<void> {
    this.entries.set(key, entry);
    return Promise.resolve();
  }

  delete(keys: readonly string[]): Promise<void> {
    for (const key of keys) this.entries.delete(key);
    return Promise.resolve();
  }

  ping(): Promise<void> {
    return Promise.resolve();
  }
}
