import type { PaymentDocument, PaymentRequest, paymentContract } from '#contracts';
import type { ContractClient } from '#messaging';
import type { PaymentLookup } from '../use-cases/read-orders.js';
import type { PaymentPerformer } from '../use-cases/run-sagas.js';

/** Payments in the payment module, wherever that runs. */
export class MessagingPayment implements PaymentPerformer, PaymentLookup {
  constructor(private readonly payment: ContractClient<typeof paymentContract>) {}

  async perform(tenant: string, operations: readonly PaymentRequest[]): ReturnType<PaymentPerformer['perform']> {
    const { outcomes } = await this.payment.call('perform', { operations: [...operations] }, { metadata: { tenant } });
    return outcomes;
  }

  async of(tenant: string, orderId: string): Promise<PaymentDocument | undefined> {
    const { payment } = await this.payment.call('read', { order_id: orderId }, { metadata: { tenant } });
    return payment ?? undefined;
  }
}
