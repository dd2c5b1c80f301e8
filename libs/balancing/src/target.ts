import { setTimeout } from 'node:timers/promises';
import { ExponentialBackoff, type IBackoff } from 'cockatiel';
import type { Candidate } from './balance.js';
import { PeakLatency } from './peak-latency.js';

/** One instance, as seen by its transport. */
export interface Instance {
  /** Checks readiness. Resolves if the instance can take calls; rejects if it cannot, or when the signal is aborted. */
  probe(signal: AbortSignal): Promise<void>;
  /** Closes the connections. */
  close(): void;
}

/** The outcome of a call to one instance. */
export type Outcome =
  /** It was answered, possibly with a refusal. */
  | 'answered'
  /** It was answered with a failure. That is often quick, and must not count as being fast. */
  | 'failing'
  /** It was refused because of overload or its deadline; the latency counts, but it is no failure of the instance. */
  | 'busy'
  /** It was certainly not sent. */
  | 'not-sent'
  /** The instance refused it before beginning: it has too many connections, or is still starting. */
  | 'full'
  /** The connection broke after it was sent. */
  | 'lost'
  /** There was no answer in time. */
  | 'late'
  /** The caller gave up. After a long wait, that may be because the instance does not answer. */
  | 'given-up';

/** Failed and broken connections eject at once; a missing answer may be due to the call, so ejection takes several. */
const mostLateInARow = 3;
/** A single failure may be due to the call; an instance that only fails probably lacks something that others have. */
const mostFailedInARow = 5;
const probeTimeoutMs = 1_000;
/** A caller that gives up sooner says nothing about the instance. */
const givenUpLateMs = 1_000;
/** With jitter, so that callers do not probe in lockstep. */
const pauses = new ExponentialBackoff({ initialDelay: 200, maxDelay: 5_000 });

/** Why an instance is ejected, which decides what readmits it: a probe, or for some reasons an answer as well. */
type Ejection = 'unreachable' | 'late' | 'failing' | 'full' | 'leaving';

/** Callbacks to the owner of a target. */
export interface TargetOwner {
  ejected(address: string, why: string): void;
  back(address: string): void;
  /** Whether there are other instances: a lone one gets calls anyway, so probing it gains nothing. */
  hasOthers(): boolean;
  /** Whether another one is not ejected: an instance that fails is still better than one that is gone. */
  hasOtherReady(target: unknown): boolean;
}

/**
 * An instance and what is known about it. While it is ejected, other instances are preferred, and it is probed with growing
 * pauses until it answers, so that no call is risked to find out.
 */
export class Target<I extends Instance> implements Candidate {
  inFlight = 0;
  /** Answers that are still being read, as slowly as the caller likes: they are no load on the instance. */
  private beingRead = 0;
  private latency = new PeakLatency();
  private lateInARow = 0;
  /** Kept after a successful probe: one more failure then ejects the instance again. */
  private failedInARow = 0;
  private pause: IBackoff<unknown> | undefined;
  private probing: AbortController | undefined;
  private pausing: AbortController | undefined;
  private ejection: Ejection | undefined;
  private isRetired = false;

  constructor(
    readonly instance: I,
    /** `host:port` */
    readonly address: string,
    private readonly owner: TargetOwner,
  ) {}

  get isEjected(): boolean {
    return this.ejection !== undefined;
  }

  cost(): number {
    return this.latency.costOf(this.inFlight, performance.now());
  }

  begun(): void {
    this.inFlight += 1;
  }

  ended(outcome: Outcome, tookMs: number): void {
    this.inFlight -= 1;
    this.learn(outcome, tookMs);
    this.closeIfDone();
  }

  answerBegan(outcome: Outcome, tookMs: number): void {
    this.inFlight -= 1;
    this.beingRead += 1;
    this.learn(outcome, tookMs);
  }

  answerEnded(): void {
    this.beingRead -= 1;
    this.closeIfDone();
  }

  /** The instance announced that it is stopping: it finishes its calls; new ones go to other instances. */
  leave(): void {
    this.eject('leaving', 'it is shutting down');
  }

