import { Sieve, type Sieved } from './sieve.js';

/** Held while a value is fetched. It is broken if the value is invalidated before it arrives. */
export interface Guard {
  readonly isIntact: boolean;
}

interface OpenGuard {
  isIntact: boolean;
  holders: number;
}

/** An entry of a `Guarded` store. */
export interface Guardable extends Sieved {
  /** The epoch in which it was kept: set by `keep`, 0 until then. */
  epoch: number;
}

/** The size of an entry besides key and value: the map's slot, its links and an object, measured on V8. */
const overheadBytes = 160;

/** How many invalidations are remembered for fetches that began before them. */
const mostRemembered = 256;

/**
 * Values fetched from elsewhere, bounded in bytes. A value whose fetch began before it was invalidated is not kept: `keep`
 * takes the guard that was opened before the fetch or, for short fetches of many keys, the mark taken before it.
 */
export class Guarded<Value extends Guardable> {
  private readonly entries: Sieve<Value>;
  private readonly guards = new Map<string, OpenGuard>();
  /** Entries kept in an earlier epoch may be old although no invalidation was reported. */
  private epoch = 0;
  private invalidations = 0;
  /** The number of the last invalidation by key, while fetches with a mark are in progress. */
  private readonly remembered = new Map<string, number>();
  /** Which keys were invalidated up to this number has been forgotten. */
  private forgottenUntil = 0;
  private marked = 0;
  /** Fetched values that were not kept. */
  refusals = 0;

  /** @param maxBytes of keys, values and their overhead */
  constructor(maxBytes: number) {
    this.entries = new Sieve(maxBytes);
  }

  get bytes(): number {
    return this.entries.bytes;
  }

  get evictions(): number {
    return this.entries.evictions;
  }

  get size(): number {
    return this.entries.size;
  }

  keys(): IterableIterator<string> {
    return this.entries.keys();
  }

  get(key: string): Value | undefined {
    const kept = this.entries.get(key);
    return kept?.epoch === this.epoch ? kept : undefined;
  }

  /** Also returns entries that may be old. */
  getSuspect(key: string): Value | undefined {
    return this.entries.get(key);
  }

  /** Begins a fetch that ends with `unmark`: guards all keys at once, at no cost per key. */
  mark(): number {
    this.marked += 1;
    return this.invalidations;
  }

  /** Must be called for every mark, after the last `keep` with it. */
  unmark(): void {
    this.marked -= 1;
    if (this.marked === 0) this.remembered.clear();
  }

  open(key: string): Guard {
    const guard = this.guards.get(key) ?? { isIntact: true, holders: 0 };
    guard.holders += 1;
    this.guards.set(key, guard);
    return guard;
  }

  /** Must be called for every guard, whether or not the fetch succeeded. */
  close(key: string, guard: Guard): void {
    const open = guard as OpenGuard;
    open.holders -= 1;
    if (open.holders === 0 && this.guards.get(key) === open) this.guards.delete(key);
  }

  /**
   * @param since the guard or mark from before the fetch
   * @returns whether the value was kept
   */
  keep(key: string, since: Guard | number, value: Value, bytes: number): boolean {
    if (typeof since === 'number' ? this.isOvertaken(key, since) : !since.isIntact) {
      this.refusals += 1;
      return false;
    }
    value.epoch = this.epoch;
    this.entries.set(key, value, bytes + bytesOfText(key) + overheadBytes);
    return true;
  }

  invalidate(key: string): void {
    this.entries.delete(key);
    this.breakGuard(key);
    this.invalidations += 1;
    if (this.marked > 0) this.remember(key);
  }

  /** Makes every entry suspect, because invalidations may have been missed. */
  suspectAll(): void {
    this.epoch += 1;
    this.invalidations += 1;
    this.forgottenUntil = this.invalidations;
    this.remembered.clear();
    for (const key of this.guards.keys()) this.breakGuard(key);
  }

  private isOvertaken(key: string, mark: number): boolean {
    return this.marked === 0 || mark < this.forgottenUntil || (this.remembered.get(key) ?? 0) > mark;
  }

  private remember(key: string): void {
    this.remembered.delete(key);
    this.remembered.set(key, this.invalidations);
    if (this.remembered.size <= mostRemembered) return;
    const [oldest, at] = this.remembered.entries().next().value!;
    this.remembered.delete(oldest);
    this.forgottenUntil = at;
  }

  private breakGuard(key: string): void {
    const guard = this.guards.get(key);
    if (!guard) return;
    guard.isIntact = false;
    this.guards.delete(key);
  }
}

// oxlint-disable-next-line no-control-regex
const oneByte = /^[\u0000-\u00ff]*$/;

