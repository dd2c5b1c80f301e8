import { Injectable } from '@nestjs/common';
import { limits } from '#contracts';
import { PeriodicWork, throughParts } from '#periodic';

/** Decisions that were kept under their reservations and held nothing. */
export abstract class RefusedReservations {
  /**
   * @param where `after` leaves out what was old enough already at an earlier look; of all that there ever was one part is
   *   looked at, from 0
   * @returns how many of those older than `ageMs` were forgotten, at most `limit`, when that was, and how many parts there are
   */
  abstract forget(
    ageMs: number,
    where: { after: Date | null; part: number },
    limit: number,
  ): Promise<{ forgotten: number; looked_at: Date; parts: number }>;
}

const everyMs = 3_600_000;
const batchSize = 1_000;

/** Forgets refusals for want of stock that nobody repeats any more. Holds are kept for ever: they fence late tries. */
@Injectable()
export class PurgeRefusals extends PeriodicWork {
  private lookedAt: Date | null = null;

  constructor(private readonly reservations: RefusedReservations) {
    super(everyMs, 'old refusals could not be purged, trying again in an hour');
  }

  async execute(): Promise<void> {
    const after = this.lookedAt;
    const at = await throughParts(async (part) => {
      const { forgotten, ...look } = await this.reservations.forget(limits.refusalKeptMs, { after, part }, batchSize);
      // The same look finds others, until there are none.
      return { ...look, hasMore: forgotten === batchSize };
    }, this.stopping.signal);
    if (at) this.lookedAt = at;
  }
}
