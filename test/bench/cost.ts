import type { Backlog } from './backlog.js';
import type { Bench } from './bench.js';
import { cpuMsOf } from './cpu.js';
import { machineTimes, othersShare } from './machine.js';

/** Whose work is counted: the Node processes of a contestant, and who counts its backlog. */
interface Measured {
  pids: readonly number[];
  backlog?: Backlog;
  /** What messages pass through, told apart from those who ask and answer. */
  brokerPid?: number;
}

/** CPU time so far of everybody who has a part in a run. */
const timesOf = async ({ server, driver }: Bench, { pids, backlog, brokerPid }: Measured) => {
  const [machine, node, wholeServer, counting, driving, broker] = await Promise.all([
    machineTimes(),
    cpuMsOf(pids),
    server.cpuMs(),
    cpuMsOf(backlog?.serverPids ?? []),
    cpuMsOf([driver.pid, process.pid]),
    cpuMsOf(brokerPid === undefined ? [] : [brokerPid]),
  ]);
  // Counting the backlog is our work, not that of the orders.
  return { machine, node, postgres: wholeServer - counting, broker, ownWork: counting + driving };
};

/** What the work cost, by kind of process, and how much others took of the machine meanwhile. */
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
