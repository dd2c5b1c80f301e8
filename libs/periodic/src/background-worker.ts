import { setTimeout } from 'node:timers/promises';
import { Logger, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';

const longestPauseMs = 5_000;

export interface WorkerOptions {
  /** The polling interval in milliseconds: another instance may leave work behind, or a wake-up may be lost. */
  pollMs: number;
  /** A pause before the next round, in milliseconds, to collect more work for it; none if left out. */
  paceMs?: number;
  /** What to log when it fails, and when it works again. */
  failing: string;
  working: string;
}

/**
 * Work that an application does in the background as soon as it is woken, from its start until it stops. A failure is
 * retried with growing pauses, which being woken does not shorten.
 */
export abstract class BackgroundWorker implements OnApplicationBootstrap, BeforeApplicationShutdown {
  protected readonly logger = new Logger(this.constructor.name);
  protected stopping = false;
  private awake = false;
  private wakeUp: () => void = () => {};
  private running: Promise<void> = Promise.resolve();

  constructor(private readonly schedule: WorkerOptions) {}

  /** Does the work there is. @returns whether there may be more, to be done at once */
  protected abstract execute(): Promise<boolean>;

  /** Releases what is held, once nothing is under way any more. */
  protected leave(): Promise<void> {
    return Promise.resolve();
  }

  onApplicationBootstrap(): void {
    this.running = this.run();
  }

  /** Finishes what is under way. */
  async beforeApplicationShutdown(): Promise<void> {
    this.stopping = true;
    this.wake();
    await this.running;
  }

  /** Signals that there is something to do. */
  wake(): void {
    this.awake = true;
    this.wakeUp();
  }

  private async run(): Promise<void> {
    const { pollMs, paceMs, failing, working } = this.schedule;
    let failures = 0;
    while (!this.stopping) {
      try {
        this.awake = false;
        const isMore = await this.execute();
        if (failures > 0) this.logger.log(working);
        failures = 0;
        if (isMore) continue;
        await this.pause(pollMs);
        if (paceMs && !this.stopping) await setTimeout(paceMs);
      } catch (error) {
        failures += 1;
        if (failures === 1) this.logger.warn(`${failing} (${String(error)})`);
        await this.pause(Math.min(longestPauseMs, 50 * 2 ** failures), true);
      }
    }
    await this.leave().catch((error: unknown) => {
      this.logger.warn(`work could not be released at shutdown; its leases expire by themselves (${String(error)})`);
    });
  }

  /** Waits until there is something to do; with `regardless`, after a failure, being woken does not end the wait. */
  private async pause(ms: number, regardless = false): Promise<void> {
    if (this.stopping || (this.awake && !regardless)) return;
    const woken = new AbortController();
    this.wakeUp = () => {
      if (!regardless || this.stopping) woken.abort();
    };
    await setTimeout(ms, undefined, { signal: woken.signal }).catch(() => undefined);
    this.wakeUp = () => {};
  }
}
