import type { ReservationRequest } from '#contracts';

/** A batch of reservations as the arrays that the database function takes. Positions count from 1. */
export interface ReservationBatch {
  reservationIds: string[];
  orderIds: string[];
  /** By reservation: product id to units. */
  held: Record<string, number>[];
  atLeast: (number | null)[];
  atMost: (number | null)[];
  /** By reservation: the sum of the lines that have a price of their own. */
  ownPricedMinor: number[];
  /** Every product of the batch, once. */
  productIds: string[];
  /** How many units of each product the whole batch wants. */
  wanted: number[];
  /** One entry per reservation and product: lines of one product are summed, so that none is checked on its own. */
  lines: { reservation: number; product: number; quantity: number; catalogueQuantity: number }[];
}

/** Above every range that can be asked for, but still a bigint in the database. */
const beyondAnyRange = 2 ** 54;

export const arrangeReservations = (reservations: readonly ReservationRequest[]): ReservationBatch => {
  const batch: ReservationBatch = {
    reservationIds: [],
    orderIds: [],
    held: [],
    atLeast: [],
    atMost: [],
    ownPricedMinor: [],
    productIds: [],
    wanted: [],
    lines: [],
  };
  const positionOf = new Map<string, number>();
  for (const reservation of reservations) {
    const position = batch.reservationIds.push(reservation.reservation_id);
    batch.orderIds.push(reservation.order_id);
    const summed = new Map<string, { quantity: number; catalogueQuantity: number }>();
    let ownPricedMinor = 0;
    for (const line of reservation.lines) {
      const sum = summed.get(line.product_id) ?? { quantity: 0, catalogueQuantity: 0 };
      summed.set(line.product_id, sum);
      sum.quantity += line.quantity;
      if (line.unit_price_minor === undefined) sum.catalogueQuantity += line.quantity;
      else ownPricedMinor += line.quantity * line.unit_price_minor;
    }
    for (const [productId, { quantity, catalogueQuantity }] of summed) {
      let product = positionOf.get(productId);
      if (product === undefined) positionOf.set(productId, (product = batch.productIds.push(productId)));
      batch.wanted[product - 1] = (batch.wanted[product - 1] ?? 0) + quantity;
      batch.lines.push({ reservation: position, product, quantity, catalogueQuantity });
    }
    batch.held.push(Object.fromEntries([...summed].map(([productId, { quantity }]) => [productId, quantity])));
    batch.atLeast.push(reservation.items_total?.at_least ?? null);
    batch.atMost.push(reservation.items_total?.at_most ?? null);
    batch.ownPricedMinor.push(Math.min(ownPricedMinor, beyondAnyRange));
  }
  return batch;
};
