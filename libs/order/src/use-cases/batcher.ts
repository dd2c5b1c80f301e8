import { CleaveError } from '#contracts';

/** The size of one item. */
export interface Size {
  lines: number;
  bytes: number;
}

/** Limits on the number of items and on their total size. */
export interface Bounds extends Size {
  items: number;
}

export interface BatchLimits {
  /** Batches in flight at once. */
  lanes: number;
  /** After how long a batch counts as slow, so that another one may start beside it, however small. */
  slowMs: number;
  /** Limits of one batch; an item that alone exceeds them gets a batch of its own. */
  batch: Bounds;
  /** Limits of the queue. Items beyond them are refused at once: a growing queue would only make all of them late. */
  waiting: Bounds;
}

/** How long a caller waits for an answer. */
export interface Patience {
  deadlineMs?: number;
  /** Whether the caller has disconnected and will not receive the answer. */
  isGone?: () => boolean;
}

interface Waiting<Item, Result> {
  item: Item;
  size: Size;
  patience: Patience;
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
}

/**
 * Collects the items that arrive while a batch is in flight into the next batch. If none is in flight, an item goes at once;
 * otherwise the next batch starts once it is as large as those in flight, or they have ended or become slow. So the fixed
 * cost of a batch is paid as rarely as with one lane, but a slow batch does not block everyone.
 */
export class Batcher<Item, Result> {
  private readonly queue: Waiting<Item, Result>[] = [];
  private readonly queued: Bounds = { items: 0, lines: 0, bytes: 0 };
  private lanesInUse = 0;
  /** Items in flight in batches that are not slow. */
  private swift = 0;
  private scheduled = false;

  /**
   * @param process returns a result for each item of a batch, in its order, or an error for that item alone. If it throws,
   *   all items of the batch get that error.
   */
  constructor(
    private readonly limits: BatchLimits,
    private readonly process: (items: Item[]) => Promise<(Result | Error)[]>,
  ) {}

  get waiting(): number {
    return this.queue.length;
  }

  get inFlight(): number {
    return this.lanesInUse;
  }

  /** @param patience of the caller: if it is over when the batch starts, the item is refused and never processed */
  add(item: Item, size: Size, patience: Patience = {}): Promise<Result> {
    if (!fits(this.queued, size, this.limits.waiting)) {
      const detail = 'Too many orders are waiting already. Try again shortly.';
      return Promise.reject(new CleaveError('unavailable', detail, { retry_after_ms: 1_000 }));
    }
    return new Promise((resolve, reject) => {
      this.queue.push({ item, size, patience, resolve, reject });
      count(this.queued, size, 1);
      this.schedule();
    });
  }

  /** Runs after the requests of this turn of the event loop, so that what arrived together goes together. */
  private schedule(): void {
    if (this.scheduled || !this.mayGo()) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      while (this.mayGo()) {
        const batch = awaited(this.nextBatch());
        if (batch.length > 0) void this.run(batch);
      }
    });
  }

  private mayGo(): boolean {
    const { length } = this.queue;
    return length > 0 && this.lanesInUse < this.limits.lanes && length >= this.swift;
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
    let swift = batch.length;
    const letOthersGo = (): void => {
      this.swift -= swift;
      swift = 0;
      this.schedule();
    };
    this.lanesInUse += 1;
    this.swift += swift;
    const slow = setTimeout(letOthersGo, this.limits.slowMs);
    try {
      await this.settle(batch);
    } finally {
      clearTimeout(slow);
      this.lanesInUse -= 1;
      letOthersGo();
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
      for (const { reject } of batch) reject(error);
    }
  }
}

/** Drops the items whose callers have stopped waiting: they are refused, and nothing is done for them. */
const awaited = <Item, Result>(batch: Waiting<Item, Result>[]): Waiting<Item, Result>[] => {
  const now = Date.now();
  return batch.filter(({ patience, reject }) => {
    const refusal = refusalOf(patience, now);
    if (refusal) reject(refusal);
    return !refusal;
  });
};

const refusalOf = (
  { deadlineMs = Number.POSITIVE_INFINITY, isGone }: Patience,
  now: number,
): CleaveError | undefined => {
  const waited =
    'The order was still waiting when its deadline passed or its caller left; nothing was done. Try again.';
  if (isGone?.()) return new CleaveError('cancelled', waited);
  return deadlineMs > now ? undefined : new CleaveError('deadline-exceeded', waited);
};

const fits = (sum: Bounds, more: Size, most: Bounds): boolean =>
  sum.items < most.items && sum.lines + more.lines <= most.lines && sum.bytes + more.bytes <= most.bytes;

const count = (sum: Bounds, { lines, bytes }: Size, times: 1 | -1): void => {
  sum.items += times;
  sum.lines += times * lines;
  sum.bytes += times * bytes;
};
