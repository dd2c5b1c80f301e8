import { AsyncLocalStorage } from 'node:async_hooks';
import { bisect } from './bisect.js';
import { tooMuch, type BulkheadOptions } from './bulkhead.js';

interface Waiting<Item> {
  item: Item;
  late: NodeJS.Timeout;
  /** The async context of the caller, for traces. */
  inContext: ReturnType<typeof AsyncLocalStorage.snapshot>;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** Does everything that arrived during one batch as the next batch, so that callers never queue one behind the other. */
export class SerialBatcher<Item> {
  private waiting: Waiting<Item>[] = [];
  private isBusy = false;

  /**
   * @param options `mostAtOnce` limits the size of a batch
   * @param work does all items, in their order, or throws and has done none. A batch that fails, other than by an outage,
   *   is retried in halves, so that an item that cannot be done fails alone.
   */
  constructor(
    private readonly options: Omit<BulkheadOptions, 'atOnce'> & { mostAtOnce: number },
    private readonly work: (items: Item[]) => Promise<void>,
  ) {}

  /** @throws CleaveError `unavailable` if the item was refused or waited too long; nothing was done */
  add(item: Item): Promise<void> {
    const { mostWaiting, longestWaitMs } = this.options;
    if (this.waiting.length >= mostWaiting) return Promise.reject(tooMuch(this.options));
    return new Promise((resolve, reject) => {
      // A timer, so that it also fires while the work before hangs.
      const late = setTimeout(() => {
        this.waiting = this.waiting.filter((it) => it.late !== late);
        reject(tooMuch(this.options));
      }, longestWaitMs);
      this.waiting.push({ item, late, inContext: AsyncLocalStorage.snapshot(), resolve, reject });
      if (!this.isBusy) void this.run();
    });
  }

  private async run(): Promise<void> {
    this.isBusy = true;
    while (this.waiting.length > 0) {
      const batch = this.waiting.splice(0, this.options.mostAtOnce);
      for (const { late } of batch) clearTimeout(late);
      await batch[0]!.inContext(() => this.settle(batch));
    }
    this.isBusy = false;
  }

  private settle(batch: Waiting<Item>[]): Promise<void> {
    const work = async (some: readonly Waiting<Item>[]): Promise<void> => {
      await this.work(some.map((it) => it.item));
      for (const { resolve } of some) resolve();
    };
    return bisect(batch, work, (failed, error) => failed.forEach(({ reject }) => reject(error)));
  }
}
