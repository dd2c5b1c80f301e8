import { Injectable } from '@nestjs/common';
import { CleaveError, type Stock } from '#contracts';

export abstract class StockLevels {
  abstract of(tenant: string, productId: string): Promise<Stock | undefined>;
}

/** Reads how many units of a product are on hand, and how many of them are promised. */
@Injectable()
export class ReadStock {
  constructor(private readonly levels: StockLevels) {}

  find(tenant: string, productId: string): Promise<Stock | undefined> {
    return this.levels.of(tenant, productId);
  }

  async execute(tenant: string, productId: string): Promise<Stock> {
    const stock = await this.find(tenant, productId);
    if (stock) return stock;
    throw new CleaveError('product-not-found', `There is no product ${productId}.`, { product_ids: [productId] });
  }
}
