import { Injectable } from '@nestjs/common';
import { limits } from '#contracts';
import { PeriodicJob, throughParts } from '#periodic';

/** Stored decisions that hold nothing. */
export abstract class RefusedReservations {
  /**
   * @param where with `after`, decisions that were old enough at that earlier look are left out; if it is null, one `part`
   *   of all decisions is looked at, counted from 0
   * @returns how many decisions older than `ageMs` were deleted (at most `limit`), when that was, and the number of parts
   */
  abstract forget(
    ageMs: number,
    where: { after: Date | null; part: number },
    limit: number,
  ): Promise<{ forgotten: number; looked_at: Date; parts: number }>;
}

const aDay = 24 * 3_600_000;
/**
 * Less than order keeps the refusals that callers were told. A key that is free again there must not be refused by a decision of
 * a week ago; while only order has a refusal, a repeat still gets it, because its order cannot be recorded. The age counts from
 * the end of the hold that was asked for, which may be a day (`ORDER_HOLD_MS`); another day is for a purge that is late.
 */
export const keptMs = limits.refusalKeptMs - 2 * aDay;
const everyMs = 3_600_000;
const batchSize = 1_000;

/** Deletes refusals for lack of stock that nobody repeats any more. Holds are kept for ever: they fence off late tries. */
@Injectable()
export class PurgeRefusals extends PeriodicJob {
  private lookedAt: Date | null = null;

  constructor(private readonly reservations: RefusedReservations) {
    super(everyMs, 'old refusals could not be purged, trying again in an hour');
  }

  async execute(): Promise<void> {
    const after = this.lookedAt;
    const at = await throughParts(async (part) => {
      const { forgotten, ...look } = await this.reservations.forget(keptMs, { after, part }, batchSize);
      // The same query finds others, until there are none.
      return { ...look, hasMore: forgotten === batchSize };
    }, this.stopping.signal);
    if (at) this.lookedAt = at;
  }
}
