import { Injectable } from '@nestjs/common';
import type { PaymentProvider, ProviderOutcome, ProviderRequest } from '../use-cases/perform-operations.js';

/** Invoices: people move the money, and whoever requests an operation states that it was done. */
@Injectable()
export class ManualProvider implements PaymentProvider {
  perform(_tenant: string, requests: readonly ProviderRequest[]): Promise<ProviderOutcome[]> {
    return Promise.resolve(requests.map(() => ({ outcome: 'succeeded' })));
  }
}
