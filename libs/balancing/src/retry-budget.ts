const shareOfRequests = 0.1;
const floorPerSecond = 3;
/** What the floor comes to, ten seconds of it; there at first. */
const mostOfFloor = 30;
/** What may be saved up altogether: many requests are lost at once where an instance is killed. */
const mostSaved = 300;

/**
 * How many requests may be sent again: a tenth of all, and three a second where there are few. Retries cannot make an outage
 * worse than that, while a single instance that fails costs its callers nothing.
 *
 * @see `RetryBudget` in Twitter's Finagle
 */
export class RetryBudget {
  private tokens = mostOfFloor;
  private filledAt: number;

  constructor(private readonly now: () => number = () => performance.now()) {
    this.filledAt = now();
  }

  /** Counts a request, once however often it is sent. */
  earn(): void {
    this.tokens = Math.min(this.tokens + shareOfRequests, mostSaved);
  }

  /** Whether a request may be sent again; that is counted then. */
  spend(): boolean {
    const now = this.now();
    const floor = ((now - this.filledAt) / 1_000) * floorPerSecond;
    this.filledAt = now;
    if (this.tokens < mostOfFloor) this.tokens = Math.min(this.tokens + floor, mostOfFloor);
    if (this.tokens < 1) return false;
    this.tokens -= 1;
    return true;
  }
}
