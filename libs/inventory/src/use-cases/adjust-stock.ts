import { Injectable } from '@nestjs/common';
import { CleaveError, limits, type Stock } from '#contracts';

export interface StockAdjustment {
  productId: string;
  delta: number;
  reason: string;
  account: string;
  idempotencyKey: string;
}

export type AdjustmentOutcome =
  | { outcome: 'adjusted' | 'replayed'; stock: Stock }
  | { outcome: 'unknown' | 'key-reused' }
  | { outcome: 'below' | 'above'; stock: Stock };

/** Changes the stock on hand by a difference, once per idempotency key. */
export abstract class StockAdjustments {
  abstract adjust(tenant: string, adjustment: StockAdjustment): Promise<AdjustmentOutcome>;
}

/** Corrects the stock of a product by a difference, with a reason. */
@Injectable()
export class AdjustStock {
  constructor(private readonly adjustments: StockAdjustments) {}

  async execute(tenant: string, adjustment: StockAdjustment): Promise<{ stock: Stock; replayed: boolean }> {
    const result = await this.adjustments.adjust(tenant, adjustment);
    switch (result.outcome) {
      case 'adjusted':
      case 'replayed':
        return { stock: result.stock, replayed: result.outcome === 'replayed' };
      case 'unknown':
        throw new CleaveError('product-not-found', 'Create the product before you adjust its stock.', {
          product_ids: [adjustment.productId],
        });
      case 'key-reused':
        throw new CleaveError('idempotency-key-reused', 'The key was used for another adjustment. Choose a new one.');
      case 'below':
        throw new CleaveError(
          'stock-below-reserved',
          'The adjustment would remove units that are reserved for orders. Cancel orders first, or remove fewer units.',
          { products: [result.stock] },
        );
      case 'above':
        throw new CleaveError('invalid-request', `The stock of a product cannot exceed ${limits.onHand} units.`, {
          faults: [{ path: 'delta', message: 'would raise the stock above its limit' }],
        });
    }
  }
}
