import { Injectable } from '@nestjs/common';
import { CleaveError, limits, type ExportedOrder, type PaymentDocument } from '#contracts';
import type { HistoryEntry } from '../domain/order.js';
import type { Customer } from '../domain/personal-data.js';
import { KeepPersonalData, type KeptOrder } from './keep-personal-data.js';
import { PaymentLookup, historyPageOf, type HistoryPage } from './read-orders.js';

/** What is kept of customers. */
export abstract class CustomerData {
  /**
   * At most `limit` of their orders, newest first, those older than `before`; none more once they and their histories have
   * `pageLines` lines.
   */
  abstract ordersOf(
    customer: Customer,
    before: string | undefined,
    limit: number,
  ): Promise<{ orders: KeptOrder[]; isMore: boolean }>;
  /** The first entries of each order, oldest first, as `OrderReader.history` gives them. */
  abstract histories(
    tenant: string,
    orderIds: readonly string[],
    limit: number,
  ): Promise<ReadonlyMap<string, HistoryEntry[]>>;
  /** @returns whether there was one */
  abstract destroyKey(customer: Customer): Promise<boolean>;
  /** Whether there are orders of theirs. */
  abstract isKnown(customer: Customer): Promise<boolean>;
}

/** An order with the first page of its history. */
type Exported = Omit<ExportedOrder, 'history' | 'history_cursor'> & { history: HistoryPage };

/** Payments that are asked for at once. */
const atOnce = 8;

/** Exports what is kept about a customer, and erases their personal data. */
@Injectable()
export class ServeCustomers {
  constructor(
    private readonly customers: CustomerData,
    private readonly personalData: KeepPersonalData,
    private readonly payments: PaymentLookup,
  ) {}

  /** @throws CleaveError `customer-not-found` */
  async export(
    customer: Customer,
    before: string | undefined,
    limit: number,
  ): Promise<{ data: Exported[]; last: string | null }> {
    const { tenant } = customer;
    const { orders, isMore } = await this.customers.ordersOf(customer, before, limit);
    if (orders.length === 0 && before === undefined) throw noSuchCustomer();
    const page = orders.map((it) => this.personalData.open(tenant, it));
    const ids = page.map((it) => it.order_id);
    const histories = await this.customers.histories(tenant, ids, limits.page + 1);
    const payments = await this.paymentsOf(
      tenant,
      page.flatMap((it) => (it.payment_method === null ? [] : it.order_id)),
    );
    const data = page.map((it) => ({
      ...it,
      history: historyPageOf(histories.get(it.order_id) ?? [], limits.page),
      payment: payments.get(it.order_id) ?? null,
    }));
    return { data, last: isMore ? (ids.at(-1) ?? null) : null };
  }

  /**
   * Destroys the key of a customer: what was sealed by it can be opened by nobody. An order that is placed meanwhile is
   * erased with the others or comes with another key.
   *
   * @returns whether there was one
   * @throws CleaveError `customer-not-found` where there is neither a key nor an order
   */
  async erase(customer: Customer): Promise<boolean> {
    if (await this.customers.destroyKey(customer)) return true;
    if (await this.customers.isKnown(customer)) return false;
    throw noSuchCustomer();
  }

  private async paymentsOf(tenant: string, orderIds: readonly string[]): Promise<Map<string, PaymentDocument>> {
    const found = new Map<string, PaymentDocument>();
    const waiting = [...orderIds];
    const ask = async (): Promise<void> => {
      for (let orderId = waiting.pop(); orderId !== undefined; orderId = waiting.pop()) {
        const payment = await this.payments.of(tenant, orderId);
        // What a customer has to do with a provider is nobody else's to be told.
        if (payment) found.set(orderId, { ...payment, customer_action: null });
      }
    };
    await Promise.all(Array.from({ length: atOnce }, ask));
    return found;
  }
}

const noSuchCustomer = (): CleaveError =>
  new CleaveError('customer-not-found', 'There are no orders of a customer with this id.');
