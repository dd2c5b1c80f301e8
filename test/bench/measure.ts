import type { Bench } from './bench.js';
import { withCost } from './cost.js';
import type { LoadResult } from './driver/commands.js';
import { runOf, type Run } from './figures.js';
import { pauseBefore } from './turns.js';
import { Shelf } from './shelf.js';
import type { Latency } from './statistics.js';
import type { System } from './systems.js';
import { linesPerOrder, type Workload } from './workloads.js';

/** Before each measurement, with the same number of callers; shorter before a very short run. */
const longestWarmUpMs = 500;
const warmUpMsOf = (seconds: number): number => Math.min(longestWarmUpMs, seconds * 500);

/** Once, before the first run: as long as the limits run during their calibration. */
const firstWarmUpSeconds = 8;
const firstWarmUpCallers = 64;
/** One of this many acknowledged orders is read back. */
const readBackEvery = 100;
const mostReadBack = 200;

export interface Placing {
  callers: number;
  seconds: number;
  seed: number;
  /** The maximum number of orders, even if there is time left. */
  most?: number;
  keepIdEvery?: number;
  /** The name of the run, if it is not that of the workload. */
  as?: string;
  /** Without a checkpoint before it, as during normal operation. */
  inTheMidst?: boolean;
  /** Callers wait as `Retry-After` says after a 503. */
  honoursRetryAfter?: boolean;
  /** Arrivals per second, whether or not earlier ones were answered; if undefined, callers wait for their answers. */
  perSecond?: number;
}

/** The paths of one kind of reading; posted if it has bodies. */
export interface Reading {
  name: string;
  paths: string[];
  bodies?: string[];
}

/** The driver stores the bytes of requests under a name. */
export const prepareOrders = async ({ driver }: Bench, workload: Workload, system?: System): Promise<void> => {
  const requests = { method: 'POST' as const, paths: ['/orders'], bodies: workload.orders.map((it) => it.body) };
  const headers = system?.headers;
  await driver.call('prepare', {
    name: requestsOf(workload, system),
    requests: { ...requests, ...(headers && { headers }) },
  });
};

/** All systems get the same bytes, except for those that need headers of their own. */
const requestsOf = ({ name }: Workload, system?: System): string =>
  system?.headers ? `${name}, ${system.name}` : name;

const place = ({ driver }: Bench, system: System, workload: Workload, placing: Placing): Promise<LoadResult> => {
  const { callers, seconds, seed, most, perSecond, honoursRetryAfter = false, keepIdEvery = readBackEvery } = placing;
  const load = {
    requests: requestsOf(workload, system),
    targets: system.urls,
    callers,
    durationMs: seconds * 1_000,
    seed,
    keepIdEvery,
    honoursRetryAfter,
    ...(most !== undefined && { most }),
  };
  return perSecond === undefined ? driver.call('closedLoop', load) : driver.call('openLoop', { ...load, perSecond });
};

/** Records orders that are missing, and stock that is wrong. */
const noteFaults = async (
  { report }: Bench,
  system: System,
  { acknowledged, failures, orderIds }: LoadResult,
): Promise<void> => {
  const told = (fault: string): number => report.faults.push(`${system.name}: ${fault}`);
  for (const unknown of ['not answered', 'connection lost', '503 without Retry-After'])
    if (failures[unknown]) told(`${failures[unknown]} orders: ${unknown}`);
  if (acknowledged === 0) told('no order was placed at all');
  if (!system.shelf) return;
  (await system.shelf.faults()).forEach(told);
  (await Shelf.lostOrders(system.urls[0]!, orderIds.slice(-mostReadBack), system.headers)).forEach(told);
};

/** Places orders that are not measured, and waits until they are final. */
export const placeUnmeasured = async (
  bench: Bench,
  system: System,
  workload: Workload,
  placing: Placing,
): Promise<LoadResult> => {
  const load = await place(bench, system, workload, placing);
  system.shelf?.acknowledge(workload, load.acknowledgedOf);
  await system.backlog?.untilSettled();
  return load;
};

const latencyIn = ({ p50Ms, p95Ms, p99Ms, mostMs }: Latency): Latency => ({ p50Ms, p95Ms, p99Ms, mostMs });

/**
 * Runs a system before the measurement, so that its code is compiled and its connections are open, and analyses its tables,
 * as autovacuum does within the first minutes of a database.
 */
