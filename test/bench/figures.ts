import type { Latency } from './statistics.js';

/** What there is to say of every measurement. */
interface Measured extends Latency {
  /** Who was measured: `ours`, `limit a`, `baseline` … */
  contestant: string;
  /** With what: a workload of orders, or a kind of reading. */
  workload: string;
  /** How many connections asked at the same time. */
  callers: number;
  /** Orders that were acknowledged and became final, or requests that were answered. */
  count: number;
  /** From the first request until the last order was final. */
  seconds: number;
  perSecond: number;
  /** CPU time an order, of each kind of process. */
  nodeMs: number;
  postgresMs: number;
  driverMs: number;
  failures: Record<string, number>;
}

/** One measurement; NaN stands where there is nothing to measure. */
export interface Run extends Measured {
  linesPerSecond: number;
  /** Orders acknowledged and not final: the most that was seen during the load, at its end, and how long they took. */
  backlogMost: number;
  backlogAtEnd: number;
  drainMs: number;
  /** Of open load: how late the driver itself sent, which is part of the latency. */
  sentLateP99Ms: number;
  /** CPU time of what messages pass through, a call. */
  brokerMs: number;
  /** How much each of several instances answered. */
  answeredBy: Record<string, number>;
  /** Of callers that honour `Retry-After`: with all their tries, and the waits between them. */
  sinceFirstTryP99Ms: number;
  /** Of the machine: what processes used that have no part in the benchmark. */
  othersShare: number;
}

export const runOf = (measured: Measured & Partial<Run>): Run => ({
  linesPerSecond: Number.NaN,
  backlogMost: Number.NaN,
  backlogAtEnd: Number.NaN,
  drainMs: Number.NaN,
  sentLateP99Ms: Number.NaN,
  brokerMs: Number.NaN,
  answeredBy: {},
  sinceFirstTryP99Ms: Number.NaN,
  othersShare: Number.NaN,
  ...measured,
});

export type Measure = { [Name in keyof Run]: Run[Name] extends number ? Name : never }[keyof Run];

/** The runs of one contestant, with one workload, at one number of callers. */
export class Figure {
  private readonly first: Run;

  constructor(readonly runs: readonly Run[]) {
    this.first = runs[0]!;
  }

  get contestant(): string {
    return this.first.contestant;
  }

  get workload(): string {
    return this.first.workload;
  }

  get callers(): number {
    return this.first.callers;
  }

  values(measure: Measure): number[] {
    return this.runs.map((it) => it[measure]);
  }
}

/** What one size of the pool came to in the calibration of a limit. */
export interface Calibration {
  contestant: string;
  workload: string;
  connections: number;
  perSecond: number;
  p50Ms: number;
}

export interface Memory {
  minutes: number;
  firstMb: number;
  lastMb: number;
  mbPerMinute: number;
  samples: { second: number; mb: number }[];
}
