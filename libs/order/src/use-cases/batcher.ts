import { CleaveError } from '#contracts';

interface Waiting<Item, Result> {
  item: Item;
  weight: number;
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
}

export interface BatchLimits {
  /** Batches in flight at once: two, so that a slow one does not park everyone. */
  lanes: number;
  items: number;
  /** The sum of the weights in a batch; a heavier item goes alone. */
  weight: number;
  /** Items waiting for a batch. Whoever comes beyond is refused at once: a queue that grows only makes all of them late. */
  queued: number;
}

/**
 * Collects what arrives while earlier batches are in flight into the next one. Nothing waits for company: an item that
 * finds a lane free goes at once.
 */
export class Batcher<Item, Result> {
  private waiting: Waiting<Item, Result>[] = [];
  private lanesInUse = 0;
  private scheduled = false;

  /**
   * @param process settles every item of a batch, in its order: a result, or the error that this item alone gets. When
   *   the whole batch fails for a reason that may lie in one item, its halves are tried again, so that the poisoned
   *   item fails alone; `process` therefore has to be idempotent.
   */
  constructor(
    private readonly limits: BatchLimits,
    private readonly weightOf: (item: Item) => number,
    private readonly process: (items: Item[]) => Promise<(Result | Error)[]>,
  ) {}

  add(item: Item): Promise<Result> {
    if (this.waiting.length >= this.limits.queued)
      return Promise.reject(new CleaveError('unavailable', 'Too many orders are waiting already. Try again shortly.'));
    return new Promise((resolve, reject) => {
      this.waiting.push({ item, weight: this.weightOf(item), resolve, reject });
      this.schedule();
    });
  }

  /** After the requests of this turn of the event loop, so that what arrived together goes together. */
  private schedule(): void {
    if (this.scheduled || this.lanesInUse >= this.limits.lanes) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      while (this.waiting.length > 0 && this.lanesInUse < this.limits.lanes) void this.run(this.nextBatch());
    });
  }

  private nextBatch(): Waiting<Item, Result>[] {
    let weight = 0;
    let count = 0;
    for (const { weight: more } of this.waiting) {
      if (count > 0 && (count >= this.limits.items || weight + more > this.limits.weight)) break;
      weight += more;
      count += 1;
    }
    return this.waiting.splice(0, count);
  }

  private async run(batch: Waiting<Item, Result>[]): Promise<void> {
    this.lanesInUse += 1;
    try {
      await this.settle(batch);
    } finally {
      this.lanesInUse -= 1;
      if (this.waiting.length > 0) this.schedule();
    }
  }

  private async settle(batch: Waiting<Item, Result>[]): Promise<void> {
    try {
      const results = await this.process(batch.map((it) => it.item));
      batch.forEach(({ resolve, reject }, index) => {
        const result = results[index];
        if (result instanceof Error) reject(result);
        else resolve(result as Result);
      });
    } catch (error) {
      const outage = error instanceof CleaveError && error.status === 503;
      if (batch.length === 1 || outage) {
        for (const { reject } of batch) reject(error);
        return;
      }
      const middle = Math.ceil(batch.length / 2);
      await this.settle(batch.slice(0, middle));
      await this.settle(batch.slice(middle));
    }
  }
}
