import { setTimeout } from 'node:timers/promises';
import type { Bench } from './bench.js';
import { cpuMsOf } from './cpu.js';
import type { LoadResult } from './driver/commands.js';
import { runOf, type Run } from './figures.js';
import { Shelf } from './shelf.js';
import type { Latency } from './statistics.js';
import type { System } from './systems.js';
import { linesPerOrder, type Workload } from './workloads.js';

/** Between runs, so that each begins on a quiet machine. */
const pauseMs = 500;
/** Before the clock starts, at the same number of callers. */
const warmUpMs = 500;
/** Of so many acknowledged orders one is read back. */
const readBackEvery = 100;
const mostReadBack = 200;

export interface Placing {
  callers: number;
  seconds: number;
  seed: number;
  /** No more orders than these, however much time is left. */
  most?: number;
  keepIdEvery?: number;
  /** Arrivals a second, whether or not earlier ones were answered; without it callers wait for their answers. */
  perSecond?: number;
}

/** Paths that one kind of reading asks for. */
export interface Reading {
  name: string;
  paths: string[];
}

/** The driver knows requests by a name and keeps their bytes. */
export const prepareOrders = async ({ driver }: Bench, workload: Workload): Promise<void> => {
  const bodies = workload.orders.map((it) => it.body);
  await driver.call('prepare', { name: workload.name, requests: { method: 'POST', paths: ['/orders'], bodies } });
};

const place = ({ driver }: Bench, system: System, workload: Workload, placing: Placing): Promise<LoadResult> => {
  const { callers, seconds, seed, most, perSecond, keepIdEvery = readBackEvery } = placing;
  const load = {
    requests: workload.name,
    targets: system.urls,
    callers,
    durationMs: seconds * 1_000,
    seed,
    keepIdEvery,
    ...(most !== undefined && { most }),
  };
  return perSecond === undefined ? driver.call('closedLoop', load) : driver.call('openLoop', { ...load, perSecond });
};

/** What is not known of an order, and what is known to be wrong. */
const noteFaults = async (
  { report }: Bench,
  system: System,
  { acknowledged, failures, orderIds }: LoadResult,
): Promise<void> => {
  const told = (fault: string): number => report.faults.push(`${system.name}: ${fault}`);
  for (const unknown of ['not answered', 'connection lost'])
    if (failures[unknown]) told(`${failures[unknown]} orders: ${unknown}`);
  if (acknowledged === 0) told('no order was placed at all');
  if (!system.shelf) return;
  (await system.shelf.faults()).forEach(told);
  (await Shelf.lostOrders(system.urls[0]!, orderIds.slice(-mostReadBack))).forEach(told);
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

/** What the work cost, by kind of process. */
const withCpu = async <T>(
  { server }: Bench,
  { pids }: System,
  work: () => Promise<T>,
): Promise<{ result: T; nodeMs: number; postgresMs: number }> => {
  const [nodeBefore, postgresBefore] = await Promise.all([cpuMsOf(pids), server.cpuMs()]);
  const result = await work();
  const [nodeAfter, postgresAfter] = await Promise.all([cpuMsOf(pids), server.cpuMs()]);
  return { result, nodeMs: nodeAfter - nodeBefore, postgresMs: postgresAfter - postgresBefore };
};

const latencyIn = ({ p50Ms, p95Ms, p99Ms, mostMs }: Latency): Latency => ({ p50Ms, p95Ms, p99Ms, mostMs });

/** Measures one run of placing orders, until the last of them is final, and checks the stock to the unit. */
export const measurePlacing = async (
  bench: Bench,
  system: System,
  workload: Workload,
  placing: Placing,
): Promise<Run> => {
  const { shelf, backlog } = system;
  await setTimeout(pauseMs);
  await bench.server.checkpoint();
  const { callers, seed } = placing;
  await placeUnmeasured(bench, system, workload, { callers, seconds: warmUpMs / 1_000, seed: seed + 1 });

  const { result, nodeMs, postgresMs } = await withCpu(bench, system, async () => {
    const unwatch = backlog?.watch();
    const load = await place(bench, system, workload, placing);
    const backlogMost = await unwatch?.();
    const backlogAtEnd = await backlog?.count();
    return { load, backlogMost, backlogAtEnd, settledAtMs: await backlog?.untilSettled() };
  });
  const { load, backlogMost = Number.NaN, backlogAtEnd = Number.NaN, settledAtMs = Number.NaN } = result;
  shelf?.acknowledge(workload, load.acknowledgedOf);
  await noteFaults(bench, system, load);

  const count = load.acknowledged;
  const finalAtMs = backlog ? Math.max(load.endedAtMs, settledAtMs) : load.endedAtMs;
  const seconds = (finalAtMs - load.startedAtMs) / 1_000;
  return runOf({
    contestant: system.name,
    workload: workload.name,
    callers,
    count,
    seconds,
    perSecond: count / seconds,
    linesPerSecond: (count * linesPerOrder(workload)) / seconds,
    ...latencyIn(load),
    nodeMs: nodeMs / count,
    postgresMs: postgresMs / count,
    driverMs: load.cpuMs / count,
    backlogMost: Math.max(backlogMost, backlogAtEnd),
    backlogAtEnd,
    drainMs: settledAtMs - load.endedAtMs,
    sentLateP99Ms: load.lateness?.p99Ms ?? Number.NaN,
    failures: load.failures,
  });
};

/** Measures one run of reading: the paths, at random. */
export const measureReading = async (
  bench: Bench,
  system: System,
  reading: Reading,
  { callers, seconds, seed }: Placing,
): Promise<Run> => {
  const { driver, report } = bench;
  const requests = { method: 'GET' as const, paths: reading.paths, bodies: [] };
  await driver.call('prepare', { name: reading.name, requests });
  const load = { requests: reading.name, targets: system.urls, callers, seed };
  await setTimeout(pauseMs);
  await driver.call('closedLoop', { ...load, durationMs: warmUpMs });
  const { result, nodeMs, postgresMs } = await withCpu(bench, system, () =>
    driver.call('closedLoop', { ...load, durationMs: seconds * 1_000 }),
  );
  for (const [reason, times] of Object.entries(result.failures))
    report.faults.push(`${system.name}: ${reading.name} ended ${times} times in ${reason}`);
  const count = result.acknowledged;
  const readSeconds = (result.endedAtMs - result.startedAtMs) / 1_000;
  return runOf({
    contestant: system.name,
    workload: reading.name,
    callers,
    count,
    seconds: readSeconds,
    perSecond: count / readSeconds,
    ...latencyIn(result),
    nodeMs: nodeMs / count,
    postgresMs: postgresMs / count,
    driverMs: result.cpuMs / count,
    failures: result.failures,
  });
};
