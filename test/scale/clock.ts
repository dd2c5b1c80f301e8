interface Event {
  atMs: number;
  /** Events at the same time happen in the order they were scheduled. */
  turn: number;
  happen: () => void;
}

const isBefore = (a: Event, b: Event): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.turn < b.turn);

/** Simulated time, which advances from event to event; a binary heap of scheduled events. */
export class Clock {
  nowMs = 0;
  private turn = 0;
  private readonly heap: Event[] = [];

  after(ms: number, happen: () => void): void {
    const event = { atMs: this.nowMs + ms, turn: (this.turn += 1), happen };
    let at = this.heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(event, this.heap[parent]!)) break;
      this.heap[at] = this.heap[parent]!;
      at = parent;
    }
    this.heap[at] = event;
  }

  /** Runs until no event is left, or until the given time. */
  run(untilMs = Number.POSITIVE_INFINITY): void {
    for (let next = this.heap[0]; next && next.atMs <= untilMs; next = this.heap[0]) {
      this.takeFirst();
      this.nowMs = next.atMs;
      next.happen();
    }
    if (Number.isFinite(untilMs)) this.nowMs = untilMs;
  }

  private takeFirst(): void {
    const last = this.heap.pop()!;
    if (this.heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.heap.length) break;
      if (child + 1 < this.heap.length && isBefore(this.heap[child + 1]!, this.heap[child]!)) child += 1;
      if (!isBefore(this.heap[child]!, last)) break;
      this.heap[at] = this.heap[child]!;
      at = child;
    }
    this.heap[at] = last;
  }
}

/** The cores of a machine, which process work in the order of its arrival. */
export class Cores {
  /** The sum over all cores. */
  busyMs = 0;
  private readonly freeAtMs: number[];

  constructor(
    private readonly clock: Clock,
    count: number,
  ) {
    this.freeAtMs = Array.from({ length: count }, () => 0);
  }

  use(ms: number, done: () => void = () => {}): void {
    let first = 0;
    for (let core = 1; core < this.freeAtMs.length; core += 1)
      if (this.freeAtMs[core]! < this.freeAtMs[first]!) first = core;
    const endsAtMs = Math.max(this.clock.nowMs, this.freeAtMs[first]!) + ms;
    this.freeAtMs[first] = endsAtMs;
    this.busyMs += ms;
    this.clock.after(endsAtMs - this.clock.nowMs, done);
  }
}

interface Waiting {
  rows: ReadonlySet<number>;
  granted: () => void;
}

/** Row locks. A request overtakes waiting ones, unless it wants a row that one of them wants. */
export class RowLocks {
  private readonly held = new Set<number>();
  private waiting: Waiting[] = [];

  acquire(rows: ReadonlySet<number>, granted: () => void): void {
    this.waiting.push({ rows, granted });
    this.grant();
  }

  release(rows: ReadonlySet<number>): void {
    for (const row of rows) this.held.delete(row);
    this.grant();
  }

  private grant(): void {
    const wanted = new Set<number>();
    const granted: Waiting[] = [];
    this.waiting = this.waiting.filter((it) => {
      const isFree = it.rows.isDisjointFrom(this.held) && it.rows.isDisjointFrom(wanted);
      for (const row of it.rows) (isFree ? this.held : wanted).add(row);
      if (isFree) granted.push(it);
      return !isFree;
    });
    for (const it of granted) it.granted();
  }
}
