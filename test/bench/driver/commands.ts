import type { Latency } from '../statistics.js';

/** Requests of one kind, which the driver stores as bytes. */
export interface Requests {
  method: 'GET' | 'POST';
  /** One path for each request, or one for all. */
  paths: string[];
  /** One body for each request; empty for reads. */
  bodies: string[];
  /** For every request. */
  headers?: Record<string, string>;
}

export interface Load {
  /** The name that the requests were prepared under. */
  requests: string;
  /** `http://host:port`; callers are spread over them. */
  targets: string[];
  /** Each has a connection of its own. */
  callers: number;
  durationMs: number;
  /** The maximum number of requests, even if there is time left. */
  most?: number;
  /** Seeds the random choice among the requests. */
  seed: number;
  /** Keeps the `order_id` of every n-th answer. */
  keepIdEvery?: number;
  /** On 503, a caller repeats the request when `Retry-After` says so; otherwise it sends another one at once. */
  honoursRetryAfter?: boolean;
}

export interface OpenLoad extends Load {
  perSecond: number;
}

export interface LoadResult extends Latency {
  /** The number of answers with 200 or 201. */
  acknowledged: number;
  /** The same, for each of the prepared requests. */
  acknowledgedOf: Uint32Array;
  /** The number of other outcomes: by status, or by what went wrong. */
  failures: Record<string, number>;
  /** On the clock that all processes of the machine share. */
  startedAtMs: number;
  endedAtMs: number;
  /** The CPU time of the driver itself. */
  cpuMs: number;
  orderIds: string[];
  /** Open loop only: how late the driver was in sending; included in the latency. */
  lateness?: Latency;
  /** Open loop only: the latency of the acknowledged requests from when they were sent, without the driver's lateness. */
  sinceSent?: Latency;
  /** With `honoursRetryAfter` only: the time from the first try on, including all waits. */
  sinceFirstTry?: Latency;
}

// A type, because interfaces have no implicit index signature, which `Commands` requires.
export type DriverCommands = {
  prepare(argument: { name: string; requests: Requests }): void;
  closedLoop(load: Load): Promise<LoadResult>;
  openLoop(load: OpenLoad): Promise<LoadResult>;
};
