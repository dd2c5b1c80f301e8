import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { measurePlacing, prepareOrders, warmUp } from '../measure.js';
import { endSystem, startOurs } from '../systems.js';
import { takeTurns } from '../turns.js';
import { paidWorkload, spreadWorkload } from '../workloads.js';

export const twoPhaseName = 'ours, two-phase';

/**
 * The same orders three times: paid elsewhere; paid through us, which means authorised, confirmed and captured; and with
 * two-phase commit over two databases.
 */
export const transactionsSuite = async (bench: Bench): Promise<void> => {
  const { options, report, say, server } = bench;
  const { seconds, seed } = options;
  say('transactions: starting');
  const plain = spreadWorkload(new SeededRandom(seed));
  const paid = paidWorkload(plain);
  for (const workload of [plain, paid]) await prepareOrders(bench, workload);
  const ours = await startOurs(bench, plain.catalogue);
  const inventoryUrl = await server.freshDatabase();
  const twoPhase = await startOurs(bench, plain.catalogue, twoPhaseName, {
    ORDER_COMMIT: 'two-phase',
    INVENTORY_DATABASE_URL: inventoryUrl,
  });
  const entrants = [
    [ours, plain],
    // On the same system, so that both use the same tables.
    [ours, paid],
    [twoPhase, plain],
  ] as const;
  for (const [system, workload] of entrants) await warmUp(bench, system, workload);
  const turns = options.callers
    .filter((it) => it > 1)
    .flatMap((callers) =>
      entrants.map(([system, workload]) => ({
        name: `${workload.name}, ${system.name}, callers: ${callers}`,
        take: async (round: number) =>
          void report.runs.push(
            await measurePlacing(bench, system, workload, { callers, seconds, seed: seed + round }),
          ),
      })),
    );
  await takeTurns(turns, options.rounds, say);
  for (const system of [ours, twoPhase]) await endSystem(bench, system);
  await server.drop(inventoryUrl);
};
