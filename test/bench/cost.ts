import type { Backlog } from './backlog.js';
import type { Bench } from './bench.js';
import { cpuMsOf } from './cpu.js';
import { machineTimes, othersShare } from './machine.js';

/** Whose work is counted: the Node processes of a contestant, and who counts its backlog. */
interface Measured {
  pids: number[];
  backlog?: Backlog;
}

/** CPU time so far of everybody who has a part in a run. */
const timesOf = async ({ server, driver }: Bench, { pids, backlog }: Measured) => {
  const [machine, node, wholeServer, counting, driving] = await Promise.all([
    machineTimes(),
    cpuMsOf(pids),
    server.cpuMs(),
    cpuMsOf(backlog?.serverPids ?? []),
    cpuMsOf([driver.pid, process.pid]),
  ]);
  // Counting the backlog is our work, not that of the orders.
  return { machine, node, postgres: wholeServer - counting, ownWork: counting + driving };
};

/** What the work cost, by kind of process, and how much others took of the machine meanwhile. */
export const withCost = async <T>(
  bench: Bench,
  system: Measured,
  work: () => Promise<T>,
): Promise<{ result: T; nodeMs: number; postgresMs: number; othersShare: number }> => {
  const before = await timesOf(bench, system);
  const result = await work();
  const after = await timesOf(bench, system);
  const nodeMs = after.node - before.node;
  const postgresMs = after.postgres - before.postgres;
  const ownMs = nodeMs + postgresMs + after.ownWork - before.ownWork;
  return { result, nodeMs, postgresMs, othersShare: othersShare(before.machine, after.machine, ownMs) };
};
