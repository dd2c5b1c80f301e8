import { partitionOf, type Baskets } from './baskets.js';

/** How many orders in a range of lines touch several of the databases. */
export interface Crossing {
  orders: number;
  /** The share of them that touches more than one database. */
  crossing: number;
  /** The average number of databases that an order touches. */
  touched: number;
}

/** Ranges of lines that are reported separately. */
export const lineRanges: readonly (readonly [least: number, most: number])[] = [
  [1, 1],
  [2, 2],
  [3, 3],
  [4, 4],
  [5, 5],
  [6, 10],
  [11, 25],
  [26, 2_000],
];

export const crossingOf = (
  { orders }: Baskets,
  partitions: number,
  seed: number,
  [least, most]: readonly [number, number] = [1, Number.POSITIVE_INFINITY],
): Crossing => {
  const touched = orders
    .filter((it) => it.length >= least && it.length <= most)
    .map((it) => new Set(it.map(({ product }) => partitionOf(product, partitions, seed))).size);
  return {
    orders: touched.length,
    crossing: touched.filter((it) => it > 1).length / touched.length,
    touched: touched.reduce((sum, it) => sum + it, 0) / touched.length,
  };
};

/** The lines in the busiest database, relative to an even share; 1 if all have the same. */
export const busiestOf = ({ orders }: Baskets, partitions: number, seed: number): number => {
  const lines = new Float64Array(partitions);
  for (const order of orders) for (const { product } of order) lines[partitionOf(product, partitions, seed)]! += 1;
  return (Math.max(...lines) * partitions) / lines.reduce((sum, it) => sum + it, 0);
};
