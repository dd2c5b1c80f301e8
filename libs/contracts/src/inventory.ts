import { z } from 'zod';
import { contract } from './operation.js';
import {
  amountMinor,
  currency,
  givenCurrency,
  idText,
  limits,
  moment,
  pageOf,
  quantity,
  text,
  unitPriceMinor,
  callerId,
  wholeNumber,
} from './values.js';
import { uuid } from './uuid.js';

export const putProductRequest = z
  .strictObject({ name: text(limits.textLength, 1), unit_price_minor: unitPriceMinor, currency: givenCurrency })
  .meta({
    id: 'PutProductRequest',
    examples: [{ name: 'Mug, white', unit_price_minor: 850, currency: 'GBP' }],
  });

export const product = z
  .object({
    product_id: idText,
    name: z.string(),
    unit_price_minor: unitPriceMinor,
    currency,
    created_at: moment,
    updated_at: moment,
  })
  .meta({
    id: 'Product',
    examples: [
      {
        ...{ product_id: 'demo-mug', name: 'Mug, white', unit_price_minor: 850, currency: 'GBP' },
        ...{ created_at: '2026-11-28T01:22:33.505Z', updated_at: '2026-11-28T01:22:33.505Z' },
      },
    ],
  });
export type Product = z.output<typeof product>;

export const productPage = pageOf(product).meta({ id: 'ProductPage' });

export const putProductsRequest = z
  .strictObject({
    products: z
      .array(
        z.strictObject({
          product_id: callerId,
          name: text(limits.textLength, 1),
          unit_price_minor: unitPriceMinor,
          currency: givenCurrency,
        }),
      )
      .min(1)
      .max(limits.batch),
  })
  .meta({
    id: 'PutProductsRequest',
    examples: [
      { products: [{ product_id: '85123A', name: 'White hanging heart', unit_price_minor: 255, currency: 'GBP' }] },
    ],
  });

export const productBatch = z.object({ data: z.array(product) }).meta({ id: 'ProductBatch' });

const onHand = wholeNumber(0, limits.onHand);

export const putStockRequest = z
  .strictObject({ on_hand: onHand.meta({ description: 'Units counted on the shelf.' }) })
  .meta({ id: 'PutStockRequest', examples: [{ on_hand: 100 }] });

export const putStockBatchRequest = z
  .strictObject({
    stock: z
      .array(z.strictObject({ product_id: callerId, on_hand: onHand }))
      .min(1)
      .max(limits.batch),
  })
  .meta({ id: 'PutStockBatchRequest', examples: [{ stock: [{ product_id: 'demo-mug', on_hand: 100 }] }] });

export const adjustStockRequest = z
  .strictObject({
    delta: wholeNumber(-limits.onHand, limits.onHand).refine((it) => it !== 0, 'must not be 0'),
    reason: text(limits.textLength, 1),
  })
  .meta({ id: 'AdjustStockRequest', examples: [{ delta: -2, reason: 'broken' }] });

export const stock = z
  .object({
    product_id: idText,
    on_hand: z.int().meta({ description: 'Units on the shelf.' }),
    reserved: z.int().meta({ description: 'Units reserved for orders.' }),
    available: z.int().meta({ description: 'on_hand − reserved' }),
    sold: z.int().meta({ description: 'Units handed over so far.' }),
  })
  .meta({
    id: 'Stock',
    examples: [{ product_id: 'demo-mug', on_hand: 1_000, reserved: 1, available: 999, sold: 0 }],
  });
export type Stock = z.output<typeof stock>;

export const stockPage = pageOf(stock).meta({ id: 'StockPage' });

export const stockBatch = z.object({ data: z.array(stock) }).meta({ id: 'StockBatch' });

export const productListQuery = z.strictObject({
  limit: z.string().optional(),
  cursor: z.string().max(1_000).optional(),
});

export const stockListQuery = productListQuery;

const heldLine = z.object({
  product_id: idText,
  quantity,
  unit_price_minor: unitPriceMinor.optional(),
});

/** Always lower case: Postgres takes a UUID in capitals for the same id, but a string comparison does not. */
const reservationId = uuid.toLowerCase();

const reservationRequest = z.object({
  reservation_id: reservationId,
  /** The order that the stock is for. The first attempt sets it; later attempts get the same one back. */
  order_id: uuid,
  lines: z.array(heldLine).min(1).max(limits.lines),
  /** The range the sum of the lines must fall into, in minor units; unbounded when left out. */
  items_total: z.object({ at_least: amountMinor, at_most: amountMinor }).optional(),
});
export type ReservationRequest = z.output<typeof reservationRequest>;

/** Of a refusal: the order of an earlier try, whose stock is still held, or was used for the order. */
const earlier = { order_id: uuid.optional() };
const decision = z.discriminatedUnion('outcome', [
  z.object({ outcome: z.literal('held'), order_id: uuid }),
  z.object({
    outcome: z.literal('out-of-stock'),
    shortages: z.array(z.object({ product_id: idText, requested: z.int(), available: z.int() })),
  }),
  z.object({ outcome: z.literal('unknown-product'), product_ids: z.array(idText), ...earlier }),
  z.object({ outcome: z.literal('currency-mismatch'), currencies: z.array(currency), ...earlier }),
  z.object({ outcome: z.literal('total-outside'), items_total_minor: amountMinor.nullable(), ...earlier }),
  /**
   * The reservation no longer holds stock, because the order was cancelled or the hold was released before there was an
   * order. Without an order, the caller tries again under another reservation id.
   */
  z.object({ outcome: z.literal('released'), order_id: uuid.nullable() }),
  /** Not decided, and nothing was done: others keep these products locked, or the reservation itself if none is named. */
  z.object({ outcome: z.literal('locked'), product_ids: z.array(idText) }),
]);
export type Decision = z.output<typeof decision>;

