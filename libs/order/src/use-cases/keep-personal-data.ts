import { Injectable } from '@nestjs/common';
import { CleaveError, type OrderInFull, type PersonalData } from '#contracts';
import { MasterKeys, notKept, type WrappedKey } from '../domain/master-keys.js';
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
  /** The key of each customer: the one that is kept, or from now on the one that is offered. */
  abstract keysFor(tenant: string, offered: ReadonlyMap<string, WrappedKey>): Promise<ReadonlyMap<string, WrappedKey>>;
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
    const customers = [...new Set(personal.map(({ command }) => command.customerId))];
    const offered = new Map(customers.map((customerId) => [customerId, this.masters.newKey({ tenant, customerId })]));
    const kept = await this.keys.keysFor(tenant, offered);
    return new Map(
      personal.map(({ command: { customerId, personal }, order: { order_id } }) => {
        const key = this.masters.unwrap({ tenant, customerId }, kept.get(customerId)!);
        return [order_id, sealPersonalData(key, tenant, order_id, personal!)];
      }),
    );
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
