import { setTimeout } from 'node:timers/promises';
import { Logger, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';

const longestPauseMs = 5_000;

/** Work that is done as soon as somebody says that there is some, and looked for now and then without being told. */
export abstract class WokenWork implements OnApplicationBootstrap, BeforeApplicationShutdown {
  protected readonly logger = new Logger(this.constructor.name);
  private stopping = false;
  private awake = false;
  private wakeUp: () => void = () => {};
  private running: Promise<void> = Promise.resolve();

  /**
   * @param pollMs how often is looked without being woken
   * @param words what to tell the operator when it fails, and when it works again
   */
  constructor(
    private readonly pollMs: number,
    private readonly words: { failing: string; recovered: string },
  ) {}

  /** Does what there is to do. @returns whether there may be more of it at once */
  protected abstract work(): Promise<boolean>;

  onApplicationBootstrap(): void {
    this.running = this.run();
  }

  async beforeApplicationShutdown(): Promise<void> {
    this.stopping = true;
    this.wake();
    await this.running;
  }

  /** There is something to do. */
  wake(): void {
    this.awake = true;
    this.wakeUp();
  }

  private async run(): Promise<void> {
    let failures = 0;
    while (!this.stopping) {
      try {
        this.awake = false;
        const isMore = await this.work();
        if (failures > 0) this.logger.log(this.words.recovered);
        failures = 0;
        if (!isMore) await this.pause(this.pollMs);
      } catch (error) {
        failures += 1;
        if (failures === 1) this.logger.warn(`${this.words.failing} (${String(error)})`);
        await this.pause(Math.min(longestPauseMs, 50 * 2 ** failures), true);
      }
    }
  }

  /** Waits until there is something to do; `regardless` of being woken after a failure. */
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