/** The effect of a change to an order on its reservation. `reservation_id` and `version` identify it for ever. */
const effect = z.object({
  reservation_id: reservationId,
  /** The version of the order that causes the effect. It is applied once, however often it is delivered. */
  version: z.int().min(1),
  kind: z.enum(['confirm', 'release', 'fulfil', 'restock']),
  /** For `fulfil` and `restock`: the units concerned. */
  lines: z.array(z.object({ product_id: idText, quantity: z.int().min(1) })).optional(),
});
export type StockEffect = z.output<typeof effect>;

const overdueHold = z.object({ tenant_id: idText, reservation_id: reservationId, order_id: uuid });
export type OverdueHold = z.output<typeof overdueHold>;

/**
 * The database of inventory that `join` named: inventory that runs on another one by now refuses the request. Older versions
 * neither send nor know it.
 */
const inventoryId = uuid.optional();

/** What callers are told in that case, whether order or inventory notices it. */
export const inOtherInventory =
  'The stock of these orders is in another database of inventory. Operators find instructions in docs/operations.md, "Another database of inventory".';

const reserveRequest = z.object({
  inventory_id: inventoryId,
  reservations: z.array(reservationRequest).min(1).max(limits.batch),
  /** How long a new hold waits to be confirmed before it is overdue. Inventory never releases it on its own. */
  hold_ms: z.int().min(1),
  /** Whether the caller knows the outcome `locked`. To an older version, which does not, the whole batch is refused. */
  knows_locked: z.boolean().optional(),
});
const reserveReply = z.object({
  /** In the order of the request. */
  decisions: z.array(decision),
  /** Every known product of the batch, once. */
  products: z.array(z.object({ product_id: idText, name: z.string(), unit_price_minor: unitPriceMinor, currency })),
});

/** Identifies a batch that is prepared in inventory and whose outcome order decides (two-phase commit). */
const branchId = uuid.toLowerCase();

/** The operations that inventory offers to other modules. */
export const inventoryContract = contract('inventory', {
  join: {
    summary:
      'Names the database of the orders for which stock is held. Inventory serves only one, permanently: that database ' +
      'decides the outcome of overdue holds and of batches in doubt. Called before anything else.',
    request: z.object({ orders_id: uuid }),
    // The database of inventory, which order recognises in turn. An older version does not name it.
    reply: z.object({ inventory_id: inventoryId }),
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 5_000,
    maxBytes: 1_024,
  },
  reserve: {
    summary:
      'Holds stock for a batch of orders, each all-or-nothing, in the order given. Holds and out-of-stock refusals are stored ' +
      'under the reservation id, so that every retry of a request gets the same answer; other refusals are not stored.',
    request: reserveRequest,
    reply: reserveReply,
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 10_000,
    maxBytes: 16_777_216,
  },
  prepare: {
    summary:
      'The same as the first phase of a two-phase commit: its decisions are invisible until `finish` commits them, and its ' +
      'products are locked until then. A name can be used only once.',
    request: reserveRequest.extend({ branch_id: branchId }),
    reply: reserveReply,
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: false,
    deadlineMs: 10_000,
    maxBytes: 16_777_216,
  },
  finish: {
    summary: 'The second phase: commits what was prepared, or rolls it back. What is already finished stays as it is.',
    request: z.object({ branch_id: branchId, outcome: z.enum(['commit', 'rollback']) }),
    reply: z.object({}),
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 10_000,
    maxBytes: 1_024,
  },
  in_doubt: {
    summary: 'Lists the batches of all tenants that are prepared and not finished.',
    request: z.object({}),
    reply: z.object({ branches: z.array(z.object({ branch_id: branchId, age_ms: z.number() })) }),
    errors: ['unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 10_000,
    maxBytes: 1_048_576,
  },
  settle: {
    summary:
      'Applies the outcomes of orders to the stock: the effects of a reservation in the order of their versions, each once.',
    request: z.object({ inventory_id: inventoryId, effects: z.array(effect).min(1).max(limits.batch) }),
    reply: z.object({
      applied: z.int(),
      repeated: z.int(),
      /** Effects that were not applied, because fewer units are held than they fulfil or a product is unknown. */
      impossible: z.array(z.object({ reservation_id: reservationId, version: z.int() })),
    }),
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 10_000,
    maxBytes: 16_777_216,
  },
  stock: {
    summary: 'Returns the stock of a product; null for a product that does not exist.',
    request: z.object({ product_id: idText }),
    reply: z.object({ stock: stock.nullable() }),
    errors: ['invalid-request', 'unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 5_000,
    maxBytes: 65_536,
  },
  overdue: {
    summary: 'Lists the holds of all tenants that are overdue and were neither confirmed nor released.',
    request: z.object({
      /** Leaves out holds that were overdue a minute before this moment. Pass the `looked_at` of an earlier reply. */
      after: moment.nullable(),
      /** Reads this part of the table, counted from 0, regardless of `after`. Without it, all parts are read. */
      part: z.int().min(0).optional(),
      limit: z.int().min(1).max(limits.batch),
    }),
    reply: z.object({
      holds: z.array(overdueHold),
      looked_at: moment,
      /** If a `part` was requested: how many parts the table has. */
      parts: z.int().min(0).optional(),
    }),
    errors: ['unavailable', 'deadline-exceeded'],
    idempotent: true,
    deadlineMs: 10_000,
    maxBytes: 1_048_576,
  },
});
