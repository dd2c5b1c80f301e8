import type { Bench } from './bench.js';
import type { CallCommands, CallLoad } from './calls/commands.js';
import type { Program } from './commands.js';
import { withCost } from './cost.js';
import { runOf, type Run } from './figures.js';
import { pauseBefore } from './turns.js';

const longestWarmUpMs = 300;

export interface Calling extends Omit<CallLoad, 'durationMs'> {
  contestant: string;
  workload: string;
  client: Program<CallCommands>;
  servers: readonly Program<CallCommands>[];
  brokerPid?: number;
}

/** Makes calls that are not measured, with many callers, so that both sides are compiled and connected. */
export const warmUpCalls = async ({ options }: Bench, { client, ...load }: Calling): Promise<void> => {
  const { kind, at, balance, size } = load;
  const durationMs = Math.min(3, options.seconds * 3) * 1_000;
  await client.call('load', { kind, at, size, callers: 50, durationMs, ...(balance && { balance }) });
};

/** Measures one run of calls. */
export const measureCalls = async (bench: Bench, calling: Calling): Promise<Run> => {
  const { options, report } = bench;
  const { contestant, workload, client, servers, brokerPid, ...load } = calling;
  await pauseBefore(options.seconds);
  await client.call('load', { ...load, durationMs: Math.min(longestWarmUpMs, options.seconds * 500) });
  const pids = [...new Set([client, ...servers].map((it) => it.pid))];
  const measured = { pids, ...(brokerPid !== undefined && { brokerPid }) };
  const { result, nodeMs, brokerMs, othersShare } = await withCost(bench, measured, () =>
    client.call('load', { ...load, durationMs: options.seconds * 1_000 }),
  );
  const { calls, wrong, failures, seconds, answeredBy, p50Ms, p95Ms, p99Ms, mostMs } = result;
  const told = (fault: string): number => report.faults.push(`${contestant}, ${workload}: ${fault}`);
  if (wrong > 0) told(`${wrong} calls got an answer that was not theirs`);
  for (const [reason, times] of Object.entries(failures)) told(`${times} calls failed: ${reason}`);
  return runOf({
    ...{ contestant, workload, callers: load.callers, count: calls, seconds, perSecond: calls / seconds },
    ...{ p50Ms, p95Ms, p99Ms, mostMs, failures, answeredBy, othersShare },
    ...{ nodeMs: nodeMs / calls, postgresMs: Number.NaN, driverMs: Number.NaN },
    brokerMs: brokerPid === undefined ? Number.NaN : brokerMs / calls,
  });
};
