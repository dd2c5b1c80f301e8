import { z } from 'zod';
import { cloudEvent, logPosition } from './events.js';
import { contract } from './operation.js';
import {
  amountMinor,
  callerId,
  currency,
  idText,
  limits,
  metadata,
  moment,
  momentBound,
  nonNegativeAmountMinor,
  pageOf,
  quantity,
  text,
  unitPriceMinor,
  wholeNumber,
} from './values.js';
import { uuid } from './uuid.js';
import { movedAmountMinor, payment, paymentMethod } from './payment.js';
import { contact, personalMembers, shippingAddress } from './personal-data.js';

export const adjustmentKinds = ['tax', 'shipping', 'discount'] as const;

export const orderStatuses = [
  'pending',
  'confirmed',
  'partially-fulfilled',
  'fulfilled',
  'returned',
  'cancelled',
] as const;
export type OrderStatus = (typeof orderStatuses)[number];

const orderLineRequest = z.strictObject({
  product_id: callerId,
  quantity,
  unit_price_minor: unitPriceMinor.optional().meta({
    description:
      'The price of one unit, for callers who may set prices (scope `orders:price`). The catalogue price if ' +
      'left out.',
  }),
});

const adjustmentRequest = z
  .strictObject({
    kind: z.enum(adjustmentKinds),
    label: text(limits.textLength, 1),
    amount_minor: amountMinor,
  })
  .refine((it) => it.kind === 'discount' || it.amount_minor >= 0, {
    error: 'must not be negative, except for a discount',
    path: ['amount_minor'],
  })
  .meta({
    description:
      'A discount lowers the total, whichever sign you give it; it is stored as a negative amount. It is for ' +
      'callers who may set prices (scope `orders:price`).',
  });

const keptApart =
  'It is stored encrypted. Callers who may read personal data get it from `GET /orders/{id}` and from the export of the ' +
  'customer, until the customer is erased. Put personal data into no other member of an order.';

const orderOptions = {
  reference: text(limits.idLength, 1)
    .optional()
    .meta({ description: 'Your own number for the order. It need not be unique.', examples: ['536365'] }),
  adjustments: z.array(adjustmentRequest).max(limits.adjustments).optional(),
  expected_total_minor: nonNegativeAmountMinor
    .optional()
    .meta({ description: 'If the total differs from this, the order is refused with `price-changed`.' }),
  metadata: metadata.optional(),
  payment: z
    .strictObject({
      method: paymentMethod,
      token: text(limits.textLength, 1)
        .optional()
        .meta({ description: 'The token of the means of payment at the provider.' }),
    })
    .optional()
    .meta({
      description:
        'How the order is paid. The order is `pending` until the payment is authorised, and `confirmed` then. ' +
        'Without it the order is `confirmed` immediately and is not paid through Cleave.',
      examples: [{ method: 'simulated', token: 'tok_ok' }],
    }),
  contact: contact.optional().meta({ description: `How to reach the recipient. ${keptApart}` }),
  shipping_address: shippingAddress.optional().meta({ description: `Where the order is sent. ${keptApart}` }),
};

export const placeOrderOfLines = z
  .strictObject({
    customer_id: callerId,
    lines: z.array(orderLineRequest).min(1).max(limits.lines),
    ...orderOptions,
  })
  .meta({
    id: 'PlaceOrderOfLines',
    examples: [
      {
        customer_id: 'c-1',
        lines: [
          { product_id: 'demo-mug', quantity: 2 },
          { product_id: 'demo-lamp', quantity: 1 },
        ],
        adjustments: [{ kind: 'shipping', label: 'Parcel', amount_minor: 495 }],
      },
    ],
  });

export const placeOrderOfOneProduct = z
  .strictObject({ customer_id: callerId, product_id: callerId, quantity, ...orderOptions })
  .meta({
    id: 'PlaceOrderOfOneProduct',
    examples: [
      { customer_id: 'c-1', product_id: 'demo-mug', quantity: 1 },
      {
        customer_id: 'c-1',
        product_id: 'demo-mug',
        quantity: 1,
        payment: { method: 'simulated', token: 'tok_ok' },
      },
    ],
  });

/** Both forms of an order. `lines` tells them apart, so that faults are reported against the form that was meant. */
export const placeOrderRequest = z.union([placeOrderOfOneProduct, placeOrderOfLines]).meta({ id: 'PlaceOrderRequest' });
export type PlaceOrderRequest = z.output<typeof placeOrderRequest>;

