import { AsyncLocalStorage } from 'node:async_hooks';
import { byHalves } from './by-halves.js';
import { tooMuch, type LaneOptions } from './lane.js';

interface Waiting<Item> {
  item: Item;
  late: NodeJS.Timeout;
  /** What the work goes back to, for its traces. */
  inContext: ReturnType<typeof AsyncLocalStorage.snapshot>;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** Does at once all that has come in while the last of it was done: however slow that is, nobody waits for each of many. */
export class BatchLane<Item> {
  private waiting: Waiting<Item>[] = [];
  private isBusy = false;

  /**
   * @param options `mostAtOnce` is how many things are done together
   * @param work does all of them, in their order, or throws and has done none. What fails, and not because of an outage,
   *   is tried again by halves, so that what cannot be done fails alone.
   */
  constructor(
    private readonly options: Omit<LaneOptions, 'atOnce'> & { mostAtOnce: number },
    private readonly work: (items: Item[]) => Promise<void>,
  ) {}

  /** @throws CleaveError `unavailable` where there is too much, and nothing was done */
  add(item: Item): Promise<void> {
    const { mostWaiting, longestWaitMs } = this.options;
    if (this.waiting.length >= mostWaiting) return Promise.reject(tooMuch(this.options));
    return new Promise((resolve, reject) => {
      // Also where what goes before it hangs.
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
    return byHalves(batch, async (some) => {
      await this.work(some.map((it) => it.item));
      for (const { resolve } of some) resolve();
    });
  }
}
