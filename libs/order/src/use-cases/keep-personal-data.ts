import { Injectable } from '@nestjs/common';
import { CleaveError, type OrderInFull, type PersonalData } from '#contracts';
import { MasterKeys, notKept, type DataKey, type WrappedKey } from '../domain/master-keys.js';
import { noSuchOrder, type Order } from '../domain/order.js';
import {
  areSamePersonalData,
  openPersonalData,
  sealPersonalData,
  type SealedPersonalData,
} from '../domain/personal-data.js';
import type { PlacementCommand } from '../domain/placement.js';

/** An order as it is kept, with what is sealed of it and what opens that: null where it was destroyed. */
export interface KeptOrder {
  order: Order;
  sealed: { personal: Buffer; key: WrappedKey | null } | null;
}

/** Keeps the keys of customers. */
export abstract class CustomerKeys {
  /** Those that are there, by customer. */
  abstract keysOf(tenant: string, customerIds: readonly string[]): Promise<ReadonlyMap<string, WrappedKey>>;
  /** @returns the key of each customer from now on: the one that is offered, unless somebody was faster */
  abstract addKeys(tenant: string, offered: ReadonlyMap<string, WrappedKey>): Promise<ReadonlyMap<string, WrappedKey>>;
  abstract keptOrders(tenant: string, orderIds: readonly string[]): Promise<KeptOrder[]>;
}

/** Of an order that is about to be recorded. */
interface Recordable {
  command: PlacementCommand;
  order: Order;
}

/**
 * Seals what orders tell of persons, each customer's by a key of its own, and opens it. Keys are asked for each time and
 * remembered nowhere: one that is destroyed is gone in every process at once.
 */
@Injectable()
export class KeepPersonalData {
  constructor(
    private readonly keys: CustomerKeys,
    private readonly masters: MasterKeys,
  ) {}

  /** @throws CleaveError `personal-data-not-kept` where nothing can be encrypted */
  assertCanBeKept(): void {
    if (!this.masters.newest) throw notKept();
  }

  /** What there is to be sealed in a batch, by order. */
  async seal(
    tenant: string,
    records: readonly Recordable[],
  ): Promise<ReadonlyMap<string, SealedPersonalData> | undefined> {
    const personal = records.filter((it) => it.command.personal !== null);
    if (personal.length === 0) return undefined;
    const keys = await this.dataKeys(tenant, [...new Set(personal.map(({ command }) => command.customerId))]);
    return new Map(
      personal.map(({ command: { customerId, personal }, order: { order_id } }) => [
        order_id,
        sealPersonalData(keys.get(customerId)!, tenant, order_id, personal!),
      ]),
    );
  }

  /** The key of each customer, made where there is none yet. */
  private async dataKeys(tenant: string, customerIds: readonly string[]): Promise<ReadonlyMap<string, DataKey>> {
    const keys = new Map<string, DataKey>();
    const kept = await this.keys.keysOf(tenant, customerIds);
    for (const [customerId, key] of kept) keys.set(customerId, this.masters.unwrap({ tenant, customerId }, key));
    const made = new Map(
      customerIds
        .filter((it) => !kept.has(it))
        .map((customerId) => [customerId, this.masters.newKey({ tenant, customerId })]),
    );
    if (made.size === 0) return keys;
    const offered = new Map([...made].map(([customerId, { wrapped }]) => [customerId, wrapped]));
    for (const [customerId, key] of await this.keys.addKeys(tenant, offered)) {
      const own = made.get(customerId)!.key;
      keys.set(customerId, key.keyId === own.keyId ? own : this.masters.unwrap({ tenant, customerId }, key));
    }
    return keys;
  }

  /** @throws CleaveError `order-not-found`, or as `open` does */
  async one(tenant: string, orderId: string): Promise<OrderInFull> {
    const [kept] = await this.keys.keptOrders(tenant, [orderId]);
    if (!kept) throw noSuchOrder(orderId);
    return this.open(tenant, kept);
  }

  /** @throws CleaveError `unavailable` where the key is there, but not what unwraps it */
  open(tenant: string, { order, sealed }: KeptOrder): OrderInFull {
    if (!sealed) return order;
    const personal = this.opened(tenant, order, sealed);
    return personal ? { ...order, personal: 'kept', ...personal } : { ...order, personal: 'erased' };
  }

  /** The orders that were placed with other personal data; what was erased is not told from any. */
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
      const before = sealed && this.opened(tenant, order, sealed);
      return before && !areSamePersonalData(before, personal);
    });
    return new Set(differing.map((it) => it.orderId));
  }

  private opened(
    tenant: string,
    { order_id, customer_id: customerId }: Order,
    { personal, key }: NonNullable<KeptOrder['sealed']>,
  ): PersonalData | undefined {
    if (!key) return undefined;
    if (!this.masters.has(key.masterId))
      throw new CleaveError(
        'unavailable',
        `The personal data of this order are encrypted by way of the key ${key.masterId}, which DATA_KEYS does not have. ` +
          'Add it there, behind the first one.',
      );
    return openPersonalData(this.masters.unwrap({ tenant, customerId }, key), tenant, order_id, personal);
  }
}
