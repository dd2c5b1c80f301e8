import { SeededRandom } from '#testing';
import { Samples } from '../samples.js';
import { latencyOf } from '../statistics.js';
import { answerWithinMs, openCallers } from './callers.js';
import type { LoadResult, OpenLoad } from './commands.js';
import { Tally } from './tally.js';
import type { Templates } from './templates.js';

/** The resolution of Node's timers; everything due at a tick is sent at once. */
const tickMs = 1;

/**
 * Requests that arrive by themselves (Poisson), whether or not earlier ones were answered. One that finds no free connection
 * waits, and its latency counts from the moment it should have been sent: a server that stalls does not get fewer requests
 * (no coordinated omission).
 */
export const openLoop = async (templates: Templates, load: OpenLoad): Promise<LoadResult> => {
  const free = await openCallers(load.targets, load.callers);
  const all = [...free];
  const random = new SeededRandom(load.seed);
  const last = templates.count - 1;
  const tally = new Tally(templates.count, load.keepIdEvery ?? 0);
  const lateness = new Samples();
  const sinceSent = new Samples();
  const allAnswered = Promise.withResolvers<void>();
  const pauseMs = (): number => (-Math.log(1 - random.next()) * 1_000) / load.perSecond;
  const startedAt = performance.now();
  const stopAt = startedAt + load.durationMs;
  let dueAt = startedAt + pauseMs();
  let left = load.most ?? Number.POSITIVE_INFINITY;
  let underWay = 0;

  const isOver = (): boolean => dueAt >= stopAt || left === 0;

  const sendWhatIsDue = (): void => {
    for (let now = performance.now(); dueAt <= now && free.length > 0 && !isOver(); now = performance.now()) {
      const caller = free.pop()!;
      const intendedAt = dueAt;
      const index = random.integer(0, last);
      dueAt += pauseMs();
      left -= 1;
      underWay += 1;
      lateness.add(now - intendedAt);
      caller.send(templates.request(index), (status, answer) => {
        underWay -= 1;
        if (tally.count(index, status, answer, intendedAt)) sinceSent.add(performance.now() - now);
        free.push(caller);
        if (dueAt <= performance.now()) sendWhatIsDue();
        if (isOver() && underWay === 0) allAnswered.resolve();
      });
    }
    if (isOver() && underWay === 0) allAnswered.resolve();
  };

  const ticking = setInterval(sendWhatIsDue, tickMs);
  const late = setTimeout(() => {
    tally.fail('not answered', underWay);
    allAnswered.resolve();
  }, load.durationMs + answerWithinMs);
  await allAnswered.promise;
  clearInterval(ticking);
  clearTimeout(late);
  const result = tally.result();
  for (const caller of all) caller.close();
  return { ...result, lateness: latencyOf(lateness.taken()), sinceSent: latencyOf(sinceSent.taken()) };
};
