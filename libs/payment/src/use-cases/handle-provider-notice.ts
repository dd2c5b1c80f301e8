import { Injectable } from '@nestjs/common';
import type { PaymentMethod } from '#contracts';
import { Payments, type Open, type ProviderOutcome, type SettledOperation } from './perform-operations.js';

/** What a provider reports about the payment of an order without being asked. */
export interface ProviderNotice {
  method: PaymentMethod;
  tenant: string;
  orderId: string;
  /** What it reports about an operation. */
  outcomeOf(operation: Open): ProviderOutcome;
}

/** Verifies and parses what providers report. */
export abstract class ProviderNotices {
  /**
   * Verifies the signature, and stores the id that the provider has given the payment.
   *
   * @param body the unparsed body, because that is what was signed
   * @returns undefined if it is not about one of our payments
   * @throws CleaveError `not-found` if no notices are expected, or `invalid-signature`
   */
  abstract receive(body: Buffer, signature: string | undefined): Promise<ProviderNotice | undefined>;
}

/**
 * Settles what a provider reports without being asked. The report may come before its answer, after it, twice and in any
 * order: only open operations are settled.
 */
@Injectable()
export class HandleProviderNotice {
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
