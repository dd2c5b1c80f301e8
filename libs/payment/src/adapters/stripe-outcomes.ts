import type { Stripe } from 'stripe';
import type { ProviderOutcome, ProviderRequest } from '../use-cases/perform-operations.js';

/**
 * The metadata that we write on objects at Stripe, so that they can be found without their ids. PaymentIntents and Refunds
 * have the operation that made them, PaymentIntents also the one that captured them.
 */
export interface Marks {
  tenant: string;
  order_id: string;
  operation_id: string;
  capture_operation_id?: string;
}

const succeeded = { outcome: 'succeeded' } as const;
export const refused = (reason: string) => ({ outcome: 'refused', reason }) as const;
export const open = (reason: string) => ({ outcome: 'open', reason }) as const;
export const keyRefused: ProviderOutcome = open('Stripe rejects the API key');

const marksOf = ({ metadata }: Stripe.PaymentIntent | Stripe.Refund): Partial<Marks> => metadata ?? {};

/** The outcome of an operation, judged by the current state of its PaymentIntent. */
export const outcomeByIntent = (
  { kind, operationId }: Pick<ProviderRequest, 'kind' | 'operationId'>,
  intent: Stripe.PaymentIntent,
): ProviderOutcome => {
  const { status, last_payment_error: error } = intent;
  const marks = marksOf(intent);
  if (kind === 'authorise') {
    if ((marks.operation_id ?? operationId) !== operationId)
      return open('the PaymentIntent belongs to another operation');
    if (status === 'requires_capture' || status === 'succeeded') return succeeded;
    return status === 'canceled' ? refused(error?.decline_code ?? error?.code ?? status) : open(status);
  }
  if (kind === 'void') {
    if (status === 'canceled') return succeeded;
    return status === 'succeeded' ? refused('captured-already') : open(status);
  }
  if (kind === 'capture') {
    if (status === 'canceled') return refused(status);
    if (status !== 'succeeded') return open(status);
    // Stripe captures once and releases the rest. (Several captures need an agreement with Stripe.)
    return marks.capture_operation_id === operationId ? succeeded : refused('captured-already');
  }
  return open('a refund is not seen by its PaymentIntent');
};

/**
 * Why a PaymentIntent was declined; undefined if it was not. Without an error it is still in progress. A decline does not
 * decide an authorisation: a page that has the client_secret may try another card until the PaymentIntent is cancelled.
 */
export const declineOf = ({ status, last_payment_error: error }: Stripe.PaymentIntent): string | undefined =>
  status === 'requires_payment_method' && error ? (error.decline_code ?? error.code ?? status) : undefined;

export const outcomeByRefund = ({ status, failure_reason: reason }: Stripe.Refund): ProviderOutcome => {
  if (status === 'succeeded') return succeeded;
  return status === 'failed' || status === 'canceled' ? refused(reason ?? status) : open(`refund ${status}`);
};

/** Whether this is the refund of the operation. */
export const isRefundOf = (operationId: string, refund: Stripe.Refund): boolean =>
  marksOf(refund).operation_id === operationId;

/** The order that an object at Stripe belongs to, if it is one of ours. */
export const placeOf = (it: Stripe.PaymentIntent | Stripe.Refund): { tenant: string; orderId: string } | undefined => {
  const { tenant, order_id: orderId } = marksOf(it);
  return tenant !== undefined && orderId !== undefined && isUuid(orderId) ? { tenant, orderId } : undefined;
};

const isUuid = (text: string): boolean => /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/.test(text);

/**
 * What an error says about an operation; undefined if it does not say what was done, so that the state has to be read.
 *
 * @throws errors that do not come from Stripe
 */
export const outcomeOfError = (
  { kind }: Pick<ProviderRequest, 'kind'>,
  error: unknown,
): ProviderOutcome | undefined => {
  const { type, statusCode, code, decline_code, param, message } = error as Stripe.errors.StripeError;
  if (!type?.startsWith('Stripe')) throw error;
  if (type === 'StripeCardError') return refused(decline_code || code || 'card_declined');
  if (type === 'StripeConnectionError') return open(message);
  if (type === 'StripeRateLimitError') return open('Stripe limits the rate of requests');
  if (statusCode === 409) return open('Stripe is still processing the request');
  if (statusCode === 401 || statusCode === 403) return keyRefused;
  if (type !== 'StripeInvalidRequestError') return undefined;
  // It is in the wrong state for that, perhaps because of an earlier request.
  if (code === 'payment_intent_unexpected_state') return undefined;
  // The key may be of another account by now, or of its test data: what was promised under the old one is not refused.
  if (code === 'resource_missing' && (kind !== 'authorise' || param === 'intent'))
    return open('Stripe does not know the PaymentIntent');
  if (kind === 'refund' && param === 'amount') return refused('exceeds-captured');
  return refused(code ?? 'invalid_request');
};
