import { hash } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { CleaveError, paymentMethods, type MoneyMove } from '#contracts';
import { currentTrace } from '#telemetry';
import { noSuchOrder, type Order } from '../domain/order.js';
import type { SagaStep } from '../domain/sagas.js';
import { uuidOfHash } from '../domain/uuid.js';
import { ChangeableOrders } from './change-order.js';
import { RunSagas, type Saga, type SagaData } from './run-sagas.js';

export type StartedMove = SagaStep & Pick<Saga, 'sagaId' | 'orderId' | 'data'>;

/** Keeps what was asked for, so that it is led to its end whatever happens to whoever asked. */
export abstract class MoneyMoves {
  /** Does nothing where it was started before. */
  abstract start(tenant: string, started: StartedMove): Promise<void>;
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
  /** Null for all that can be captured. */
  amountMinor: number | null;
  reason?: string;
}

/** How long somebody waits for the provider before hearing that it is not decided yet. */
const answerWithinMs = 5_000;
/** At first, and more seldom as time goes by: those who wait share their connections with those who place orders. */
const lookAgainMs = 20;

/** Why payment refuses, in words. */
const whyNot: Record<string, string> = {
  'exceeds-captured': 'More was asked for than was taken and not given back yet.',
  'exceeds-authorised': 'More was asked for than is authorised and not taken yet.',
  'not-authorised': 'There is no payment for this order.',
  'not-captured': 'There is no payment for this order.',
  reversed: 'The payment was reversed, because the order was cancelled.',
};

/** Takes money that is due, or gives some back: once a key, and through to the end. */
@Injectable()
export class MoveMoney {
  constructor(
    private readonly moves: MoneyMoves,
    private readonly orders: ChangeableOrders,
    private readonly sagas: RunSagas,
  ) {}

  async execute(command: MoneyCommand): Promise<{ move: MoneyMove; replayed: boolean }> {
    const { tenant, account, idempotencyKey, fingerprint, orderId, kind, amountMinor, reason } = command;
    const why = await this.orders.readSafely(
      async (orders) => whyNever(await orders.find(tenant, orderId), command),
      (refused) => refused !== undefined,
    );
    if (why) throw why;
    // Named by its key: however often it is asked for, it is one saga.
    const sagaId = uuidOfHash(hash('sha256', JSON.stringify([tenant, account, kind, idempotencyKey]), 'hex'));
    const before = await this.moves.find(tenant, sagaId);
    if (!before) {
      const traceparent = currentTrace();
      const data = {
        ...{ amount_minor: amountMinor, fingerprint },
        ...(reason !== undefined && { reason }),
        ...(traceparent !== undefined && { traceparent }),
      };
      await this.moves.start(tenant, { ...this.sagas.begin(kind), sagaId, orderId, data });
    }
    this.sagas.wake();
    return { move: await this.result(command, sagaId), replayed: before !== undefined };
  }

  private async result(command: MoneyCommand, sagaId: string): Promise<MoneyMove> {
    const giveUpAt = Date.now() + answerWithinMs;
    for (let pauseMs = lookAgainMs; ; pauseMs *= 1.5) {
      const { data, orderId, state, result } = (await this.moves.find(command.tenant, sagaId))!;
      if (data.fingerprint !== command.fingerprint)
        throw new CleaveError(
          'idempotency-key-reused',
          'The key was used for another request. Send the same request again, or choose a new key.',
        );
      if (result.refused_for !== undefined) throw refusal(result.refused_for);
      const move = { move_id: sagaId, order_id: orderId, kind: command.kind };
      if (state === 'ended') return { ...move, amount_minor: result.amount_minor ?? null, status: 'succeeded' };
      if (state === 'parked' || Date.now() > giveUpAt) return { ...move, amount_minor: null, status: 'pending' };
      await setTimeout(pauseMs);
    }
  }
}

/** What no key and no time changes. */
const whyNever = (order: Order | undefined, { kind, orderId }: MoneyCommand): CleaveError | undefined => {
  if (!order) return noSuchOrder(orderId);
  if (order.payment_method === null) return new CleaveError('payment-not-found', 'The order is paid elsewhere.');
  if (kind === 'capture' && paymentMethods[order.payment_method].capture === 'at-once')
    return new CleaveError('payment-refused', 'The money of this order is taken without being asked for.');
  return undefined;
};

const refusal = (reason: string): CleaveError =>
  new CleaveError('payment-refused', whyNot[reason] ?? `The provider refused: ${reason}.`, { reason });
