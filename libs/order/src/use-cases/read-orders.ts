import { Injectable } from '@nestjs/common';
import { CleaveError, cutPage, type OrderStatus, type Page, type PaymentDocument } from '#contracts';
import { noSuchOrder, type HistoryEntry, type Order } from '../domain/order.js';

export interface OrderFilter {
  customerId?: string | undefined;
  status?: OrderStatus | undefined;
  reference?: string | undefined;
  /** Inclusive. */
  createdFrom?: Date | undefined;
  /** Exclusive. */
  createdBefore?: Date | undefined;
}

export abstract class OrderReader {
  abstract find(tenant: string, orderId: string): Promise<Order | undefined>;
  /** At most `limit` orders, newest first, older than `before`; fewer if they reach `pageLines` lines. */
  abstract page(tenant: string, filter: OrderFilter, before: string | undefined, limit: number): Promise<Order[]>;
  /**
   * At most `limit` entries of an order, oldest first, after the version `after`; fewer if they reach `pageLines` lines.
   */
  abstract history(tenant: string, orderId: string, after: number, limit: number): Promise<HistoryEntry[]>;
}

/** So that a page of large orders, or of large hand-overs, takes neither the memory nor the time of others. */
export const pageLines = 20_000;

/** Looks up payments, which the payment module keeps. */
export abstract class PaymentLookup {
  abstract of(tenant: string, orderId: string): Promise<PaymentDocument | undefined>;
}

/** Reads orders: one, many, or the history or the payment of one. */
@Injectable()
export class ReadOrders {
  constructor(
    private readonly orders: OrderReader,
    private readonly payments: PaymentLookup,
  ) {}

  async one(tenant: string, orderId: string): Promise<Order> {
    const order = await this.orders.find(tenant, orderId);
    if (!order) throw noSuchOrder(orderId);
    return order;
  }

  async list(tenant: string, filter: OrderFilter, before: string | undefined, limit: number): Promise<Page<Order>> {
    const found = await this.orders.page(tenant, filter, before, limit + 1);
    const isCut = found.length > limit || linesOf(found) >= pageLines;
    return cutPage(found, limit, (it) => it.order_id, isCut);
  }

  /** @param after the last version that the caller has; 0 for none */
  async history(tenant: string, orderId: string, after: number, limit: number): Promise<HistoryPage> {
    const found = await this.orders.history(tenant, orderId, after, limit + 1);
    // Every order has entries, so perhaps there is no such order.
    if (found.length === 0) await this.one(tenant, orderId);
    return historyPageOf(found, limit);
  }

  async payment(tenant: string, orderId: string): Promise<PaymentDocument> {
    const { payment_method } = await this.one(tenant, orderId);
    const payment = payment_method === null ? undefined : await this.payments.of(tenant, orderId);
    if (payment) return payment;
    const why =
      payment_method === null
        ? 'The order is not paid through Cleave.'
        : 'The payment was not sent to the provider yet. Try again in a moment.';
    throw new CleaveError('payment-not-found', why);
  }
}

const linesOf = (orders: readonly Order[]): number => orders.reduce((sum, it) => sum + it.lines.length, 0);

/** Entries of a history, and the last version among them. */
export type HistoryPage = Page<HistoryEntry, number>;

/** @param found one entry more than `limit`; fewer if they have `pageLines` lines or there are no more */
export const historyPageOf = (found: readonly HistoryEntry[], limit: number): HistoryPage => {
  const isCut = found.length > limit || toldLinesOf(found) >= pageLines;
  return cutPage(found, limit, (it) => it.version, isCut);
};

/** The total number of lines in entries of a history. */
export const toldLinesOf = (entries: readonly HistoryEntry[]): number =>
  entries.reduce((sum, { data }) => sum + (data.lines?.length ?? 0), 0);
