import { Injectable } from '@nestjs/common';
import type { PaymentMethod } from '#contracts';
import { Payments, type Open, type ProviderOutcome, type SettledOperation } from './perform-operations.js';

/** What a provider says by itself of the payment of an order. */
export interface ProviderNotice {
  method: PaymentMethod;
  tenant: string;
  orderId: string;
  /** What it says of an operation. */
  outcomeOf(operation: Open): ProviderOutcome;
}

/** Understands what providers say. */
export abstract class ProviderNotices {
  /**
   * Makes sure who says it, and keeps what the provider calls the payment.
   *
   * @param body as it came, which is what was signed
   * @returns undefined where it is not about a payment of ours
   * @throws CleaveError `not-found` where nobody is listened to, `invalid-signature`, `invalid-request`
   */
  abstract receive(body: Buffer, signature: string | undefined): Promise<ProviderNotice | undefined>;
}

/**
 * Settles what a provider has decided without being asked. It may say so before it answers us, afterwards, twice and in
 * any order: only what is open is settled.
 */
@Injectable()
export class HearFromProvider {
  constructor(
    private readonly notices: ProviderNotices,
    private readonly payments: Payments,
  ) {}

  async execute(body: Buffer, signature: string | undefined): Promise<void> {
    const notice = await this.notices.receive(body, signature);
    if (notice) await this.settle(notice);
  }

  async settle(notice: ProviderNotice): Promise<void> {
    const { tenant, orderId } = notice;
    const settled: SettledOperation[] = [];
    for (const operation of await this.payments.underWay(tenant, [orderId])) {
      if (operation.method !== notice.method) continue;
      const outcome = notice.outcomeOf(operation);
      if (outcome.outcome !== 'open') settled.push({ operationId: operation.operationId, orderId, outcome });
    }
    if (settled.length > 0) await this.payments.settle(tenant, settled);
  }
}
