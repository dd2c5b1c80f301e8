/**
 * What lies in a `Sieve`, and its place in it: one object, as whatever else lies on the way to a value is as far from the
 * processor as the value itself.
 */
export interface Sieved {
  wasRead: boolean;
  /** What it lies under, its size and its neighbours: said by `set`. */
  key: string;
  bytes: number;
  newer: Sieved | undefined;
  older: Sieved | undefined;
}

/** As it is before it is kept. */
export const unplaced = { wasRead: false, key: '', bytes: 0, newer: undefined, older: undefined };

/** So many are passed over at the most until one makes room, so that nobody waits for that, however many lie here. */
const mostPassedOver = 1_000;

/**
 * A map bounded in bytes. To make room it goes from the oldest to the newest and over again, and throws away what was not
 * read since it last came by.
 *
 * @see Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is Simpler than LRU, NSDI 2024
 */
export class Sieve<Value extends Sieved> {
  private readonly entries = new Map<string, Value>();
  private newest: Sieved | undefined;
  private oldest: Sieved | undefined;
  /** The next to be looked at; the oldest where there is none. */
  private hand: Sieved | undefined;
  bytes = 0;
  evictions = 0;

  constructor(private readonly maxBytes: number) {}

  get size(): number {
    return this.entries.size;
  }

  /** What something lies under, from the oldest, also what comes while it is gone through. */
  keys(): IterableIterator<string> {
    return this.entries.keys();
  }

  get(key: string): Value | undefined {
    const value = this.entries.get(key);
    if (value?.wasRead === false) value.wasRead = true;
    return value;
  }

  /** Lets go of what lay there, also where the value is too large to be kept. @param value lies nowhere yet */
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
    // Whoever still has it holds on to nothing else by it.
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
