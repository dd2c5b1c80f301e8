import type { SeededRandom } from '#testing';

interface Line {
  productId: string;
  quantity: number;
}

export interface CatalogueEntry {
  productId: string;
  name: string;
  unitPriceMinor: number;
}

/** Orders to place, each any number of times, in random order. */
export interface Workload {
  name: WorkloadName | 'purchase';
  catalogue: CatalogueEntry[];
  orders: { body: string; lines: Line[] }[];
}

export const workloadNames = ['spread', 'hot', 'mix'] as const;
export type WorkloadName = (typeof workloadNames)[number];

/** More than any benchmark sells of a product. */
export const onHand = 1_000_000_000;

const customers = 1_000;

/** Each order has one unit of one of the products. All bodies have the same length. */
const oneUnitOf = (name: WorkloadName, products: number, random: SeededRandom): Workload => {
  const catalogue = Array.from({ length: products }, (_, index) => ({
    productId: `p-${String(index).padStart(4, '0')}`,
    name: `Product ${index}`,
    unitPriceMinor: random.integer(100, 999),
  }));
  // Several customers for each product, so that a customer's orders are for more than one product.
  const orders = Array.from({ length: 1_000 }, (_, index) => {
    const { productId } = catalogue[index % products]!;
    const customerId = `c-${String(random.integer(0, customers - 1)).padStart(4, '0')}`;
    return {
      body: JSON.stringify({ customer_id: customerId, product_id: productId, quantity: 1 }),
      lines: [{ productId, quantity: 1 }],
    };
  });
  return { name, catalogue, orders };
};

/** A thousand products, ordered evenly. */
export const spreadWorkload = (random: SeededRandom): Workload => oneUnitOf('spread', 1_000, random);

/** One product, which all orders are for. */
export const hotWorkload = (random: SeededRandom): Workload => oneUnitOf('hot', 1, random);

/** The same orders, paid through the simulated provider. */
export const paidWorkload = ({ catalogue, orders }: Workload): Workload => ({
  name: 'purchase',
  catalogue,
  orders: orders.map(({ body, lines }) => ({
    body: JSON.stringify({ ...(JSON.parse(body) as object), payment: { method: 'simulated', token: 'tok_ok' } }),
    lines,
  })),
});

export const linesPerOrder = ({ orders }: Workload): number =>
  orders.reduce((sum, it) => sum + it.lines.length, 0) / orders.length;
