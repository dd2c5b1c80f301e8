import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { measurePlacing, prepareOrders, warmUp } from '../measure.js';
import { endSystem, startOurs } from '../systems.js';
import { takeTurns } from '../turns.js';
import { paidWorkload, spreadWorkload } from '../workloads.js';

/** The same orders, once paid elsewhere and once through us: authorised, confirmed, captured. */
export const purchaseSuite = async (bench: Bench): Promise<void> => {
  const { options, report, say } = bench;
  const { seconds, seed } = options;
  say('purchase: starting');
  const plain = spreadWorkload(new SeededRandom(seed));
  const workloads = [plain, paidWorkload(plain)];
  for (const workload of workloads) await prepareOrders(bench, workload);
  // On one system, so that both meet the same tables.
  const system = await startOurs(bench, plain.catalogue);
  for (const workload of workloads) await warmUp(bench, system, workload);
  const turns = options.callers
    .filter((it) => it > 1)
    .flatMap((callers) =>
      workloads.map((workload) => ({
        name: `${workload.name}, callers: ${callers}`,
        take: async (round: number) =>
          void report.runs.push(
            await measurePlacing(bench, system, workload, { callers, seconds, seed: seed + round }),
          ),
      })),
    );
  await takeTurns(turns, options.rounds, say);
  await endSystem(bench, system);
};
