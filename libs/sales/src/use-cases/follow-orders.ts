import { setImmediate as nextTurn } from 'node:timers/promises';
import { Injectable, Optional } from '@nestjs/common';
import type { OrderLogEvent } from '#contracts';
import { Checkpoints, EventConsumer, type Checkpoint, type EventSource } from '#events';
import { BackgroundWorker } from '#periodic';
import { Metrics, Traces } from '#telemetry';
import { Sums, type Delta } from '../domain/sales.js';

/** The log of orders, as one consumer reads it. */
export abstract class OrderLog {
  abstract as(consumer: string): EventSource<OrderLogEvent>;
}

/** The sums over some events. */
export interface Counted {
  deltas: readonly Delta[];
  events: number;
  /** When the last of these events happened. */
  until: Date;
}

export abstract class Views {
  /** The views that follow the orders: the served one first, then the one that is being built. */
  abstract following(): Promise<number[]>;
  /** Adds to a view and stores the checkpoint, atomically. */
  abstract add(view: number, counted: Counted, checkpoint: Checkpoint): Promise<void>;
  /** Serves the view that is being built, once it covers everything that the other one does. */
  abstract serveBuilt(): Promise<boolean>;
  /** Deletes a part of the retired views. @returns whether there is more of them */
  abstract forgetRetired(limit: number): Promise<boolean>;
}

export const consumerOf = (view: number): string => `sales-${view}`;

/** A larger batch writes each product less often. */
const batchSize = 20_000;
/** How many events are read, and added up, in one turn of the event loop: everything else in the process waits for it. */
const pageSize = 1_000;
const pollMs = 75;
const paceMs = 25;

/** Counts sales in one view, each event once. */
class CountSales extends EventConsumer<OrderLogEvent> {
  /** Whether it has counted anything since it last reached the end of the log. */
  private hasMoved = false;

  constructor(
    private readonly view: number,
    private readonly views: Views,
    checkpoints: Checkpoints,
    log: OrderLog,
    private readonly caughtUp: () => void,
  ) {
    super(consumerOf(view), checkpoints, log.as(consumerOf(view)), {
      ...{ batchSize, pageSize, pollMs, paceMs },
      failing: `the events of orders cannot be counted as sales, trying again until it works`,
      working: 'the events of orders are being counted as sales again',
    });
  }

  protected override async execute(): Promise<boolean> {
    const isMore = await super.execute();
    if (this.hasMoved && !isMore) {
      this.hasMoved = false;
      this.caughtUp();
    }
    return isMore;
  }

  protected async apply(events: readonly OrderLogEvent[], checkpoint: Checkpoint): Promise<void> {
    this.hasMoved = true;
    const last = events.at(-1);
    if (!last) return checkpoint.keep();
    const deltas = await this.deltasOf(events);
    await this.views.add(this.view, { deltas, events: events.length, until: last.time }, checkpoint);
  }

  private async deltasOf(events: readonly OrderLogEvent[]): Promise<Delta[]> {
    const sums = new Sums();
    for (let from = 0; from < events.length; from += pageSize) {
      if (from > 0) await nextTurn();
      sums.add(events.slice(from, from + pageSize));
    }
    return sums.deltas();
  }
}

/** How soon it is noticed that another instance has begun or finished a view. */
const lookMs = 500;
const forgottenAtOnce = 5_000;

/** Makes every view follow the orders, and serves a rebuilt one as soon as it has caught up. */
@Injectable()
export class FollowOrders extends BackgroundWorker {
  private readonly counting = new Map<number, CountSales>();
  /** The view that is being built. */
  private built: number | undefined;

  constructor(
    private readonly views: Views,
    private readonly checkpoints: Checkpoints,
    private readonly log: OrderLog,
    @Optional() private readonly metrics?: Metrics,
    @Optional() private readonly traces?: Traces,
  ) {
    super({
      pollMs: lookMs,
      failing: 'the views of the sales cannot be maintained, trying again',
      working: 'the views of the sales are being maintained again',
    });
  }

  protected async execute(): Promise<boolean> {
    if (await this.views.serveBuilt()) this.logger.log('the sales are served from the rebuilt view');
    const following = await this.views.following();
    this.built = following[1];
    for (const view of following) if (!this.counting.has(view)) this.begin(view);
    await this.end([...this.counting.keys()].filter((it) => !following.includes(it)));
    // In portions, to look after the views in use in between.
    return this.views.forgetRetired(forgottenAtOnce);
  }

  override async beforeApplicationShutdown(): Promise<void> {
    await super.beforeApplicationShutdown();
    await this.end([...this.counting.keys()]);
  }

  private begin(view: number): void {
    const caughtUp = () => {
      if (view === this.built) this.wake();
    };
    const counting = new CountSales(view, this.views, this.checkpoints, this.log, caughtUp);
    Object.assign(counting, { metrics: this.metrics, traces: this.traces });
    this.counting.set(view, counting);
    counting.onApplicationBootstrap();
  }

  private async end(views: readonly number[]): Promise<void> {
    await Promise.all(views.map((it) => this.counting.get(it)!.beforeApplicationShutdown()));
    for (const view of views) this.counting.delete(view);
  }
}
