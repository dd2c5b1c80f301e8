import { Injectable } from '@nestjs/common';
import { limits } from '#contracts';
import { PeriodicWork } from '#periodic';

export abstract class KeptDeliveries {
  /** @returns how many deliveries older than `ageMs` were forgotten with their attempts, at most `limit` */
  abstract forgetDeliveries(ageMs: number, limit: number): Promise<number>;
  /** @returns how many messages older than `ageMs` were forgotten, at most `limit` */
  abstract forgetMessages(ageMs: number, limit: number): Promise<number>;
  /**
   * Makes due now what would wait for longer than anything ever has to: it is from before the clock was set back.
   *
   * @returns how many, at most `limit`
   */
  abstract bringForward(limit: number): Promise<number>;
}

const everyMs = 600_000;
const batchSize = 500;

/** Forgets what was sent, and what could not be sent, after a while. */
@Injectable()
export class PurgeDeliveries extends PeriodicWork {
  constructor(private readonly kept: KeptDeliveries) {
    super(everyMs, 'old webhook deliveries could not be purged, trying again in ten minutes');
  }

  /** Messages after their deliveries, which need them; before both what somebody waits for. */
  async execute(): Promise<void> {
    await this.inBatches(batchSize, (size) => this.kept.bringForward(size));
    await this.inBatches(batchSize, (size) => this.kept.forgetDeliveries(limits.webhooksKeptMs, size));
    await this.inBatches(batchSize, (size) => this.kept.forgetMessages(limits.webhooksKeptMs, size));
  }
}
