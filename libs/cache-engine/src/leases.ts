import { bytesOfText, type Guard, type Guardable, type Guarded } from './guarded.js';

interface Held {
  token: string;
  guard: Guard;
  /** By `performance.now()`: a timer may come late. */
  until: number;
  timer: NodeJS.Timeout;
  bytes: number;
}

/** A timer, a guard and their places in maps. */
const overheadBytes = 600;

/** Rights to fill a key where there is no Redis that would keep them: one a key at a time, each for a while. */
export class Leases {
  /** The oldest first. */
  private readonly held = new Map<string, Held>();
  bytes = 0;
  /** Leases that made room for others. */
  evictions = 0;

  /** @param maxBytes what is held at once: the oldest make room, and whoever still loads under one is too late */
  constructor(
    private readonly entries: Pick<Guarded<Guardable>, 'open' | 'close'>,
    private readonly maxBytes: number,
  ) {}

  /** @returns whether it was taken: not where another one has it */
  take(name: string, token: string, ms: number): boolean {
    const before = this.held.get(name);
    const now = performance.now();
    // Whoever had it and was overtaken by a write or an invalidation is in nobody's way.
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

  /** @returns the guard of a lease that held until now, to be closed by who asks */
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
