import type { Latency } from '../statistics.js';

/** How the minimal order is written: in one statement, or in a transaction of five. */
export type LimitShape = 'statement' | 'transaction';

export interface LimitLoad {
  shape: LimitShape;
  connections: number;
  durationMs: number;
  seed: number;
}

export interface LimitResult extends Latency {
  orders: number;
  startedAtMs: number;
  endedAtMs: number;
  cpuMs: number;
}

export type LimitCommands = {
  /** Creates the tables and fills the stock, from scratch. */
  open(argument: { databaseUrl: string; products: number }): Promise<void>;
  place(load: LimitLoad): Promise<LimitResult>;
  /** Units reserved, orders in the table, and orders that were acknowledged: all three must be equal. */
  count(argument: undefined): Promise<{ reserved: number; orders: number; placed: number }>;
};
