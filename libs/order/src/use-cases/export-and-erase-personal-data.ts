import { Injectable } from '@nestjs/common';
import { mapConcurrently } from '#admission';
import { CleaveError, limits, type ExportedOrder, type Page, type PaymentDocument } from '#contracts';
import type { HistoryEntry } from '../domain/order.js';
import type { Customer } from '../domain/personal-data.js';
import { KeepPersonalData, type KeptOrder } from './keep-personal-data.js';
import { PaymentLookup, historyPageOf, type HistoryPage } from './read-orders.js';

/** The stored data of customers. */
export abstract class CustomerData {
  /**
   * At most `limit` of their orders, newest first, older than `before`; fewer if they and their histories reach `pageLines`
   * lines.
   */
  abstract ordersOf(
    customer: Customer,
    before: string | undefined,
    limit: number,
  ): Promise<{ orders: KeptOrder[]; isMore: boolean }>;
  /** The first entries of each order, oldest first, limited as in `OrderReader.history`. */
  abstract histories(
    tenant: string,
    orderIds: readonly string[],
    limit: number,
  ): Promise<ReadonlyMap<string, HistoryEntry[]>>;
  /** @returns whether there was a key */
  abstract destroyKey(customer: Customer): Promise<boolean>;
  /** Whether the customer has any orders. */
  abstract isKnown(customer: Customer): Promise<boolean>;
}

/** An order with the first page of its history. */
type Exported = Omit<ExportedOrder, 'history' | 'history_cursor'> & { history: HistoryPage };

/** How many payments are looked up at once. */
const atOnce = 8;

/** Exports what is kept about a customer, and erases their personal data. */
@Injectable()
export class ExportAndErasePersonalData {
  constructor(
    private readonly customers: CustomerData,
    private readonly personalData: KeepPersonalData,
    private readonly payments: PaymentLookup,
  ) {}

  /** @throws CleaveError `customer-not-found` */
  async export(customer: Customer, before: string | undefined, limit: number): Promise<Page<Exported>> {
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
   * Destroys the data key of a customer, so that nobody can decrypt what it encrypted. An order that is placed meanwhile is
   * either erased with the others or encrypted with a new key.
   *
   * @returns whether there was a key
   * @throws CleaveError `customer-not-found` if there is neither a key nor an order
   */
  async erase(customer: Customer): Promise<boolean> {
    if (await this.customers.destroyKey(customer)) return true;
    if (await this.customers.isKnown(customer)) return false;
    throw noSuchCustomer();
  }

  private async paymentsOf(tenant: string, orderIds: readonly string[]): Promise<Map<string, PaymentDocument>> {
    const found = await mapConcurrently(orderIds, atOnce, (orderId) => this.payments.of(tenant, orderId));
    // What the customer has to do at the provider is not for anybody else to see.
    return new Map(found.flatMap((it) => (it ? [[it.order_id, { ...it, customer_action: null }] as const] : [])));
  }
}

const noSuchCustomer = (): CleaveError =>
  new CleaveError('customer-not-found', 'There are no orders of a customer with this id.');