export const orderLine = z
  .object({
    line: z.int().meta({ description: 'The number of the line within the order, from 1.' }),
    product_id: idText,
    name: z.string(),
    quantity,
    unit_price_minor: unitPriceMinor,
    fulfilled: z.int().meta({ description: 'Units handed over so far.' }),
    returned: z.int().meta({ description: 'Units returned so far.' }),
    cancelled: z.int().optional().meta({
      description:
        'Units that will not be handed over because what remained was cancelled. Left out if there are none.',
    }),
  })
  .meta({ id: 'OrderLine' });

export const adjustment = z
  .object({ kind: z.enum(adjustmentKinds), label: z.string(), amount_minor: amountMinor })
  .meta({ id: 'Adjustment' });

export const order = z
  .object({
    order_id: uuid,
    status: z.enum(orderStatuses),
    customer_id: idText,
    reference: z.string().nullable(),
    currency,
    total_minor: nonNegativeAmountMinor.meta({ description: 'Lines and adjustments added up, in minor units.' }),
    returned_total_minor: nonNegativeAmountMinor.meta({
      description: 'The credit for returned goods, in minor units.',
    }),
    lines: z.array(orderLine),
    adjustments: z.array(adjustment),
    metadata: z.record(z.string(), z.unknown()),
    payment_method: paymentMethod
      .nullable()
      .meta({ description: 'How the order is paid; null if it is not paid through Cleave.' }),
    version: z.int().meta({ description: 'Counts the changes of the order. The ETag contains it.' }),
    created_at: moment,
    updated_at: moment,
  })
  .meta({
    id: 'Order',
    examples: [
      {
        order_id: '01a21fbf-326b-7b96-98d3-5d06a3d0ebee',
        status: 'confirmed',
        customer_id: 'c-1',
        reference: null,
        currency: 'GBP',
        total_minor: 850,
        returned_total_minor: 0,
        lines: [
          {
            ...{ line: 1, product_id: 'demo-mug', name: 'Mug, white', quantity: 1, unit_price_minor: 850 },
            ...{ fulfilled: 0, returned: 0 },
          },
        ],
        adjustments: [],
        metadata: {},
        payment_method: 'simulated',
        version: 1,
        created_at: '2026-11-28T01:22:33.707Z',
        updated_at: '2026-11-28T01:22:33.707Z',
      },
    ],
  });
export type OrderDocument = z.output<typeof order>;

/** An order as callers who may read personal data see it. */
export const orderInFull = order.extend(personalMembers).meta({ id: 'OrderInFull' });
export type OrderInFull = z.output<typeof orderInFull>;

export const orderPage = pageOf(order).meta({ id: 'OrderPage' });

export const historyEntryTypes = [
  'placed',
  'payment-authorised',
  'payment-declined',
  'payment-captured',
  'payment-failed',
  'payment-reversed',
  'refunded',
  'cancelled',
  'fulfilled',
  'returned',
] as const;

const particulars = z.record(z.string(), z.unknown()).meta({
  description:
    'Details, depending on the type: `reason`; `reference`, your own number for a hand-over; `lines`, the units that were handed over, returned or ' +
    'cancelled; `remaining`, if only what remained was cancelled; `amount_minor`, the amount that was ' +
    'credited or moved.',
});

export const historyEntry = z
  .object({
    version: z.int().meta({ description: 'The version of the order after this entry.' }),
    type: z.enum(historyEntryTypes),
    status: z.enum(orderStatuses).meta({ description: 'The status of the order after this entry.' }),
    data: particulars,
    at: moment,
  })
  .meta({
    id: 'HistoryEntry',
    examples: [{ version: 1, type: 'placed', status: 'confirmed', data: {}, at: '2026-11-28T01:22:33.707Z' }],
  });

export const orderHistory = pageOf(historyEntry).meta({ id: 'OrderHistory' });

export const historyQuery = z.strictObject({
  limit: z
    .string()
    .optional()
    .meta({ description: `${limits.page}, the maximum, if left out.` }),
  cursor: z.string().max(1_000).optional(),
});

/** There is no register of customers: a customer is any id that orders were placed for. */
export const customerIdParameter = idText.meta({
  description: 'The `customer_id` of orders.',
  examples: ['c-1'],
});

export const erasure = z
  .object({
    customer_id: idText,
    erased: z.boolean().meta({ description: 'Whether there was anything to erase; false if it was erased before.' }),
  })
  .meta({ id: 'Erasure' });

