import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { measurePlacing, placeUnmeasured, prepareOrders } from '../measure.js';
import { halfOfPeak } from '../peak.js';
import { endSystem, startOurs } from '../systems.js';
import { spreadWorkload } from '../workloads.js';

export const openName = 'ours, open loop';
/** Connections for those who arrive while others are still served. */
const connections = 256;
const warmUp = { callers: 64, seconds: 2 };

/** Orders that arrive by themselves at half of the peak. */
export const openSuite = async (bench: Bench): Promise<void> => {
  const { options, report, say } = bench;
  const { seconds, seed } = options;
  say('open: starting');
  const workload = spreadWorkload(new SeededRandom(seed));
  await prepareOrders(bench, workload);
  const system = await startOurs(bench, workload.catalogue);
  await placeUnmeasured(bench, system, workload, { ...warmUp, seed });
  const perSecond = await halfOfPeak(bench, system, workload);
  for (let round = 0; round < options.rounds; round += 1) {
    say(`round ${round + 1} of ${options.rounds}: open loop, ${Math.round(perSecond)} orders a second`);
    const placing = { callers: connections, seconds, seed: seed + round, perSecond };
    report.runs.push(await measurePlacing(bench, { ...system, name: openName }, workload, placing));
  }
  await endSystem(bench, system);
};