/** For short texts a loop is twice as fast as the regular expression. */
const shortText = 64;
const isOneByte = (text: string): boolean => {
  if (text.length > shortText) return oneByte.test(text);
  for (let at = 0; at < text.length; at += 1) if (text.charCodeAt(at) > 0xff) return false;
  return true;
};

/** The size of a text in V8: one byte per character if all are below U+0100, otherwise two, plus the object itself. */
export const bytesOfText = (text: string): number => 24 + (isOneByte(text) ? text.length : 2 * text.length);

/** A copy, because a substring keeps the whole text in memory. */
export const ownText = (text: string): string => {
  const encoding = isOneByte(text) ? 'latin1' : 'utf16le';
  return Buffer.from(text, encoding).toString(encoding);
};

const bytesOfNumber = 16;
const bytesOfObject = 56;
const bytesOfSlot = 8;

/**
 * The size of a property name that no other object shares: the text, and its place in the hidden class, which is not shared
 * either.
 */
const bytesOfOwnName = 72;
const mostKnownShapes = 1_024;
/** The length of all property names together. A longer shape is rarely shared by many objects. */
const longestShape = 1_024;

/**
 * The property names of objects seen lately, joined: V8 has one shape (hidden class) for all objects with the same ones.
 */
const knownShapes = new Set<string>();
/** The shapes of the last objects, checked first because most objects are like one of them. */
const lastShapes: (readonly string[])[] = [];
const mostLastShapes = 4;
const isSame = (one: readonly string[], other: readonly string[]): boolean => {
  if (one.length !== other.length) return false;
  for (let at = 0; at < one.length; at += 1) if (one[at] !== other[at]) return false;
  return true;
};
const isNew = (names: readonly string[]): boolean => {
  for (const shape of lastShapes) if (isSame(shape, names)) return false;
  const shape = JSON.stringify(names);
  if (shape.length > longestShape) return true;
  if (lastShapes.unshift(names) > mostLastShapes) lastShapes.pop();
  if (knownShapes.has(shape)) return false;
  if (knownShapes.size >= mostKnownShapes) knownShapes.clear();
  knownShapes.add(shape);
  return true;
};

const largestIndex = 2 ** 32 - 2;
const isIndex = (name: string): boolean => {
  const first = name.charCodeAt(0);
  return first >= 0x30 && first <= 0x39 && String(Number(name)) === name && Number(name) <= largestIndex;
};

/** The size of a hash table with this many properties: each of its places has a name, a value and attributes. */
const bytesOfTable = (count: number): number =>
  3 * bytesOfSlot * Math.max(4, 2 ** Math.ceil(Math.log2(Math.floor(1.5 * count))));

/** The fewest properties for which V8 uses a hash table instead of a hidden class. */
const leastInTable = 128;

/** The size of properties with other names, without the names. */
const bytesOfNamed = (count: number): number => (count < leastInTable ? 3 * bytesOfSlot * count : bytesOfTable(count));

/**
 * The size of properties whose names are array indices. V8 stores them like the items of an array, holes included, unless a
 * hash table takes less than a third of that.
 */
const bytesOfIndexed = (count: number, last: number): number => {
  const table = bytesOfTable(count);
  const all = bytesOfSlot * (last + 1);
  return bytesOfObject + (all <= 3 * table ? all : table);
};

/**
 * Freezes a parsed JSON value recursively. Iterates, so that deep nesting cannot overflow the stack.
 *
 * @returns the size of the value in V8, overestimated rather than underestimated
 */
export const freeze = (value: unknown): number => {
  let bytes = 0;
  const open: object[] = [];
  const count = (it: unknown): void => {
    if (typeof it === 'string') bytes += bytesOfText(it);
    else if (typeof it === 'number') bytes += bytesOfNumber;
    else if (typeof it === 'object' && it !== null) open.push(it);
  };
  count(value);
  for (let next = open.pop(); next; next = open.pop()) {
    Object.freeze(next);
    if (Array.isArray(next)) {
      bytes += bytesOfObject + bytesOfSlot * next.length;
      for (const item of next) count(item);
    } else {
      const names = Object.keys(next);
      // Indices come first, in ascending order.
      let indices = 0;
      while (indices < names.length && isIndex(names[indices]!)) indices += 1;
      if (indices > 0) bytes += bytesOfIndexed(indices, Number(names[indices - 1]));
      const named = indices > 0 ? names.slice(indices) : names;
      bytes += bytesOfObject + bytesOfNamed(named.length);
      if (isNew(named)) for (const name of named) bytes += bytesOfText(name) + bytesOfOwnName;
      for (const name of names) count((next as Record<string, unknown>)[name]);
    }
  }
  return bytes;
};
