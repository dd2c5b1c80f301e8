import { throttled } from '#periodic';
import { Logger } from '@nestjs/common';
import { verdictOf } from './wire.js';

/** As over TCP and REST, where callers eject instances. */
const mostFailedInARow = 5;
const firstPauseMs = 200;
const longestPauseMs = 5_000;
/** Where only some requests fail, it may be ejected and readmitted many times a second. */
const sayEveryMs = 10_000;

/**
 * Tells when an instance should leave the requests of its queue group to others, because it fails. Callers do not choose
 * the instance there, so they cannot eject it; and as failing is quick, it would get more requests than those that work.
 *
 * It is `ejected` after several failures in a row, until a request succeeds, or until the application is ready after a
 * pause. It is then `probing`, that is, it should take one request at a time: if the first one fails, it is ejected for
 * longer. It counts as failing in both states.
 */
export class SelfEjection {
  private readonly logger = new Logger('Messages');
  private readonly sayEjected = throttled(sayEveryMs);
  private failedInARow = 0;
  private isEjected = false;
  private isSaid = false;
  private pauseMs = firstPauseMs;
  private pausing: NodeJS.Timeout | undefined;

  /**
   * @param canServe whether the application is ready
   * @param changed called when the state has changed
   */
  constructor(
    private readonly module: string,
    private readonly canServe: () => Promise<boolean>,
    private readonly changed: () => void,
  ) {}

  get state(): 'ejected' | 'probing' | 'accepting' {
    if (this.isEjected) return 'ejected';
    return this.failedInARow >= mostFailedInARow ? 'probing' : 'accepting';
  }

  /** @param error of an answer; undefined for a reply */
  answered(error: unknown): void {
    const verdict = verdictOf(error);
    if (verdict === 'answered') this.succeeded();
    if (verdict === 'failing') this.failed();
  }

  close(): void {
    clearTimeout(this.pausing);
  }

  private succeeded(): void {
    if (this.failedInARow === 0) return;
    const { state } = this;
    this.failedInARow = 0;
    this.pauseMs = firstPauseMs;
    if (state === 'accepting') return;
    this.isEjected = false;
    this.close();
    if (this.isSaid) this.logger.log(`${this.module}: requests succeed again.`);
    this.isSaid = false;
    this.changed();
  }

  private failed(): void {
    this.failedInARow += 1;
    if (this.isEjected || this.failedInARow < mostFailedInARow) return;
    this.isEjected = true;
    this.sayEjected(() => {
      this.isSaid = true;
      this.logger.warn(
        `${this.module}: ${this.failedInARow} requests in a row failed; new ones are left to other instances, if there are any.`,
      );
    });
    this.pause();
    this.changed();
  }

  private pause(): void {
    this.close();
    this.pausing = setTimeout(() => void this.probe(), this.pauseMs).unref();
    this.pauseMs = Math.min(2 * this.pauseMs, longestPauseMs);
  }

  private async probe(): Promise<void> {
    const isReady = await this.canServe().catch(() => false);
    if (!this.isEjected) return;
    if (!isReady) return this.pause();
    this.isEjected = false;
    this.changed();
  }
}
