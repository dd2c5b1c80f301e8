import { availableParallelism } from 'node:os';
import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { runOn } from '../cpu.js';
import { measurePlacing, prepareOrders, warmUp } from '../measure.js';
import type { Report } from '../report.js';
import { endSystem, startOurs, type System } from '../systems.js';
import { takeTurns } from '../turns.js';
import { spreadWorkload } from '../workloads.js';

const peakName = 'spread, callers at the peak';
export const overloadNames = {
  open: 'spread, open loop at four times the peak',
  many: 'spread, twenty times as many callers, who honour Retry-After',
};
const fewCallers = 64;
const callersAtPeak = [fewCallers, 256];
const times = 4;
const timesCallers = 20;
/** Connections for requests that arrive while others are in flight or being refused. */
const connections = 3_000;

interface Peak {
  perSecond: number;
  /** With that number of callers. */
  p99Ms: number;
}

/** The best result of a closed loop, over several numbers of callers. */
export const peakOf = (report: Report): Peak => {
  const figures = callersAtPeak.map((callers) => ({
    perSecond: report.median('perSecond', 'ours', peakName, callers),
    p99Ms: report.median('p99Ms', 'ours', peakName, callers),
  }));
  return figures.reduce((best, it) => (best.perSecond > it.perSecond ? best : it));
};

/**
 * Gives the driver one core, and the system under test the others. On a shared core, a driver that sends four times the peak
 * would take CPU from the orders, which callers on other machines do not.
 *
 * @returns a function that undoes it
 */
const keepApart = async ({ driver, server, report }: Bench, { pids }: System): Promise<() => Promise<void>> => {
  const cores = Array.from({ length: availableParallelism() }, (_, core) => core);
  const measured = [server.pid, ...pids];
  try {
    for (const pid of measured) await runOn(cores.slice(1), pid);
    await runOn(cores.slice(0, 1), driver.pid);
  } catch (error) {
    report.notes.push(`The driver shares its cores with what is measured: ${(error as Error).message.trim()}`);
    return () => Promise.resolve();
  }
  report.notes.push(`The driver runs on core 0, what is measured on ${cores.slice(1).join(', ')}.`);
  return async () => {
    for (const pid of [...measured, driver.pid]) await runOn(cores, pid);
  };
};

/** More orders than the system can place: in an open loop, and from too many callers. */
export const overloadSuite = async (bench: Bench): Promise<void> => {
  const { options, report, say } = bench;
  const { seconds } = options;
  say('overload: starting');
  const workload = spreadWorkload(new SeededRandom(options.seed));
  await prepareOrders(bench, workload);
  const system = await startOurs(bench, workload.catalogue);
  await warmUp(bench, system, workload);
  const together = await keepApart(bench, system);
  const atPeak = async (callers: number, round: number): Promise<void> => {
    const placing = { callers, seconds, seed: options.seed + round, as: peakName };
    report.runs.push(await measurePlacing(bench, system, workload, placing));
  };
  const inOpenLoop = async (round: number): Promise<void> => {
    const perSecond = peakOf(report).perSecond * times;
    const placing = { callers: connections, seconds, seed: options.seed + round, perSecond, as: overloadNames.open };
    const run = await measurePlacing(bench, system, workload, placing);
    report.runs.push(run);
    const answered = Object.values(run.failures).reduce((sum, it) => sum + it, run.count);
    const { sentLateP99Ms, driverMs, count } = run;
    report.notes.push(
      `Open loop: ${Math.round(perSecond)} orders a second were scheduled; ${answered} were answered in ${seconds} s. The driver ` +
        `sent them ${Math.round(sentLateP99Ms)} ms late (p99) and used ${Math.round(driverMs * count)} ms of CPU.`,
    );
  };
  const byMany = async (round: number): Promise<void> => {
    const callers = fewCallers * timesCallers;
    const placing = { callers, seconds, seed: options.seed + round, honoursRetryAfter: true, as: overloadNames.many };
    const run = await measurePlacing(bench, system, workload, placing);
    report.runs.push(run);
    report.notes.push(
      `${callers} callers: p99 including all attempts and waits: ${Math.round(run.sinceFirstTryP99Ms)} ms.`,
    );
  };
  // The first peak determines the rate of four times as many.
  for (const callers of callersAtPeak) await atPeak(callers, 0);
  const turns = [
    { name: 'four times the peak', take: inOpenLoop },
    { name: 'twenty times the callers', take: byMany },
    ...callersAtPeak.map((callers) => ({
      name: `callers: ${callers}`,
      take: (round: number) => atPeak(callers, round + 1),
    })),
  ];
  await takeTurns(turns, options.rounds, say);
  await together();
  await endSystem(bench, system);
};