  /** The address is gone, or the service is not used any more: gets no new calls, and closes after the last one. */
  retire(): void {
    this.isRetired = true;
    this.probing?.abort();
    if (this.inFlight + this.beingRead === 0) this.instance.close();
  }

  /** Ends the pause before the next probe, if there is one. */
  probeNow(): void {
    this.pausing?.abort();
  }

  private closeIfDone(): void {
    // The answer is still being delivered through the connection that is to be closed.
    if (this.isRetired && this.inFlight + this.beingRead === 0) setImmediate(() => this.instance.close());
  }

  private learn(outcome: Outcome, tookMs: number): void {
    const now = performance.now();
    if (outcome === 'answered') this.latency.measured(tookMs, now);
    const isLate = outcome === 'late' || (outcome === 'given-up' && tookMs >= givenUpLateMs);
    if ((outcome === 'failing' || outcome === 'busy' || isLate) && tookMs > this.latency.at(now))
      this.latency.measured(tookMs, now);
    if (outcome === 'answered') this.failedInARow = 0;
    if (outcome === 'answered' || outcome === 'failing' || outcome === 'busy') this.heard(outcome === 'answered');
    if (outcome === 'failing') this.failed();
    if (outcome === 'not-sent') this.eject('unreachable', 'it cannot be reached');
    if (outcome === 'full') this.full();
    if (outcome === 'lost') this.eject('unreachable', 'a connection was lost');
    if (isLate && ++this.lateInARow >= mostLateInARow)
      this.eject('late', `${this.lateInARow} calls in a row were not answered in time`);
  }

  private heard(isDone: boolean): void {
    this.lateInARow = 0;
    if (!this.isEjected) {
      if (isDone) this.pause = undefined;
    } else if (this.isBackWith(isDone)) {
      this.takeBack();
    }
  }

  /** Whether an answer, without a probe, is enough to readmit the instance. */
  private isBackWith(isDone: boolean): boolean {
    if (this.ejection === 'leaving') return false;
    if (this.ejection === 'full') return !this.owner.hasOthers();
    return isDone || this.ejection !== 'failing';
  }

  /** Otherwise an instance that fails at once, and so has nothing in flight, would get more calls than those that work. */
  private failed(): void {
    this.failedInARow += 1;
    if (this.failedInARow < mostFailedInARow || this.isEjected || !this.owner.hasOtherReady(this)) return;
    this.eject('failing', `${mostFailedInARow} requests in a row failed`);
  }

  /** Answers on open connections do not show that new ones are accepted. A lone instance gets calls anyway, so it stays. */
  private full(): void {
    if (this.owner.hasOthers()) this.eject('full', 'it accepts no more requests at present');
  }

  private eject(ejection: Ejection, why: string): void {
    if (this.isRetired) return;
    if (this.isEjected) {
      // What the instance announced itself outweighs what was inferred.
      if (ejection === 'leaving' || (ejection === 'full' && this.ejection !== 'leaving')) this.ejection = ejection;
      return;
    }
    this.ejection = ejection;
    this.probing = new AbortController();
    this.owner.ejected(this.address, why);
    void this.probeUntilBack(this.probing.signal);
  }

  private takeBack(): void {
    this.probing?.abort();
    this.ejection = undefined;
    this.lateInARow = 0;
    this.owner.back(this.address);
  }

  private async probeUntilBack(stopped: AbortSignal): Promise<void> {
    while (!stopped.aborted) {
      this.pause = (this.pause ?? pauses).next(undefined);
      this.pausing = new AbortController();
      const signal = AbortSignal.any([stopped, this.pausing.signal]);
      await setTimeout(this.pause.duration, undefined, { signal, ref: false }).catch(() => undefined);
      // A lone instance gets calls anyway, which readmit it; after `leaving`, only a probe can tell that it was restarted.
      if (stopped.aborted || !(this.ejection === 'leaving' || this.owner.hasOthers())) continue;
      const isAlive = await this.instance.probe(AbortSignal.any([stopped, AbortSignal.timeout(probeTimeoutMs)])).then(
        () => true,
        () => false,
      );
      if (!isAlive || stopped.aborted) continue;
      // It may be a new and cold process by now: it gets one call at a time until it has answered one.
      this.latency = new PeakLatency();
      this.takeBack();
    }
  }
}
