import { nowMs } from '../clock.js';
import { Samples } from '../samples.js';
import { latencyOf } from '../statistics.js';
import { retryAfterIn } from './caller.js';
import type { LoadResult } from './commands.js';

const idField = Buffer.from('"order_id":"');
const idLength = 36;

const orderIdIn = (answer: Buffer): string | undefined => {
  const at = answer.indexOf(idField);
  return at < 0 ? undefined : answer.toString('latin1', at + idField.length, at + idField.length + idLength);
};

/** Counts the outcomes of the requests of one load. */
export class Tally {
  private readonly startedAtMs = nowMs();
  private readonly cpu = process.cpuUsage();
  private readonly latencies = new Samples();
  private readonly acknowledgedOf: Uint32Array;
  private readonly failures: Record<string, number> = {};
  private readonly orderIds: string[] = [];
  private acknowledged = 0;

  constructor(
    requests: number,
    private readonly keepIdEvery: number,
  ) {
    this.acknowledgedOf = new Uint32Array(requests);
  }

  /**
   * @param sinceMs when the request was sent, or should have been
   * @returns whether it was acknowledged
   */
  count(request: number, status: number | string, answer: Buffer, sinceMs: number): boolean {
    if (status !== 201 && status !== 200) {
      const isDismissed = status === 503 && retryAfterIn(answer) === undefined;
      this.fail(isDismissed ? '503 without Retry-After' : status);
      return false;
    }
    this.latencies.add(performance.now() - sinceMs);
    this.acknowledged += 1;
    this.acknowledgedOf[request]! += 1;
    if (this.keepIdEvery > 0 && this.acknowledged % this.keepIdEvery === 0) {
      const id = orderIdIn(answer);
      if (id !== undefined) this.orderIds.push(id);
    }
    return true;
  }

  fail(reason: number | string, times = 1): void {
    this.failures[reason] = (this.failures[reason] ?? 0) + times;
  }

  result(): LoadResult {
    const endedAtMs = nowMs();
    const { user, system } = process.cpuUsage(this.cpu);
    return {
      startedAtMs: this.startedAtMs,
      endedAtMs,
      cpuMs: (user + system) / 1_000,
      acknowledged: this.acknowledged,
      acknowledgedOf: this.acknowledgedOf,
      failures: this.failures,
      orderIds: this.orderIds,
      ...latencyOf(this.latencies.taken()),
    };
  }
}
