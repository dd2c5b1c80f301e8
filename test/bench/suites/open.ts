import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { measurePlacing, prepareOrders, warmUp } from '../measure.js';
import { halfOfPeak } from '../peak.js';
import { endSystem, startOurs } from '../systems.js';
import { spreadWorkload } from '../workloads.js';

export const openName = 'spread, open loop at half of the peak';
/** Connections for requests that arrive while others are in flight. */
const connections = 256;

/** Orders in an open loop at half of the peak rate. */
export const openSuite = async (bench: Bench): Promise<void> => {
  const { options, report, say } = bench;
  const { seconds, seed } = options;
  say('open: starting');
  const workload = spreadWorkload(new SeededRandom(seed));
  await prepareOrders(bench, workload);
  const system = await startOurs(bench, workload.catalogue);
  await warmUp(bench, system, workload);
  const perSecond = await halfOfPeak(bench, system, workload);
  for (let round = 0; round < options.rounds; round += 1) {
    say(`round ${round + 1} of ${options.rounds}: open loop, ${Math.round(perSecond)} orders a second`);
    const placing = { callers: connections, seconds, seed: seed + round, perSecond, as: openName };
    report.runs.push(await measurePlacing(bench, system, workload, placing));
  }
  await endSystem(bench, system);
};
