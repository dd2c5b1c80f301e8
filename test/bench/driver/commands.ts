import type { Latency } from '../statistics.js';

/** Requests of one kind, which the driver keeps as bytes. */
export interface Requests {
  method: 'GET' | 'POST';
  /** One path a request, or one for all. */
  paths: string[];
  /** One body a request; none for reads. */
  bodies: string[];
  /** Of every request. */
  headers?: Record<string, string>;
}

export interface Load {
  /** The name they were prepared under. */
  requests: string;
  /** `http://host:port`; callers are spread over them. */
  targets: string[];
  /** Each has a connection of its own. */
  callers: number;
  durationMs: number;
  /** No more requests than these are sent, however much time is left. */
  most?: number;
  /** Of the choice among the requests. */
  seed: number;
  /** Keeps the `order_id` of every so-many-th answer. */
  keepIdEvery?: number;
  /** Who is answered 503 sends the same request again when `Retry-After` says so; otherwise, at once another one. */
  honoursRetryAfter?: boolean;
}

export interface OpenLoad extends Load {
  perSecond: number;
}

export interface LoadResult extends Latency {
  /** Answered with 200 or 201. */
  acknowledged: number;
  /** The same, by the number of the request among those that were prepared. */
  acknowledgedOf: Uint32Array;
  /** How many ended otherwise: by status, or by what went wrong. */
  failures: Record<string, number>;
  /** On the clock that all processes of the machine share. */
  startedAtMs: number;
  endedAtMs: number;
  /** Of the driver itself. */
  cpuMs: number;
  orderIds: string[];
  /** Of open load: how late the driver itself was in sending, which is part of the latency. */
  lateness?: Latency;
  /** Of who honours `Retry-After`: from the first try on, with all that was waited. */
  sinceFirstTry?: Latency;
}

// A type, not an interface: only that has the index signature which commands are made of.
export type DriverCommands = {
  prepare(argument: { name: string; requests: Requests }): void;
  closedLoop(load: Load): Promise<LoadResult>;
  openLoop(load: OpenLoad): Promise<LoadResult>;
};
