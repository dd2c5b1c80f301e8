/** How fast what was measured loses its weight. */
const decayMs = 10_000;

/** More than any latency: one call at a time until there is something to go by. */
const untriedMs = 1_000_000;

/**
 * The latency of an instance as a moving average that is weighted by time and believes bad news at once: a latency above it
 * replaces it, one below it lowers it slowly. It decays while nothing is in flight, so that a slow instance is tried again.
 *
 * @see Peak EWMA in Twitter's Finagle, `com.twitter.finagle.loadbalancer.PeakEwma`
 */
export class PeakLatency {
  private average = 0;
  private measuredAt = 0;

  /** @param now in milliseconds, by a clock that only goes forward */
  measured(latencyMs: number, now: number): void {
    const kept = this.keptAt(now);
    this.average = Math.max(latencyMs, this.average * kept + latencyMs * (1 - kept));
    this.measuredAt = now;
  }

  /** In milliseconds; 0 when nothing has been measured. */
  at(now: number): number {
    return this.average * this.keptAt(now);
  }

  /** What one more call costs: the time of those before it and its own. The first to try an instance costs nothing. */
  costOf(inFlight: number, now: number): number {
    // An instance that hangs answers nothing: the longer it did, the faster it would seem to be, and the more it would get.
    if (this.average > 0) return (inFlight > 0 ? this.average : this.at(now)) * (inFlight + 1);
    return inFlight * untriedMs;
  }

  private keptAt(now: number): number {
    return Math.exp((this.measuredAt - now) / decayMs);
  }
}
