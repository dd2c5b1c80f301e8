import { setTimeout } from 'node:timers/promises';
import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { residentMbOf } from '../cpu.js';
import type { Memory } from '../figures.js';
import { measurePlacing, prepareOrders, warmUp } from '../measure.js';
import { halfOfPeak } from '../peak.js';
import { slope } from '../statistics.js';
import { endSystem, startOurs } from '../systems.js';
import { spreadWorkload } from '../workloads.js';

const soakName = 'spread, soak at half of the peak';
const connections = 256;
const sampledEverySeconds = 10;
/** At first the heap grows to its size and code is compiled; only later samples show a trend. */
const settlingShare = 0.3;

const watchMemory = (pid: number, say: (line: string) => void): (() => Promise<Memory['samples']>) => {
  const samples: Memory['samples'] = [];
  const stop = new AbortController();
  const watching = (async () => {
    for (let second = 0; !stop.signal.aborted; second += sampledEverySeconds) {
      const mb = await residentMbOf(pid);
      samples.push({ second, mb });
      say(`soak: ${second} s, ${mb.toFixed(0)} MB`);
      await setTimeout(sampledEverySeconds * 1_000, undefined, { signal: stop.signal }).catch(() => undefined);
    }
  })();
  return async () => {
    stop.abort();
    await watching;
    return samples;
  };
};

const memoryOf = (samples: Memory['samples']): Memory => {
  const settled = samples.slice(Math.floor(samples.length * settlingShare));
  return {
    minutes: samples.at(-1)!.second / 60,
    firstMb: settled[0]!.mb,
    lastMb: settled.at(-1)!.mb,
    mbPerMinute: slope(settled.map(({ second, mb }) => ({ x: second / 60, y: mb }))),
    samples,
  };
};

/** Whether memory stays flat while orders arrive for minutes. */
export const soakSuite = async (bench: Bench): Promise<void> => {
  const { options, report, say } = bench;
  const { seed, minutes } = options;
  const workload = spreadWorkload(new SeededRandom(seed));
  await prepareOrders(bench, workload);
  const system = await startOurs(bench, workload.catalogue);
  await warmUp(bench, system, workload);
  const perSecond = await halfOfPeak(bench, system, workload);
  say(`soak: ${Math.round(perSecond)} orders a second for ${minutes} minutes`);
  const unwatch = watchMemory(system.pids[0]!, say);
  const placing = { callers: connections, seconds: minutes * 60, seed, perSecond, as: soakName };
  report.runs.push(await measurePlacing(bench, system, workload, placing));
  report.memory = memoryOf(await unwatch());
  await endSystem(bench, system);
};
