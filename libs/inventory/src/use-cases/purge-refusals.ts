import { Injectable } from '@nestjs/common';
import { limits } from '#contracts';
import { PeriodicWork } from '#periodic';

/** Decisions that were kept under their reservations and held nothing. */
export abstract class RefusedReservations {
  /**
   * @param after leaves out what was old enough already at an earlier look
   * @returns how many of those older than `ageMs` were forgotten, at most `limit`, and when that was
   */
  abstract forget(ageMs: number, after: Date | null, limit: number): Promise<{ forgotten: number; looked_at: Date }>;
}

const everyMs = 3_600_000;
const batchSize = 1_000;

/** Forgets refusals for want of stock that nobody repeats any more. Holds are kept for ever: they fence late tries. */
@Injectable()
export class PurgeRefusals extends PeriodicWork {
  private lookedAt: Date | null = null;

  constructor(private readonly reservations: RefusedReservations) {
    super(everyMs, 'old refusals could not be purged, which is tried again in an hour');
  }

  async execute(): Promise<void> {
    for (let forgotten = batchSize; forgotten === batchSize;) {
      const look = await this.reservations.forget(limits.refusalKeptMs, this.lookedAt, batchSize);
      forgotten = look.forgotten;
      if (forgotten < batchSize) this.lookedAt = look.looked_at;
    }
  }
}
