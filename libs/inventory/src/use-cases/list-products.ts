import { Injectable } from '@nestjs/common';
import type { Product } from '#contracts';
import { pageById, type PageById } from './page-by-id.js';

export abstract class ProductList {
  /** At most `limit` products in the order of their ids, those after `after`. */
  abstract page(tenant: string, after: string | undefined, limit: number): Promise<Product[]>;
}

/** Lists products page by page, in the order of their ids. */
@Injectable()
export class ListProducts {
  constructor(private readonly list: ProductList) {}

  execute(tenant: string, after: string | undefined, limit: number): Promise<PageById<Product>> {
    return pageById((most) => this.list.page(tenant, after, most), limit);
  }
}
