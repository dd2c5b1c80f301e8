import { Sieve, type Sieved } from './sieve.js';

/** Held by whoever fetches something to keep: broken by whatever makes that old before it is here. */
export interface Guard {
  readonly isIntact: boolean;
}

interface OpenGuard {
  isIntact: boolean;
  holders: number;
}

/** What is kept. */
export interface Guardable extends Sieved {
  /** Of when it was kept: said by `keep`, 0 until then. */
  epoch: number;
}

/** What an entry takes beside its key and value: the map's slot, its links and an object, measured on V8. */
const overheadBytes = 160;

/** So many invalidations are told to reads that began before them. */
const mostRemembered = 256;

/**
 * What was fetched from elsewhere, bounded in bytes. Nothing gets in whose fetch began before it was invalidated: it is kept
 * under the guard that was opened before the fetch, or, where it is over soon and there are many of them, since the mark
 * that was taken before.
 */
export class Guarded<Value extends Guardable> {
  private readonly entries: Sieve<Value>;
  private readonly guards = new Map<string, OpenGuard>();
  /** What was kept in an earlier one may be old without anybody having said so. */
  private epoch = 0;
  private invalidations = 0;
  /** By key, which one was the last, of those that some fetch with a mark may have been overtaken by. */
  private readonly remembered = new Map<string, number>();
  /** Up to here nobody knows any more what was invalidated. */
  private forgottenUntil = 0;
  private marked = 0;
  /** Fetches whose outcome was not kept. */
  refusals = 0;

  /** @param maxBytes of keys, values and what it takes to keep them */
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

  /** Also what may be old. */
  getSuspect(key: string): Value | undefined {
    return this.entries.get(key);
  }

  /** Begins a fetch that ends with `unmark`: a guard for all keys, which costs nothing for each. */
  mark(): number {
    this.marked += 1;
    return this.invalidations;
  }

  /** To be called for every mark, once nothing is kept since it. */
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

  /** To be called for every guard, whatever became of the fetch. */
  close(key: string, guard: Guard): void {
    const open = guard as OpenGuard;
    open.holders -= 1;
    if (open.holders === 0 && this.guards.get(key) === open) this.guards.delete(key);
  }

  /** @param since what was opened or marked before it was fetched. @returns whether it was kept */
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

  /** Everything may be old: invalidations can have been missed. */
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

/** What V8 takes for a text: one byte a character where all are below U+0100, two otherwise, and the object itself. */
export const bytesOfText = (text: string): number => 24 + (oneByte.test(text) ? text.length : 2 * text.length);

/** A copy: a part of a text keeps the whole in memory for as long as it is kept itself. */
export const ownText = (text: string): string => {
  const encoding = oneByte.test(text) ? 'latin1' : 'utf16le';
  return Buffer.from(text, encoding).toString(encoding);
};

const bytesOfNumber = 16;
const bytesOfObject = 56;
const bytesOfSlot = 8;

/** A name of a shape that no other object has: the text, and its place in the shape, which is then its own as well. */
const bytesOfOwnName = 72;
const mostKnownShapes = 1_024;
/** Of its names together; a longer one is hardly that of many. */
const longestShape = 1_024;

/** The names of members, one after the other, of objects that were seen lately: V8 has one shape for all of them. */
const knownShapes = new Set<string>();
/** Those of the last objects, as most are like one of them. */
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

/**
 * Freezes a value that came from JSON, and all in it. Iterative, however deep it is.
 *
 * @returns what V8 takes for it, rather too much than too little
 */
export const freeze = (value: unknown): number => {
  let bytes = 0;
  const open = [value];
  while (open.length > 0) {
    const next = open.pop();
    if (typeof next === 'string') bytes += bytesOfText(next);
    else if (typeof next === 'number') bytes += bytesOfNumber;
    else if (Array.isArray(next)) {
      Object.freeze(next);
      bytes += bytesOfObject + bytesOfSlot * next.length;
      for (const item of next) open.push(item);
    } else if (typeof next === 'object' && next !== null) {
      Object.freeze(next);
      const names = Object.keys(next);
      bytes += bytesOfObject + 3 * bytesOfSlot * names.length;
      const isShapeNew = isNew(names);
      for (const name of names) {
        if (isShapeNew) bytes += bytesOfText(name) + bytesOfOwnName;
        open.push((next as Record<string, unknown>)[name]);
      }
    }
  }
  return bytes;
};
