import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { measurePlacing, prepareOrders, warmUp } from '../measure.js';
import { endSystem, startOurs, startWholeSplit } from '../systems.js';
import { takeTurns } from '../turns.js';
import { hotWorkload, spreadWorkload, type Workload } from '../workloads.js';
import { balanceSuite } from './balance.js';
import { callsSuite } from './calls.js';

export const splitNames = { monolith: 'monolith', direct: 'split', behindGateway: 'split, through the gateway' };
export const splitPlacing = (workload: 'spread' | 'hot'): string => `${workload}, monolith and split`;

const workloads = { spread: spreadWorkload, hot: hotWorkload };

/** The work of the monolith, done by six services that communicate over TCP, on the same cores. */
const placeSplit = async (bench: Bench, name: keyof typeof workloads): Promise<void> => {
  const { options, report, say } = bench;
  const { seconds, seed } = options;
  say(`split: starting for ${name}`);
  const workload: Workload = workloads[name](new SeededRandom(seed));
  await prepareOrders(bench, workload);
  const monolith = await startOurs(bench, workload.catalogue, splitNames.monolith);
  const { direct, behindGateway } = await startWholeSplit(bench, workload.catalogue, splitNames);
  const systems = [monolith, direct, behindGateway];
  for (const system of systems) await warmUp(bench, system, workload);
  const turns = options.callers.flatMap((callers) =>
    systems.map((system) => ({
      name: `${name}, ${system.name}, callers: ${callers}`,
      take: async (round: number) => {
        const placing = { callers, seconds, seed: seed + round, as: splitPlacing(name) };
        report.runs.push(await measurePlacing(bench, system, workload, placing));
      },
    })),
  );
  await takeTurns(turns, options.rounds, say);
  for (const system of systems.toReversed()) await endSystem(bench, system);
};

/** The cost of separate services: whole orders, then single calls, then the choice among instances. */
export const splitSuite = async (bench: Bench): Promise<void> => {
  for (const name of ['spread', 'hot'] as const)
    if (bench.options.workloads.includes(name)) await placeSplit(bench, name);
  await callsSuite(bench);
  await balanceSuite(bench);
};
