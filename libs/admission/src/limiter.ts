/** What is admitted should be done within this time in the mean: what a person hardly notices, and some batches long. */
const targetMs = 250;
/** So many turns of the event loop a request may take: what the loop is late at each is nobody's queueing. */
const turns = 8;
/** Measured for as long as what is admitted may take, so that a window has seen the limit it is to judge. */
const windowMs = 250;
/** Of a window with fewer nothing can be said; it goes on. */
const fewestEnded = 10;
/** As many as go in one batch. A process that is late with so few is late for another reason: refusing more helps nobody. */
const fewestInFlight = 256;
/** A burst that an idle process takes on before anything is known. */
const startingLimit = 1_000;
/** What takes longer than the target with the least in flight is not late because of others: so many times as much more is meant. */
const stretch = 4;
const longestTargetMs = 5_000;
/** Of what a target was stretched by, so that it is found out again whether it has to be: half in some 17 seconds. */
const keptOfStretch = 0.99;
const shortestRetryMs = 1_000;
const longestRetryMs = 20_000;

/**
 * How many requests of one kind may be under way at once, so that each is done in good time. Nobody waits for admission:
 * who is too many is refused, and comes back later.
 *
 * The limit follows the gradient between the latency that was meant and the one that was measured, as Netflix's
 * concurrency-limits do; by Little's law it comes to what can be done within the target. The latency that was meant is no
 * multiple of the lowest one seen, which is where it differs: where work is batched, latency grows with every request that
 * is admitted, long before there are enough of them to do the work well.
 *
 * @see https://github.com/Netflix/concurrency-limits
 */
export class Limiter {
  private most = startingLimit;
  private running = 0;
  private refusedEver = 0;
  private aimedAtMs = targetMs;
  private stretchedMs = 0;
  /** Refused for each that was done, in the last window. */
  private excess = 0;

  // Of the present window.
  private since: number;
  private changedAt: number;
  private crowdedAt = Number.NEGATIVE_INFINITY;
  /** What was in flight, added up over time. */
  private inFlightMs = 0;
  private ended = 0;
  /** How long those took that ended, together. */
  private tookMs = 0;
  /** Of those, who never was one of more than the fewest. */
  private uncrowded = 0;
  private uncrowdedMs = 0;
  private refused = 0;
  private highest = 0;

  /**
   * @param now milliseconds on a clock that never goes back
   * @param random from 0 to 1
   * @param loopDelayMs how late the event loop comes to what is due, of late, in milliseconds
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

  /** How many were refused so far. */
  get shed(): number {
    return this.refusedEver;
  }

  get isFull(): boolean {
    return this.running >= this.limit;
  }

  /** Whether one more is too many. Who is refused is counted, and does not `enter`. */
  refuses(): boolean {
    if (!this.isFull) return false;
    this.refused += 1;
    this.refusedEver += 1;
    return true;
  }

  /** Work begins. @returns what to `leave` with */
  enter(): number {
    this.measure();
    this.running += 1;
    this.highest = Math.max(this.highest, this.running);
    if (this.running > fewestInFlight) this.crowdedAt = this.changedAt;
    return this.changedAt;
  }

  /** Work ends, however it ended. @param enteredAt what `enter` returned */
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

  /**
   * When somebody who is refused now had better come back, in milliseconds: later the more are refused, and not everybody
   * at the same time.
   */
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
    // Not by Little's law from how many ended: they do in batches, and a window may see one more or less of those.
    const latencyMs = this.tookMs / this.ended;
    const inFlight = this.inFlightMs / (now - this.since);
    this.stretchedMs *= keptOfStretch;
    this.aimedAtMs = Math.max(targetMs + turns * this.loopDelayMs(), this.stretchedMs);
    // A limit that is far away has not caused the latency.
    const isTooHigh = latencyMs > this.aimedAtMs && this.highest > this.most / 2;
    if (this.refused > 0 || isTooHigh) this.follow(latencyMs, inFlight);
    // What was learnt in need, either way, is forgotten after it.
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
    // More are in flight than the limit for a while after it was lowered.
    const wanted = (Math.max(this.most, inFlight) * this.aimedAtMs) / latencyMs;
    const bounded = Math.min(Math.max(wanted, this.most / 2), this.most * 2);
    this.most = Math.max(fewestInFlight, (this.most + bounded) / 2);
  }
}
