import { afterAll, afterEach, beforeAll, expect } from '@jest/globals';
import { Api, refused, type Order } from './api.js';
import { randomOf } from './fresh.js';
import { Ledger } from './ledger.js';
import { Load, type Attempt } from './load.js';
import { startShape, type Shape } from './shapes.js';

/** How many callers place orders at the same time. */
export const callers = 16;

/** The system under load, and what must be true of it in the end. */
export class Trial {
  readonly api: Api;
  readonly ledger: Ledger;
  private readonly random = randomOf('trial');
  private readonly loads: Load[] = [];
  /** The orders that the loads resulted in, by key. */
  private readonly settled = new Map<string, Order>();
  private products: string[] = [];

  constructor(readonly shape: Shape) {
    this.api = new Api(shape.baseUrl);
    this.ledger = new Ledger(shape);
  }

  /** Two products with ample stock, and one that soon runs out. */
  async stock(): Promise<void> {
    this.products = [
      await this.api.product({ onHand: 1_000_000 }),
      await this.api.product({ onHand: 1_000_000 }),
      await this.api.product({ onHand: 60 }),
    ];
  }

  /** @param thinkMs how long a caller waits between two orders; limits how many there are to repeat in the end */
  load(thinkMs = 0): Load {
    const nextBody = () => ({
      customer_id: 'load',
      lines: this.random
        .shuffled(this.products)
        .slice(0, this.random.integer(1, 2))
        .map((product_id) => ({ product_id, quantity: this.random.integer(1, 3) })),
    });
    const load = new Load(this.shape.entrances, callers, nextBody, thinkMs);
    this.loads.push(load);
    return load;
  }

  async stopLoads(): Promise<void> {
    await Promise.all(this.loads.map((it) => it.end()));
  }

  /** Stops what a failed test left running, and starts what it left stopped. */
  async rest(): Promise<void> {
    await this.stopLoads();
    for (const service of this.shape.services) if (!service.isRunning) await service.restart();
  }

  /**
   * Repeats every order of the loads under its key. Each must get the same answer as before, and result in exactly one
   * order or refusal; what was acknowledged still exists, and the stock adds up to the unit.
   */
  async settle(): Promise<void> {
    const attempts = this.loads.splice(0).flatMap((it) => it.attempts);
    const repeats = await inTurns(attempts, async (attempt) => ({
      attempt,
      answer: await this.api.place(attempt.body, attempt.key),
    }));
    for (const { attempt, answer } of repeats) {
      if (answer.status !== 201) refused(answer, '409 out-of-stock');
      if (attempt.outcome === 201) expect(answer.body).toEqual(attempt.order);
      if (attempt.outcome === 409) expect(answer.status).toBe(409);
      if (answer.status === 201) this.settled.set(attempt.key, answer.body);
    }
    const rows = await this.ledger.orders<{ idempotency_key: string; order_id: string }>(
      `SELECT idempotency_key, order_id FROM orders.orders WHERE customer_id = 'load'`,
    );
    const settled = [...this.settled].map(([key, { order_id }]) => `${key} ${order_id}`);
    expect(rows.map((it) => `${it.idempotency_key} ${it.order_id}`).toSorted()).toEqual(settled.toSorted());
    expect(new Set([...this.settled.values()].map((it) => it.order_id)).size).toBe(this.settled.size);
    const repeated = repeats.map(({ attempt: { key, body }, answer: { status, text, body: order } }) => ({
      ...{ key, body, outcome: status, text },
      ...(status === 201 && { order }),
    }));
    const log = { placements: [...attempts, ...repeated] };
    await this.ledger.expectInvariants({ log, holdsMayWait: false });
    for (const product of this.products) {
      const promised = [...this.settled.values()]
        .flatMap((it) => it.lines)
        .reduce((sum, line) => sum + (line.product_id === product ? line.quantity : 0), 0);
      expect(await this.api.stock(product)).toMatchObject({ reserved: promised, sold: 0 });
    }
  }
}

const inTurns = async <Item, Result>(items: Item[], work: (item: Item) => Promise<Result>): Promise<Result[]> => {
  const results: Result[] = [];
  for (let at = 0; at < items.length; at += 50)
    results.push(...(await Promise.all(items.slice(at, at + 50).map(work))));
  return results;
};

export const acknowledged = (attempts: Attempt[]): Attempt[] => attempts.filter((it) => it.outcome === 201);

/** Checks that every request had one of these outcomes. */
export const expectAnswers = (attempts: Attempt[], allowed: (number | string)[]): void => {
  const strange = attempts.filter((it) => it.outcome === undefined || !allowed.includes(it.outcome));
  expect(strange.map(({ outcome, text }) => ({ outcome, text }))).toEqual([]);
};

/** A trial for the tests of a `describe`. After each of them, the system is running and at rest. */
export const withTrial = (name: 'monolith' | 'split-tcp'): { trial: Trial } => {
  const holder = {} as { trial: Trial };
  beforeAll(async () => {
    holder.trial = new Trial(await startShape(name));
    await holder.trial.stock();
  }, 180_000);
  afterEach(() => holder.trial?.rest(), 120_000);
  afterAll(() => holder.trial?.shape.stop(), 120_000);
  return holder;
};
