import { Injectable } from '@nestjs/common';
import type { Product } from '#contracts';

export abstract class ProductList {
  /** At most `limit` products in the order of their ids, those after `after`. */
  abstract page(tenant: string, after: string | undefined, limit: number): Promise<Product[]>;
}

/** Lists products page by page, in the order of their ids. */
@Injectable()
export class ListProducts {
  constructor(private readonly list: ProductList) {}

  async execute(
    tenant: string,
    after: string | undefined,
    limit: number,
  ): Promise<{ data: Product[]; last: string | null }> {
    // One more than asked for tells whether there is a next page.
    const found = await this.list.page(tenant, after, limit + 1);
    const data = found.slice(0, limit);
    return { data, last: found.length > limit ? (data.at(-1)?.product_id ?? null) : null };
  }
}
