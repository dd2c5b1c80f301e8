interface Stoppable {
  stop(): Promise<unknown>;
}

/** What the benchmark has started and not stopped yet. The last one is stopped first, as it may use the others. */
export class Started {
  private readonly running: Stoppable[] = [];
  private ending = false;

  /** Whether everything is being stopped: failures are expected then. */
  get isEnding(): boolean {
    return this.ending;
  }

  add<T extends Stoppable>(started: T): T {
    this.running.push(started);
    return started;
  }

  /** Stops some of it early, the last one started first. */
  async stop(...some: Stoppable[]): Promise<void> {
    for (const it of some.toReversed()) {
      const index = this.running.indexOf(it);
      if (index >= 0) this.running.splice(index, 1);
      await it.stop();
    }
  }

  /** Stops everything, even if some of it fails to stop. @returns the failures */
  async stopAll(): Promise<unknown[]> {
    this.ending = true;
    const failures: unknown[] = [];
    for (let it = this.running.pop(); it; it = this.running.pop())
      await it.stop().catch((error: unknown) => failures.push(error));
    return failures;
  }
}
