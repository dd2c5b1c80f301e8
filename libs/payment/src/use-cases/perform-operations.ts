import { Injectable, Logger } from '@nestjs/common';
import type { CustomerAction, PaymentMethod, PaymentOutcome, PaymentRequest } from '#contracts';
import { within } from '#periodic';

/** What a provider is asked to do. The id is its idempotency key: asked again, it is not done again. */
export interface ProviderRequest {
  operationId: string;
  orderId: string;
  kind: 'authorise' | 'capture' | 'refund' | 'void';
  amountMinor: number;
  currency: string;
  /** What stands for the means of payment; of an authorisation only. */
  token: string | null;
}

/** `open` where the provider has not decided yet, or where it is not known what it did: ask the same again. */
export type ProviderOutcome =
  { outcome: 'succeeded' } | { outcome: 'refused'; reason: string } | { outcome: 'open'; reason: string };

/** Who moves the money. */
export interface PaymentProvider {
  /** @returns an outcome each, in the order given. Rejects when nothing is known of any of them. */
  perform(tenant: string, requests: readonly ProviderRequest[]): Promise<ProviderOutcome[]>;
  /** What an authorisation that is open waits for its customer to do, where that can be. */
  customerAction?(operationId: string, tenant: string): Promise<CustomerAction | null>;
}

/** The providers by the method of payment they stand for. */
export abstract class PaymentProviders {
  abstract of(method: PaymentMethod): PaymentProvider;
}

/** An operation that was decided on: `waits` is one that has to be asked for again, and is not kept. */
export interface BegunOperation {
  state: 'open' | 'succeeded' | 'refused' | 'waits';
  reason: string | null;
  kind: ProviderRequest['kind'];
  amountMinor: number;
  method: PaymentMethod | null;
  token: string | null;
  currency: string | null;
}

/** What a provider is to be asked, of an operation that is kept. */
export interface Open extends ProviderRequest {
  method: PaymentMethod;
}

export interface SettledOperation {
  operationId: string;
  orderId: string;
  outcome: Exclude<ProviderOutcome, { outcome: 'open' }>;
}

/** Sooner than whoever asks us gives up: what a provider has not answered by then is not known. */
const answerWithinMs = 7_000;

/** Keeps payments and what was asked for them. */
export abstract class Payments {
  /**
   * Decides what may be asked, and sets its amounts aside.
   * @param requests at most one an order
   * @returns what was decided on each, in the order given; one that is known already as it is
   */
  abstract begin(tenant: string, requests: readonly PaymentRequest[]): Promise<BegunOperation[]>;
  /** What was asked of providers for these orders and is not settled. */
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

  /** @returns what became of each, in the order given */
  async execute(tenant: string, requests: readonly PaymentRequest[]): Promise<PaymentOutcome[]> {
    const outcomes = new Map<PaymentRequest, PaymentOutcome>();
    // What concerns one order is asked one after the other.
    for (const round of roundsOf(requests)) {
      const waiting = await this.perform(tenant, round, outcomes);
      if (waiting.length === 0) continue;
      // What is in the way of a reversal may have been left by somebody who has died since, and nobody asks for it again.
      const orderIds = waiting.map((it) => it.order_id);
      await this.ask(tenant, await this.payments.underWay(tenant, orderIds));
      await this.perform(tenant, waiting, outcomes);
    }
    return requests.map((it) => outcomes.get(it)!);
  }

  /** @returns those that wait for something else to be settled */
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

  /** Whoever is told of a refusal undoes nothing: a notice that was faster may have settled that it was done. */
  private async tellWhatIsKept(
    tenant: string,
    refused: readonly PaymentRequest[],
    outcomes: Map<PaymentRequest, PaymentOutcome>,
  ): Promise<void> {
    if (refused.length === 0) return;
    const kept = await this.payments.begin(tenant, refused);
    refused.forEach((request, index) => outcomes.set(request, outcomeOf(kept[index]!)));
  }

  /** Asks the providers, and keeps what they have decided. */
  private async ask(tenant: string, operations: readonly Open[]): Promise<ReadonlyMap<Open, ProviderOutcome>> {
    const answers = new Map<Open, ProviderOutcome>();
    await Promise.all(
      [...Map.groupBy(operations, (it) => it.method)].map(async ([method, group]) => {
        const outcomes = await this.askProvider(tenant, method, group);
        group.forEach((operation, index) => answers.set(operation, outcomes[index]!));
        // Each by itself, so that one that is slow keeps nobody else's answers.
        const settled = group.flatMap(({ operationId, orderId }, index): SettledOperation[] => {
          const outcome = outcomes[index]!;
          return outcome.outcome === 'open' ? [] : [{ operationId, orderId, outcome }];
        });
        if (settled.length > 0) await this.payments.settle(tenant, settled);
      }),
    );
    return answers;
  }

  /** A provider that cannot be reached may have done what it was asked: that shows when it is asked again. */
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

/** Parts in which no order comes twice, so that the requests of an order stay in their order. */
const roundsOf = (requests: readonly PaymentRequest[]): PaymentRequest[][] => {
  const rounds: PaymentRequest[][] = [];
  const roundOf = new Map<string, number>();
  for (const request of requests) {
    const round = roundOf.get(request.order_id) ?? 0;
    roundOf.set(request.order_id, round + 1);
    (rounds[round] ??= []).push(request);
  }
  return rounds;
};

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
