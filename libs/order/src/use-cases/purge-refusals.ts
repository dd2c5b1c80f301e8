import { Injectable } from '@nestjs/common';
import { limits } from '#contracts';
import { PeriodicJob } from '#periodic';

/** Refusals that are stored under idempotency keys. */
export abstract class KeptRefusals {
  /** @returns how many refusals older than `ageMs` were deleted, at most `limit` */
  abstract forget(ageMs: number, limit: number): Promise<number>;
}

const everyMs = 3_600_000;
const batchSize = 1_000;

/**
 * Deletes old refusals, which nobody repeats any more; their keys may be used anew from then on. The keys of orders and of
 * changes are kept for ever.
 */
@Injectable()
export class PurgeRefusals extends PeriodicJob {
  constructor(private readonly refusals: KeptRefusals) {
    super(everyMs, 'old refusals could not be purged, trying again in an hour');
  }

  async execute(): Promise<void> {
    // A flash sale leaves millions.
    await this.inBatches(batchSize, (size) => this.refusals.forget(limits.refusalKeptMs, size));
  }
}
