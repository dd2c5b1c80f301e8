import { Injectable, Logger } from '@nestjs/common';
import { roundsOf } from '#admission';
import type { CustomerAction, PaymentMethod, PaymentOutcome, PaymentRequest } from '#contracts';
import { within } from '#periodic';

/** What a provider is asked to do. The operation id is the idempotency key: a repeat is not carried out again. */
export interface ProviderRequest {
  operationId: string;
  orderId: string;
  kind: 'authorise' | 'capture' | 'refund' | 'void';
  amountMinor: number;
  currency: string;
  /** The token of the means of payment; for authorisations only. */
  token: string | null;
}

/** `open` if the provider has not decided yet, or if it is unknown what it did: the same request is repeated then. */
export type ProviderOutcome =
  { outcome: 'succeeded' } | { outcome: 'refused'; reason: string } | { outcome: 'open'; reason: string };

/** Moves the money. */
export interface PaymentProvider {
  /** @returns one outcome per request, in the given order. Rejects if nothing is known of any of them. */
  perform(tenant: string, requests: readonly ProviderRequest[]): Promise<ProviderOutcome[]>;
  /** What the customer has to do to complete an open authorisation, if anything. */
  customerAction?(operationId: string, tenant: string): Promise<CustomerAction | null>;
}

/** The providers by payment method. */
export abstract class PaymentProviders {
  abstract of(method: PaymentMethod): PaymentProvider;
}

/** The decision on an operation. `waits` means that it has to be requested again; it is not stored. */
export interface BegunOperation {
  state: 'open' | 'succeeded' | 'refused' | 'waits';
  reason: string | null;
  kind: ProviderRequest['kind'];
  amountMinor: number;
  method: PaymentMethod | null;
  token: string | null;
  currency: string | null;
}

/** A stored operation that a provider has to be asked for. */
export interface Open extends ProviderRequest {
  method: PaymentMethod;
}

export interface SettledOperation {
  operationId: string;
  orderId: string;
  outcome: Exclude<ProviderOutcome, { outcome: 'open' }>;
}

/** Shorter than our caller waits: the outcome of what a provider has not answered by then is unknown. */
const answerWithinMs = 7_000;

/** Stores payments and their operations. */
export abstract class Payments {
  /**
   * Decides which operations are allowed, and reserves their amounts.
   * @param requests at most one per order
   * @returns the decision on each, in the given order; an operation that exists already is returned as it is stored
   */
  abstract begin(tenant: string, requests: readonly PaymentRequest[]): Promise<BegunOperation[]>;
  /** The operations of these orders that providers were asked for and that are not settled. */
  abstract underWay(tenant: string, orderIds: readonly string[]): Promise<Open[]>;
  abstract settle(tenant: string, operations: readonly SettledOperation[]): Promise<void>;
}

/** Carries out operations on payments. Each is stored before the provider is asked, and settled once the provider has decided. */
@Injectable()
export class PerformOperations {
  private readonly logger = new Logger(PerformOperations.name);

  constructor(
    private readonly payments: Payments,
    private readonly providers: PaymentProviders,
  ) {}

  /** @returns the outcome of each request, in the given order */
  async execute(tenant: string, requests: readonly PaymentRequest[]): Promise<PaymentOutcome[]> {
    const outcomes = new Map<PaymentRequest, PaymentOutcome>();
    // The requests of one order are carried out one after another.
    for (const round of roundsOf(requests, (it) => it.order_id)) {
      const waiting = await this.perform(tenant, round, outcomes);
      if (waiting.length === 0) continue;
      // A reversal may have to wait for an operation of a process that has died since, which nobody asks for again.
      const orderIds = waiting.map((it) => it.order_id);
      await this.ask(tenant, await this.payments.underWay(tenant, orderIds));
      await this.perform(tenant, waiting, outcomes);
    }
    return requests.map((it) => outcomes.get(it)!);
  }

  /** @returns the requests that wait for another operation to be settled */
  private async perform(
    tenant: string,
    requests: readonly PaymentRequest[],
    outcomes: Map<PaymentRequest, PaymentOutcome>,
  ): Promise<PaymentRequest[]> {
    const begun = await this.payments.begin(tenant, requests);
    const open = new Map<PaymentRequest, Open>();
    requests.forEach((request, index) => {
      const operation = begun[index]!;
      if (operation.state === 'open') open.set(request, openOf(request, operation));
      else outcomes.set(request, outcomeOf(operation));
    });
    const answers = await this.ask(tenant, [...open.values()]);
    for (const [request, operation] of open) {
      const answer = answers.get(operation)!;
      const amount_minor = operation.amountMinor;
      outcomes.set(request, answer.outcome === 'succeeded' ? { ...answer, amount_minor } : answer);
    }
    await this.tellWhatIsKept(
      tenant,
      [...open.keys()].filter((it) => outcomes.get(it)!.outcome === 'refused'),
      outcomes,
    );
    return requests.filter((_, index) => begun[index]!.state === 'waits');
  }

  /** Takes the stored outcomes: a notice may have settled a success first, and callers undo nothing after a refusal. */
  private async tellWhatIsKept(
    tenant: string,
    refused: readonly PaymentRequest[],
    outcomes: Map<PaymentRequest, PaymentOutcome>,
  ): Promise<void> {
    if (refused.length === 0) return;
    const kept = await this.payments.begin(tenant, refused);
    refused.forEach((request, index) => outcomes.set(request, outcomeOf(kept[index]!)));
  }

  /** Asks the providers, and stores what they have decided. */
  private async ask(tenant: string, operations: readonly Open[]): Promise<ReadonlyMap<Open, ProviderOutcome>> {
    const answers = new Map<Open, ProviderOutcome>();
    await Promise.all(
      [...Map.groupBy(operations, (it) => it.method)].map(async ([method, group]) => {
        const outcomes = await this.askProvider(tenant, method, group);
        group.forEach((operation, index) => answers.set(operation, outcomes[index]!));
        // Each method by itself, so that a slow provider does not delay the answers of others.
        const settled = group.flatMap(({ operationId, orderId }, index): SettledOperation[] => {
          const outcome = outcomes[index]!;
          return outcome.outcome === 'open' ? [] : [{ operationId, orderId, outcome }];
        });
        if (settled.length > 0) await this.payments.settle(tenant, settled);
      }),
    );
    return answers;
  }

  /** A provider that could not be reached may have carried out the request: asking again will show it. */
  private async askProvider(
    tenant: string,
    method: PaymentMethod,
    requests: readonly ProviderRequest[],
  ): Promise<ProviderOutcome[]> {
    try {
      return await within(answerWithinMs, this.providers.of(method).perform(tenant, requests));
    } catch (error) {
      this.logger.warn(`${method} did not answer, trying again (${String(error)})`);
      return requests.map(() => ({ outcome: 'open', reason: `${method} did not answer` }));
    }
  }
}

const openOf = ({ operation_id, order_id }: PaymentRequest, operation: BegunOperation): Open => ({
  operationId: operation_id,
  orderId: order_id,
  kind: operation.kind,
  amountMinor: operation.amountMinor,
  method: operation.method!,
  currency: operation.currency!,
  token: operation.token,
});

const outcomeOf = ({ state, reason, amountMinor }: BegunOperation): PaymentOutcome => {
  if (state === 'succeeded') return { outcome: 'succeeded', amount_minor: amountMinor };
  return { outcome: state === 'refused' ? 'refused' : 'open', reason: reason ?? 'not decided yet' };
};
