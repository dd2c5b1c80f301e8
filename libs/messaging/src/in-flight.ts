/** Counts work that was accepted and is not finished, so that a shutdown can wait for it. */
export class InFlight {
  private running = 0;
  private readonly waiting = new Set<() => void>();

  get count(): number {
    return this.running;
  }

  async during<Result>(work: () => Promise<Result>): Promise<Result> {
    this.running += 1;
    try {
      return await work();
    } finally {
      this.running -= 1;
      if (this.running === 0) for (const resolve of this.waiting) resolve();
    }
  }

  /** Waits until nothing is in flight, at most `timeoutMs`. @returns whether nothing is */
  async idle(timeoutMs: number): Promise<boolean> {
    if (this.running === 0) return true;
    return new Promise((resolve) => {
      const finish = (isIdle: boolean) => {
        clearTimeout(timer);
        this.waiting.delete(reached);
        resolve(isIdle);
      };
      const reached = () => finish(true);
      const timer = setTimeout(() => finish(this.running === 0), timeoutMs);
      this.waiting.add(reached);
    });
  }
}
