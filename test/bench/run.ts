import { writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { profileInto } from './child.js';
import type { Bench } from './bench.js';
import { Program } from './commands.js';
import type { DriverCommands } from './driver/commands.js';
import type { Options, SuiteName } from './options.js';
import { asJson, printed } from './print.js';
import { Report } from './report.js';
import { BenchmarkServer } from './server.js';
import type { Started } from './started.js';
import { balanceSuite } from './suites/balance.js';
import { cacheSuite } from './suites/cache.js';
import { callsSuite } from './suites/calls.js';
import { flatSuite } from './suites/flat.js';
import { guardedSuite } from './suites/guarded.js';
import { footprintSuite } from './suites/footprint.js';
import { instancesSuite } from './suites/instances.js';
import { openSuite } from './suites/open.js';
import { overloadSuite } from './suites/overload.js';
import { placeSuite } from './suites/place.js';
import { readsSuite } from './suites/reads.js';
import { soakSuite } from './suites/soak.js';
import { logSuite } from './suites/log.js';
import { splitSuite } from './suites/split.js';
import { transactionsSuite } from './suites/transactions.js';

const suites: Record<SuiteName, (bench: Bench) => Promise<void>> = {
  place: placeSuite,
  open: openSuite,
  overload: overloadSuite,
  reads: readsSuite,
  flat: flatSuite,
  soak: soakSuite,
  instances: instancesSuite,
  log: logSuite,
  cache: cacheSuite,
  transactions: transactionsSuite,
  footprint: footprintSuite,
  split: splitSuite,
  calls: callsSuite,
  balance: balanceSuite,
  guarded: guardedSuite,
};

/** Runs the chosen suites. @returns whether the stock is exact and no order is lost */
export const runBenchmark = async (options: Options, started: Started): Promise<boolean> => {
  const beganAt = performance.now();
  const report = new Report();
  const say = (line: string): void => {
    process.stderr.write(`${((performance.now() - beganAt) / 1_000).toFixed(0).padStart(5)} s  ${line}\n`);
  };
  const machine = `${cpus().length} × ${cpus()[0]?.model.trim() ?? 'unknown'}`;
  say(`seed ${options.seed}, Node ${process.versions.node}, ${machine}`);
  if (options.profile !== undefined) profileInto(options.profile);
  const server = started.add(await BenchmarkServer.start());
  const driver = started.add(new Program<DriverCommands>('driver'));
  const bench = { options, server, driver, started, report, say };
  try {
    for (const suite of options.suites) await suites[suite](bench);
  } catch (error) {
    if (started.isEnding) throw error;
    // Results so far are still reported. Other suites do not run, because this one may have left processes behind.
    report.faults.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
  }
  process.stdout.write(`\n${printed(report)}\n`);
  if (options.json !== undefined)
    await writeFile(options.json, `${asJson(report, { options, node: process.versions.node, machine })}\n`);
  return report.faults.length === 0;
};
