import { CleaveError } from '#contracts';

/** What an item adds to its batch. */
export interface Size {
  lines: number;
  bytes: number;
}

/** Bounds of a number of items and of their sizes added up. */
export interface Bounds extends Size {
  items: number;
}

export interface BatchLimits {
  /** Batches in flight at once: two, so that a slow one does not park everyone. */
  lanes: number;
  /** Of one batch; an item that alone is larger goes alone. */
  batch: Bounds;
  /** Of what waits for a batch. Whoever comes beyond is refused at once: a queue that grows only makes all of them late. */
  waiting: Bounds;
}

interface Waiting<Item, Result> {
  item: Item;
  size: Size;
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
}

/**
 * Collects what arrives while earlier batches are in flight into the next one. Nothing waits for company: an item that
 * finds a lane free goes at once.
 */
export class Batcher<Item, Result> {
  private readonly queue: Waiting<Item, Result>[] = [];
  private readonly queued: Bounds = { items: 0, lines: 0, bytes: 0 };
  private lanesInUse = 0;
  private scheduled = false;

  /**
   * @param process settles every item of a batch, in its order: a result, or the error that this item alone gets. When
   *   the whole batch fails for a reason that may lie in one item, its halves are tried again, so that the poisoned
   *   item fails alone; `process` therefore has to be idempotent.
   */
  constructor(
    private readonly limits: BatchLimits,
    private readonly process: (items: Item[]) => Promise<(Result | Error)[]>,
  ) {}

  add(item: Item, size: Size): Promise<Result> {
    if (!fits(this.queued, size, this.limits.waiting))
      return Promise.reject(new CleaveError('unavailable', 'Too many orders are waiting already. Try again shortly.'));
    return new Promise((resolve, reject) => {
      this.queue.push({ item, size, resolve, reject });
      count(this.queued, size, 1);
      this.schedule();
    });
  }

  /** After the requests of this turn of the event loop, so that what arrived together goes together. */
  private schedule(): void {
    if (this.scheduled || this.lanesInUse >= this.limits.lanes) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      while (this.queue.length > 0 && this.lanesInUse < this.limits.lanes) void this.run(this.nextBatch());
    });
  }

  private nextBatch(): Waiting<Item, Result>[] {
    const batch: Bounds = { items: 0, lines: 0, bytes: 0 };
    for (const { size } of this.queue) {
      if (batch.items > 0 && !fits(batch, size, this.limits.batch)) break;
      count(batch, size, 1);
      count(this.queued, size, -1);
    }
    return this.queue.splice(0, batch.items);
  }

  private async run(batch: Waiting<Item, Result>[]): Promise<void> {
    this.lanesInUse += 1;
    try {
      await this.settle(batch);
    } finally {
      this.lanesInUse -= 1;
      if (this.queue.length > 0) this.schedule();
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

const fits = (sum: Bounds, more: Size, most: Bounds): boolean =>
  sum.items < most.items && sum.lines + more.lines <= most.lines && sum.bytes + more.bytes <= most.bytes;

const count = (sum: Bounds, { lines, bytes }: Size, times: 1 | -1): void => {
  sum.items += times;
  sum.lines += times * lines;
  sum.bytes += times * bytes;
};
