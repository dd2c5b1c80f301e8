/** Target for the mean latency of admitted requests: hardly noticeable to a person, and several batches long. */
const targetMs = 250;
/**
 * How many turns of the event loop a request may take: the loop's delay in each is added to the target, as it is no
 * queueing.
 */
const turns = 2;
/** As long as admitted requests may take, so that a window has seen the limit that it judges. */
const windowMs = 250;
/** A window with fewer finished requests is inconclusive, and is extended. */
const fewestEnded = 10;
/** The lowest limit, one batch. A process that is slow with so few is slow for other reasons; more refusals do not help. */
const fewestInFlight = 256;
/** The burst that an idle process admits before anything was measured. */
const startingLimit = 1_000;
/** Requests that miss the target even with few in flight are slow by themselves: their excess times this is added to it. */
const stretch = 4;
const longestTargetMs = 5_000;
/** Decay of a raised target in each window (half in some 17 seconds), to find out whether it is still needed. */
const keptOfStretch = 0.99;
const shortestRetryMs = 1_000;
const longestRetryMs = 20_000;

/**
 * Limits the concurrency of one kind of request, so that each finishes in good time. There is no queue for admission: excess
 * requests are refused, and may be repeated later.
 *
 * The limit follows the gradient between the target latency and the measured one, as in Netflix's concurrency-limits; by
 * Little's law it converges to what can be done within the target. Unlike there, the target is not a multiple of the lowest
 * latency seen: where work is batched, latency grows with every admitted request, long before batches are efficient.
 *
 * @see https://github.com/Netflix/concurrency-limits
 */
export class Limiter {
  private most = startingLimit;
  private running = 0;
  private refusedEver = 0;
  private aimedAtMs = targetMs;
  private stretchedMs = 0;
  /** Refusals for each finished request, in the last window. */
  private excess = 0;

  // The state of the current window.
  private since: number;
  private changedAt: number;
  private crowdedAt = Number.NEGATIVE_INFINITY;
  /** The integral of `running` over time. */
  private inFlightMs = 0;
  private ended = 0;
  /** The total latency of the requests that ended. */
  private tookMs = 0;
  /** Those of them during which at most `fewestInFlight` were running. */
  private uncrowded = 0;
  private uncrowdedMs = 0;
  private refused = 0;
  private highest = 0;

  /**
   * @param now milliseconds on a monotonic clock
   * @param random from 0 to 1
   * @param loopDelayMs the recent mean delay of the event loop, in milliseconds
   */
  constructor(
    private readonly now: () => number = () => performance.now(),
    private readonly random: () => number = Math.random,
    private readonly loopDelayMs: () => number = () => 0,
  ) {
    this.since = now();
    this.changedAt = this.since;
  }

  get limit(): number {
    return Math.round(this.most);
  }

  get inFlight(): number {
    return this.running;
  }

  /** How many requests have been refused so far. */
  get shed(): number {
    return this.refusedEver;
  }

  get isFull(): boolean {
    return this.running >= this.limit;
  }

  /** Whether one more request must be refused. If so, it is counted, and must not `enter`. */
  refuses(): boolean {
    if (!this.isFull) return false;
    this.refused += 1;
    this.refusedEver += 1;
    return true;
  }

  /** Marks the beginning of a request. @returns the value to pass to `leave` */
  enter(): number {
    this.measure();
    this.running += 1;
    this.highest = Math.max(this.highest, this.running);
    if (this.running > fewestInFlight) this.crowdedAt = this.changedAt;
    return this.changedAt;
  }

  /** Marks the end of a request, whatever its outcome. @param enteredAt what `enter` returned */
  leave(enteredAt: number): void {
    this.measure();
    if (this.running > fewestInFlight) this.crowdedAt = this.changedAt;
    this.running -= 1;
    const tookMs = this.changedAt - enteredAt;
    this.ended += 1;
    this.tookMs += tookMs;
    if (enteredAt < this.crowdedAt) return;
    this.uncrowded += 1;
    this.uncrowdedMs += tookMs;
  }

  /** When a refused caller should retry, in milliseconds: later the more are refused, with jitter. */
  retryAfterMs(): number {
    const meanMs = Math.min(longestRetryMs, shortestRetryMs * (1 + this.excess));
    return Math.round(meanMs * (0.5 + this.random()));
  }

  private measure(): void {
    const now = this.now();
    this.inFlightMs += this.running * (now - this.changedAt);
    this.changedAt = now;
    if (now - this.since >= windowMs && this.ended >= fewestEnded) this.adjust(now);
  }

  private adjust(now: number): void {
    // Measured, not computed from throughput by Little's law: requests end in batches, one more or less in each window.
    const latencyMs = this.tookMs / this.ended;
    const inFlight = this.inFlightMs / (now - this.since);
    this.stretchedMs *= keptOfStretch;
    this.aimedAtMs = Math.max(targetMs + turns * this.loopDelayMs(), this.stretchedMs);
    // A limit far above the window's peak cannot have caused the latency.
    const isTooHigh = latencyMs > this.aimedAtMs && this.highest > this.most / 2;
    if (this.refused > 0 || isTooHigh) this.follow(latencyMs, inFlight);
    // After the pressure, the limit returns to its starting value, from below or from above.
    else if (latencyMs < this.aimedAtMs / 2)
      this.most =
        this.most < startingLimit
          ? Math.min(startingLimit, this.most * 1.25)
          : Math.max(startingLimit, Math.min(this.most, 2 * this.highest), this.most / 1.25);
    this.excess = this.refused / this.ended;
    this.since = now;
    this.inFlightMs = 0;
    this.ended = 0;
    this.tookMs = 0;
    this.uncrowded = 0;
    this.uncrowdedMs = 0;
    this.refused = 0;
    this.highest = this.running;
  }

  private follow(latencyMs: number, inFlight: number): void {
    const leastMs = this.uncrowded >= fewestEnded ? this.uncrowdedMs / this.uncrowded : 0;
    if (leastMs > this.aimedAtMs) {
      this.stretchedMs = Math.min(longestTargetMs, leastMs + stretch * (leastMs - targetMs));
      this.aimedAtMs = Math.max(this.aimedAtMs, this.stretchedMs);
    }
    // For a while after the limit was lowered, more are in flight than it allows.
    const wanted = (Math.max(this.most, inFlight) * this.aimedAtMs) / latencyMs;
    const bounded = Math.min(Math.max(wanted, this.most / 2), this.most * 2);
    this.most = Math.max(fewestInFlight, (this.most + bounded) / 2);
  }
}
