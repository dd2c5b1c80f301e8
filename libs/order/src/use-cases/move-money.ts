import { hash } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { CleaveError, paymentMethods, type MoneyMove } from '#contracts';
import { currentTrace } from '#telemetry';
import { isCancelledInPart, noSuchOrder, type Order } from '../domain/order.js';
import type { Saga, SagaData } from '../domain/saga-moves.js';
import type { SagaStep } from '../domain/sagas.js';
import { uuidOfHash } from '../domain/uuid.js';
import { ChangeableOrders, refuseOtherRequest } from './change-order.js';
import { RunSagas } from './run-sagas.js';

export type StartedMove = SagaStep & Pick<Saga, 'sagaId' | 'orderId' | 'data'>;

/** Stores the capture or refund that a caller asked for, so that it is finished even if caller or process are gone. */
export abstract class MoneyMoves {
  /**
   * @param ifVersions the order must have one of these versions; moves with this condition run one after another
   * @returns whether this call started it: not if it was started before, or if the condition is not met
   */
  abstract start(tenant: string, started: StartedMove, ifVersions?: readonly number[]): Promise<boolean>;
  abstract find(
    tenant: string,
    sagaId: string,
  ): Promise<
    | {
        orderId: string;
        data: SagaData;
        state: 'running' | 'ended' | 'parked';
        result: { amount_minor?: number; refused_for?: string };
      }
    | undefined
  >;
}

export interface MoneyCommand {
  tenant: string;
  account: string;
  idempotencyKey: string;
  fingerprint: string;
  orderId: string;
  kind: 'capture' | 'refund';
  /** The order versions that the caller accepts (`If-Match`). */
  expectedVersions: readonly number[] | undefined;
  /** Null to capture everything that can be captured. */
  amountMinor: number | null;
  reason?: string;
}

/** The outcome of a capture or refund, and whether it had been requested before. */
export type MoneyResult = { replayed: boolean } & ({ move: MoneyMove } | { refusal: CleaveError });

/** How long a caller waits for the provider before the answer is that the move is pending. */
const answerWithinMs = 5_000;
/** The first pause; later ones are longer, because waiting callers share their connections with those who place orders. */
const lookAgainMs = 20;

/** Why payment refuses, in words. */
const whyNot: Record<string, string> = {
  'exceeds-captured': 'The amount exceeds what was captured and not refunded yet.',
  'exceeds-authorised': 'The amount exceeds what is authorised and not captured yet.',
  'not-authorised': 'There is no payment for this order.',
  'not-captured': 'There is no payment for this order.',
  reversed: 'The payment was reversed, because the order was cancelled.',
};

/** Captures or refunds a payment: once for each idempotency key, as a saga that is finished whatever happens to the caller. */
@Injectable()
export class MoveMoney {
  constructor(
    private readonly moves: MoneyMoves,
    private readonly orders: ChangeableOrders,
    private readonly sagas: RunSagas,
  ) {}

  /** @throws CleaveError for a refusal that is not kept: the same key may be used again */
  async execute(command: MoneyCommand): Promise<MoneyResult> {
    const { tenant, account, idempotencyKey, orderId, kind } = command;
    const giveUpAt = performance.now() + answerWithinMs;
    const why = await this.orders.readSafely(
      async (orders) => whyNever(await orders.find(tenant, orderId), command),
      (refused) => refused !== undefined,
    );
    if (why) throw why;
    // The id is derived from the idempotency key, so repeated requests are one saga.
    const sagaId = uuidOfHash(hash('sha256', JSON.stringify([tenant, account, kind, idempotencyKey]), 'hex'));
    const isNew = !(await this.moves.find(tenant, sagaId)) && (await this.start(command, sagaId, giveUpAt));
    this.sagas.wake();
    return { ...(await this.result(command, sagaId, giveUpAt)), replayed: !isNew };
  }

