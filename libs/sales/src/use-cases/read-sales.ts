import { Injectable } from '@nestjs/common';
import { CleaveError, cutPage, type Page, type SalesOfDay, type StockOutlook } from '#contracts';
import { outlookOf, windowBefore } from '../domain/sales.js';

export interface SalesFilter {
  productId: string | undefined;
  from: string | undefined;
  to: string | undefined;
}

/** The row after which a list continues. */
export type SalesKey = Pick<SalesOfDay, 'day' | 'product_id' | 'currency'>;

export abstract class SalesReader {
  /** Latest days first. */
  abstract page(
    tenant: string,
    filter: SalesFilter,
    before: SalesKey | undefined,
    limit: number,
  ): Promise<SalesOfDay[]>;
  /** Units of a product sold from one day to another, both included. */
  abstract sold(tenant: string, productId: string, from: string, to: string): Promise<number>;
}

export abstract class StockLookup {
  /** @returns undefined for an unknown product */
  abstract availableOf(tenant: string, productId: string): Promise<number | undefined>;
}

const windowDays = 28;

/** Reports what was sold, and how long the stock will last. */
@Injectable()
export class ReadSales {
  constructor(
    private readonly sales: SalesReader,
    private readonly stock: StockLookup,
  ) {}

  async list(
    tenant: string,
    filter: SalesFilter,
    before: SalesKey | undefined,
    limit: number,
  ): Promise<Page<SalesOfDay, SalesKey>> {
    const found = await this.sales.page(tenant, filter, before, limit + 1);
    return cutPage(found, limit, ({ day, product_id, currency }) => ({ day, product_id, currency }));
  }

  async outlook(tenant: string, productId: string): Promise<StockOutlook> {
    const now = new Date();
    const available = await this.stock.availableOf(tenant, productId);
    if (available === undefined)
      throw new CleaveError('product-not-found', `There is no product ${productId}.`, { product_ids: [productId] });
    const { from, to } = windowBefore(now, windowDays);
    const sold = await this.sales.sold(tenant, productId, from, to);
    return outlookOf(productId, available, sold, windowDays, now);
  }
}
