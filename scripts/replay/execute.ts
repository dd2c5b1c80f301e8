import { setTimeout as wait } from 'node:timers/promises';
import { limits } from '#contracts';
import { concurrently } from './concurrently.js';
import type {
  AdjustmentStep,
  CatalogueEntry,
  GoodsReturn,
  OrderStep,
  Plan,
  Refusal,
  ReturnStep,
  Share,
  Step,
} from './plan.js';
import { ReplayStopped, ShopRefusal, type OrderTotals, type ShopApi } from './shop-api.js';

/** Receives the progress of the replay, to show it. */
export interface Progress {
  begin(phase: string, total: number, unit: string): void;
  advance(by: number, orders?: number): void;
}

export interface ExecutionOptions {
  /** Calls in flight at a time, from 1. */
  concurrency: number;
  /** How many times faster than the file's own timing; as fast as possible when left out. */
  speed?: number | undefined;
  stop: AbortSignal;
  progress: Progress;
}

/** An order on the server, and what the replay sent of it. */
export interface PlacedOrder {
  invoice: string;
  orderId: string;
  totalMinor: number;
  returnedTotalMinor: number;
}

/** What the server acknowledged and what it refused. */
export interface Outcome {
  placed: PlacedOrder[];
  ordersPlaced: number;
  ordersReplayed: number;
  returnsRecorded: number;
  adjustmentsRecorded: number;
  adjustedTotalMinor: number;
  refusals: Refusal[];
  /** Unexpected results for which no line is refused. */
  faults: string[];
}

/** Half of the limit for bodies, because an entry is longer in its wire form than as it is measured here. */
const batchBytes = limits.bodyBytes / 2;

/** Cuts the catalogue into batches within the limits of count and bytes of one request. */
export const catalogueBatches = (catalogue: CatalogueEntry[]): CatalogueEntry[][] => {
  const batches: CatalogueEntry[][] = [];
  let bytes = Infinity;
  for (const entry of catalogue) {
    const entryBytes = Buffer.byteLength(JSON.stringify(entry));
    if (bytes + entryBytes > batchBytes || batches.at(-1)!.length === limits.batch) {
      batches.push([]);
      bytes = 0;
    }
    batches.at(-1)!.push(entry);
    bytes += entryBytes;
  }
  return batches;
};

/** Without the catalogue and the stock every order would be wrong, so a refusal there ends the replay. */
const needed = async (what: string, call: Promise<void>): Promise<void> => {
  try {
    await call;
  } catch (error) {
    if (!(error instanceof ShopRefusal)) throw error;
    throw new ReplayStopped(`The server refuses ${what}: ${error.code}: ${error.message}`, { cause: error });
  }
};

/** Delays each call until it is due, relative to the first one. */
const pace = (steps: Step[], speed: number | undefined): ((step: Step, stop: AbortSignal) => Promise<void>) => {
  if (speed === undefined) return async () => undefined;
  const startedAt = Date.now();
  const firstAt = steps.find((step) => step.at !== undefined)?.at ?? 0;
  return async (step, stop) => {
    const dueAt = startedAt + ((step.at ?? firstAt) - firstAt) / speed;
    // A timer lasts at most 2^31 ms.
    for (let left = dueAt - Date.now(); left > 0; left = dueAt - Date.now())
      await wait(Math.min(left, 2 ** 31 - 1), undefined, { signal: stop });
  };
};

const shareLines = (shares: Share[]): number => new Set(shares.map((share) => share.line)).size;

/** How many lines of the file a step carries out. */
const linesOf = (step: Step): number =>
  shareLines(
    step.kind === 'order'
      ? step.shares
      : step.kind === 'adjustment'
        ? step.adjustments
        : step.returns.flatMap((goods) => goods.shares),
  );

/** Carries the steps out and keeps account of the answers. */
class Execution {
  readonly outcome: Outcome = {
    placed: [],
    ordersPlaced: 0,
    ordersReplayed: 0,
    returnsRecorded: 0,
    adjustmentsRecorded: 0,
    adjustedTotalMinor: 0,
    refusals: [],
    faults: [],
  };
  /** By invoice, from the moment its order is begun: the order, or undefined if the server refused it. */
  private readonly settled = new Map<string, Promise<PlacedOrder | undefined>>();

  constructor(private readonly shop: ShopApi) {}

  async carryOut(step: Step): Promise<void> {
    if (step.kind === 'adjustment') return this.adjust(step);
    if (step.kind === 'return') return this.takeBack(step);
    const order = this.settle(step);
    this.settled.set(step.invoice, order);
    await order;
  }

