import { AsyncLocalStorage } from 'node:async_hooks';
import { BulkheadRejectedError, bulkhead } from 'cockatiel';
import { CleaveError } from '#contracts';

export interface BulkheadOptions {
  atOnce: number;
  /** How many calls may wait; further ones are refused. */
  mostWaiting: number;
  /** How long a call may wait before it is refused, even while the call before it hangs. */
  longestWaitMs: number;
  /** Begins the message of a refusal, such as `More keys have to be looked up`. */
  tooMuch: string;
}

/** A bulkhead: few calls run at a time and others wait in their turn, which leaves resources for other work. */
export class Bulkhead {
  private readonly room;

  constructor(private readonly options: BulkheadOptions) {
    this.room = bulkhead(options.atOnce, options.mostWaiting);
  }

  /** @throws CleaveError `unavailable` if the work was refused or waited too long; nothing was done */
  inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    // Otherwise the work would run in the async context of the call before it, with that call's traces and log lines.
    const inContext = AsyncLocalStorage.snapshot();
    return new Promise((resolve, reject) => {
      let isLate = false;
      // A timer, so that it also fires while the work before hangs.
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

/** The error for a call that a bulkhead refuses. */
export const tooMuch = (options: Pick<BulkheadOptions, 'tooMuch'>): CleaveError => {
  const detail = `${options.tooMuch} than can be handled in time. This request has had no effect; repeat it later.`;
  return new CleaveError('unavailable', detail, { retry_after_ms: 1_000 });
};
