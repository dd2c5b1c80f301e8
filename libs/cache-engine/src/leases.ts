import { bytesOfText, type Guard, type Guardable, type Guarded } from './guarded.js';

interface Held {
  token: string;
  guard: Guard;
  /** By `performance.now()`, because the timer may fire late. */
  until: number;
  timer: NodeJS.Timeout;
  bytes: number;
}

/** The size of a timer, a guard and their places in maps. */
const overheadBytes = 600;

/** Leases on keys without Redis: each key has at most one at a time, for a limited time. */
export class Leases {
  /** In the order in which they were taken. */
  private readonly held = new Map<string, Held>();
  bytes = 0;
  /** Leases evicted to make room for others. */
  evictions = 0;

  /** @param maxBytes bounds all leases together: the oldest are evicted, and a load under an evicted lease is not kept */
  constructor(
    private readonly entries: Pick<Guarded<Guardable>, 'open' | 'close'>,
    private readonly maxBytes: number,
  ) {}

  /** @returns whether the lease was taken: false if another caller holds it */
  take(name: string, token: string, ms: number): boolean {
    const before = this.held.get(name);
    const now = performance.now();
    // A lease that has expired, or that a write or an invalidation has overtaken, does not block others.
    if (before && (!before.guard.isIntact || before.until <= now)) this.entries.close(name, this.drop(name, before));
    if (this.held.has(name)) return false;
    const bytes = bytesOfText(name) + bytesOfText(token) + overheadBytes;
    for (const [other, oldest] of this.held) {
      if (this.bytes + bytes <= this.maxBytes) break;
      this.entries.close(other, this.drop(other, oldest));
      this.evictions += 1;
    }
    const timer = setTimeout(() => this.entries.close(name, this.drop(name, lease)), ms).unref();
    const lease: Held = { token, guard: this.entries.open(name), until: now + ms, timer, bytes };
    this.held.set(name, lease);
    this.bytes += bytes;
    return true;
  }

  /** @returns the guard of a lease that was still valid, which the caller must close */
  end(name: string, token: string): Guard | undefined {
    const lease = this.held.get(name);
    if (lease?.token !== token || lease.until <= performance.now()) return undefined;
    return this.drop(name, lease);
  }

  private drop(name: string, lease: Held): Guard {
    clearTimeout(lease.timer);
    this.held.delete(name);
    this.bytes -= lease.bytes;
    return lease.guard;
  }
}
