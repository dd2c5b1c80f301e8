import { SeededRandom } from '#testing';

/**
 * Which sub-stocks an order tries, beginning with its own, which the reservation id selects: only that one, one more at
 * random, one after the other, or all of them, taking a part from each.
 */
export const policies = ['own', 'one more', 'each', 'parts'] as const;
type Policy = (typeof policies)[number];

export interface EscrowResult {
  /** The share of orders that were refused though all sub-stocks together had enough. */
  refusedForNothing: number;
  /** The share of units left when an order was refused for the first time. */
  leftAtFirst: number;
  /**
   * The average number of sub-stocks that an order asked; and the same for orders that came when less than a tenth was
   * left.
   */
  asked: number;
  askedAtTheEnd: number;
  /** Units oversold or lost: 0. */
  wrong: number;
}

export interface EscrowSettings {
  buckets: number;
  policy: Policy;
  units: number;
  /** The quantities that orders want, with equal probability. */
  quantities: readonly number[];
  seed: number;
}

/**
 * O'Neil's escrow method for one hot product: its units are split over several rows, and each order uses one of them.
 */
export const sellOut = ({ buckets, policy, units, quantities, seed }: EscrowSettings): EscrowResult => {
  const random = new SeededRandom(seed);
  const left = Array.from({ length: buckets }, (_, bucket) => Math.floor((units + bucket) / buckets));
  const most = policy === 'own' ? 1 : policy === 'one more' ? Math.min(2, buckets) : buckets;
  let [orders, asked, lateOrders, lateAsked, forNothing, sold, leftAtFirst] = [0, 0, 0, 0, 0, 0, Number.NaN];

  /** @returns how many sub-stocks were asked, and whether they had enough */
  const place = (quantity: number): { asks: number; held: boolean } => {
    const first = random.integer(0, buckets - 1);
    const step = buckets > 1 ? random.integer(1, buckets - 1) : 1;
    const order = Array.from({ length: buckets }, (_, turn) => (first + turn) % buckets);
    const tried = most === 2 ? [first, (first + step) % buckets] : order.slice(0, most);
    const found = tried.findIndex((bucket) => left[bucket]! >= quantity);
    if (found >= 0) {
      left[tried[found]!]! -= quantity;
      return { asks: found + 1, held: true };
    }
    const together = left.reduce((sum, it) => sum + it, 0);
    if (policy !== 'parts' || together < quantity) return { asks: tried.length, held: false };
    let wanted = quantity;
    for (const bucket of order) {
      const part = Math.min(wanted, left[bucket]!);
      left[bucket]! -= part;
      wanted -= part;
    }
    return { asks: 2 * buckets, held: true };
  };

  for (let together = units; together >= Math.min(...quantities); together = units - sold) {
    const quantity = random.pick(quantities);
    const isLate = together < units / 10;
    const { asks, held } = place(quantity);
    orders += 1;
    asked += asks;
    if (isLate) {
      lateOrders += 1;
      lateAsked += asks;
    }
    if (held) sold += quantity;
    else {
      if (together >= quantity) forNothing += 1;
      if (Number.isNaN(leftAtFirst)) leftAtFirst = together / units;
      // No further order can succeed with this policy.
      if (policy === 'own' && left.every((it) => it < Math.min(...quantities))) break;
    }
  }
  return {
    refusedForNothing: forNothing / orders,
    leftAtFirst: Number.isNaN(leftAtFirst) ? 0 : leftAtFirst,
    asked: asked / orders,
    askedAtTheEnd: lateAsked / lateOrders,
    wrong: units - sold - left.reduce((sum, it) => sum + it, 0),
  };
};
