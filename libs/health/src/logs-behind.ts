import type { Caller } from '#security';
import type { LogLevel } from '#telemetry';

/** What the log of a process is to be. */
export interface LogLevelChange {
  level: LogLevel;
  for_ms?: number | undefined;
}

/** By their addresses, the instances that have said that they log so now, and those that have not. */
export interface Told {
  told: string[];
  not_told: { address: string; why: string }[];
}

/** An instance by its address, with its level, or why that is not known. */
export type LevelFound = { address: string } & ({ level: LogLevel } | { why: string });

/** The logs of the services that a process passes requests on to. */
export abstract class LogsBehind {
  /** The names of the services. */
  abstract readonly services: readonly string[];
  /** Tells every instance of a service on behalf of the caller. One that cannot be told is named, and keeps none from being told. */
  abstract tell(service: string, change: LogLevelChange, caller: Caller): Promise<Told>;
  /** Asks every instance of a service on behalf of the caller. */
  abstract ask(service: string, caller: Caller): Promise<LevelFound[]>;
}
