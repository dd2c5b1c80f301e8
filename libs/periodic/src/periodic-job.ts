import { setTimeout } from 'node:timers/promises';
import { Logger, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';

/**
 * Work that an application repeats in the background, from its start until it stops. Every instance does it, so it has to
 * be safe to run in several at once.
 */
export abstract class PeriodicJob implements OnApplicationBootstrap, BeforeApplicationShutdown {
  protected readonly logger = new Logger(this.constructor.name);
  protected readonly stopping = new AbortController();
  private running: Promise<void> = Promise.resolve();

  /**
   * @param everyMs the pause between two runs, varied so that instances that were started together do not run together
   * @param failing what to log when it fails; it is tried again after the usual pause
   */
  constructor(
    private readonly everyMs: number,
    private readonly failing: string,
  ) {}

  /** Does the work once. */
  abstract execute(): Promise<unknown>;

  onApplicationBootstrap(): void {
    this.running = this.repeat();
  }

  /** Lets the run that is under way finish. */
  async beforeApplicationShutdown(): Promise<void> {
    this.stopping.abort();
    await this.running;
  }

  /**
   * Runs one batch after the other until one is not full. If the process stops, the rest of a large backlog is left for
   * the next run: nothing waits for it.
   *
   * @param doOne processes at most `size` and returns how many that were
   */
  protected async inBatches(size: number, doOne: (size: number) => Promise<number>): Promise<void> {
    for (let last = size; last === size && !this.stopping.signal.aborted;) last = await doOne(size);
  }

  private async repeat(): Promise<void> {
    const { signal } = this.stopping;
    let failed = false;
    while (!signal.aborted) {
      try {
        await this.execute();
        failed = false;
      } catch (error) {
        if (!failed) this.logger.warn(`${this.failing} (${String(error)})`);
        failed = true;
      }
      await setTimeout(this.everyMs * (0.75 + Math.random() / 2), undefined, { signal }).catch(() => undefined);
    }
  }
}
