import { onHand, type CatalogueEntry, type Workload } from './workloads.js';

/** The limit of the API for one request. */
const batchSize = 1_000;
const inFlight = 32;
const faultsTold = 5;

type Headers = Record<string, string>;

const post = async (url: string, body: unknown, headers: Headers): Promise<void> => {
  const answer = await fetch(url, {
    method: 'POST',
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}: ${text.slice(0, 500)}`);
};

/** Does the work for every item, a few at a time. */
const forEach = async <Item>(items: readonly Item[], work: (item: Item) => Promise<void>): Promise<void> => {
  const left = items[Symbol.iterator]();
  const worker = async (): Promise<void> => {
    for (const item of left) await work(item);
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
};

/** The expected stock of a system: every acknowledged order took its units, and nothing else did. */
export class Shelf {
  private readonly promised = new Map<string, number>();

  private constructor(
    private readonly url: string,
    private readonly headers: Headers,
  ) {}

  /**
   * @param url where the system serves products and stock
   * @param headers for its requests, such as a key
   */
  static async fill(url: string, catalogue: readonly CatalogueEntry[], headers: Headers = {}): Promise<Shelf> {
    const shelf = new Shelf(url, headers);
    for (let at = 0; at < catalogue.length; at += batchSize) {
      const batch = catalogue.slice(at, at + batchSize);
      const products = batch.map((it) => ({
        product_id: it.productId,
        name: it.name,
        unit_price_minor: it.unitPriceMinor,
        currency: 'GBP',
      }));
      await post(`${url}/products/batch`, { products }, headers);
      const stock = batch.map((it) => ({ product_id: it.productId, on_hand: onHand }));
      await post(`${url}/stock/batch`, { stock }, headers);
      for (const { productId } of batch) shelf.promised.set(productId, 0);
    }
    return shelf;
  }

  /** The same expectation for another system on a copy of the data. */
  copiedTo(url: string): Shelf {
    const copy = new Shelf(url, this.headers);
    for (const [productId, units] of this.promised) copy.promised.set(productId, units);
    return copy;
  }

  /** @param times how often each order of the workload was acknowledged */
  acknowledge({ orders }: Workload, times: ArrayLike<number>): void {
    orders.forEach(({ lines }, index) => {
      const count = times[index] ?? 0;
      if (count === 0) return;
      for (const { productId, quantity } of lines)
        this.promised.set(productId, this.promised.get(productId)! + count * quantity);
    });
  }

  /** @returns what is wrong, by product; empty if the stock is exact */
  async faults(): Promise<string[]> {
    const faults: string[] = [];
    await forEach([...this.promised], async ([productId, units]) => {
      const answer = await fetch(`${this.url}/stock/${encodeURIComponent(productId)}`, { headers: this.headers });
      const { reserved } = (await answer.json()) as { reserved?: number };
      if (reserved !== units)
        faults.push(`${reserved} units of ${productId} are reserved, acknowledged orders hold ${units}`);
    });
    const more = faults.length - faultsTold;
    return more > 0 ? [...faults.slice(0, faultsTold), `and ${more} more products are wrong`] : faults;
  }

  /** @returns which of the acknowledged orders cannot be read any more */
  static async lostOrders(url: string, orderIds: readonly string[], headers: Headers = {}): Promise<string[]> {
    const lost: string[] = [];
    await forEach(orderIds, async (orderId) => {
      const answer = await fetch(`${url}/orders/${orderId}`, { headers });
      await answer.body?.cancel();
      if (answer.status !== 200) lost.push(`order ${orderId} was acknowledged and is answered with ${answer.status}`);
    });
    return lost.slice(0, faultsTold);
  }
}
