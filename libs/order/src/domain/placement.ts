import { hash } from 'node:crypto';
import {
  CleaveError,
  type Decision,
  type PaymentMethod,
  type PersonalData,
  type PlaceOrderRequest,
  type ReservationRequest,
} from '#contracts';
import type { Order } from './order.js';
import { uuidOfHash } from './uuid.js';

/** The command in a request, whichever form of the API it was written in. */
export interface PlacementCommand {
  customerId: string;
  lines: { product_id: string; quantity: number; unit_price_minor?: number | undefined }[];
  reference: string | null;
  adjustments: Order['adjustments'];
  expectedTotalMinor: number | null;
  metadata: Record<string, unknown>;
  payment: { method: PaymentMethod; token: string | null } | null;
  personal: PersonalData | null;
}

/** Name, price and currency of a product, as they were when the stock was held. */
export interface PricedProduct {
  product_id: string;
  name: string;
  unit_price_minor: number;
  currency: string;
}

/** @throws CleaveError `invalid-request` if the adjustments alone are too large to be added up */
export const commandOf = (request: PlaceOrderRequest): PlacementCommand => {
  const adjustments = (request.adjustments ?? []).map((it) => ({
    ...it,
    amount_minor: it.kind === 'discount' ? -Math.abs(it.amount_minor) : it.amount_minor,
  }));
  assertCanBeAddedUp(adjustments);
  return {
    customerId: request.customer_id,
    lines: 'lines' in request ? request.lines : [{ product_id: request.product_id, quantity: request.quantity }],
    reference: request.reference ?? null,
    adjustments,
    expectedTotalMinor: request.expected_total_minor ?? null,
    metadata: request.metadata ?? {},
    payment: request.payment ? { method: request.payment.method, token: request.payment.token ?? null } : null,
    personal: personalIn(request),
  };
};

const personalIn = ({ contact, shipping_address }: PlaceOrderRequest): PersonalData | null =>
  contact || shipping_address ? { contact: contact ?? null, shipping_address: shipping_address ?? null } : null;

/** Ignores the signs: a sum that leaves the safe integers in between loses precision. */
const assertCanBeAddedUp = (adjustments: Order['adjustments']): void => {
  const magnitude = adjustments.reduce((sum, it) => sum + Math.abs(it.amount_minor), 0);
  if (Number.isSafeInteger(magnitude)) return;
  throw new CleaveError('invalid-request', 'The order cannot be placed: the adjustments are too large in total.', {
    faults: [{ path: 'adjustments', message: 'the amounts are too large in total' }],
  });
};

/** A canonical JSON text: the same for the same value, whatever the order of its keys. */
export const canonicalJson = (value: unknown): string =>
  JSON.stringify(value, (_, item: unknown) =>
    item !== null && typeof item === 'object' && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  );

/**
 * The canonical text of a placement. Only the metadata needs `canonicalJson`, because `commandOf` builds everything else in
 * a fixed order. Of personal data it contains only that there is some: the fingerprint of this text is kept for ever, and an
 * erased address could be found from it by brute force.
 */
export const canonicalPlacement = ({ metadata, lines, adjustments, ...rest }: PlacementCommand): string =>
  JSON.stringify([
    rest.customerId,
    lines.map((it) => [it.product_id, it.quantity, it.unit_price_minor]),
    rest.reference,
    adjustments.map((it) => [it.kind, it.label, it.amount_minor]),
    rest.expectedTotalMinor,
    canonicalJson(metadata),
    ...(rest.payment ? [[rest.payment.method, rest.payment.token]] : []),
    ...(rest.personal ? ['personal'] : []),
  ]);

/** The first half of SHA-256, as a UUID: only commands that are crafted to collide could have the same one. */
export const fingerprintOf = (canonical: string): string => uuidOfHash(hash('sha256', canonical, 'hex'));

/**
 * The reservation id of an attempt to place an order, derived from its idempotency key: every try of the same command gets
 * the same id, and so the same decision. A name-based UUID of version 8 (RFC 9562).
 */
export const reservationIdOf = (
  tenant: string,
  account: string,
  name: string,
  fingerprint: string,
  attempt: number,
): string => uuidOfHash(hash('sha256', JSON.stringify([tenant, account, name, fingerprint, attempt]), 'hex'));

const adjustmentsMinor = (command: PlacementCommand): number =>
  command.adjustments.reduce((sum, it) => sum + it.amount_minor, 0);

/** From this many units on, a sum at the highest price allowed could leave the safe integers. */
const unitsThatCouldOverflow = 50_000;

