import { Logger } from '@nestjs/common';
import { withWork, type Work } from './work.js';

/** Slow requests come in bursts: at most one in this many milliseconds is logged. */
const slowEveryMs = 100;

/** What is logged of a request: `POST /orders 201` for people, fields for programs, and nothing a caller wrote. */
interface Told {
  line: string;
  fields: Record<string, unknown>;
}

/** Logs a line for each request of any protocol, or only for slow ones. */
export class RequestLog {
  private readonly logger = new Logger('Requests');
  private readonly isComplete: boolean;
  private readonly slowMs: number;
  private toldOfSlowAt = 0;
  private untold = 0;

  /**
   * @param isComplete whether every request gets a line
   * @param slowMs from how many milliseconds on a request counts as slow
   */
  constructor({ isComplete = false, slowMs = 1_000 }: { isComplete?: boolean; slowMs?: number } = {}) {
    this.isComplete = isComplete;
    this.slowMs = slowMs;
  }

  /** @param told called only for requests that get a line */
  tell(ms: number, work: Work, told: () => Told): void {
    const isSlow = ms >= this.slowMs;
    if (!isSlow && !this.isComplete) return;
    const now = performance.now();
    if (isSlow && !this.isComplete && now - this.toldOfSlowAt < slowEveryMs) {
      this.untold += 1;
      return;
    }
    const more = this.untold > 0 ? `; ${this.untold} more slow requests since the last such line` : '';
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