  private async start(command: MoneyCommand, sagaId: string, giveUpAt: number): Promise<boolean> {
    const { tenant, fingerprint, orderId, kind, amountMinor, reason, expectedVersions } = command;
    await this.untilPurchased(tenant, orderId, giveUpAt);
    if (kind === 'capture' && amountMinor === null) await this.refuseAllOfPart(tenant, orderId);
    const traceparent = currentTrace();
    const data = {
      ...{ amount_minor: amountMinor, fingerprint },
      ...(reason !== undefined && { reason }),
      ...(traceparent !== undefined && { traceparent }),
    };
    const isNew = await this.moves.start(
      tenant,
      { ...this.sagas.begin(kind), sagaId, orderId, data },
      expectedVersions,
    );
    if (!isNew && expectedVersions && !(await this.moves.find(tenant, sagaId))) await this.refuseChanged(command);
    return isNew;
  }

  /** Only the shop can say what is due for the rest, with discounts and shipping. */
  private async refuseAllOfPart(tenant: string, orderId: string): Promise<void> {
    const order = await this.orderAsIs(tenant, orderId);
    if (!isCancelledInPart(order!)) return;
    throw new CleaveError(
      'payment-refused',
      'Part of the order was cancelled, so the whole authorised amount would be too much. Set amount_minor to what is due.',
      { reason: 'partly-cancelled' },
    );
  }

  private orderAsIs(tenant: string, orderId: string): Promise<Order | undefined> {
    return this.orders.readSafely(
      (orders) => orders.find(tenant, orderId),
      () => true,
    );
  }

  private async refuseChanged({ tenant, orderId }: MoneyCommand): Promise<never> {
    const order = await this.orderAsIs(tenant, orderId);
    throw new CleaveError(
      'precondition-failed',
      'The order has changed since it was read, or an earlier capture or refund is still in progress. Read it again.',
      { version: order!.version },
    );
  }

  /** Waits for the purchase to end: before that, what can be moved is unknown, and the key would keep a refusal for ever. */
  private async untilPurchased(tenant: string, orderId: string, giveUpAt: number): Promise<void> {
    // The saga of the purchase has the id of its order.
    const isOver = async () => (await this.moves.find(tenant, orderId))?.state !== 'running' || undefined;
    if (await seenBy(giveUpAt, isOver)) return;
    throw new CleaveError(
      'payment-refused',
      'The payment of the order is still in progress. Send the same request again in a moment.',
      { reason: 'under-way' },
    );
  }

  private async result(
    { tenant, orderId, kind, fingerprint }: MoneyCommand,
    sagaId: string,
    giveUpAt: number,
  ): Promise<{ move: MoneyMove } | { refusal: CleaveError }> {
    const asked = { move_id: sagaId, order_id: orderId, kind };
    const pending = { move: { ...asked, amount_minor: null, status: 'pending' as const } };
    const outcome = await seenBy(giveUpAt, async () => {
      const { data, state, result } = (await this.moves.find(tenant, sagaId))!;
      refuseOtherRequest(data.fingerprint, fingerprint);
      if (result.refused_for !== undefined) return { refusal: refusal(result.refused_for) };
      const { amount_minor = null } = result;
      if (state === 'ended') return { move: { ...asked, amount_minor, status: 'succeeded' as const } };
      return state === 'parked' ? pending : undefined;
    });
    return outcome ?? pending;
  }
}

/** Polls until there is a result, or until the time is over. */
const seenBy = async <Seen>(giveUpAt: number, look: () => Promise<Seen | undefined>): Promise<Seen | undefined> => {
  for (let pauseMs = lookAgainMs; ; pauseMs *= 1.5) {
    const seen = await look();
    if (seen !== undefined || performance.now() > giveUpAt) return seen;
    await setTimeout(pauseMs);
  }
};

/** The refusals that neither another key nor time would change. */
const whyNever = (order: Order | undefined, { kind, orderId }: MoneyCommand): CleaveError | undefined => {
  if (!order) return noSuchOrder(orderId);
  if (order.payment_method === null)
    return new CleaveError('payment-not-found', 'The order is not paid through Cleave.');
  if (kind === 'capture' && paymentMethods[order.payment_method].capture === 'at-once')
    return new CleaveError('payment-refused', 'The payment of this order is captured automatically.');
  return undefined;
};

const refusal = (reason: string): CleaveError => {
  const why = whyNot[reason] ?? `The provider refused: ${reason}.`;
  const next = 'This Idempotency-Key always gets this answer: send a corrected request under another key.';
  return new CleaveError('payment-refused', `${why} ${next}`, { reason });
};
