import type { OrderStatus, PaymentMethod, PaymentOutcome, PaymentRequest } from '#contracts';
import type { HistoryEntry } from './order.js';
import {
  operationIdOf,
  statusChangeBy,
  waitMs,
  type Follow,
  type SagaStep,
  type Step,
  type StepName,
} from './sagas.js';

/** The data of a saga besides its step. */
export interface SagaData {
  method?: PaymentMethod;
  token?: string | null;
  /** Null to capture everything that can be captured. */
  amount_minor: number | null;
  currency?: string;
  reason?: string;
  fingerprint?: string;
  /** Of a purchase: the last conditional capture or refund (`If-Match`) of its money. */
  moving?: string;
  /** The trace context of the request that it goes back to. */
  traceparent?: string;
}

/** A saga that this process leads until its lease expires: whoever claims it then raises the epoch, which fences us off. */
export interface Saga extends SagaStep {
  tenant: string;
  sagaId: string;
  orderId: string;
  data: SagaData;
  /** How often the step was tried. */
  attempts: number;
  /** How often a person had it retried after it was parked. */
  round: number;
  epoch: number;
  isLate: boolean;
}

/** The next state of a saga, and of its order with it. */
export interface SagaMove {
  saga: Saga;
  entry?: { type: HistoryEntry['type']; data: HistoryEntry['data']; from?: OrderStatus; to?: OrderStatus } | undefined;
  /** If the saga ends or is parked, the step that it had reached. */
  step: StepName;
  state: 'running' | 'ended' | 'parked';
  attempts: number;
  waitMs: number;
  /** The amount that was moved, or why nothing was moved. */
  result: { amount_minor?: number; refused_for?: string; waits_for?: string };
}

/** What is asked of payment in the step that a saga has reached. */
export const requestOf = ({ sagaId, orderId, step, round, data }: Saga): PaymentRequest => {
  const named = { operation_id: operationIdOf(sagaId, step, round), order_id: orderId };
  switch (step) {
    case 'authorise': {
      const { method, token = null, amount_minor, currency } = data;
      return { ...named, kind: 'authorise', method: method!, token, amount_minor: amount_minor!, currency: currency! };
    }
    case 'capture':
      // A purchase captures everything that was authorised.
      return { ...named, kind: 'capture', amount_minor: data.method === undefined ? data.amount_minor : null };
    case 'refund':
      return { ...named, kind: 'refund', amount_minor: data.amount_minor! };
    case 'reverse':
      return { ...named, kind: 'reverse' };
  }
};

/** The outcome of a capture that was not refused, as far as it is known. */
export type Captured = Exclude<PaymentOutcome, { outcome: 'refused' }>;

export const isDecided = (outcome: PaymentOutcome | 'late'): boolean =>
  outcome !== 'late' && outcome.outcome !== 'open';

/** Tells the capture first. The saga stays at its step, which is asked for again and told next. */
export const toldFirst = (saga: Saga, capture: Captured, random: number): SagaMove => {
  const step = { succeeded: { entry: 'payment-captured', next: saga.step }, refused: { next: saga.step } } as const;
  return moveOf(saga, step, capture, random);
};

/** What follows from the outcome of a step. @param random from 0 to 1, for the jitter of a pause */
export const moveOf = (
  saga: Saga,
  { succeeded, refused, late }: Step,
  outcome: PaymentOutcome | 'late',
  random: number,
): SagaMove => {
  const { data } = saga;
  if (outcome === 'late')
    return followed(saga, late!, { reason: 'it was not paid in time' }, { refused_for: 'expired' });
  switch (outcome.outcome) {
    case 'succeeded': {
      const { amount_minor } = outcome;
      const told = { amount_minor, ...(data.reason !== undefined && { reason: data.reason }) };
      return followed(saga, succeeded, told, { amount_minor });
    }
    case 'refused':
      return followed(saga, refused, { reason: outcome.reason }, { refused_for: outcome.reason });
    case 'open':
      return waiting(saga, outcome.reason, random);
  }
};

const followed = (
  saga: Saga,
  { entry, next }: Follow,
  data: HistoryEntry['data'],
  result: SagaMove['result'],
): SagaMove => {
  const ends = next === 'end' || next === 'park';
  return {
    saga,
    entry: entry && { type: entry, data, ...statusChangeBy[entry] },
    step: ends ? saga.step : next,
    state: next === 'end' ? 'ended' : next === 'park' ? 'parked' : 'running',
    attempts: 0,
    waitMs: 0,
    result,
  };
};

/** The same step again, after a pause. */
export const waiting = (saga: Saga, reason: string, random: number): SagaMove => ({
  saga,
  step: saga.step,
  state: 'running',
  attempts: saga.attempts + 1,
  waitMs: waitMs(saga.attempts, random),
  result: { waits_for: reason },
});

/** Leaves it to a person to decide. */
export const parked = (saga: Saga, result: SagaMove['result']): SagaMove => ({
  saga,
  step: saga.step,
  state: 'parked',
  attempts: saga.attempts,
  waitMs: 0,
  result,
});
