import { randomUUID } from 'node:crypto';
import { Inject, Optional } from '@nestjs/common';
import type { Attributes, Counter, ObservableResult } from '@opentelemetry/api';
import { WokenWork, type Rhythm } from '#periodic';
import { Metrics, Traces } from '#telemetry';
import { isLeaseLost, type Checkpoint, type Checkpoints, type HeldPart } from './checkpoints.js';
import { partOf } from './parts.js';

/** What is read of a log. */
export interface Logged {
  /** Where it stands (`logPosition`). */
  sequence: string;
  /** What it happened to. */
  subject: string;
  /** Of the request that it goes back to. */
  traceparent?: string | null | undefined;
}

/** Events of the parts that were asked for, in the order of the log within each. */
export interface Reading<Event extends Logged> {
  events: readonly Event[];
  /** By part, how far it was read; parts that are left out stay where they are. */
  reached: ReadonlyMap<number, string>;
  /** Whether there may be more at once. */
  isMore: boolean;
}

export abstract class EventSource<Event extends Logged> {
  /** Nothing of the parts that lies behind their positions is left out up to what was reached. */
  abstract read(parts: readonly HeldPart[], limit: number): Promise<Reading<Event>>;
  /**
   * These parts and no others are read from now on. Where events arrive by themselves it is told when there is something
   * to read.
   */
  hold?(parts: readonly HeldPart[], wake: () => void): void;
  /** What was read before has taken effect and will not be asked for again. */
  settled?(reached: ReadonlyMap<number, string>): Promise<void>;
}

/** Also how long the part of a reader that was killed waits for another one. */
const leaseMs = 5_000;

/** Well before the lease runs out; also how soon what another one left behind is taken over. */
const renewAfterMs = 1_000;

interface Options extends Rhythm {
  /** How many events take effect at once. */
  batchSize: number;
  /** How many of them are read at once; all where it is left out. */
  pageSize?: number;
}

/**
 * Follows a log of events. The log has a fixed number of parts; each instance leases a fair share of them, reads their events,
 * applies them and moves the checkpoint. If the effects are in the same database as the checkpoint, each event takes effect
 * exactly once; otherwise at least once, and the receiver has to recognise repeats.
 */
export abstract class EventConsumer<Event extends Logged> extends WokenWork {
  @Optional()
  @Inject(Metrics)
  metrics: Metrics | undefined;
  @Optional()
  @Inject(Traces)
  traces: Traces | undefined;

  private readonly holder = randomUUID();
  private held: HeldPart[] = [];
  private heldUntil = 0;
  private mustLetGo = false;
  /** Of a batch, what is taken at once. */
  private share = 1;
  /** When everything there was had taken effect. */
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
   * Has events take effect, and keeps the checkpoint.
   *
   * @param events in order within each subject; none where what was read is of no concern
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
        // Before the pause, in which others may do better; and what we have sent and not heard of is refused from then on.
        this.mustLetGo = true;
        await this.letGo().catch(() => undefined);
        throw error;
      }
      // It may have taken longer than the lease: the next time it is less.
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
    // Monotonic: a clock that is set back does not make a lease longer.
    const now = performance.now();
    if (now > this.heldUntil - leaseMs + renewAfterMs) {
      this.held = await this.checkpoints.acquire(this.consumer, this.holder, leaseMs);
      this.heldUntil = now + leaseMs;
      this.source.hold?.(this.held, () => this.wake());
    }
    if (this.held.length === 0) {
      this.caughtUpAt = now;
      return false;
    }
    const { events, reached, isMore } = await this.read();
    if (reached.size > 0) await this.takeEffect(events, reached);
    if (!isMore) this.caughtUpAt = now;
    return isMore;
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

  /** What takes effect shows in the trace of each request that it goes back to. */
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

  /** Page by page, until there is nothing more or enough. */
  private async read(): Promise<Reading<Event>> {
    const batchSize = Math.ceil(this.options.batchSize * this.share);
    const pageSize = Math.min(batchSize, this.options.pageSize ?? batchSize);
    const reached = new Map<number, string>();
    const pages: (readonly Event[])[] = [];
    for (let left = batchSize, parts = this.held; ;) {
      // What was read before takes effect first; the failure is met again then.
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

const movedTo = (parts: readonly HeldPart[], reached: ReadonlyMap<number, string>): HeldPart[] =>
  parts.map((it) => ({ ...it, position: reached.get(it.part) ?? it.position }));

/** What of a log lies behind a position, oldest first, at most so many, and up to where that is all there is. */
export type ReadLog<Event extends Logged> = (
  after: string,
  limit: number,
) => Promise<{ events: readonly Event[]; until: string; isMore: boolean }>;

/**
 * Reads on while what was read takes effect, so many pages, where there are any. Nothing is lost by a page that nobody asks
 * for, which is kept no longer than a lease, and one that could not be read is asked for again.
 */
export const readingAhead = <Event extends Logged>(read: ReadLog<Event>, pages: number): ReadLog<Event> => {
  let ahead: { after: string; limit: number; page: ReturnType<ReadLog<Event>> }[] = [];
  let keeping: NodeJS.Timeout | undefined;
  const begin = (after: string, limit: number): void => {
    ahead.push({ after, limit, page: read(after, limit) });
    clearTimeout(keeping);
    keeping = setTimeout(() => (ahead = []), leaseMs).unref();
  };
  const readOn = async (): Promise<void> => {
    const last = ahead.at(-1);
    // Whoever comes for it is told.
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
    // What was read before it was asked for says nothing of what there is by now.
    if (isAhead && !page.isMore) return { ...page, isMore: true };
    if (page.isMore && ahead.length === 0) begin(page.until, limit);
    void readOn();
    return page;
  };
};

/** Reads the parts from a log that is read as a whole, from where the first of them stands. */
export const fromLog = async <Event extends Logged>(
  read: ReadLog<Event>,
  parts: readonly HeldPart[],
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
