import { setTimeout } from 'node:timers/promises';
import { ExponentialBackoff, type IBackoff } from 'cockatiel';
import type { Candidate } from './balance.js';
import { PeakLatency } from './peak-latency.js';

/** One instance, as its transport reaches it. */
export interface Instance {
  /** Asks for a sign of life. Resolves when the instance can take calls, rejects when it cannot or at the signal. */
  probe(signal: AbortSignal): Promise<void>;
  /** Lets go of the connections. */
  close(): void;
}

/** What became of a call to one instance. */
export type Outcome =
  /** It was answered, be it with a refusal. */
  | 'answered'
  /** It was answered that it cannot be done. That is often quick, and must not look like being fast. */
  | 'failing'
  /** It was answered that it cannot be done in time, as there is too much to do: all that tells of the instance. */
  | 'busy'
  /** It has certainly not been sent. */
  | 'not-sent'
  /** The instance has said that it has not begun with it: as many are connected to it as may be, or it is still starting. */
  | 'full'
  /** The connection broke after it was sent. */
  | 'lost'
  /** Nothing came within its time. */
  | 'late'
  /** The caller does not want it any more. Where that took long, it may be because nothing came. */
  | 'given-up';

/** Connecting that fails and connections that break say enough at once; being late may be the fault of the call. */
const mostLateInARow = 3;
/** One alone may be the fault of the call; whoever answers nothing else lacks what the others have. */
const mostFailedInARow = 5;
const probeTimeoutMs = 1_000;
/** Whoever gives up sooner says nothing of the instance. */
const givenUpLateMs = 1_000;
/** With jitter, so that callers do not probe in step. */
const pauses = new ExponentialBackoff({ initialDelay: 200, maxDelay: 5_000 });

/** Why an instance is ejected, which says what brings it back: a probe, or for some of them an answer as well. */
type Ejection = 'unreachable' | 'late' | 'failing' | 'full' | 'leaving';

/** What a target tells those it belongs to. */
export interface Keeper {
  ejected(address: string, why: string): void;
  back(address: string): void;
  /** Whether there are others: without any nothing is gained by probing, as calls come here anyway. */
  hasOthers(): boolean;
  /** Whether another one is not ejected: one that fails is asked rather than one that is gone. */
  hasOtherReady(target: unknown): boolean;
}

/**
 * An instance with what is known of it. While it is ejected others are preferred, and it is probed until it answers, after
 * pauses that grow: no call is risked for finding out.
 */
export class Target<I extends Instance> implements Candidate {
  inFlight = 0;
  /** Answers that go on for as long as the caller takes to read them: that is no work. */
  private beingRead = 0;
  private latency = new PeakLatency();
  private lateInARow = 0;
  /** Not forgotten when a probe is answered: then it takes one more to see that nothing has changed. */
  private failedInARow = 0;
  private pause: IBackoff<unknown> | undefined;
  private probing: AbortController | undefined;
  private ejection: Ejection | undefined;
  private isRetired = false;

  constructor(
    readonly instance: I,
    /** `host:port` */
    readonly address: string,
    private readonly keeper: Keeper,
    private readonly now: () => number = () => performance.now(),
  ) {}

  get isEjected(): boolean {
    return this.ejection !== undefined;
  }

  cost(): number {
    return this.latency.costOf(this.inFlight, this.now());
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

  /** It says that it is about to stop: what it has it finishes, new calls belong elsewhere. */
  leave(): void {
    this.eject('leaving', 'it is shutting down');
  }

  /** Its address is gone, or nobody wants it any more: it gets no new calls and is closed after the last one. */
  retire(): void {
    this.isRetired = true;
    this.probing?.abort();
    if (this.inFlight + this.beingRead === 0) this.instance.close();
  }

  private closeIfDone(): void {
    // The answer is still on its way through the connection that is to be closed.
    if (this.isRetired && this.inFlight + this.beingRead === 0) setImmediate(() => this.instance.close());
  }

  private learn(outcome: Outcome, tookMs: number): void {
    const now = this.now();
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

  /** Whether an answer is enough to know that it takes calls again. */
  private isBackWith(isDone: boolean): boolean {
    if (this.ejection === 'leaving') return false;
    if (this.ejection === 'full') return !this.keeper.hasOthers();
    return isDone || this.ejection !== 'failing';
  }

  /** Otherwise those who fail at once, and so have nothing in flight, would get more than all who do what they are asked. */
  private failed(): void {
    this.failedInARow += 1;
    if (this.failedInARow < mostFailedInARow || this.isEjected || !this.keeper.hasOtherReady(this)) return;
    this.eject('failing', `${mostFailedInARow} requests in a row failed`);
  }

  /** What it answers on connections that it has says nothing of the next. A lone one is asked anyway, and not probed. */
  private full(): void {
    if (this.keeper.hasOthers()) this.eject('full', 'it accepts no more requests at present');
  }

  private eject(ejection: Ejection, why: string): void {
    if (this.isRetired) return;
    if (this.isEjected) {
      // What the instance says of itself tells more than what is guessed.
      if (ejection === 'leaving' || (ejection === 'full' && this.ejection !== 'leaving')) this.ejection = ejection;
      return;
    }
    this.ejection = ejection;
    this.probing = new AbortController();
    this.keeper.ejected(this.address, why);
    void this.probeUntilBack(this.probing.signal);
  }

  private takeBack(): void {
    this.probing?.abort();
    this.ejection = undefined;
    this.lateInARow = 0;
    this.keeper.back(this.address);
  }

  private async probeUntilBack(stopped: AbortSignal): Promise<void> {
    while (!stopped.aborted) {
      this.pause = (this.pause ?? pauses).next(undefined);
      await setTimeout(this.pause.duration, undefined, { signal: stopped, ref: false }).catch(() => undefined);
      // Calls come to a lone one anyway, and find out; not whether one that was about to stop has been started again.
      if (stopped.aborted || !(this.ejection === 'leaving' || this.keeper.hasOthers())) continue;
      const isAlive = await this.instance.probe(AbortSignal.any([stopped, AbortSignal.timeout(probeTimeoutMs)])).then(
        () => true,
        () => false,
      );
      if (!isAlive || stopped.aborted) continue;
      // It may be another process by now, and a cold one: one call at a time, until it has answered.
      this.latency = new PeakLatency();
      this.takeBack();
    }
  }
}
