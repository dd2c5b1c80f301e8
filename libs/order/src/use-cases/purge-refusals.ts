import { Injectable } from '@nestjs/common';
import { limits } from '#contracts';
import { PeriodicWork } from '#periodic';

/** What keys were answered with that came to no order. */
export abstract class KeptRefusals {
  /** @returns how many of those older than `ageMs` were forgotten, at most `limit` */
  abstract forget(ageMs: number, limit: number): Promise<number>;
}

const everyMs = 3_600_000;
const batchSize = 1_000;

/**
 * Forgets refusals that nobody repeats any more: their keys may be used anew from then on. The keys of orders and of
 * changes are kept for ever.
 */
@Injectable()
export class PurgeRefusals extends PeriodicWork {
  constructor(private readonly refusals: KeptRefusals) {
    super(everyMs, 'old refusals could not be purged, trying again in an hour');
  }

  async execute(): Promise<void> {
    // Of a flash sale there are millions.
    await this.inBatches(batchSize, (size) => this.refusals.forget(limits.refusalKeptMs, size));
  }
}
