import { Injectable } from '@nestjs/common';
import { CleaveError } from '#contracts';
import { PeriodicWork } from '#periodic';
import { MasterKeys } from '#security';
import type { Customer, WrappedKey } from '../domain/personal-data.js';
import { rewrap } from './customer-keys.js';

/** The keys of all customers, by what they are wrapped by. */
export abstract class WrappedKeys {
  abstract mastersInUse(): Promise<string[]>;
  /** At most `limit` of those wrapped by a master key, in the order of their customers, those behind `after`. */
  abstract wrappedBy(masterId: string, after: Customer | undefined, limit: number): Promise<(Customer & WrappedKey)[]>;
  /** Those that are still wrapped by that master key. Others may do the same at the same time. */
  abstract replace(masterId: string, keys: readonly (Customer & WrappedKey)[]): Promise<void>;
}

const everyMs = 60_000;
const batchSize = 500;

/** Wraps the keys of customers by the newest master key, so that those before it can be taken away. */
@Injectable()
export class RotateDataKeys extends PeriodicWork {
  /** The master keys that are needed and not configured, as they were when it was last looked. */
  missing: readonly string[] = [];
  /** By master key: how many of those that it has wrapped could not be unwrapped by it. */
  stuck: ReadonlyMap<string, number> = new Map();

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
    const stuck = new Map<string, number>();
    for (const masterId of inUse.filter((it) => it !== newest.id && this.masters.has(it))) {
      const left = await this.rotate(masterId);
      if (this.stopping.signal.aborted) return;
      if (left > 0) stuck.set(masterId, left);
      else this.logger.log(`no key of a customer is wrapped by ${masterId} any more, but by ${newest.id}`);
    }
    this.tellStuck(stuck);
  }

  /** @returns how many could not be unwrapped: they stay as they are, and hold up none of the others */
  private async rotate(masterId: string): Promise<number> {
    let left = 0;
    let last: Customer | undefined;
    while (!this.stopping.signal.aborted) {
      const keys = await this.keys.wrappedBy(masterId, last, batchSize);
      const rotated = keys.flatMap((it) => this.rewrapped(it) ?? []);
      if (rotated.length > 0) await this.keys.replace(masterId, rotated);
      left += keys.length - rotated.length;
      last = keys.at(-1);
      if (keys.length < batchSize) break;
    }
    return left;
  }

  private rewrapped(key: Customer & WrappedKey): (Customer & WrappedKey) | undefined {
    try {
      return { ...key, ...rewrap(this.masters, key, key) };
    } catch (error) {
      if (error instanceof CleaveError) return undefined;
      throw error;
    }
  }

  private tellMissing(missing: readonly string[]): void {
    if (missing.some((it) => !this.missing.includes(it)))
      this.logger.error(
        `personal data are encrypted by way of ${missing.join()}, which DATA_KEYS does not have: add it behind the first one`,
      );
    this.missing = missing;
  }

  private tellStuck(stuck: ReadonlyMap<string, number>): void {
    for (const [masterId, count] of stuck)
      if (!this.stuck.has(masterId))
        this.logger.error(
          `${count} keys of customers are not wrapped by the key that DATA_KEYS calls ${masterId}, and cannot be read: another one ` +
            'had that name, or they were changed. Give this one another name and add the one that it was, or restore them',
        );
    this.stuck = stuck;
  }
}
