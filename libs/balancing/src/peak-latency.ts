/** Time constant with which measurements lose their weight. */
const decayMs = 10_000;

/** More than any latency: an untried instance gets one call at a time until something was measured. */
const untriedMs = 1_000_000;

/**
 * The latency of an instance as a time-weighted moving average that follows bad news at once: a higher latency replaces it,
 * a lower one reduces it slowly. It decays while nothing is in flight, so that a slow instance is tried again.
 *
 * @see Peak EWMA in Twitter's Finagle, `com.twitter.finagle.loadbalancer.PeakEwma`
 */
export class PeakLatency {
  private average = 0;
  private measuredAt = 0;

  /** @param now in milliseconds, on a monotonic clock */
  measured(latencyMs: number, now: number): void {
    const kept = this.keptAt(now);
    this.average = Math.max(latencyMs, this.average * kept + latencyMs * (1 - kept));
    this.measuredAt = now;
  }

  /** In milliseconds; 0 if nothing was measured. */
  at(now: number): number {
    return this.average * this.keptAt(now);
  }

  /** The expected cost of one more call: its time and that of the calls before it. The first one at an instance is free. */
  costOf(inFlight: number, now: number): number {
    // No decay while calls are in flight: a hanging instance would seem faster the longer it hangs, and get more calls.
    if (this.average > 0) return (inFlight > 0 ? this.average : this.at(now)) * (inFlight + 1);
    return inFlight * untriedMs;
  }

  private keptAt(now: number): number {
    return Math.exp((this.measuredAt - now) / decayMs);
  }
}
