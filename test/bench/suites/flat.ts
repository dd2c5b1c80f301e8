import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { fillWith } from '../fill.js';
import { measurePlacing, measureReading, placeUnmeasured, prepareOrders, readUnmeasured, warmUp } from '../measure.js';
import { readingsOf } from '../readings.js';
import type { Shelf } from '../shelf.js';
import { endSystem, startMonolith, startOurs, type System } from '../systems.js';
import { takeTurns, type Turn } from '../turns.js';
import { spreadWorkload, type Workload } from '../workloads.js';

export const flatNames = { few: 'ours, few orders', many: 'ours, many orders' };
export const flatPlacing = 'placing, by orders in the tables';
const callers = 64;
/**
 * When a connection first touches a page of the shared buffers, it pays for a page fault, on a virtual machine up to half of
 * a read; and a page that is first changed after a checkpoint is logged as a whole. Few orders are on few pages, which are
 * all touched within moments; for a million orders, that takes most of a minute, once.
 */
const firstReadingSeconds = 20;
const firstPlacingSeconds = 45;

/** A database filled with orders, and what is known about it. */
interface Filled {
  databaseUrl: string;
  shelf: Shelf;
  orderIds: string[];
}

const filledWith = async (bench: Bench, workload: Workload, name: string, orders: number): Promise<Filled> => {
  const system = await startOurs(bench, workload.catalogue, name);
  const orderIds = await fillWith(bench, system, workload, orders);
  // A database is only copied while it has no connections.
  await bench.started.stop(...system.parts);
  await bench.server.vacuum(system.databaseUrl!);
  return { databaseUrl: system.databaseUrl!, shelf: system.shelf!, orderIds };
};

const turnsOf = async (
  bench: Bench,
  systems: readonly (readonly [System, string[]])[],
  workload: Workload,
  depth: number,
): Promise<{ reading: Turn[]; placing: Turn[] }> => {
  const { options, report } = bench;
  const load = (round: number) => ({ callers, seconds: options.seconds, seed: options.seed + round });
  const readings = await Promise.all(systems.map(([{ urls }, orderIds]) => readingsOf(urls[0]!, orderIds, depth)));
  for (const [index, [system]] of systems.entries()) {
    const seconds = Math.min(firstReadingSeconds, options.seconds * 7);
    await readUnmeasured(bench, system, readings[index]![0]!, { ...load(0), seconds });
  }
  const reading = readings[0]!.flatMap((_, kind) =>
    systems.map(([system], index): Turn => {
      const reading = readings[index]![kind]!;
      const take = async (round: number) =>
        void report.runs.push(await measureReading(bench, system, reading, load(round)));
      return { name: `${reading.name}, ${system.name}`, take };
    }),
  );
  const placing = systems.map(([system]): Turn => ({
    name: `placing, ${system.name}`,
    take: async (round) => {
      const placing = { ...load(round), as: flatPlacing, inTheMidst: true };
      report.runs.push(await measurePlacing(bench, system, workload, placing));
    },
  }));
  return { reading, placing };
};

/**
 * Whether the cost of an order depends on how many there are. Placing orders makes a small database large, so every round
 * begins with a copy of the small one. The large one is measured in continuous operation: its service runs through all
 * rounds.
 */
export const flatSuite = async (bench: Bench): Promise<void> => {
  const { options, say, server } = bench;
  const { fewOrders, manyOrders, seconds, seed } = options;
  const workload = spreadWorkload(new SeededRandom(seed));
  await prepareOrders(bench, workload);
  const few = await filledWith(bench, workload, flatNames.few, fewOrders);
  const many = await filledWith(bench, workload, flatNames.many, manyOrders);
  const manySystem = await startMonolith(bench, flatNames.many, many.databaseUrl, (url) => many.shelf.copiedTo(url));
  await server.checkpoint();
  say('flat: touching the pages of many orders');
  await placeUnmeasured(bench, manySystem, workload, {
    callers,
    seconds: Math.min(firstPlacingSeconds, seconds * 15),
    seed,
  });
  const copies: string[] = [];
  for (let round = 0; round < options.rounds; round += 1) {
    say(`flat: round ${round + 1} of ${options.rounds}`);
    const copyUrl = await server.copyOf(few.databaseUrl);
    const fewSystem = await startMonolith(bench, flatNames.few, copyUrl, (url) => few.shelf.copiedTo(url));
    const systems = [
      [fewSystem, few.orderIds],
      [manySystem, many.orderIds],
    ] as const;
    const { reading, placing } = await turnsOf(bench, systems, workload, Math.floor(fewOrders / 2));
    await takeTurns(reading, 2, say);
    for (const [system] of systems) await warmUp(bench, system, workload);
    await takeTurns(placing, 2, say);
    await bench.started.stop(...fewSystem.parts);
    copies.push(copyUrl);
  }
  await endSystem(bench, manySystem);
  // Not earlier, because dropping a database causes a checkpoint.
  for (const databaseUrl of [...copies, few.databaseUrl]) await server.drop(databaseUrl);
};
