/**
 * A value in a `Sieve`, with its links. They are in the same object because a separate node would cost another cache miss
 * of the processor.
 */
export interface Sieved {
  wasRead: boolean;
  /** Its key, size and neighbours: assigned by `set`. */
  key: string;
  bytes: number;
  newer: Sieved | undefined;
  older: Sieved | undefined;
}

/** The initial links of a value. */
export const unplaced = { wasRead: false, key: '', bytes: 0, newer: undefined, older: undefined };

/**
 * How many entries are passed over at most before one is evicted, which bounds the time of an eviction however many entries
 * there are.
 */
const mostPassedOver = 1_000;

/**
 * A map bounded in bytes with SIEVE eviction. To make room, its hand moves from the oldest to the newest entry and starts
 * over, and evicts the first one that was not read since it last passed.
 *
 * @see Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is Simpler than LRU, NSDI 2024
 */
export class Sieve<Value extends Sieved> {
  private readonly entries = new Map<string, Value>();
  private newest: Sieved | undefined;
  private oldest: Sieved | undefined;
  /** The next candidate for eviction; the oldest entry if undefined. */
  private hand: Sieved | undefined;
  bytes = 0;
  evictions = 0;

  constructor(private readonly maxBytes: number) {}

  get size(): number {
    return this.entries.size;
  }

  /** The keys from the oldest, including those added during the iteration. */
  keys(): IterableIterator<string> {
    return this.entries.keys();
  }

  get(key: string): Value | undefined {
    const value = this.entries.get(key);
    if (value?.wasRead === false) value.wasRead = true;
    return value;
  }

  /**
   * Replaces the entry of the key. If the value is too large to be kept, the old one is removed nevertheless.
   *
   * @param value must not be in any `Sieve` yet
   */
  set(key: string, value: Value, bytes: number): void {
    this.delete(key);
    if (bytes > this.maxBytes) return;
    while (this.bytes + bytes > this.maxBytes) this.evict();
    value.key = key;
    value.bytes = bytes;
    value.older = this.newest;
    if (this.newest) this.newest.newer = value;
    else this.oldest = value;
    this.newest = value;
    this.bytes += bytes;
    this.entries.set(key, value);
  }

  delete(key: string): void {
    const value = this.entries.get(key);
    if (!value) return;
    const { newer, older } = value;
    if (newer) newer.older = older;
    else this.newest = older;
    if (older) older.newer = newer;
    else this.oldest = newer;
    if (this.hand === value) this.hand = newer;
    // References that are still held to this value must not keep its neighbours in memory.
    value.newer = undefined;
    value.older = undefined;
    this.bytes -= value.bytes;
    this.entries.delete(key);
  }

  private evict(): void {
    let at = this.hand ?? this.oldest!;
    for (let passed = 0; at.wasRead && passed < mostPassedOver; passed += 1) {
      at.wasRead = false;
      at = at.newer ?? this.oldest!;
    }
    this.hand = at;
    this.delete(at.key);
    this.evictions += 1;
  }
}
