import type { Bench } from './bench.js';
import { measurePlacing } from './measure.js';
import type { System } from './systems.js';
import type { Workload } from './workloads.js';

const peakCallers = 64;

/** Half of the best rate of the system in a closed loop. */
export const halfOfPeak = async (bench: Bench, system: System, workload: Workload): Promise<number> => {
  const { seconds, seed } = bench.options;
  const measured = bench.report
    .figures()
    .filter((it) => it.contestant === 'ours' && it.workload === workload.name)
    .map((it) => bench.report.median('perSecond', 'ours', workload.name, it.callers));
  if (measured.length > 0) return Math.max(...measured) / 2;
  const run = await measurePlacing(bench, system, workload, { callers: peakCallers, seconds, seed });
  return run.perSecond / 2;
};
