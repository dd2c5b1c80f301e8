import { setTimeout } from 'node:timers/promises';
import { Logger, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';

/**
 * Work that an application does again and again in the background, from its start until it stops. Each instance does it,
 * so it has to bear being done by several at once.
 */
export abstract class PeriodicWork implements OnApplicationBootstrap, BeforeApplicationShutdown {
  protected readonly logger = new Logger(this.constructor.name);
  protected readonly stopping = new AbortController();
  private running: Promise<void> = Promise.resolve();

  /**
   * @param everyMs the pause between two times, more or less: instances that were started together need not work together
   * @param failing what to tell the operator when it fails; it is tried again after the usual pause
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

  /** Lets the work that is under way come to its end. */
  async beforeApplicationShutdown(): Promise<void> {
    this.stopping.abort();
    await this.running;
  }

  /**
   * Does one batch after the other until one is not full. Of a large backlog, the rest is left for the next time where the
   * process stops: nobody waits for it.
   *
   * @param doOne does at most `size`; @returns how many that were
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
