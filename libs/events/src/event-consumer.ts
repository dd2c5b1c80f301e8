import { randomUUID } from 'node:crypto';
import { Inject, Optional } from '@nestjs/common';
import type { Attributes, Counter, ObservableResult } from '@opentelemetry/api';
import { BackgroundWorker, type WorkerOptions } from '#periodic';
import { Metrics, Traces } from '#telemetry';
import { isLeaseLost, type Checkpoint, type Checkpoints, type LeasedPart } from './checkpoints.js';
import { partOf } from './parts.js';

/** An entry of a log. */
export interface LogEntry {
  /** Its position in the log (`logPosition`). */
  sequence: string;
  /** What it is about. The events of one subject stay in order. */
  subject: string;
  /** The trace context of the request that caused it. */
  traceparent?: string | null | undefined;
}

/** Events of the parts that were asked for, in the order of the log within each. */
export interface Reading<Event extends LogEntry> {
  events: readonly Event[];
  /** How far each part was read; parts that are left out stay where they are. */
  reached: ReadonlyMap<number, string>;
  /** Whether there may be more events already. */
  isMore: boolean;
}

export abstract class EventSource<Event extends LogEntry> {
  /** Leaves out no event of a part between its position and the one that was reached. */
  abstract read(parts: readonly LeasedPart[], limit: number): Promise<Reading<Event>>;
  /**
   * From now on these parts and no others are read. A source that receives events by itself calls `wake` when there is
   * something to read.
   */
  hold?(parts: readonly LeasedPart[], wake: () => void): void;
  /** What was read before has taken effect and will not be asked for again. */
  settled?(reached: ReadonlyMap<number, string>): Promise<void>;
}

/** Also how long the parts of a killed reader wait for another one. */
const leaseMs = 5_000;

/** Well before the lease expires; also how soon parts that another instance gave up are taken over. */
const renewAfterMs = 1_000;

interface Options extends WorkerOptions {
  /** How many events are applied at once. */
  batchSize: number;
  /** How many of them are read at once; all if it is left out. */
  pageSize?: number;
}

/**
 * Follows a log of events. The log has a fixed number of parts; each instance leases a fair share of them, reads their events,
 * applies them and moves the checkpoint. If the effects are in the same database as the checkpoint, each event takes effect
 * exactly once; otherwise at least once, and the receiver has to recognise repeats.
 */
export abstract class EventConsumer<Event extends LogEntry> extends BackgroundWorker {
  @Optional()
  @Inject(Metrics)
  metrics: Metrics | undefined;
  @Optional()
  @Inject(Traces)
  traces: Traces | undefined;

  private readonly holder = randomUUID();
  private held: LeasedPart[] = [];
  private heldUntil = 0;
  private mustLetGo = false;
  private hasCheckpoints = false;
  /** The fraction of a batch that is taken at once: less than 1 after a lease was lost. */
  private share = 1;
  /** When this instance last had applied every event there was. */
  private caughtUpAt = performance.now();
  private taken: Counter | undefined;
  private endObserving: () => void = () => {};

  constructor(
    protected readonly consumer: string,
    private readonly checkpoints: Checkpoints,
    private readonly source: EventSource<Event>,
    private readonly options: Options,
  ) {
    super(options);
  }

  /**
   * Applies events and stores the checkpoint.
   *
   * @param events in order within each subject; empty if nothing that was read is relevant
   */
  protected abstract apply(events: readonly Event[], checkpoint: Checkpoint): Promise<void>;

  override onApplicationBootstrap(): void {
    this.observe();
    super.onApplicationBootstrap();
  }

  private observe(): void {
    const meter = this.metrics?.meter('events');
    if (!meter) return;
    this.caughtUpAt = performance.now();
    this.taken = meter.createCounter('events.consumer.events', {
      unit: '{event}',
      description: 'Events processed.',
    });
    const behind = meter.createObservableGauge('events.consumer.behind', {
      unit: 's',
      description: 'Time since this instance had processed every event in the parts that it reads.',
    });
    const tell = (result: ObservableResult): void =>
      result.observe((performance.now() - this.caughtUpAt) / 1_000, this.named);
    behind.addCallback(tell);
    this.endObserving = () => behind.removeCallback(tell);
  }

  private get named(): Attributes {
    return { 'messaging.consumer.group.name': this.consumer };
  }

  protected async execute(): Promise<boolean> {
    try {
      await this.letGo();
      const isMore = await this.follow();
      this.share = Math.min(1, this.share * 2);
      return isMore;
    } catch (error) {
      this.heldUntil = 0;
      if (!isLeaseLost(error)) {
        // Before the pause, so that another instance can take over; it also fences off writes of ours that had no answer.
        this.mustLetGo = true;
        await this.letGo().catch(() => undefined);
        throw error;
      }
      // Applying may have taken longer than the lease, so less is taken the next time.
      if (this.share < 1)
        this.logger.warn(`${this.consumer} has lost its lease on a part of the log again, reducing the batch size`);
      this.share = Math.max(1 / this.options.batchSize, this.share / 2);
      return false;
    }
  }

  private async letGo(): Promise<void> {
    if (!this.mustLetGo) return;
    await this.checkpoints.release(this.consumer, this.holder);
    this.mustLetGo = false;
  }

  protected override leave(): Promise<void> {
    this.endObserving();
    this.source.hold?.([], () => {});
    return this.checkpoints.release(this.consumer, this.holder);
  }

