import { Injectable } from '@nestjs/common';
import type { Stock } from '#contracts';
import { pageById, type PageById } from './page-by-id.js';

export abstract class StockList {
  /** The stock of at most `limit` products in the order of their ids, those after `after`. */
  abstract page(tenant: string, after: string | undefined, limit: number): Promise<Stock[]>;
}

/** Lists the stock of products page by page, in the order of their ids. */
@Injectable()
export class ListStock {
  constructor(private readonly list: StockList) {}

  execute(tenant: string, after: string | undefined, limit: number): Promise<PageById<Stock>> {
    return pageById((most) => this.list.page(tenant, after, most), limit);
  }
}
