import { Injectable } from '@nestjs/common';
import { CleaveError, type OrderInFull, type PersonalData } from '#contracts';
import { MasterKeys } from '#security';
import { noSuchOrder, type Order } from '../domain/order.js';
import {
  areSamePersonalData,
  type Customer,
  type DataKey,
  type SealedPersonalData,
  type WrappedKey,
} from '../domain/personal-data.js';
import type { PlacementCommand } from '../domain/placement.js';
import { newKey, notKept, openPersonalData, sealPersonalData, unwrap } from './customer-keys.js';

/** A stored order with its encrypted personal data and the key to it; the key is null once it was destroyed. */
export interface KeptOrder {
  order: Order;
  sealed: { personal: Buffer; key: WrappedKey | null } | null;
}

/** Stores the data keys of customers. */
export abstract class CustomerKeys {
  /** The keys that exist, by customer. */
  abstract keysOf(tenant: string, customerIds: readonly string[]): Promise<ReadonlyMap<string, WrappedKey>>;
  /** @returns the key of each customer from now on: the offered one, unless another process was faster */
  abstract addKeys(tenant: string, offered: ReadonlyMap<string, WrappedKey>): Promise<ReadonlyMap<string, WrappedKey>>;
  abstract keptOrders(tenant: string, orderIds: readonly string[]): Promise<KeptOrder[]>;
}

/** For each customer who has a key: the key, or why it cannot be used. */
export type FoundKeys = ReadonlyMap<string, DataKey | CleaveError>;

/** An order that is about to be recorded. */
interface Recordable {
  command: PlacementCommand;
  order: Order;
}

/**
 * Encrypts and decrypts the personal data of orders, with a key for each customer. Keys are read from the database each time
 * and never cached, so a destroyed key is gone in every process at once.
 */
@Injectable()
export class KeepPersonalData {
  constructor(
    private readonly keys: CustomerKeys,
    private readonly masters: MasterKeys,
  ) {}

  /** The data keys of these customers, to be read before stock is held: what cannot be encrypted is refused then. */
  async keysOf(tenant: string, customerIds: readonly string[]): Promise<FoundKeys> {
    if (!this.masters.newest) return new Map(customerIds.map((customerId) => [customerId, notKept()]));
    const kept = await this.keys.keysOf(tenant, customerIds);
    return new Map([...kept].map(([customerId, key]) => [customerId, this.unwrapped({ tenant, customerId }, key)]));
  }

  /**
   * Encrypts the personal data of a batch, by order, with a new key for each customer who has none. Orders are missing from
   * the result if another process has just made a key for their customer that cannot be unwrapped here.
   */
  async seal(
    tenant: string,
    records: readonly Recordable[],
    found: FoundKeys,
  ): Promise<ReadonlyMap<string, SealedPersonalData> | undefined> {
    const personal = records.filter((it) => it.command.personal !== null);
    if (personal.length === 0) return undefined;
    const customerIds = new Set(personal.map(({ command }) => command.customerId));
    const made = await this.newKeys(tenant, [...customerIds.difference(found)]);
    const sealed = new Map<string, SealedPersonalData>();
    for (const { command, order } of personal) {
      const key = found.get(command.customerId) ?? made.get(command.customerId)!;
      if (key instanceof CleaveError) continue;
      sealed.set(order.order_id, sealPersonalData(key, tenant, order.order_id, command.personal!));
    }
    return sealed;
  }

  private async newKeys(tenant: string, customerIds: readonly string[]): Promise<FoundKeys> {
    if (customerIds.length === 0) return new Map();
    const made = new Map(customerIds.map((customerId) => [customerId, newKey(this.masters, { tenant, customerId })]));
    const offered = new Map([...made].map(([customerId, { wrapped }]) => [customerId, wrapped]));
    const kept = await this.keys.addKeys(tenant, offered);
    return new Map(
      [...kept].map(([customerId, key]) => {
        const own = made.get(customerId)!.key;
        return [customerId, key.keyId === own.keyId ? own : this.unwrapped({ tenant, customerId }, key)];
      }),
    );
  }

  private unwrapped(customer: Customer, key: WrappedKey): DataKey | CleaveError {
    try {
      return unwrap(this.masters, customer, key);
    } catch (error) {
      if (error instanceof CleaveError) return error;
      throw error;
    }
  }

  /** @throws CleaveError `order-not-found`, or as `open` does */
  async one(tenant: string, orderId: string): Promise<OrderInFull> {
    const [kept] = await this.keys.keptOrders(tenant, [orderId]);
    if (!kept) throw noSuchOrder(orderId);
    return this.open(tenant, kept);
  }

  /** @throws CleaveError `data-key-missing` if the key exists, but its master key is not configured */
  open(tenant: string, { order, sealed }: KeptOrder): OrderInFull {
    if (!sealed) return order;
    if (!sealed.key) return { ...order, personal: 'erased' };
    const key = unwrap(this.masters, { tenant, customerId: order.customer_id }, sealed.key);
    return { ...order, personal: 'kept', ...openPersonalData(key, tenant, order.order_id, sealed.personal) };
  }

  /** The orders that were placed with other personal data; what is erased, or cannot be decrypted here, counts as equal. */
  async differing(
    tenant: string,
    placed: readonly { orderId: string; personal: PersonalData }[],
  ): Promise<ReadonlySet<string>> {
    const kept = await this.keys.keptOrders(
      tenant,
      placed.map((it) => it.orderId),
    );
    const byId = new Map(kept.map((it) => [it.order.order_id, it]));
    const differing = placed.filter(({ orderId, personal }) => {
      const { order, sealed } = byId.get(orderId)!;
      if (!sealed?.key) return false;
      const key = this.unwrapped({ tenant, customerId: order.customer_id }, sealed.key);
      if (key instanceof CleaveError) return false;
      return !areSamePersonalData(openPersonalData(key, tenant, orderId, sealed.personal), personal);
    });
    return new Set(differing.map((it) => it.orderId));
  }
}
