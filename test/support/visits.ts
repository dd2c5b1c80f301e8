import { setTimeout } from 'node:timers/promises';
import { expect } from '@jest/globals';
import type { SeededRandom } from '#testing';
import { eventually } from '#testing';
import type { Api } from './api.js';
import { fresh, randomOf } from './fresh.js';
import { Caller, type Sending } from './load.js';
import type { Ledger } from './ledger.js';

/** A request, and the statuses that are acceptable. */
interface Visit extends Sending {
  expected: number[];
}

const thinkMs = 20;

/** Callers that send all requests other than keyed orders, each over its own keep-alive connection. */
export class Visits {
  /** Unacceptable answers, with the request that got them. */
  readonly failures: string[] = [];
  /** How many were answered, by service. */
  readonly answered: Record<string, number> = {};
  begun = 0;
  inFlight = 0;
  private stopped = false;
  private readonly callers: Promise<void>[];
  private readonly orders: string[] = [];
  /** Whether each customer's order was acknowledged; each customer places one. */
  private readonly placed = new Map<string, boolean>();
  private readonly adjusted = { sent: 0, acknowledged: 0 };

  /**
   * @param entrances base URLs that callers may use; they start at each in turn
   * @param product one with ample stock, which no other check counts
   */
  constructor(
    entrances: readonly string[],
    callers: number,
    private readonly product: string,
    private readonly random: SeededRandom = randomOf('visits'),
  ) {
    this.callers = Array.from({ length: callers }, (_, at) => this.call(new Caller(entrances, at)));
  }

  /** Stops, and waits for the requests under way. */
  async end(): Promise<void> {
    this.stopped = true;
    await Promise.all(this.callers);
  }

  /**
   * Checks that everything acknowledged exists once and nothing exists twice, with or without a key, and that the stock
   * held for orders that were never recorded has been released.
   *
   * @param onHand the stock on the shelf before
   */
  async expectKept(api: Api, ledger: Ledger, onHand: number): Promise<void> {
    const rows = await ledger.orders<{ customer_id: string; count: number }>(
      `SELECT customer_id, count(*)::int FROM orders.orders WHERE customer_id = ANY ($1) AND status <> 'void' GROUP BY 1`,
      [[...this.placed.keys()]],
    );
    const counts = new Map(rows.map((it) => [it.customer_id, it.count]));
    const wrong = [...this.placed].filter(([customer, isAcknowledged]) => {
      const count = counts.get(customer) ?? 0;
      return isAcknowledged ? count !== 1 : count > 1;
    });
    expect(wrong).toEqual([]);
    const added = (await api.stock(this.product)).on_hand - onHand;
    expect(added).toBeGreaterThanOrEqual(this.adjusted.acknowledged);
    expect(added).toBeLessThanOrEqual(this.adjusted.sent);
    const held = `SELECT reservation_id FROM inventory.reservations WHERE state = 'held' AND held ? $1`;
    await eventually(async () => expect(await ledger.inventory(held, [this.product])).toEqual([]), 60_000);
  }

  private async call(caller: Caller): Promise<void> {
    for (; !this.stopped; await setTimeout(thinkMs)) await this.visit(caller, this.next());
    caller.end();
  }

  private next(): Visit {
    const key = `visits-${this.random.integer(0, 20)}`;
    const order = this.orders.at(-1);
    const visits: Visit[] = [
      { method: 'GET', path: `/products/${this.product}`, expected: [200] },
      { method: 'GET', path: '/products?limit=5', expected: [200] },
      { method: 'GET', path: `/stock/${this.product}`, expected: [200] },
      {
        ...{ method: 'POST', path: `/stock/${this.product}/adjustments`, key: fresh('adjust'), expected: [200] },
        body: { delta: 1, reason: 'found' },
      },
      { method: 'PUT', path: '/cache', body: { key, value: fresh('value') }, expected: [200] },
      { method: 'GET', path: `/cache?key=${key}`, expected: [200, 404] },
      { method: 'DELETE', path: `/cache?key=${key}`, expected: [204, 404] },
      {
        ...{ method: 'POST', path: '/orders', key: fresh('visit'), expected: [201] },
        body: {
          ...{ customer_id: fresh('visitor'), product_id: this.product, quantity: 1 },
          payment: { method: 'simulated', token: 'tok_ok' },
        },
      },
      // Without a key, nothing on the way may repeat it for the caller.
      {
        ...{ method: 'POST', path: '/orders', expected: [201] },
        body: { customer_id: fresh('visitor'), product_id: this.product, quantity: 1 },
      },
      { method: 'GET', path: '/orders?status=confirmed&limit=3', expected: [200] },
      ...(order === undefined ? [] : [{ method: 'GET', path: `/orders/${order}`, expected: [200] }]),
    ];
    return this.random.shuffled(visits)[0]!;
  }

  private async visit(caller: Caller, visit: Visit): Promise<void> {
    this.begun += 1;
    this.inFlight += 1;
    const { customer_id: customer } = (visit.body ?? {}) as { customer_id?: string };
    if (customer !== undefined) this.placed.set(customer, false);
    const isAdjustment = visit.path.endsWith('/adjustments');
    if (isAdjustment) this.adjusted.sent += 1;
    const { status, text } = await caller.send(visit);
    this.inFlight -= 1;
    if (!visit.expected.includes(status as number)) {
      this.failures.push(`${visit.method} ${visit.path}: ${status} ${text}`);
      return;
    }
    const service = visit.path.split(/[/?]/)[1]!;
    this.answered[service] = (this.answered[service] ?? 0) + 1;
    if (isAdjustment) this.adjusted.acknowledged += 1;
    if (customer === undefined) return;
    this.placed.set(customer, true);
    this.orders.push((JSON.parse(text!) as { order_id: string }).order_id);
  }
}
