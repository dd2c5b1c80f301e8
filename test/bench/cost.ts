import type { Backlog } from './backlog.js';
import type { Bench } from './bench.js';
import { cpuMsOf } from './cpu.js';
import { machineTimes, othersShare } from './machine.js';

/** The processes whose work is measured: the Node processes of a contestant, and the one that counts its backlog. */
interface Measured {
  pids: readonly number[];
  backlog?: Backlog;
  /** The broker of messages, which is reported separately from callers and servers. */
  brokerPid?: number;
}

/** The CPU time so far of all processes that take part in a run. */
const timesOf = async ({ server, driver }: Bench, { pids, backlog, brokerPid }: Measured) => {
  const [machine, node, wholeServer, counting, driving, broker] = await Promise.all([
    machineTimes(),
    cpuMsOf(pids),
    server.cpuMs(),
    cpuMsOf(backlog?.serverPids ?? []),
    cpuMsOf([driver.pid, process.pid]),
    cpuMsOf(brokerPid === undefined ? [] : [brokerPid]),
  ]);
  // Counting the backlog is work of the benchmark, not of the orders.
  return { machine, node, postgres: wholeServer - counting, broker, ownWork: counting + driving };
};

/** Does the work. @returns its CPU cost by kind of process, and the CPU share that other processes used meanwhile */
export const withCost = async <T>(
  bench: Bench,
  system: Measured,
  work: () => Promise<T>,
): Promise<{ result: T; nodeMs: number; postgresMs: number; brokerMs: number; othersShare: number }> => {
  const before = await timesOf(bench, system);
  const result = await work();
  const after = await timesOf(bench, system);
  const nodeMs = after.node - before.node;
  const postgresMs = after.postgres - before.postgres;
  const brokerMs = after.broker - before.broker;
  const ownMs = nodeMs + postgresMs + brokerMs + after.ownWork - before.ownWork;
  return { result, nodeMs, postgresMs, brokerMs, othersShare: othersShare(before.machine, after.machine, ownMs) };
};
