import { Injectable } from '@nestjs/common';
import { CleaveError } from '#contracts';

/** Remembers whose holds these are. */
export abstract class OrdersServed {
  /** @returns the one that was kept first */
  abstract keepFirst(ordersId: string): Promise<string>;
}

/**
 * Holds stock for one database of orders. Holds that are overdue and batches in doubt are decided by what lies there: a
 * second one would know nothing of the orders of the first, and give their stock back.
 */
@Injectable()
export class JoinOrders {
  constructor(private readonly served: OrdersServed) {}

  /** @throws CleaveError `unavailable` for any but the first */
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
