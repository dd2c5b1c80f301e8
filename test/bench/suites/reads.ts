import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { fillWith } from '../fill.js';
import { measureReading, prepareOrders } from '../measure.js';
import { readingsOf } from '../readings.js';
import { endSystem, startOurs } from '../systems.js';
import { takeTurns } from '../turns.js';
import { spreadWorkload } from '../workloads.js';

const orders = 20_000;
const depth = 10_000;
const callers = 64;

/** Reads orders one by one and in pages. */
export const readsSuite = async (bench: Bench): Promise<void> => {
  const { options, report, say, server } = bench;
  const { seconds, seed } = options;
  say('reads: starting');
  const workload = spreadWorkload(new SeededRandom(seed));
  await prepareOrders(bench, workload);
  const system = await startOurs(bench, workload.catalogue);
  const orderIds = await fillWith(bench, system, workload, orders);
  await server.vacuum(system.databaseUrl!);
  const readings = await readingsOf(system.urls[0]!, orderIds, depth);
  const turns = readings.map((reading) => ({
    name: reading.name,
    take: async (round: number) =>
      void report.runs.push(await measureReading(bench, system, reading, { callers, seconds, seed: seed + round })),
  }));
  await takeTurns(turns, options.rounds, say);
  await endSystem(bench, system);
};
