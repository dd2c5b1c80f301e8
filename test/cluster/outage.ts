import { setInterval } from 'node:timers/promises';

/** The cost of a fault in seconds. For information only: no test fails because of it. */
export interface Outage {
  /** The longest time without an acknowledgement. */
  silentS: number;
  /** From the fault to the end of that time. */
  recoveredAfterS: number;
}

const seconds = (ms: number): number => Math.round(ms / 10) / 100;

/** Watches the number of acknowledged orders, from before a fault until well after it. */
export class Watch {
  private readonly over = new AbortController();
  private readonly watching: Promise<void>;
  private faultAt = performance.now();
  private longest = { from: this.faultAt, to: this.faultAt };

  /** @param acknowledged returns the number so far */
  constructor(private readonly acknowledged: () => number) {
    this.watching = this.watch().catch((error: Error) => {
      if (error.name !== 'AbortError') throw error;
    });
  }

  /** Marks the moment of the fault. */
  fault(): void {
    this.faultAt = performance.now();
  }

  async end(): Promise<Outage> {
    this.over.abort();
    await this.watching;
    const { from, to } = this.longest;
    return { silentS: seconds(to - from), recoveredAfterS: seconds(Math.max(0, to - this.faultAt)) };
  }

  private async watch(): Promise<void> {
    let [count, since] = [this.acknowledged(), performance.now()];
    for await (const _ of setInterval(10, undefined, { signal: this.over.signal })) {
      const now = performance.now();
      if (this.acknowledged() === count) continue;
      if (now - since > this.longest.to - this.longest.from) this.longest = { from: since, to: now };
      [count, since] = [this.acknowledged(), now];
    }
  }
}
