import type { Program } from './commands.js';
import type { DriverCommands } from './driver/commands.js';
import type { Options } from './options.js';
import type { Report } from './report.js';
import type { BenchmarkServer } from './server.js';
import type { Started } from './started.js';

/** Shared by all suites. */
export interface Bench {
  options: Options;
  server: BenchmarkServer;
  driver: Program<DriverCommands>;
  started: Started;
  report: Report;
  /** Reports progress. */
  say(line: string): void;
}