/** Everything that is stored of a customer's orders. */
export const customerExport = pageOf(
  orderInFull
    .extend({
      history: z.array(historyEntry),
      history_cursor: z
        .string()
        .nullable()
        .meta({
          description:
            'If the history is longer, the `cursor` with which `GET /orders/{id}/history` continues (it needs the ' +
            'scope `orders:read`); null otherwise.',
        }),
      payment: payment.nullable(),
    })
    .meta({ id: 'ExportedOrder' }),
).meta({ id: 'CustomerExport' });
export type ExportedOrder = z.output<typeof customerExport>['data'][number];

export const exportQuery = z.strictObject({
  limit: z.string().optional(),
  cursor: z.string().max(1_000).optional(),
});

export const orderEvent = z
  .object({
    event_id: z
      .string()
      .meta({ description: 'The permanent id of the event: the order and its version after the event.' }),
    cursor: z.string().meta({ description: 'Pass it as `after` to continue behind this event.' }),
    type: z.enum(historyEntryTypes.map((it) => `order.${it}` as const)),
    order_id: uuid,
    version: z.int(),
    status: z.enum(orderStatuses),
    data: particulars,
    at: moment,
  })
  .meta({
    id: 'OrderEvent',
    examples: [
      {
        event_id: '01a21fbf-326b-7b96-98d3-5d06a3d0ebee:1',
        cursor: '7ZUpnhtlQKH7I6I24jrDK3sieGlkIjoiNzk4IiwiaWQiOiIxIn0',
        type: 'order.placed',
        order_id: '01a21fbf-326b-7b96-98d3-5d06a3d0ebee',
        version: 1,
        status: 'confirmed',
        data: {},
        at: '2026-11-28T01:22:33.707Z',
      },
    ],
  });

export const eventPage = z
  .object({
    data: z.array(orderEvent),
    next_cursor: z.string().meta({
      description: 'Pass it as `after` to continue: at once, until a page is empty; after a while then.',
    }),
  })
  .meta({ id: 'EventPage' });

export const eventQuery = z.strictObject({
  after: z
    .string()
    .max(1_000)
    .optional()
    .meta({ description: 'The cursor of an event or a page. Starts at the beginning if left out.' }),
  limit: z.string().optional(),
});

const lineUnits = {
  product_id: callerId,
  quantity,
  line: wholeNumber(1, limits.lines).optional().meta({
    description:
      'The line of the order that is meant, if several lines have the product. The first that fits if left out.',
  }),
};

export const cancelOrderRequest = z
  .strictObject({
    remaining: z
      .boolean()
      .optional()
      .meta({
        description:
          'Cancels what was not handed over yet. If something was handed over, the order becomes `fulfilled`, or ' +
          '`returned` if all of that came back; otherwise the whole order is cancelled. Without it, a request to ' +
          'cancel an order that was partly handed over is refused.',
      }),
    reason: text(limits.textLength).optional(),
  })
  .meta({ id: 'CancelOrderRequest', examples: [{ reason: 'changed my mind' }] });

export const fulfilOrderRequest = z
  .strictObject({
    lines: z
      .array(z.strictObject(lineUnits))
      .min(1)
      .max(limits.lines)
      .optional()
      .meta({ description: 'The units that are handed over. All that remain if left out.' }),
    reference: text(limits.idLength, 1)
      .optional()
      .meta({
        description:
          'Your own number for this hand-over, such as the tracking number of the parcel. It is in the `data` of the ' +
          'history entry and of the event, and need not be unique.',
      }),
  })
  .meta({ id: 'FulfilOrderRequest', examples: [{}, { reference: 'JD0002254' }] });

export const returnOrderRequest = z
  .strictObject({
    lines: z
      .array(
        z.strictObject({
          ...lineUnits,
          amount_minor: nonNegativeAmountMinor
            .optional()
            .meta({ description: 'The credit for these units. Their price in the order if left out.' }),
        }),
      )
      .min(1)
      .max(limits.lines),
    restock: z.boolean().meta({ description: 'Whether the units go back on the shelf.' }),
    reason: text(limits.textLength, 1),
  })
  .meta({
    id: 'ReturnOrderRequest',
    examples: [{ lines: [{ product_id: 'demo-mug', quantity: 1 }], restock: true, reason: 'damaged box' }],
  });

