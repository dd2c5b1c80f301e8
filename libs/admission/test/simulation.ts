import { Limiter } from '#admission';
import { SeededRandom } from '#testing';

/** Virtual time: an ordered queue of future events. */
export class Clock {
  now = 0;
  private readonly due: { at: number; order: number; act: () => void }[] = [];
  private scheduled = 0;

  after(ms: number, act: () => void): void {
    const item = { at: this.now + ms, order: (this.scheduled += 1), act };
    let index = this.due.length;
    while (index > 0 && isBefore(item, this.due[index - 1]!)) index -= 1;
    this.due.splice(index, 0, item);
  }

  runUntil(ms: number): void {
    while (this.due.length > 0 && this.due[0]!.at <= ms) {
      const next = this.due.shift()!;
      this.now = next.at;
      next.act();
    }
    this.now = ms;
  }
}

const isBefore = (one: { at: number; order: number }, other: { at: number; order: number }): boolean =>
  one.at < other.at || (one.at === other.at && one.order < other.order);

/** Processes jobs, at a speed that can be changed. */
export interface Server {
  add(job: () => void): void;
  /** Multiplies all times. */
  slowness: number;
}

/** A number of workers, each with one job at a time, of random duration (M/M/c). */
export class Workers implements Server {
  slowness = 1;
  private readonly queue: (() => void)[] = [];
  private busy = 0;

  constructor(
    private readonly clock: Clock,
    private readonly random: SeededRandom,
    private readonly count: number,
    private readonly meanMs: number,
  ) {}

  add(job: () => void): void {
    this.queue.push(job);
    this.start();
  }

  private start(): void {
    if (this.busy === this.count || this.queue.length === 0) return;
    this.busy += 1;
    const job = this.queue.shift()!;
    this.clock.after(-Math.log(1 - this.random.next()) * this.meanMs * this.slowness, () => {
      this.busy -= 1;
      job();
      this.start();
    });
  }
}

/** Takes all waiting jobs as one batch, in two lanes: a fixed time for each batch, and a little for each job in it. */
export class Batches implements Server {
  slowness = 1;
  private readonly queue: (() => void)[] = [];
  private lanes = 0;
  private workFreeAt = 0;

  constructor(
    private readonly clock: Clock,
    private readonly batchMs: number,
    private readonly jobMs: number,
    private readonly most = 250,
  ) {}

  add(job: () => void): void {
    this.queue.push(job);
    this.clock.after(0, () => this.start());
  }

  private start(): void {
    if (this.lanes === 2 || this.queue.length === 0) return;
    this.lanes += 1;
    const batch = this.queue.splice(0, this.most);
    // The lanes share the worker; only the fixed part runs in parallel.
    const startsAt = Math.max(this.clock.now, this.workFreeAt);
    this.workFreeAt = startsAt + batch.length * this.jobMs * this.slowness;
    this.clock.after(this.workFreeAt - this.clock.now + this.batchMs * this.slowness, () => {
      this.lanes -= 1;
      for (const job of batch) job();
      this.start();
    });
  }
}

export interface Outcome {
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  shed: number;
}

/** The callers, and the outcome of their requests. */
export class Demand {
  private latencies: number[] = [];
  private shed = 0;
  private since = 0;

  constructor(
    private readonly clock: Clock,
    private readonly random: SeededRandom,
    private readonly limiter: Limiter | undefined,
    private readonly server: Server,
  ) {}

  /** An open workload (Poisson): requests arrive for ever, whether or not earlier ones were answered. */
  open(perSecond: () => number): void {
    const next = (): void =>
      this.clock.after((-Math.log(1 - this.random.next()) * 1_000) / perSecond(), () => {
        this.ask(() => undefined);
        next();
      });
    next();
  }

  /** Requests that arrive at the same moment. */
  burst(requests: number): void {
    for (let request = 0; request < requests; request += 1) this.ask(() => undefined);
  }

  /** A closed workload: a caller that asks again once it is answered, and waits as long as it is told to. */
  caller(): void {
    const again = (retryAfterMs: number): void => this.clock.after(retryAfterMs, () => this.ask(again));
    again(this.random.next() * 10);
  }

  /** The outcome of the requests that were answered since the last call. */
  outcome(): Outcome {
    const sorted = this.latencies.toSorted((one, other) => one - other);
    const at = (share: number): number => sorted[Math.floor(sorted.length * share)] ?? Number.NaN;
    const perSecond = (sorted.length * 1_000) / (this.clock.now - this.since);
    const outcome = { perSecond, p50Ms: at(0.5), p99Ms: at(0.99), shed: this.shed };
    this.latencies = [];
    this.shed = 0;
    this.since = this.clock.now;
    return outcome;
  }

  private ask(answered: (retryAfterMs: number) => void): void {
    const { limiter, clock } = this;
    if (limiter?.refuses()) {
      this.shed += 1;
      return answered(Math.ceil(limiter.retryAfterMs() / 1_000) * 1_000);
    }
    const askedAt = clock.now;
    const entered = limiter?.enter() ?? 0;
    this.server.add(() => {
      limiter?.leave(entered);
      this.latencies.push(clock.now - askedAt);
      answered(0);
    });
  }
}
