import { Injectable, Logger } from '@nestjs/common';
import type { CustomerAction, PaymentDocument } from '#contracts';
import { PaymentProviders } from './perform-operations.js';

export abstract class PaymentReader {
  abstract find(tenant: string, orderId: string): Promise<Omit<PaymentDocument, 'customer_action'> | undefined>;
}

/** Reads the payment of an order, and what it waits for. */
@Injectable()
export class ReadPayment {
  private readonly logger = new Logger(ReadPayment.name);

  constructor(
    private readonly payments: PaymentReader,
    private readonly providers: PaymentProviders,
  ) {}

  async execute(tenant: string, orderId: string): Promise<PaymentDocument | undefined> {
    const payment = await this.payments.find(tenant, orderId);
    return payment && { ...payment, customer_action: await this.customerAction(tenant, payment) };
  }

  /** Only the provider knows it, and it may be unreachable: the rest is returned all the same. */
  private async customerAction(
    tenant: string,
    { method, operations }: Pick<PaymentDocument, 'method' | 'operations'>,
  ): Promise<CustomerAction | null> {
    const open = operations.find((it) => it.kind === 'authorise' && it.state === 'open');
    if (!open) return null;
    try {
      return (await this.providers.of(method).customerAction?.(open.operation_id, tenant)) ?? null;
    } catch (error) {
      this.logger.warn(`${method} did not return the customer action of a payment (${String(error)})`);
      return null;
    }
  }
}
