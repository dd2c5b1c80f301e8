import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { nowMs } from './clock.js';

const tickMs = 10;

/** What the whole machine has done so far. */
export interface MachineTimes {
  atMs: number;
  /** CPU time of all processes; NaN without /proc. */
  busyMs: number;
}

export const machineTimes = async (): Promise<MachineTimes> => {
  const text = await readFile('/proc/stat', 'utf8').catch(() => '');
  // user nice system idle iowait irq softirq steal
  const [user, nice, system, , , ...interrupts] = text
    .slice(0, text.indexOf('\n'))
    .split(/\s+/)
    .slice(1, 9)
    .map(Number);
  const busy = [user, nice, system, ...interrupts];
  return { atMs: nowMs(), busyMs: busy.reduce<number>((sum, it) => sum + (it ?? Number.NaN), 0) * tickMs };
};

/** The CPU share that unrelated processes used meanwhile, which silently invalidates figures. */
export const othersShare = (before: MachineTimes, after: MachineTimes, ownMs: number): number => {
  const capacityMs = (after.atMs - before.atMs) * availableParallelism();
  return Math.max(0, (after.busyMs - before.busyMs - ownMs) / capacityMs);
};
