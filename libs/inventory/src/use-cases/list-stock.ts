import { Injectable } from '@nestjs/common';
import type { Stock } from '#contracts';

export abstract class StockList {
  /** The stock of at most `limit` products in the order of their ids, those after `after`. */
  abstract page(tenant: string, after: string | undefined, limit: number): Promise<Stock[]>;
}

/** Lists the stock of products page by page, in the order of their ids. */
@Injectable()
export class ListStock {
  constructor(private readonly list: StockList) {}

  async execute(
    tenant: string,
    after: string | undefined,
    limit: number,
  ): Promise<{ data: Stock[]; last: string | null }> {
    // One more than asked for tells whether there is a next page.
    const found = await this.list.page(tenant, after, limit + 1);
    const data = found.slice(0, limit);
    return { data, last: found.length > limit ? (data.at(-1)?.product_id ?? null) : null };
  }
}