export const warmUp = async (bench: Bench, system: System, workload: Workload): Promise<void> => {
  const { seconds, seed } = bench.options;
  await placeUnmeasured(bench, system, workload, {
    callers: firstWarmUpCallers,
    seconds: Math.min(firstWarmUpSeconds, seconds * 3),
    seed,
  });
  if (system.databaseUrl !== undefined) await bench.server.vacuum(system.databaseUrl);
};

/** Measures one run of placing orders until the last of them is final, and checks the stock to the unit. */
export const measurePlacing = async (
  bench: Bench,
  system: System,
  workload: Workload,
  placing: Placing,
): Promise<Run> => {
  const { shelf, backlog } = system;
  await pauseBefore(placing.seconds);
  if (!placing.inTheMidst) await bench.server.checkpoint();
  const { callers, seconds, seed } = placing;
  // With another seed than the measurement.
  const before = { ...placing, seconds: warmUpMsOf(seconds) / 1_000, seed: seed + 1 };
  await placeUnmeasured(bench, system, workload, before);

  const { result, nodeMs, postgresMs, othersShare } = await withCost(bench, system, async () => {
    const unwatch = backlog?.watch();
    const load = await place(bench, system, workload, placing);
    const settled = await backlog?.untilSettled();
    return { load, settled, backlogMost: await unwatch?.() };
  });
  const { load, settled, backlogMost = Number.NaN } = result;
  shelf?.acknowledge(workload, load.acknowledgedOf);
  await noteFaults(bench, system, load);

  const count = load.acknowledged;
  const finalAtMs = Math.max(load.endedAtMs, settled?.settledAtMs ?? 0);
  const backlogAtEnd = settled?.atFirst ?? Number.NaN;
  const taken = (finalAtMs - load.startedAtMs) / 1_000;
  return runOf({
    contestant: system.name,
    workload: placing.as ?? workload.name,
    callers,
    count,
    seconds: taken,
    perSecond: count / taken,
    linesPerSecond: (count * linesPerOrder(workload)) / taken,
    ...latencyIn(load),
    nodeMs: nodeMs / count,
    postgresMs: postgresMs / count,
    driverMs: load.cpuMs / count,
    backlogMost: Math.max(backlogMost, backlogAtEnd),
    backlogAtEnd,
    drainMs: settled ? finalAtMs - load.endedAtMs : Number.NaN,
    sentLateP50Ms: load.lateness?.p50Ms ?? Number.NaN,
    sentLateP99Ms: load.lateness?.p99Ms ?? Number.NaN,
    sinceSentP50Ms: load.sinceSent?.p50Ms ?? Number.NaN,
    sinceSentP99Ms: load.sinceSent?.p99Ms ?? Number.NaN,
    sinceFirstTryP99Ms: load.sinceFirstTry?.p99Ms ?? Number.NaN,
    failures: load.failures,
    othersShare,
  });
};

/**
 * Reads without measuring, so that code is compiled and connections have touched the pages that they will read.
 *
 * @returns the number of answers
 */
export const readUnmeasured = async (
  { driver }: Bench,
  { urls }: System,
  { name, paths, bodies = [] }: Reading,
  { callers, seconds, seed }: Placing,
): Promise<number> => {
  await driver.call('prepare', { name, requests: { method: bodies.length > 0 ? 'POST' : 'GET', paths, bodies } });
  const load = { requests: name, targets: urls, callers, seed, durationMs: seconds * 1_000 };
  return (await driver.call('closedLoop', load)).acknowledged;
};

/** Measures one run of reading: the paths, in random order. */
export const measureReading = async (
  bench: Bench,
  system: System,
  reading: Reading,
  { callers, seconds, seed }: Placing,
): Promise<Run> => {
  const { driver, report } = bench;
  const load = { requests: reading.name, targets: system.urls, callers, seed };
  await pauseBefore(seconds);
  await readUnmeasured(bench, system, reading, { callers, seconds: warmUpMsOf(seconds) / 1_000, seed });
  const { result, nodeMs, postgresMs, othersShare } = await withCost(bench, system, () =>
    driver.call('closedLoop', { ...load, durationMs: seconds * 1_000 }),
  );
  for (const [reason, times] of Object.entries(result.failures))
    report.faults.push(`${system.name}: ${reading.name} ended ${times} times in ${reason}`);
  const count = result.acknowledged;
  const taken = (result.endedAtMs - result.startedAtMs) / 1_000;
  return runOf({
    contestant: system.name,
    workload: reading.name,
    callers,
    count,
    seconds: taken,
    perSecond: count / taken,
    ...latencyIn(result),
    nodeMs: nodeMs / count,
    postgresMs: postgresMs / count,
    driverMs: result.cpuMs / count,
    failures: result.failures,
    othersShare,
  });
};