  private async settle(step: OrderStep): Promise<PlacedOrder | undefined> {
    const answer = await this.unlessRefused(step.shares, this.shop.placeOrder(step));
    if (answer === undefined) return undefined;
    if (answer.replayed) this.outcome.ordersReplayed += 1;
    else this.outcome.ordersPlaced += 1;
    const { invoice, totalMinor } = step;
    const order = { invoice, orderId: answer.orderId, totalMinor, returnedTotalMinor: 0 };
    this.outcome.placed.push(order);
    await this.fulfil(order);
    return order;
  }

  /** Every invoice counts as delivered. */
  private async fulfil({ invoice, orderId }: PlacedOrder): Promise<void> {
    try {
      await this.shop.fulfilOrder(orderId);
    } catch (error) {
      if (!(error instanceof ShopRefusal)) throw error;
      this.outcome.faults.push(
        `order ${orderId} of invoice ${invoice} is placed, but cannot be fulfilled: ${error.code}: ${error.message}`,
      );
    }
  }

  private async takeBack(step: ReturnStep): Promise<void> {
    for (const goods of step.returns) {
      // Present already, because the order comes before this step in the plan.
      const order = await this.settled.get(goods.order);
      if (order === undefined) this.refuse(goods.shares, 'return-without-sale');
      else await this.takeBackFrom(order, goods, step.invoice);
    }
  }

  private async takeBackFrom(order: PlacedOrder, goods: GoodsReturn, invoice: string): Promise<void> {
    const call = this.shop.returnGoods(order.orderId, goods, `cancelled by ${invoice}`).then(() => true);
    if (!(await this.unlessRefused(goods.shares, call))) return;
    this.outcome.returnsRecorded += 1;
    order.returnedTotalMinor += goods.totalMinor;
  }

  private async adjust(step: AdjustmentStep): Promise<void> {
    for (const it of step.adjustments) {
      const reason = `adjusted by ${step.invoice}`;
      const call = this.shop.adjustStock(it.productId, it.delta, reason, it.idempotencyKey).then(() => true);
      if (!(await this.unlessRefused([it], call))) continue;
      this.outcome.adjustmentsRecorded += 1;
      this.outcome.adjustedTotalMinor += it.amountMinor;
    }
  }

  private async unlessRefused<Answer>(shares: Share[], call: Promise<Answer>): Promise<Answer | undefined> {
    try {
      return await call;
    } catch (error) {
      if (!(error instanceof ShopRefusal)) throw error;
      this.refuse(shares, error.code, error.message);
      return undefined;
    }
  }

  private refuse(shares: Share[], reason: string, detail?: string): void {
    for (const { line, amountMinor } of shares)
      this.outcome.refusals.push({ reason, line, amountMinor, ...(detail !== undefined && { detail }) });
  }
}

/**
 * Puts the catalogue and enough stock, then carries the plan out. It can be repeated after a stop at any point, or after the
 * end: the key of every call is derived from the file, so that it takes effect once.
 *
 * @throws ReplayStopped if it cannot go on, or the reason of `stop` once that is aborted
 */
export const execute = async (plan: Plan, shop: ShopApi, options: ExecutionOptions): Promise<Outcome> => {
  const { concurrency, speed, stop, progress } = options;
  progress.begin('putting the catalogue', plan.catalogue.length, 'products');
  for (const batch of catalogueBatches(plan.catalogue)) {
    stop.throwIfAborted();
    await needed('the catalogue', shop.putProducts(batch));
    progress.advance(batch.length);
  }
  progress.begin('putting stock', plan.stock.length, 'products');
  await concurrently(plan.stock, concurrency, stop, async ({ productId, units, idempotencyKey }) => {
    // Never changes, not even with the name of the file, because the request must stay the same under its key.
    const call = shop.adjustStock(productId, units, 'stock for replayed invoices', idempotencyKey);
    await needed(`the stock of product ${productId}`, call);
    progress.advance(1);
  });
  progress.begin(
    'replaying',
    plan.steps.reduce((lines, step) => lines + linesOf(step), 0),
    'lines',
  );
  const execution = new Execution(shop);
  const untilDue = pace(plan.steps, speed);
  await concurrently(plan.steps, concurrency, stop, async (step, stopped) => {
    await untilDue(step, stopped);
    await execution.carryOut(step);
    progress.advance(linesOf(step), step.kind === 'order' ? 1 : 0);
  });
  return execution.outcome;
};

/** Reads the totals of each placed order back from the server, by order id. */
export const readBack = async (
  placed: PlacedOrder[],
  shop: ShopApi,
  { concurrency, stop, progress }: ExecutionOptions,
): Promise<Map<string, OrderTotals>> => {
  progress.begin('reading back', placed.length, 'orders');
  const totals = new Map<string, OrderTotals>();
  await concurrently(placed, concurrency, stop, async ({ orderId }) => {
    totals.set(orderId, await shop.readOrder(orderId));
    progress.advance(1);
  });
  return totals;
};