/**
 * The range that the sum of the lines must be in: exactly the expected sum; or large enough that discounts do not make the
 * total negative, and small enough that the total can be stored. `undefined` if neither can happen.
 */
export const itemsTotalRange = (command: PlacementCommand): ReservationRequest['items_total'] => {
  const adjusted = adjustmentsMinor(command);
  if (command.expectedTotalMinor !== null) {
    const exact = command.expectedTotalMinor - adjusted;
    // No lines can have such a sum, so the range is empty.
    return Number.isSafeInteger(exact) ? { at_least: exact, at_most: exact } : { at_least: 1, at_most: 0 };
  }
  const units = command.lines.reduce((sum, line) => sum + line.quantity, 0);
  if (command.adjustments.length === 0 && units < unitsThatCouldOverflow) return undefined;
  return { at_least: Math.max(0, -adjusted), at_most: Number.MAX_SAFE_INTEGER - Math.max(0, adjusted) };
};

/** The refusal of a sum outside that range, in terms of the request. */
const refusalOfTotal = (command: PlacementCommand, itemsTotalMinor: number | null): CleaveError => {
  const total = itemsTotalMinor === null ? null : itemsTotalMinor + adjustmentsMinor(command);
  if (command.expectedTotalMinor !== null)
    return new CleaveError('price-changed', `The total is ${total ?? 'too large'}, not the one expected.`, {
      total_minor: total,
      expected_total_minor: command.expectedTotalMinor,
    });
  const [path, message] =
    total !== null && total < 0
      ? ['adjustments', 'the discounts exceed the rest of the order']
      : ['lines', 'the total is too large to be stored'];
  return new CleaveError('invalid-request', `The order cannot be placed: ${message}.`, { faults: [{ path, message }] });
};

/** A decision of inventory that holds no stock. */
export type Refusal = Exclude<Decision, { outcome: 'held' | 'released' | 'locked' }>;

/** The refusal of a command, if no stock is held for it. */
export const refusalOf = (decision: Refusal, command: PlacementCommand): CleaveError => {
  switch (decision.outcome) {
    case 'out-of-stock': {
      const { shortages } = decision;
      const told = shortages.map(
        (it) => `${it.requested} of ${it.product_id} were requested and ${it.available} are available`,
      );
      return new CleaveError('out-of-stock', told.join('; '), { products: shortages });
    }
    case 'unknown-product': {
      const { product_ids } = decision;
      return new CleaveError('unknown-product', `There is no product ${product_ids.join(', ')}.`, { product_ids });
    }
    case 'currency-mismatch': {
      const { currencies } = decision;
      const told = currencies.join(' and ');
      const detail = `The products are priced in ${told}. Place an order for each currency.`;
      return new CleaveError('currency-mismatch', detail, { currencies });
    }
    case 'total-outside':
      return refusalOfTotal(command, decision.items_total_minor);
  }
};

/** The order that a command becomes once its stock is held. */
export const placedOrder = (
  command: PlacementCommand,
  products: ReadonlyMap<string, PricedProduct>,
  orderId: string,
  at: Date,
): Order => {
  const lines = command.lines.map((line, index) => {
    const product = products.get(line.product_id)!;
    return {
      line: index + 1,
      product_id: line.product_id,
      name: product.name,
      quantity: line.quantity,
      unit_price_minor: line.unit_price_minor ?? product.unit_price_minor,
      fulfilled: 0,
      returned: 0,
    };
  });
  return {
    order_id: orderId,
    status: command.payment ? 'pending' : 'confirmed',
    customer_id: command.customerId,
    reference: command.reference,
    currency: products.get(command.lines[0]!.product_id)!.currency,
    total_minor:
      lines.reduce((sum, line) => sum + line.quantity * line.unit_price_minor, 0) + adjustmentsMinor(command),
    returned_total_minor: 0,
    lines,
    adjustments: command.adjustments,
    metadata: command.metadata,
    payment_method: command.payment?.method ?? null,
    version: 1,
    created_at: at,
    updated_at: at,
  };
};

/** The order as it was when it was placed, rebuilt from its current state, so that the answer is not stored twice. */
export const asPlaced = (order: Order): Order => ({
  ...order,
  status: order.payment_method === null ? 'confirmed' : 'pending',
  returned_total_minor: 0,
  lines: order.lines.map(({ cancelled: _later, ...line }) => ({ ...line, fulfilled: 0, returned: 0 })),
  version: 1,
  updated_at: order.created_at,
});
