import { Injectable } from '@nestjs/common';
import { CleaveError, type Stock } from '#contracts';
import { refuseRepeats } from '../domain/refuse-repeats.js';

export interface StockCount {
  product_id: string;
  on_hand: number;
}

export type CountOutcome =
  | { outcome: 'counted'; stock: Stock[] }
  | { outcome: 'unknown'; productIds: string[] }
  | { outcome: 'below-reserved'; below: { product_id: string; on_hand: number; reserved: number }[] };

/** Sets the stock on hand, for all counted products or for none. */
export abstract class StockCounts {
  abstract count(tenant: string, counts: readonly StockCount[]): Promise<CountOutcome>;
}

/** Takes a physical count of stock. */
@Injectable()
export class CountStock {
  constructor(private readonly counts: StockCounts) {}

  async execute(tenant: string, counts: readonly StockCount[]): Promise<Stock[]> {
    refuseRepeats(
      counts.map((it) => it.product_id),
      'stock',
    );
    const result = await this.counts.count(tenant, counts);
    if (result.outcome === 'counted') return result.stock;
    if (result.outcome === 'unknown')
      throw new CleaveError('product-not-found', 'Create the product before you set its stock.', {
        product_ids: result.productIds,
      });
    throw new CleaveError(
      'stock-below-reserved',
      'The count is lower than the number of units that are reserved for orders. Cancel orders first, or count again.',
      {
        products: result.below.map(({ product_id, on_hand, reserved }) => ({ product_id, counted: on_hand, reserved })),
      },
    );
  }
}
