import type { Caller } from '#security';
import type { LogLevel } from '#telemetry';

/** The log level to set. */
export interface LogLevelChange {
  level: LogLevel;
  for_ms?: number | undefined;
}

/** The addresses of the instances that have confirmed the new level, and of those that have not. */
export interface Told {
  told: string[];
  not_told: { address: string; why: string }[];
}

/** The address of an instance and its level, or why that is unknown. */
export type LevelFound = { address: string } & ({ level: LogLevel } | { why: string });

/** The log levels of the services that a process forwards requests to. */
export abstract class UpstreamLogLevels {
  /** The names of the services. */
  abstract readonly services: readonly string[];
  /**
   * Changes every instance of a service on behalf of the caller. One that fails is reported and does not affect the others.
   */
  abstract tell(service: string, change: LogLevelChange, caller: Caller): Promise<Told>;
  /** Reads the level of every instance of a service on behalf of the caller. */
  abstract ask(service: string, caller: Caller): Promise<LevelFound[]>;
}
