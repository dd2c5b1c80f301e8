import { Injectable } from '@nestjs/common';
import { cutPage, type Page, type Product } from '#contracts';

export abstract class ProductList {
  /** At most `limit` products in the order of their ids, those after `after`. */
  abstract page(tenant: string, after: string | undefined, limit: number): Promise<Product[]>;
}

/** Lists products page by page, in the order of their ids. */
@Injectable()
export class ListProducts {
  constructor(private readonly list: ProductList) {}

  async execute(tenant: string, after: string | undefined, limit: number): Promise<Page<Product>> {
    return cutPage(await this.list.page(tenant, after, limit + 1), limit, (it) => it.product_id);
  }
}
