import { Injectable } from '@nestjs/common';
import { KeyRotation, MasterKeys } from '#security';
import type { Customer, WrappedKey } from '../domain/personal-data.js';
import { rewrap } from './customer-keys.js';

type CustomerKey = Customer & WrappedKey;

/** The data keys of all customers, by the master key that wraps them. */
export abstract class WrappedKeys {
  abstract mastersInUse(): Promise<string[]>;
  /** At most `limit` keys wrapped by this master key, ordered by customer, after `after`. */
  abstract wrappedBy(masterId: string, after: Customer | undefined, limit: number): Promise<CustomerKey[]>;
  /** Replaces the keys that are still wrapped by that master key. Other processes may do so at the same time. */
  abstract replace(masterId: string, keys: readonly CustomerKey[]): Promise<void>;
}

/** Rewraps the data keys of customers with the newest master key. */
@Injectable()
export class RotateDataKeys extends KeyRotation<CustomerKey> {
  constructor(
    private readonly keys: WrappedKeys,
    masters: MasterKeys,
  ) {
    super(masters, 'keys of customers');
  }

  protected mastersInUse(): Promise<string[]> {
    return this.keys.mastersInUse();
  }

  protected under(masterId: string, after: CustomerKey | undefined, limit: number): Promise<CustomerKey[]> {
    return this.keys.wrappedBy(masterId, after, limit);
  }

  protected renewed(key: CustomerKey): CustomerKey {
    return { ...key, ...rewrap(this.masters, key, key) };
  }

  protected replace(masterId: string, rows: readonly { after: CustomerKey }[]): Promise<void> {
    return this.keys.replace(
      masterId,
      rows.map((it) => it.after),
    );
  }
}
