import { Injectable } from '@nestjs/common';
import { CleaveError } from '#contracts';

/** Remembers which database of orders the holds belong to. */
export abstract class OrdersServed {
  /** @returns the id that was stored first */
  abstract keepFirst(ordersId: string): Promise<string>;
}

/**
 * Binds inventory to one database of orders, which decides about overdue holds and branches in doubt: a second one would not
 * know the orders of the first, and would release their stock.
 */
@Injectable()
export class JoinOrders {
  constructor(private readonly served: OrdersServed) {}

  /** @throws CleaveError `unavailable` for any database but the first */
  async execute(ordersId: string): Promise<void> {
    const served = await this.served.keepFirst(ordersId);
    if (served === ordersId) return;
    throw new CleaveError(
      'unavailable',
      'This inventory holds stock for another database of orders. Operators find instructions in docs/operations.md, "Another database of orders".',
      { serves: served },
    );
  }
}
