import type { inventoryContract } from '#contracts';
import type { ContractClient } from '#messaging';
import type { StockLookup } from '../use-cases/read-sales.js';

/** Stock in the inventory module, wherever that runs. */
export class MessagingStock implements StockLookup {
  constructor(private readonly inventory: ContractClient<typeof inventoryContract>) {}

  async availableOf(tenant: string, productId: string): Promise<number | undefined> {
    const { stock } = await this.inventory.call('stock', { product_id: productId }, { metadata: { tenant } });
    return stock?.available;
  }
}
