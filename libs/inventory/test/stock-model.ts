import type { Decision, ReservationRequest, StockEffect } from '#contracts';

export interface ModelProduct {
  price: number;
  currency: string;
  onHand: number;
  reserved: number;
  sold: number;
}

interface ModelReservation {
  state: 'held' | 'confirmed' | 'fulfilled' | 'refused' | 'released';
  orderId: string | null;
  held: Map<string, number>;
  shortages: { product_id: string; requested: number; available: number }[];
  /** The last version that was applied. */
  settled: number;
}

type EffectName = Pick<StockEffect, 'reservation_id' | 'version'>;

const summed = (lines: StockEffect['lines']): Map<string, number> => {
  const sums = new Map<string, number>();
  for (const { product_id, quantity } of lines ?? []) sums.set(product_id, (sums.get(product_id) ?? 0) + quantity);
  return sums;
};

/** The reference model of inventory, as simple as possible. */
export class StockModel {
  readonly products = new Map<string, ModelProduct>();
  private readonly reservations = new Map<string, ModelReservation>();
  private readonly adjustments = new Map<string, { productId: string; delta: number; onHand: number }>();

  put(id: string, price: number, currency: string): void {
    const product = this.products.get(id) ?? { price, currency, onHand: 0, reserved: 0, sold: 0 };
    this.products.set(id, { ...product, price, currency });
  }

  count(counts: readonly { product_id: string; on_hand: number }[]): string {
    if (counts.some((it) => !this.products.has(it.product_id))) return 'product-not-found';
    if (counts.some((it) => it.on_hand < this.products.get(it.product_id)!.reserved)) return 'stock-below-reserved';
    for (const { product_id, on_hand } of counts) this.products.get(product_id)!.onHand = on_hand;
    return 'counted';
  }

  /** @returns the units on hand afterwards, or the code of the refusal */
  adjust(productId: string, delta: number, key: string): number | string {
    const earlier = this.adjustments.get(key);
    if (earlier)
      return earlier.productId === productId && earlier.delta === delta ? earlier.onHand : 'idempotency-key-reused';
    const product = this.products.get(productId);
    if (!product) return 'product-not-found';
    if (product.onHand + delta < product.reserved) return 'stock-below-reserved';
    product.onHand += delta;
    this.adjustments.set(key, { productId, delta, onHand: product.onHand });
    return product.onHand;
  }

  reserve(batch: readonly ReservationRequest[]): Decision[] {
    return batch.map((it) => this.decide(it));
  }

  private decide({ reservation_id, order_id, lines, items_total }: ReservationRequest): Decision {
    const kept = this.reservations.get(reservation_id);
    if (kept?.state === 'released') return { outcome: 'released', order_id: kept.orderId };
    if (kept?.state === 'refused') return { outcome: 'out-of-stock', shortages: kept.shortages };

    const earlier = kept && { order_id: kept.orderId! };
    const wanted = summed(lines);
    const product_ids = [...wanted.keys()].filter((id) => !this.products.has(id));
    if (product_ids.length > 0) return { outcome: 'unknown-product', product_ids, ...earlier };
    const currencies = [...new Set([...wanted.keys()].map((id) => this.products.get(id)!.currency))];
    if (currencies.length > 1) return { outcome: 'currency-mismatch', currencies, ...earlier };
    const items_total_minor = lines.reduce(
      (sum, it) => sum + it.quantity * (it.unit_price_minor ?? this.products.get(it.product_id)!.price),
      0,
    );
    if (items_total && (items_total_minor < items_total.at_least || items_total_minor > items_total.at_most))
      return { outcome: 'total-outside', items_total_minor, ...earlier };
    if (kept) return { outcome: 'held', order_id: kept.orderId! };

    const shortages = [...wanted].flatMap(([product_id, requested]) => {
      const { onHand, reserved } = this.products.get(product_id)!;
      return requested > onHand - reserved ? [{ product_id, requested, available: onHand - reserved }] : [];
    });
    const decided = { orderId: order_id, shortages, settled: 0 };
    if (shortages.length > 0) {
      this.reservations.set(reservation_id, { ...decided, state: 'refused', held: new Map() });
      return { outcome: 'out-of-stock', shortages };
    }
    for (const [id, units] of wanted) this.products.get(id)!.reserved += units;
    this.reservations.set(reservation_id, { ...decided, state: 'held', held: wanted });
    return { outcome: 'held', order_id };
  }

  /** The reservations that wait to be confirmed or released. */
  get waiting(): Set<string> {
    return new Set([...this.reservations].flatMap(([id, { state }]) => (state === 'held' ? [id] : [])));
  }

  settle(effects: readonly StockEffect[]): { applied: number; repeated: number; impossible: Set<string> } {
    const reply = { applied: 0, repeated: 0, impossible: new Set<string>() };
    const released = effects.filter((it) => it.kind === 'release' && !this.reservations.has(it.reservation_id));
    for (const { reservation_id } of released)
      this.reservations.set(reservation_id, {
        ...{ state: 'released', orderId: null, held: new Map(), shortages: [], settled: 0 },
      });
    // An order begins with its confirmation, so confirmations come before the other effects of a batch.
    const inTurn = [...effects.filter((it) => it.kind === 'confirm'), ...effects.filter((it) => it.kind !== 'confirm')];
    for (const effect of inTurn) {
      const reservation = this.reservations.get(effect.reservation_id);
      // A late confirmation confirms what is still held.
      const isLate = effect.kind === 'confirm' && reservation?.state === 'held';
      if (reservation && effect.version <= reservation.settled && !isLate) reply.repeated += 1;
      else if (reservation && this.apply(reservation, effect)) {
        reservation.settled = Math.max(reservation.settled, effect.version);
        reply.applied += 1;
      } else reply.impossible.add(StockModel.nameOf(effect));
    }
    return reply;
  }

  static nameOf({ reservation_id, version }: EffectName): string {
    return `${reservation_id} ${version}`;
  }

  private apply(reservation: ModelReservation, { kind, lines }: StockEffect): boolean {
    const units = summed(lines);
    switch (kind) {
      case 'confirm':
        if (reservation.state === 'held') reservation.state = 'confirmed';
        return true;
      case 'release':
        for (const [id, quantity] of reservation.held) this.products.get(id)!.reserved -= quantity;
        Object.assign(reservation, { state: 'released', held: new Map() });
        return true;
      case 'restock':
        if ([...units.keys()].some((id) => !this.products.has(id))) return false;
        for (const [id, quantity] of units) this.products.get(id)!.onHand += quantity;
        return true;
      case 'fulfil':
        if ([...units].some(([id, quantity]) => (reservation.held.get(id) ?? 0) < quantity)) return false;
        for (const [id, quantity] of units) {
          const product = this.products.get(id)!;
          product.onHand -= quantity;
          product.reserved -= quantity;
          product.sold += quantity;
          reservation.held.set(id, reservation.held.get(id)! - quantity);
        }
        if ([...reservation.held.values()].every((quantity) => quantity === 0)) reservation.state = 'fulfilled';
        return true;
    }
  }
}
