import { z } from 'zod';
import { contract } from './operation.js';
import { amountMinor, currency, limits, moment, nonNegativeAmountMinor, wholeNumber } from './values.js';
import { uuid } from './uuid.js';

/**
 * The payment methods, and when the money of a confirmed order is captured: at once, or on request, when someone reports
 * that it has arrived, as with an invoice.
 */
export const paymentMethods = {
  manual: { capture: 'on-request' },
  simulated: { capture: 'at-once' },
  stripe: { capture: 'at-once' },
} as const satisfies Record<string, { capture: 'at-once' | 'on-request' }>;
export type PaymentMethod = keyof typeof paymentMethods;

export const paymentMethod = z.enum(Object.keys(paymentMethods) as [PaymentMethod, ...PaymentMethod[]]);

/** An amount that is moved: at least one minor unit. */
export const movedAmountMinor = wholeNumber(1);

export const paymentOperationKinds = ['authorise', 'capture', 'refund', 'void'] as const;

const paymentOperation = z
  .object({
    operation_id: uuid,
    kind: z.enum(paymentOperationKinds),
    amount_minor: nonNegativeAmountMinor,
    state: z.enum(['open', 'succeeded', 'refused']).meta({
      description: '`open` until the provider has reported the outcome.',
    }),
    reason: z.string().nullable().meta({ description: 'Why it was refused.' }),
    at: moment,
  })
  .meta({ id: 'PaymentOperation' });

/** What Stripe.js needs for `handleNextAction`, such as 3-D Secure. */
const customerAction = z
  .object({
    method: z.literal('stripe'),
    client_secret: z.string().meta({ description: 'For `handleNextAction` of Stripe.js. Do not store or log it.' }),
  })
  .meta({ id: 'CustomerAction' });
export type CustomerAction = z.output<typeof customerAction>;

export const payment = z
  .object({
    order_id: uuid,
    method: paymentMethod,
    currency,
    amount_minor: nonNegativeAmountMinor.meta({ description: 'The total of the order.' }),
    authorised_minor: nonNegativeAmountMinor.meta({ description: 'The amount that is authorised.' }),
    captured_minor: nonNegativeAmountMinor.meta({ description: 'The amount that was captured, before refunds.' }),
    refunded_minor: nonNegativeAmountMinor.meta({ description: 'The amount that was refunded.' }),
    reversed: z.boolean().meta({ description: 'True if the order was cancelled: nothing will be captured any more.' }),
    customer_action: customerAction.nullable().meta({
      description: 'What the customer has to do before the payment can continue, if anything.',
    }),
    operations: z.array(paymentOperation).meta({
      description: `The requests to the provider, oldest first. Of more than ${limits.paymentOperations}, those that were refused are left out first, then those that succeeded, the oldest of each first.`,
    }),
    created_at: moment,
    updated_at: moment,
  })
  .meta({
    id: 'Payment',
    examples: [
      {
        order_id: '01a21fbf-326b-7b96-98d3-5d06a3d0ebee',
        method: 'simulated',
        currency: 'GBP',
        amount_minor: 850,
        authorised_minor: 850,
        captured_minor: 0,
        refunded_minor: 0,
        reversed: false,
        customer_action: null,
        operations: [
          {
            ...{ operation_id: '01a21fc9-3cab-8d03-8459-79b61d78a7c3', kind: 'authorise', amount_minor: 850 },
            ...{ state: 'succeeded', reason: null, at: '2026-11-28T01:22:33.717Z' },
          },
        ],
        created_at: '2026-11-28T01:22:33.717Z',
        updated_at: '2026-11-28T01:22:33.736Z',
      },
    ],
  });
export type PaymentDocument = z.output<typeof payment>;

const operationId = uuid.toLowerCase();
const asked = { operation_id: operationId, order_id: uuid };

/** An operation on a payment. Its id identifies it for ever: repeated under the same id, it is not carried out again. */
const paymentRequest = z.discriminatedUnion('kind', [
  z.object({
    ...asked,
    kind: z.literal('authorise'),
    method: paymentMethod,
    /** The provider's token for the means of payment. */
    token: z.string().max(limits.textLength).nullable(),
    amount_minor: amountMinor.min(0),
    currency,
  }),
  /** Without an amount, captures everything that is authorised and not captured yet. */
  z.object({ ...asked, kind: z.literal('capture'), amount_minor: movedAmountMinor.nullable() }),
  z.object({ ...asked, kind: z.literal('refund'), amount_minor: movedAmountMinor }),
  /**
   * Undoes the payment in any state: voids it if nothing was captured, and otherwise refunds what was captured. If it
   * arrives before the authorisation, it prevents the authorisation.
   */
  z.object({ ...asked, kind: z.literal('reverse') }),
]);
export type PaymentRequest = z.output<typeof paymentRequest>;

const paymentOutcome = z.discriminatedUnion('outcome', [
  /** `amount_minor` is the amount that was moved. */
  z.object({ outcome: z.literal('succeeded'), amount_minor: nonNegativeAmountMinor }),
  z.object({ outcome: z.literal('refused'), reason: z.string() }),
  /** The outcome is not known yet: repeat the same operation. */
  z.object({ outcome: z.literal('open'), reason: z.string() }),
]);
export type PaymentOutcome = z.output<typeof paymentOutcome>;

/** The operations that payment offers to other modules. */
export const paymentContract = contract('payment', {
  perform: {
    summary:
      'Authorises, captures, refunds and reverses payments, each independently, in the order given. A repeated operation, ' +
      'with the same id, gets the first answer.',
    request: z.object({ operations: z.array(paymentRequest).min(1).max(limits.batch) }),
    /** In the order of the request. */
    reply: z.object({ outcomes: z.array(paymentOutcome) }),
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 10_000,
    maxBytes: 4_194_304,
  },
  read: {
    summary: 'Returns the payment of an order; null if there is none.',
    request: z.object({ order_id: uuid }),
    reply: z.object({ payment: payment.nullable() }),
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 5_000,
    maxBytes: 1_048_576,
  },
});
