import { setTimeout } from 'node:timers/promises';
import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { nowMs } from '../clock.js';
import { runOf } from '../figures.js';
import { fillWith } from '../fill.js';
import { watchLag, type Follower } from '../lag.js';
import { measurePlacing, prepareOrders, warmUp } from '../measure.js';
import { endSystem, startOurs, type System } from '../systems.js';
import { takeTurns } from '../turns.js';
import { spreadWorkload } from '../workloads.js';

export const lagOf = (follower: Follower): string => `lag of ${follower}`;
export const rebuildName = 'rebuild of the sales';

interface View {
  state: string;
  events: number;
}

/** Rebuilds the sales view. @returns the number of its events, and how long it took */
const rebuild = async ({ urls }: System): Promise<{ events: number; seconds: number }> => {
  const address = `${urls[0]}/sales/views`;
  const startedAt = nowMs();
  await fetch(address, { method: 'POST' });
  for (;;) {
    const { data } = (await (await fetch(address)).json()) as { data: View[] };
    if (data[0]!.state === 'serving') return { events: data[0]!.events, seconds: (nowMs() - startedAt) / 1_000 };
    // Between polls, the service needs its time for the rebuild.
    await setTimeout(50);
  }
};

/** How far consumers of the log are behind while orders arrive at the highest rate, and how fast one catches up. */
export const logSuite = async (bench: Bench): Promise<void> => {
  const { options, report, say } = bench;
  const { seconds, seed } = options;
  say('log: starting');
  const workload = spreadWorkload(new SeededRandom(seed));
  await prepareOrders(bench, workload);
  const system = await startOurs(bench, workload.catalogue);
  await warmUp(bench, system, workload);
  const turns = options.callers
    .filter((it) => it > 1)
    .map((callers) => ({
      name: `${workload.name}, watched, callers: ${callers}`,
      take: async (round: number) => {
        const unwatch = await watchLag(system.databaseUrl!);
        const run = await measurePlacing(bench, system, workload, { callers, seconds, seed: seed + round });
        const lags = await unwatch();
        report.runs.push(run);
        const { contestant, count, perSecond } = run;
        const nobody = { nodeMs: Number.NaN, postgresMs: Number.NaN, driverMs: Number.NaN, failures: {} };
        for (const follower of ['stock', 'sales'] as const)
          report.runs.push(
            runOf({
              ...{ contestant, workload: lagOf(follower), callers, count, seconds, perSecond },
              ...nobody,
              ...lags[follower],
            }),
          );
      },
    }));
  await takeTurns(turns, options.rounds, say);
  await fillWith(bench, system, workload, options.fewOrders);
  for (let round = 0; round < options.rounds; round += 1) {
    const built = await rebuild(system);
    say(`log: ${built.events} events in ${built.seconds.toFixed(1)} s`);
    report.runs.push(
      runOf({
        ...{ contestant: system.name, workload: rebuildName, callers: 1, count: built.events },
        ...{ seconds: built.seconds, perSecond: built.events / built.seconds, failures: {} },
        ...{ nodeMs: Number.NaN, postgresMs: Number.NaN, driverMs: Number.NaN },
        ...{ p50Ms: Number.NaN, p95Ms: Number.NaN, p99Ms: Number.NaN, mostMs: Number.NaN },
      }),
    );
  }
  await endSystem(bench, system);
};
