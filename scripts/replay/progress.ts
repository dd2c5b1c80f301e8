import type { Progress } from './execute.js';

const lineEveryMs = 5_000;
const redrawEveryMs = 200;

const count = (value: number): string => Math.round(value).toLocaleString('en-GB');

const duration = (seconds: number): string => {
  const minutes = Math.floor(seconds / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return minutes > 0 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.round(seconds)} s`;
};

/** The progress of one phase. */
export interface PhaseState {
  phase: string;
  unit: string;
  total: number;
  done: number;
  orders: number;
  elapsedMs: number;
}

/** `replaying 71,000 of 142,083 lines (50 %), 31,200 lines/s, 1,260 orders/s, 2 s left` */
export const describePhase = ({ phase, unit, total, done, orders, elapsedMs }: PhaseState): string => {
  const seconds = Math.max(elapsedMs, 1) / 1_000;
  const percent = total === 0 ? 100 : Math.floor((100 * done) / total);
  const parts = [
    `${phase} ${count(done)} of ${count(total)} ${unit} (${percent} %)`,
    `${count(done / seconds)} ${unit}/s`,
  ];
  if (orders > 0) parts.push(`${count(orders / seconds)} orders/s`);
  if (done < total && done > 0) parts.push(`${duration(((total - done) * seconds) / done)} left`);
  else if (done === total) parts.push(`in ${seconds.toFixed(1)} s`);
  return parts.join(', ');
};

/** Shows progress on a stream: a line that is redrawn on a terminal, or a line every few seconds elsewhere. */
export class ShownProgress implements Progress {
  private state: PhaseState | undefined;
  private beganAt = 0;
  private readonly timer: NodeJS.Timeout;

  constructor(private readonly out: NodeJS.WritableStream & { isTTY?: boolean; columns?: number }) {
    this.timer = setInterval(() => this.show(), out.isTTY ? redrawEveryMs : lineEveryMs).unref();
  }

  begin(phase: string, total: number, unit: string): void {
    this.end();
    this.beganAt = performance.now();
    this.state = { phase, unit, total, done: 0, orders: 0, elapsedMs: 0 };
  }

  advance(by: number, orders = 0): void {
    if (this.state === undefined) return;
    this.state.done += by;
    this.state.orders += orders;
  }

  /** Prints a message between the lines of progress. */
  say(message: string): void {
    this.out.write(`${this.out.isTTY ? '\r\x1b[K' : ''}${message}\n`);
  }

  /** Ends the phase with its last line. */
  end(): void {
    if (this.state === undefined) return;
    this.show();
    if (this.out.isTTY) this.out.write('\n');
    this.state = undefined;
  }

  close(): void {
    this.end();
    clearInterval(this.timer);
  }

  private show(): void {
    if (this.state === undefined) return;
    const text = describePhase({ ...this.state, elapsedMs: performance.now() - this.beganAt });
    // A wrapped line cannot be redrawn.
    if (this.out.isTTY) this.out.write(`\r\x1b[K${text.slice(0, (this.out.columns ?? 80) - 1)}`);
    else this.out.write(`${text}\n`);
  }
}
