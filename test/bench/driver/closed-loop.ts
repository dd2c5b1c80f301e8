import { SeededRandom } from '#testing';
import { answerWithinMs, openCallers } from './callers.js';
import type { Load, LoadResult } from './commands.js';
import { Tally } from './tally.js';
import type { Templates } from './templates.js';

/** Callers that send their next request as soon as the last one is answered. */
export const closedLoop = async (templates: Templates, load: Load): Promise<LoadResult> => {
  const callers = await openCallers(load.targets, load.callers);
  const random = new SeededRandom(load.seed);
  const last = templates.count - 1;
  const tally = new Tally(templates.count, load.keepIdEvery ?? 0);
  const stopAt = performance.now() + load.durationMs;
  const allAnswered = Promise.withResolvers<void>();
  let left = load.most ?? Number.POSITIVE_INFINITY;
  let underWay = 0;

  const next = (caller: (typeof callers)[number]): void => {
    const sentAt = performance.now();
    if (sentAt >= stopAt || left === 0) {
      if (underWay === 0) allAnswered.resolve();
      return;
    }
    left -= 1;
    underWay += 1;
    const index = random.integer(0, last);
    caller.send(templates.request(index), (status, answer) => {
      underWay -= 1;
      tally.count(index, status, answer, sentAt);
      next(caller);
    });
  };

  const late = setTimeout(() => {
    tally.fail('not answered', underWay);
    allAnswered.resolve();
  }, load.durationMs + answerWithinMs);
  for (const caller of callers) next(caller);
  await allAnswered.promise;
  clearTimeout(late);
  const result = tally.result();
  for (const caller of callers) caller.close();
  return result;
};
