import type { BalancePolicy } from '#messaging';
import type { Latency } from '../statistics.js';

/** Whose client and server: ours, by a contract, what Nest brings for the same transport, or a queue and nothing else. */
export const callKinds = ['ours', 'nest', 'queue'] as const;
export type CallKind = (typeof callKinds)[number];

/** How many lines a request carries, some 160 bytes of JSON each. Its reply carries the same. */
export const linesIn = { 'some 200 B': 1, 'some 32 KB': 200 };
export type CallSize = keyof typeof linesIn;

export interface Serve {
  kind: CallKind;
  /** An address of `#messaging`. */
  at: string;
  /** What the instance says its name is. */
  name: string;
  /** How long it takes for every answer, without using the processor; 0 answers at once. */
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
  /** Answered with what belongs to the request. */
  calls: number;
  /** Answered with anything else. */
  wrong: number;
  /** Not answered, by the reason. */
  failures: Record<string, number>;
  seconds: number;
  /** How many calls each instance answered. */
  answeredBy: Record<string, number>;
}

export type CallCommands = {
  serve(serve: Serve): Promise<void>;
  load(load: CallLoad): Promise<CallResult>;
};
