import { Injectable } from '@nestjs/common';
import { KeyRotation, MasterKeys } from '#security';
import type { Customer, WrappedKey } from '../domain/personal-data.js';
import { rewrap } from './customer-keys.js';

type CustomerKey = Customer & WrappedKey;

/** The keys of all customers, by what they are wrapped by. */
export abstract class WrappedKeys {
  abstract mastersInUse(): Promise<string[]>;
  /** At most `limit` of those wrapped by a master key, in the order of their customers, those behind `after`. */
  abstract wrappedBy(masterId: string, after: Customer | undefined, limit: number): Promise<CustomerKey[]>;
  /** Those that are still wrapped by that master key. Others may do the same at the same time. */
  abstract replace(masterId: string, keys: readonly CustomerKey[]): Promise<void>;
}

/** Wraps the keys of customers by the newest master key. */
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
