import { Injectable } from '@nestjs/common';
import { CountStock } from './count-stock.js';
import { ProductCatalogue, PutProducts } from './put-products.js';

const demoProducts = [
  { product_id: 'demo-mug', name: 'Mug, white', unit_price_minor: 850, currency: 'GBP', on_hand: 1_000 },
  { product_id: 'demo-lamp', name: 'Desk lamp', unit_price_minor: 4_250, currency: 'GBP', on_hand: 250 },
  { product_id: 'demo-poster', name: 'Poster, the last three', unit_price_minor: 1_500, currency: 'GBP', on_hand: 3 },
];

/** Gives an empty catalogue a few products, so that a first order can be placed at once. */
@Injectable()
export class StockDemoProducts {
  constructor(
    private readonly catalogue: ProductCatalogue,
    private readonly putProducts: PutProducts,
    private readonly countStock: CountStock,
  ) {}

  async execute(tenant: string): Promise<void> {
    if (!(await this.catalogue.isEmpty(tenant))) return;
    await this.putProducts.execute(
      tenant,
      demoProducts.map(({ on_hand: _, ...product }) => product),
    );
    await this.countStock.execute(tenant, demoProducts);
  }
}
