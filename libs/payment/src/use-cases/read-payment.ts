import { Injectable } from '@nestjs/common';
import type { PaymentDocument } from '#contracts';

export abstract class PaymentReader {
  abstract find(tenant: string, orderId: string): Promise<PaymentDocument | undefined>;
}

/** Tells what became of the payment of an order. */
@Injectable()
export class ReadPayment {
  constructor(private readonly payments: PaymentReader) {}

  execute(tenant: string, orderId: string): Promise<PaymentDocument | undefined> {
    return this.payments.find(tenant, orderId);
  }
}
