import { Injectable } from '@nestjs/common';
import { PeriodicWork } from '#periodic';
import { MasterKeys, type Customer, type WrappedKey } from '../domain/master-keys.js';

/** The keys of all customers, by what they are wrapped by. */
export abstract class WrappedKeys {
  abstract mastersInUse(): Promise<string[]>;
  /** At most `limit` of those wrapped by a master key. */
  abstract wrappedBy(masterId: string, limit: number): Promise<(Customer & WrappedKey)[]>;
  /** Those that are still wrapped by that master key. */
  abstract replace(masterId: string, keys: readonly (Customer & WrappedKey)[]): Promise<void>;
}

const everyMs = 60_000;
const batchSize = 500;

/** Wraps the keys of customers by the newest master key, so that those before it can be taken away. */
@Injectable()
export class RotateDataKeys extends PeriodicWork {
  /** The master keys that are needed and not configured, as they were when it was last looked. */
  missing: readonly string[] = [];

  constructor(
    private readonly keys: WrappedKeys,
    private readonly masters: MasterKeys,
  ) {
    super(
      everyMs,
      'the keys of customers could not be wrapped by the newest of DATA_KEYS, which is tried again in a minute',
    );
  }

  async execute(): Promise<void> {
    const inUse = await this.keys.mastersInUse();
    this.tellMissing(inUse.filter((it) => !this.masters.has(it)));
    const { newest } = this.masters;
    if (!newest) return;
    for (const masterId of inUse.filter((it) => it !== newest.id && this.masters.has(it))) {
      let keys = await this.keys.wrappedBy(masterId, batchSize);
      for (; keys.length > 0 && !this.stopping.signal.aborted; keys = await this.keys.wrappedBy(masterId, batchSize))
        await this.keys.replace(
          masterId,
          keys.map((it) => ({ ...it, ...this.masters.rewrap(it, it) })),
        );
      if (keys.length === 0)
        this.logger.log(`no key of a customer is wrapped by ${masterId} any more, but by ${newest.id}`);
    }
  }

  private tellMissing(missing: readonly string[]): void {
    if (missing.some((it) => !this.missing.includes(it)))
      this.logger.error(
        `personal data are encrypted by way of ${missing.join()}, which DATA_KEYS does not have: add it behind the first one`,
      );
    this.missing = missing;
  }
}
