import { Logger } from '@nestjs/common';
import { withWork, type Work } from './work.js';

/** Slow requests come in crowds: so often is one told of, in milliseconds. */
const slowEveryMs = 100;

/** What is said of a request: for people, such as `POST /orders 201`, and for programs. Nothing that a caller wrote. */
interface Told {
  line: string;
  fields: Record<string, unknown>;
}

/** Writes a line for each request, over whatever protocol, or for the slow ones alone. */
export class RequestLog {
  private readonly logger = new Logger('Requests');
  private readonly isComplete: boolean;
  private readonly slowMs: number;
  private toldOfSlowAt = 0;
  private untold = 0;

  /**
   * @param isComplete a line for each request
   * @param slowMs from when on a request counts as slow, in milliseconds
   */
  constructor({ isComplete = false, slowMs = 1_000 }: { isComplete?: boolean; slowMs?: number } = {}) {
    this.isComplete = isComplete;
    this.slowMs = slowMs;
  }

  /** @param told is asked for the few requests that have a line */
  tell(ms: number, work: Work, told: () => Told): void {
    const isSlow = ms >= this.slowMs;
    if (!isSlow && !this.isComplete) return;
    const now = performance.now();
    if (isSlow && !this.isComplete && now - this.toldOfSlowAt < slowEveryMs) {
      this.untold += 1;
      return;
    }
    const more = this.untold > 0 ? `; ${this.untold} more like it since the last of these lines` : '';
    const { line, fields } = told();
    const text = `${line} in ${Math.round(ms)} ms${isSlow ? `: slow${more}` : ''}`;
    if (isSlow) {
      this.toldOfSlowAt = now;
      this.untold = 0;
    }
    const known = { ...fields, duration_ms: Math.round(ms) };
    withWork(work, () => (isSlow ? this.logger.warn(text, known) : this.logger.log(text, known)));
  }
}
