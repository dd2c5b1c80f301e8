import { availableParallelism } from 'node:os';
import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { runOn } from '../cpu.js';
import { measurePlacing, prepareOrders, warmUp } from '../measure.js';
import type { Report } from '../report.js';
import { endSystem, startEcho, startOurs, type System } from '../systems.js';
import { takeTurns } from '../turns.js';
import { spreadWorkload } from '../workloads.js';

const peakName = 'spread, callers at the peak';
export const overloadNames = {
  open: 'spread, open loop at four times the peak',
  many: 'spread, twenty times as many callers, who honour Retry-After',
  refusals: 'as many short answers as refusals at four times the peak',
};
/** As long as the answer to a refused request, with its head. */
const refusal = JSON.stringify({ detail: 'x'.repeat(700) });
const fewCallers = 64;
const callersAtPeak = [fewCallers, 256];
const times = 4;
/** The share of the peak that is to be placed at four times the load; the rest is refused. */
export const leastOfPeak = 0.8;
const timesCallers = 20;
/** Connections for requests that arrive while others are in flight or being refused. */
const connections = 3_000;

interface Peak {
  perSecond: number;
  /** With that number of callers, as are the following. */
  p99Ms: number;
  nodeMs: number;
  postgresMs: number;
}

/** The best result of a closed loop, over several numbers of callers. */
export const peakOf = (report: Report): Peak => {
  const figures = callersAtPeak.map((callers) => ({
    perSecond: report.median('perSecond', 'ours', peakName, callers),
    p99Ms: report.median('p99Ms', 'ours', peakName, callers),
    nodeMs: report.median('nodeMs', 'ours', peakName, callers),
    postgresMs: report.median('postgresMs', 'ours', peakName, callers),
  }));
  return figures.reduce((best, it) => (best.perSecond > it.perSecond ? best : it));
};

/**
 * The share of the peak that a process keeps at four times the load, if a refusal costs as much CPU as an answer of this
 * contestant and an order as much as at the peak. All of them, and Postgres, use one core (`keepApart` on two cores).
 */
export const keptWithRefusalsOf = (report: Report, contestant: string): number => {
  const { nodeMs, postgresMs } = peakOf(report);
  const ratio = report.median('nodeMs', contestant, overloadNames.refusals) / (nodeMs + postgresMs);
  return (1 - times * ratio) / (1 - ratio);
};

/**
 * Gives the driver one core, and the systems under test the others. On a shared core, a driver that sends four times the peak
 * would take CPU from the orders, which callers on other machines do not.
 *
 * @returns a function that undoes it
 */
const keepApart = async (
  { driver, server, report }: Bench,
  systems: readonly System[],
): Promise<() => Promise<void>> => {
  const cores = Array.from({ length: availableParallelism() }, (_, core) => core);
  const measured = [server.pid, ...systems.flatMap((it) => it.pids)];
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

/** Sum and number of the durations of placed orders, as measured by the system: from reading the head to the last byte. */
const timeOfOrders = async ({ urls }: System): Promise<{ ms: number; count: number }> => {
  const text = await (await fetch(`${urls[0]}/metrics`)).text();
  const valueOf = (part: 'sum' | 'count'): number => {
    const lines = new RegExp(`^http_server_request_duration_seconds_${part}\\{(.*)\\} (.*)$`, 'gm');
    const of = [...text.matchAll(lines)].find(([, labels]) => /route="\/orders".*code="201"/.test(labels!));
    return Number(of?.[2] ?? 0);
  };
  return { ms: valueOf('sum') * 1_000, count: valueOf('count') };
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
  const bounds = [await startEcho(bench, refusal), await startEcho(bench, refusal, 'socket')];
  const together = await keepApart(bench, [system, ...bounds]);
  const atPeak = async (callers: number, round: number): Promise<void> => {
    const placing = { callers, seconds, seed: options.seed + round, as: peakName };
    report.runs.push(await measurePlacing(bench, system, workload, placing));
  };
  const inOpenLoop = async (round: number): Promise<void> => {
    const perSecond = peakOf(report).perSecond * times;
    const placing = { callers: connections, seconds, seed: options.seed + round, perSecond, as: overloadNames.open };
    const before = await timeOfOrders(system);
    const run = await measurePlacing(bench, system, workload, placing);
    const after = await timeOfOrders(system);
    report.runs.push(run);
    const refused = Object.values(run.failures).reduce((sum, it) => sum + it, 0);
    const { count } = run;
    const shown = (...values: number[]): string => values.map(Math.round).join(' and ');
    const refusalMicros = ((run.nodeMs - peakOf(report).nodeMs) * count * 1_000) / refused;
    report.notes.push(
      `Open loop: ${shown(perSecond)} orders a second were scheduled for ${seconds} s; ${count} were placed and ${refused} ` +
        `refused within ${run.seconds.toFixed(1)} s. If the others cost as much as at the peak, a refusal took ` +
        `${shown(refusalMicros)} µs of Node. The driver used ${shown(run.driverMs * count)} ms of CPU. Of the latency, the ` +
        `driver was late by ${shown(run.sentLateP50Ms, run.sentLateP99Ms)} ms (p50 and p99 of all requests); placed orders ` +
        `were answered ${shown(run.sinceSentP50Ms, run.sinceSentP99Ms)} ms after they were sent, and were in the server for ` +
        `${shown((after.ms - before.ms) / (after.count - before.count))} ms in the mean.`,
    );
  };
  const ofBound = async (bound: System, round: number): Promise<void> => {
    const perSecond = peakOf(report).perSecond * (times - leastOfPeak);
    const placing = {
      callers: connections,
      seconds,
      seed: options.seed + round,
      perSecond,
      as: overloadNames.refusals,
    };
    report.runs.push(await measurePlacing(bench, bound, workload, placing));
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
    ...bounds.map((bound) => ({
      name: `refusals by ${bound.name}`,
      take: (round: number) => ofBound(bound, round),
    })),
    ...callersAtPeak.map((callers) => ({
      name: `callers: ${callers}`,
      take: (round: number) => atPeak(callers, round + 1),
    })),
  ];
  await takeTurns(turns, options.rounds, say);
  await together();
  for (const it of [system, ...bounds]) await endSystem(bench, it);
};
