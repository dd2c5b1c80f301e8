import { Injectable } from '@nestjs/common';
import { cutPage, type Page, type Stock } from '#contracts';

export abstract class StockList {
  /** The stock of at most `limit` products in the order of their ids, those after `after`. */
  abstract page(tenant: string, after: string | undefined, limit: number): Promise<Stock[]>;
}

/** Lists the stock of products page by page, in the order of their ids. */
@Injectable()
export class ListStock {
  constructor(private readonly list: StockList) {}

  async execute(tenant: string, after: string | undefined, limit: number): Promise<Page<Stock>> {
    return cutPage(await this.list.page(tenant, after, limit + 1), limit, (it) => it.product_id);
  }
}
