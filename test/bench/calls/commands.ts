import type { BalancePolicy } from '#messaging';
import type { Latency } from '../statistics.js';

/** The implementations: ours with contracts, Nest's own for the same transport, or a bare queue. */
export const callKinds = ['ours', 'nest', 'queue'] as const;
export type CallKind = (typeof callKinds)[number];

/** The number of lines in a request, each about 160 bytes of JSON. The reply has the same. */
export const linesIn = { 'some 200 B': 1, 'some 32 KB': 200 };
export type CallSize = keyof typeof linesIn;

export interface Serve {
  kind: CallKind;
  /** An address of `#messaging`. */
  at: string;
  /** The name that the instance answers with. */
  name: string;
  /** The delay of every answer, without using CPU; 0 answers at once. */
  serviceMs: number;
}

export interface CallLoad {
  kind: CallKind;
  at: string;
  balance?: BalancePolicy;
  size: CallSize;
  callers: number;
  durationMs: number;
}

export interface CallResult extends Latency {
  /** Calls with the reply that belongs to the request. */
  calls: number;
  /** Calls with any other reply. */
  wrong: number;
  /** Calls without a reply, by reason. */
  failures: Record<string, number>;
  seconds: number;
  /** The number of calls that each instance answered. */
  answeredBy: Record<string, number>;
}

export type CallCommands = {
  serve(serve: Serve): Promise<void>;
  load(load: CallLoad): Promise<CallResult>;
};
