import { AsyncLocalStorage } from 'node:async_hooks';
import { BulkheadRejectedError, bulkhead } from 'cockatiel';
import { CleaveError } from '#contracts';

export interface LaneOptions {
  atOnce: number;
  /** How many others wait; who comes then is refused. */
  mostWaiting: number;
  /** How long they wait; whose turn comes later is refused as well. */
  longestWaitMs: number;
  /** What there is too much of, for who is refused: `More keys have to be looked up`. */
  tooMuch: string;
}

/** Lets little be done at a time and the rest wait, in its turn, so that it leaves others what they need. */
export class Lane {
  private readonly room;

  constructor(private readonly options: LaneOptions) {
    this.room = bulkhead(options.atOnce, options.mostWaiting);
  }

  /** @throws CleaveError `unavailable` where there is too much, and nothing was done */
  inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    // Else it would go back to whoever was before it, with its traces and log lines.
    const inContext = AsyncLocalStorage.snapshot();
    return new Promise((resolve, reject) => {
      let isLate = false;
      // Also where what goes before it hangs.
      const late = setTimeout(() => {
        isLate = true;
        reject(tooMuch(this.options));
      }, this.options.longestWaitMs);
      const inRoom = this.room.execute(() => {
        if (isLate) throw tooMuch(this.options);
        clearTimeout(late);
        return inContext(work);
      });
      inRoom.then(resolve, (error: unknown) => {
        clearTimeout(late);
        reject(error instanceof BulkheadRejectedError ? tooMuch(this.options) : (error as Error));
      });
    });
  }
}

/** What is said to who is refused, by a lane. */
export const tooMuch = (options: Pick<LaneOptions, 'tooMuch'>): CleaveError => {
  const detail = `${options.tooMuch} than can be handled in time. This request has had no effect; repeat it later.`;
  return new CleaveError('unavailable', detail, { retry_after_ms: 1_000 });
};
