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
  async inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    const since = performance.now();
    try {
      return await this.room.execute(() => {
        if (performance.now() - since > this.options.longestWaitMs) throw this.refusal();
        return work();
      });
    } catch (error) {
      throw error instanceof BulkheadRejectedError ? this.refusal() : error;
    }
  }

  private refusal(): CleaveError {
    const detail = `${this.options.tooMuch} than can be in time. This request has had no effect; repeat it later.`;
    return new CleaveError('unavailable', detail, { retry_after_ms: 1_000 });
  }
}
