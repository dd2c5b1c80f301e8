import { z } from 'zod';
import { CleaveError, invalidRequest, type PlaceOrderRequest, type orderListQuery } from '#contracts';
import { Cursors, uuidOr } from '#rest';
import { allow, type Caller } from '#security';
import { canonicalJson, fingerprintOf } from '../domain/placement.js';
import type { KeyedChange } from '../use-cases/change-order.js';
import type { OrderFilter } from '../use-cases/read-orders.js';

// What REST and gRPC read from requests in the same way.

/** The cursor of a list of orders: the last order on the page. */
export const orderCursor = z.object({ before: z.uuid() });
/** The cursor of a history: the last version on the page. */
export const historyCursor = z.object({ after: z.int() });
export const historyCursorOf = (cursors: Cursors, last: number | null): string | null =>
  last === null ? null : cursors.write({ after: last });

/** @throws CleaveError `invalid-request` for a range of times that is empty whatever there is */
export const orderFilterIn = (query: Omit<z.output<typeof orderListQuery>, 'limit' | 'cursor'>): OrderFilter => {
  const { customer_id: customerId, status, reference, created_from, created_before } = query;
  if (created_from && created_before && created_from >= created_before)
    throw invalidRequest('created_before', 'must be after created_from');
  return { customerId, status, reference, createdFrom: created_from, createdBefore: created_before };
};

/** @throws CleaveError `forbidden` for a price of its own or a discount, if the caller may not set prices */
export const refuseOwnPrices = (request: PlaceOrderRequest, caller: Caller): void => {
  const hasOwn = 'lines' in request && request.lines.some((it) => it.unit_price_minor !== undefined);
  if (hasOwn || request.adjustments?.some((it) => it.kind === 'discount')) allow(caller, 'orders:price');
};

export const mayReadPersonalData = ({ scopes }: Caller): boolean => scopes.has('personal:read');

/** Order ids are opaque to callers, so a text that cannot be one is an order that does not exist, not a malformed request. */
export const orderIdIn = (id: string): string =>
  uuidOr(id, () => new CleaveError('order-not-found', 'There is no order with this id.'));

export const keyedChange = (
  { account }: Caller,
  operation: string,
  idempotencyKey: string,
  command: unknown,
): KeyedChange => ({
  account,
  operation,
  idempotencyKey,
  fingerprint: fingerprintOf(canonicalJson(command)),
});
