import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { Limit } from '../limit.js';
import { measurePlacing, prepareOrders, warmUp } from '../measure.js';
import { realOrdersAreMissing, realWorkload } from '../real-orders.js';
import { endSystem, startEcho, startOurs, startProgram, type System } from '../systems.js';
import { takeTurns, type Turn } from '../turns.js';
import { hotWorkload, spreadWorkload, type Workload, type WorkloadName } from '../workloads.js';

/** @returns undefined, with a note in the report, if the data of the workload are missing */
export const workloadOf = async (
  { options, report, say }: Bench,
  name: WorkloadName,
): Promise<Workload | undefined> => {
  if (name === 'spread') return spreadWorkload(new SeededRandom(options.seed));
  if (name === 'hot') return hotWorkload(new SeededRandom(options.seed));
  const missing = realOrdersAreMissing();
  if (missing === undefined) return realWorkload();
  report.notes.push(missing);
  say(missing);
  return undefined;
};

/** Places one order, for an example of an answer. */
const answerOf = async ({ urls, shelf }: System, workload: Workload): Promise<string> => {
  const answer = await fetch(`${urls[0]}/orders`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: workload.orders[0]!.body,
  });
  const text = await answer.text();
  if (answer.status !== 201) throw new Error(`the first order was answered with ${answer.status}: ${text}`);
  shelf?.acknowledge(workload, [1]);
  return text;
};

/** The systems that take orders over HTTP. The echo returns our answer, so ours always runs. */
const startSystems = async (bench: Bench, workload: Workload): Promise<System[]> => {
  const { contestants } = bench.options;
  const ours = await startOurs(bench, workload.catalogue);
  const systems = [ours];
  if (contestants.includes('echo')) systems.push(await startEcho(bench, await answerOf(ours, workload)));
  for (const name of ['bare', 'baseline'] as const)
    if (contestants.includes(name)) systems.push(await startProgram(name, bench, workload.catalogue));
  return systems;
};

/** The orders of limits have one line, so they cannot be compared with the real mix. */
const startLimits = async (bench: Bench, workload: Workload): Promise<Limit[]> => {
  if (!bench.options.contestants.includes('limits') || workload.name === 'mix') return [];
  return [await Limit.start(bench, 'statement', workload), await Limit.start(bench, 'transaction', workload)];
};

const placeWorkload = async (bench: Bench, workload: Workload): Promise<void> => {
  const { options, report, say } = bench;
  const { seconds, seed } = options;
  say(`${workload.name}: starting`);
  await prepareOrders(bench, workload);
  const systems = await startSystems(bench, workload);
  const limits = await startLimits(bench, workload);
  for (const limit of limits) {
    say(`${workload.name}: trying pool sizes, ${limit.name}`);
    await limit.calibrate(seed);
  }
  say(`${workload.name}: warming up`);
  for (const system of systems) await warmUp(bench, system, workload);

  const ofLimits = limits.map((limit): Turn => ({
    name: `${workload.name}, ${limit.name}`,
    take: async (round) => void report.runs.push(await limit.measure(seconds, seed + round)),
  }));
  const ofSystems = options.callers.flatMap((callers) =>
    systems.map((system): Turn => ({
      name: `${workload.name}, ${system.name}, callers: ${callers}`,
      take: async (round) =>
        void report.runs.push(await measurePlacing(bench, system, workload, { callers, seconds, seed: seed + round })),
    })),
  );
  await takeTurns([...ofLimits, ...ofSystems], options.rounds, say);
  for (const limit of limits) await limit.end();
  for (const system of systems) await endSystem(bench, system);
};

/** Places orders of every workload, with all systems in turns. */
export const placeSuite = async (bench: Bench): Promise<void> => {
  for (const name of bench.options.workloads) {
    const workload = await workloadOf(bench, name);
    if (workload) await placeWorkload(bench, workload);
  }
};
