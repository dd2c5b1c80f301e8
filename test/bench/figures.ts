import type { Latency } from './statistics.js';

/** The figures of every measurement. */
interface Measured extends Latency {
  /** The contestant: `ours`, `limit a`, `baseline` … */
  contestant: string;
  /** A workload of orders, or a kind of reading. */
  workload: string;
  /** The number of concurrent connections. */
  callers: number;
  /** Orders that were acknowledged and became final, or requests that were answered. */
  count: number;
  /** From the first request until the last order was final. */
  seconds: number;
  perSecond: number;
  /** CPU time for each order, by kind of process. */
  nodeMs: number;
  postgresMs: number;
  driverMs: number;
  failures: Record<string, number>;
}

/** One measurement; NaN stands for figures that do not apply. */
export interface Run extends Measured {
  linesPerSecond: number;
  /** Orders acknowledged but not final: the most during the load, those at its end, and how long they took. */
  backlogMost: number;
  backlogAtEnd: number;
  drainMs: number;
  /** Open loop only: how late the driver was in sending; included in the latency. */
  sentLateP50Ms: number;
  sentLateP99Ms: number;
  /** Open loop only: the latency without it. */
  sinceSentP50Ms: number;
  sinceSentP99Ms: number;
  /** CPU time of the broker for each call. */
  brokerMs: number;
  /** How many calls each of several instances answered. */
  answeredBy: Record<string, number>;
  /** With callers that honour `Retry-After`: from the first try on, including all waits. */
  sinceFirstTryP99Ms: number;
  /** The share of the machine's CPU that unrelated processes used. */
  othersShare: number;
}

export const runOf = (measured: Measured & Partial<Run>): Run => ({
  linesPerSecond: Number.NaN,
  backlogMost: Number.NaN,
  backlogAtEnd: Number.NaN,
  drainMs: Number.NaN,
  sentLateP50Ms: Number.NaN,
  sentLateP99Ms: Number.NaN,
  sinceSentP50Ms: Number.NaN,
  sinceSentP99Ms: Number.NaN,
  brokerMs: Number.NaN,
  answeredBy: {},
  sinceFirstTryP99Ms: Number.NaN,
  othersShare: Number.NaN,
  ...measured,
});

export type Measure = { [Name in keyof Run]: Run[Name] extends number ? Name : never }[keyof Run];

/** The runs of one contestant with one workload and one number of callers. */
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

/** The result of one pool size in the calibration of a limit. */
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
