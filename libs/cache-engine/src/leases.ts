import type { Guard, Guarded } from './guarded.js';

interface Held {
  token: string;
  guard: Guard;
  timer: NodeJS.Timeout;
}

/** Each takes a timer and a key. */
const mostHeld = 10_000;

/** Rights to fill a key where there is no Redis that would keep them: one a key at a time, each for a while. */
export class Leases {
  private readonly held = new Map<string, Held>();

  constructor(private readonly entries: Pick<Guarded<object>, 'open' | 'close'>) {}

  /** @returns whether it was taken: not where another one has it */
  take(name: string, token: string, ms: number): boolean {
    const before = this.held.get(name);
    // Whoever had it and was overtaken by a write or an invalidation is in nobody's way.
    if (before && !before.guard.isIntact) this.drop(name, before);
    if (this.held.has(name) || this.held.size >= mostHeld) return false;
    const timer = setTimeout(() => this.drop(name, lease), ms).unref();
    const lease: Held = { token, guard: this.entries.open(name), timer };
    this.held.set(name, lease);
    return true;
  }

  /** @returns the guard of a lease that held until now, to be closed by who asks */
  end(name: string, token: string): Guard | undefined {
    const lease = this.held.get(name);
    if (lease?.token !== token) return undefined;
    clearTimeout(lease.timer);
    this.held.delete(name);
    return lease.guard;
  }

  private drop(name: string, lease: Held): void {
    clearTimeout(lease.timer);
    this.held.delete(name);
    this.entries.close(name, lease.guard);
  }
}
