import { Injectable } from '@nestjs/common';
import { CleaveError, inOtherInventory } from '#contracts';

/** Remembers which database of orders the holds belong to. */
export abstract class OrdersServed {
  /** @returns the id that was stored first */
  abstract keepFirst(ordersId: string): Promise<string>;
  /** @returns the id of this database, which a copy of it keeps */
  abstract ownId(): Promise<string>;
}

/**
 * Binds inventory to one database of orders, which decides about overdue holds and branches in doubt: a second one would not
 * know the orders of the first, and would release their stock.
 */
@Injectable()
export class JoinOrders {
  private ownId: string | undefined;

  constructor(private readonly served: OrdersServed) {}

  /**
   * @returns the id of the database of inventory
   * @throws CleaveError `unavailable` for any database but the first
   */
  async execute(ordersId: string): Promise<string> {
    const served = await this.served.keepFirst(ordersId);
    if (served === ordersId) return this.served.ownId();
    throw new CleaveError(
      'unavailable',
      'This inventory holds stock for another database of orders. Operators find instructions in docs/operations.md, "Another database of orders".',
      { serves: served },
    );
  }

  /**
   * Orders may have joined another instance, or this one before it was restarted on another database.
   *
   * @param inventoryId the database of inventory that orders mean; undefined from an older version
   * @throws CleaveError `unavailable` if it is not this one
   */
  async refuseOthers(inventoryId: string | undefined): Promise<void> {
    if (inventoryId === undefined || inventoryId === this.ownId) return;
    this.ownId = await this.served.ownId();
    if (inventoryId === this.ownId) return;
    throw new CleaveError('unavailable', inOtherInventory);
  }
}
