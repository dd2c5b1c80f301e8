import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { measurePlacing, prepareOrders, warmUp } from '../measure.js';
import { endSystem, startSplit } from '../systems.js';
import { takeTurns } from '../turns.js';
import { hotWorkload } from '../workloads.js';

export const instancesNames = { one: 'one of each', two: 'two of each' };
export const instancesPlacing = 'hot, split over TCP';

/** The gain from a second order and a second inventory process when all orders are for the same product. */
export const instancesSuite = async (bench: Bench): Promise<void> => {
  const { options, report, say } = bench;
  const { seconds, seed } = options;
  say('instances: starting');
  const workload = hotWorkload(new SeededRandom(seed));
  await prepareOrders(bench, workload);
  const systems = [
    await startSplit(bench, workload.catalogue, instancesNames.one, 1),
    await startSplit(bench, workload.catalogue, instancesNames.two, 2),
  ];
  for (const system of systems) await warmUp(bench, system, workload);
  // A single caller uses only one instance.
  const callerCounts = options.callers.filter((it) => it > 1);
  const turns = callerCounts.flatMap((callers) =>
    systems.map((system) => ({
      name: `${system.name}, callers: ${callers}`,
      take: async (round: number) =>
        void report.runs.push(
          await measurePlacing(bench, system, workload, { callers, seconds, seed: seed + round, as: instancesPlacing }),
        ),
    })),
  );
  await takeTurns(turns, options.rounds, say);
  for (const system of systems) await endSystem(bench, system);
};