  private async follow(): Promise<boolean> {
    // Monotonic, so that setting the clock back does not prolong the lease.
    const now = performance.now();
    if (now > this.heldUntil - leaseMs + renewAfterMs) {
      this.held = await this.checkpoints.acquire(this.consumer, this.holder, leaseMs);
      this.heldUntil = now + leaseMs;
      this.source.hold?.(this.held, () => this.wake());
    }
    if (this.held.length === 0) {
      await this.expectCheckpoints();
      this.caughtUpAt = now;
      return false;
    }
    this.hasCheckpoints = true;
    const { events, reached, isMore } = await this.read();
    if (reached.size > 0) await this.takeEffect(events, reached);
    if (!isMore) this.caughtUpAt = now;
    return isMore;
  }

  /** Without checkpoints there is nothing to lease, now or later, and it would look as if there were no events. */
  private async expectCheckpoints(): Promise<void> {
    if (this.hasCheckpoints) return;
    if ((await this.checkpoints.read(this.consumer)).length === 0)
      throw new Error(`the consumer ${this.consumer} has no checkpoints; a migration creates them (logStart)`);
    this.hasCheckpoints = true;
  }

  private async takeEffect(events: readonly Event[], reached: ReadonlyMap<number, string>): Promise<void> {
    const moved = movedTo(this.held, reached);
    const checkpoint = this.checkpoints.at(
      this.consumer,
      moved.filter((it) => reached.has(it.part)),
    );
    await this.traced(events, () => this.apply(events, checkpoint));
    this.taken?.add(events.length, this.named);
    this.held = moved;
    await this.source.settled?.(reached);
  }

  /** Makes the processing show in the trace of each request that caused an event. */
  private traced(events: readonly Event[], effect: () => Promise<void>): Promise<void> {
    if (!this.traces?.areOpen) return effect();
    const parents = events.map(({ traceparent }) => traceparent ?? undefined);
    const attributes = {
      ...this.named,
      'messaging.operation.type': 'process',
      'messaging.batch.message_count': events.length,
    };
    return this.traces.ofMany(`process ${this.consumer}`, parents, { kind: 'consumer', attributes }, effect);
  }

  /** Reads page by page, until there is nothing more, the batch is full, or the lease is half over. */
  private async read(): Promise<Reading<Event>> {
    const batchSize = Math.ceil(this.options.batchSize * this.share);
    const pageSize = Math.min(batchSize, this.options.pageSize ?? batchSize);
    const reached = new Map<number, string>();
    const pages: (readonly Event[])[] = [];
    for (let left = batchSize, parts = this.held; ;) {
      // What was read before is applied first; the next read meets the failure again.
      const page = await this.source.read(parts, pageSize).catch((error: unknown) => {
        if (pages.length === 0) throw error;
      });
      if (!page) return { events: pages.flat(), reached, isMore: true };
      for (const [part, position] of page.reached) reached.set(part, position);
      pages.push(page.events);
      left -= pageSize;
      const { isMore } = page;
      const isLate = performance.now() > this.heldUntil - leaseMs / 2;
      if (!isMore || left <= 0 || isLate) return { events: pages.flat(), reached, isMore };
      parts = movedTo(parts, page.reached);
    }
  }
}

const movedTo = (parts: readonly LeasedPart[], reached: ReadonlyMap<number, string>): LeasedPart[] =>
  parts.map((it) => ({ ...it, position: reached.get(it.part) ?? it.position }));

/** Reads at most `limit` events after a position, oldest first; up to `until`, nothing is left out. */
export type ReadLog<Event extends LogEntry> = (
  after: string,
  limit: number,
) => Promise<{ events: readonly Event[]; until: string; isMore: boolean }>;

/**
 * Reads up to `pages` pages ahead while events are being applied. Nothing is lost by a page that is not asked for, which is
 * dropped after the time of a lease; one that could not be read is read again when it is asked for again.
 */
export const readingAhead = <Event extends LogEntry>(read: ReadLog<Event>, pages: number): ReadLog<Event> => {
  let ahead: { after: string; limit: number; page: ReturnType<ReadLog<Event>> }[] = [];
  let keeping: NodeJS.Timeout | undefined;
  const begin = (after: string, limit: number): void => {
    ahead.push({ after, limit, page: read(after, limit) });
    clearTimeout(keeping);
    keeping = setTimeout(() => (ahead = []), leaseMs).unref();
  };
  const readOn = async (): Promise<void> => {
    const last = ahead.at(-1);
    // The error is for the caller who asks for the page.
    const page = await last?.page.catch(() => undefined);
    if (!last || !page?.isMore || ahead.at(-1) !== last || ahead.length >= pages) return;
    begin(page.until, last.limit);
    return readOn();
  };
  return async (after, limit) => {
    const next = ahead.shift();
    const isAhead = next?.after === after && next.limit === limit;
    if (!isAhead) ahead = [];
    const page = await (isAhead ? next.page : read(after, limit));
    // The page was read before it was asked for, so there may be more by now.
    if (isAhead && !page.isMore) return { ...page, isMore: true };
    if (page.isMore && ahead.length === 0) begin(page.until, limit);
    void readOn();
    return page;
  };
};

/** Reads parts of a log that can only be read as a whole, starting at the lowest of their positions. */
export const fromLog = async <Event extends LogEntry>(
  read: ReadLog<Event>,
  parts: readonly LeasedPart[],
  limit: number,
): Promise<Reading<Event>> => {
  const positions = new Map(parts.map((it) => [it.part, it.position]));
  const after = [...positions.values()].reduce((least, it) => (it < least ? it : least));
  const { events: page, until, isMore } = await read(after, limit);
  const events = page.filter(({ subject, sequence }) => {
    const position = positions.get(partOf(subject));
    return position !== undefined && sequence > position;
  });
  const behind = [...positions].filter(([, position]) => position < until);
  return { events, reached: new Map(behind.map(([part]) => [part, until])), isMore };
};
