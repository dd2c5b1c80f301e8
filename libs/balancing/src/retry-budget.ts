const shareOfRequests = 0.1;
const floorPerSecond = 3;
/** Cap for tokens from the floor, ten seconds' worth, and the initial budget. */
const mostOfFloor = 30;
/** Cap for all tokens: an instance that is killed loses many requests at once. */
const mostSaved = 300;

/**
 * Limits retries to a tenth of all requests, or three a second if there are few. Retries thus cannot make an outage much
 * worse, while the failure of a single instance stays hidden from callers.
 *
 * @see `RetryBudget` in Twitter's Finagle
 */
export class RetryBudget {
  private tokens = mostOfFloor;
  private filledAt = performance.now();

  /** Counts a request, once however often it is sent. */
  earn(): void {
    this.tokens = Math.min(this.tokens + shareOfRequests, mostSaved);
  }

  /** Whether a request may be retried; if so, the retry is counted. */
  spend(): boolean {
    const now = performance.now();
    const floor = ((now - this.filledAt) / 1_000) * floorPerSecond;
    this.filledAt = now;
    if (this.tokens < mostOfFloor) this.tokens = Math.min(this.tokens + floor, mostOfFloor);
    if (this.tokens < 1) return false;
    this.tokens -= 1;
    return true;
  }
}