export const orderListQuery = z.strictObject({
  customer_id: idText.optional(),
  status: z.enum(orderStatuses).optional(),
  reference: text(limits.idLength, 1).optional(),
  created_from: momentBound.optional().meta({
    description:
      'Only orders whose `created_at` is this moment or later: an RFC 3339 timestamp with an offset, such as ' +
      '`2026-11-28T00:00:00Z` (write `+` as `%2B`), and up to nine digits of a second. Any year from 0000 to 9999 is ' +
      'accepted. An order appears a moment after its `created_at`: to follow new orders, use `GET /events`.',
  }),
  created_before: momentBound.optional().meta({
    description:
      'Only orders whose `created_at` is before this moment, written like `created_from`. If it is not after ' +
      '`created_from`, the request is refused with `invalid-request`.',
  }),
  limit: z.string().optional(),
  cursor: z.string().max(1_000).optional(),
});

export const refundRequest = z
  .strictObject({ amount_minor: movedAmountMinor, reason: text(limits.textLength, 1) })
  .meta({ id: 'RefundRequest', examples: [{ amount_minor: 850, reason: 'arrived late' }] });

export const captureRequest = z
  .strictObject({
    amount_minor: movedAmountMinor
      .optional()
      .meta({ description: 'Everything that is authorised and not captured yet, if left out.' }),
  })
  .meta({ id: 'CaptureRequest', examples: [{}] });

export const moneyMove = z
  .object({
    move_id: uuid,
    order_id: uuid,
    kind: z.enum(['capture', 'refund']),
    amount_minor: nonNegativeAmountMinor
      .nullable()
      .meta({ description: 'The amount that was moved; null while that is not decided.' }),
    status: z.enum(['pending', 'succeeded']).meta({
      description: '`pending` until the provider has decided. Repeat the same request to see the outcome.',
    }),
  })
  .meta({ id: 'MoneyMove' });
export type MoneyMove = z.output<typeof moneyMove>;

export const deadLetter = z
  .object({
    saga_id: uuid,
    order_id: uuid,
    saga: z.string().meta({ description: 'The process that did not finish, such as `purchase`.' }),
    step: z.string().meta({ description: 'The step where it stopped.' }),
    attempts: z.int(),
    result: z.record(z.string(), z.unknown()).meta({ description: 'Why it stopped.' }),
    created_at: moment,
    updated_at: moment,
  })
  .meta({ id: 'DeadLetter' });
export type DeadLetterDocument = z.output<typeof deadLetter>;

export const deadLetterPage = pageOf(deadLetter).meta({ id: 'DeadLetterPage' });

export const deadLetterQuery = z.strictObject({
  limit: z.string().optional(),
  cursor: z.string().max(1_000).optional(),
});

export const resolveDeadLetterRequest = z
  .strictObject({ note: text(limits.textLength, 1).meta({ description: 'What was done about it; this is stored.' }) })
  .meta({ id: 'ResolveDeadLetterRequest', examples: [{ note: 'refunded by bank transfer' }] });

const { type, status } = orderEvent.shape;

/** An event of an order, as other modules read it from the log of orders. */
export const orderLogEvent = cloudEvent(
  type,
  z.object({
    version: z.int(),
    status,
    currency,
    /** The order as it was placed: in the event that places it, and in those that undo it or the rest of it. */
    order: z
      .object({
        customer_id: idText,
        reference: z.string().nullable(),
        total_minor: nonNegativeAmountMinor,
        lines: z.array(orderLine.pick({ product_id: true, name: true, quantity: true, unit_price_minor: true })),
      })
      .optional(),
    /** The details of the history entry. */
    details: z.record(z.string(), z.unknown()),
  }),
);
export type OrderLogEvent = z.output<typeof orderLogEvent>;
export type OrderEventType = OrderLogEvent['type'];

/** The operations that order offers to other modules. */
export const orderContract = contract('order', {
  events: {
    summary: 'Returns the events of the orders of all tenants, in commit order, from a position in the log on.',
    request: z.object({
      after: logPosition,
      /** How many events are read from the log, of any type. */
      limit: wholeNumber(1, limits.logPage),
      /** The types of which the events are returned; null for all. */
      types: z.array(type).nullable(),
    }),
    /** Everything up to `until` has been read; `is_more` if there may be more to read at once. */
    reply: z.object({ events: z.array(orderLogEvent), until: logPosition, is_more: z.boolean() }),
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 10_000,
    maxBytes: 16_777_216,
  },
});
