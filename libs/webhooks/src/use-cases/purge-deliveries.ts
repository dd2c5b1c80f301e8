import { Injectable } from '@nestjs/common';
import { limits } from '#contracts';
import { PeriodicJob } from '#periodic';

export abstract class KeptDeliveries {
  /** @returns how many deliveries older than `ageMs` were deleted with their attempts, at most `limit` */
  abstract forgetDeliveries(ageMs: number, limit: number): Promise<number>;
  /** @returns how many messages older than `ageMs` were deleted, at most `limit` */
  abstract forgetMessages(ageMs: number, limit: number): Promise<number>;
  /**
   * Makes deliveries due now that would wait longer than any has to: they date from before the clock was set back.
   *
   * @returns how many, at most `limit`
   */
  abstract bringForward(limit: number): Promise<number>;
}

const everyMs = 600_000;
const batchSize = 500;

/** Deletes old deliveries and messages, whether they were sent or not. */
@Injectable()
export class PurgeDeliveries extends PeriodicJob {
  constructor(private readonly kept: KeptDeliveries) {
    super(everyMs, 'old webhook deliveries could not be purged, trying again in ten minutes');
  }

  /** Deliveries before the messages that they need; and first of all those that somebody still waits for. */
  async execute(): Promise<void> {
    await this.inBatches(batchSize, (size) => this.kept.bringForward(size));
    await this.inBatches(batchSize, (size) => this.kept.forgetDeliveries(limits.webhooksKeptMs, size));
    await this.inBatches(batchSize, (size) => this.kept.forgetMessages(limits.webhooksKeptMs, size));
  }
}
