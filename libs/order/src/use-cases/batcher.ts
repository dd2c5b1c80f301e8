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
  /** Batches in flight at once. */
  lanes: number;
  /** How long a batch may take before another one sets off beside it, however small that is. */
  slowMs: number;
  /** Of one batch; an item that alone is larger goes alone. */
  batch: Bounds;
  /** Of what waits for a batch. Whoever comes beyond is refused at once: a queue that grows only makes all of them late. */
  waiting: Bounds;
}

/** Until when somebody waits for an answer. */
export interface Patience {
  deadlineMs?: number;
  /** Whether whoever asked has gone, and will not hear the answer. */
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
 * Collects what arrives while a batch is in flight into the next one. An item that finds none in flight goes at once, and
 * so does a batch as large as what is in flight; smaller ones wait until that has ended or is slow. So a batch costs its
 * fixed part as seldom as if there were one lane, and no slow one parks everyone.
 */
export class Batcher<Item, Result> {
  private readonly queue: Waiting<Item, Result>[] = [];
  private readonly queued: Bounds = { items: 0, lines: 0, bytes: 0 };
  private lanesInUse = 0;
  /** Items in flight whose batches are not slow. */
  private swift = 0;
  private scheduled = false;

  /**
   * @param process settles every item of a batch, in its order: a result, or the error that this item alone gets. What it
   *   throws, all of them get.
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

  /** @param patience of the caller: what nobody waits for any more when it is to set off never does */
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

  /** After the requests of this turn of the event loop, so that what arrived together goes together. */
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

/** Without those whose caller has stopped waiting: they are told, and nothing is done for them. */
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
