import { SeededRandom } from '#testing';
import { realOrdersAreMissing, realWorkload } from '../bench/real-orders.js';

/** An order: its products by number, each once. */
export type Basket = readonly { product: number; quantity: number }[];

export interface Baskets {
  name: 'spread' | 'hot' | 'mix';
  products: number;
  orders: readonly Basket[];
}

const oneUnitOf = (name: 'spread' | 'hot', products: number): Baskets => ({
  name,
  products,
  orders: Array.from({ length: products }, (_, product) => [{ product, quantity: 1 }]),
});

export const spreadBaskets = oneUnitOf('spread', 1_000);
export const hotBaskets = oneUnitOf('hot', 1);

/** @returns the invoices of a real shop, or why they are missing */
export const realBaskets = async (): Promise<Baskets | string> => {
  const missing = realOrdersAreMissing();
  if (missing !== undefined) return missing;
  const { catalogue, orders } = await realWorkload();
  const numbers = new Map(catalogue.map(({ productId }, number) => [productId, number]));
  return {
    name: 'mix',
    products: catalogue.length,
    orders: orders.map(({ lines }) => {
      const units = new Map<number, number>();
      for (const { productId, quantity } of lines) {
        const product = numbers.get(productId)!;
        units.set(product, (units.get(product) ?? 0) + quantity);
      }
      return [...units].map(([product, quantity]) => ({ product, quantity }));
    }),
  };
};

/**
 * The database of a product, by a hash, so that neighbours in the catalogue are spread. Every bit of the number and of
 * the seed affects all 32 bits of the hash (the last step of murmur3).
 */
export const partitionOf = (product: number, partitions: number, seed: number): number => {
  let hash = Math.imul(product + 1, 0x9e3779b1) ^ seed;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) % partitions;
};

/** The orders of callers, in random order. */
export const arrivals =
  ({ orders }: Baskets, random: SeededRandom): (() => Basket) =>
  () =>
    random.pick(orders);
