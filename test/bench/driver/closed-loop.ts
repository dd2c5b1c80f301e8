import { SeededRandom } from '#testing';
import { Samples } from '../samples.js';
import { latencyOf } from '../statistics.js';
import { retryAfterIn } from './caller.js';
import { answerWithinMs, openCallers } from './callers.js';
import type { Load, LoadResult } from './commands.js';
import { Tally } from './tally.js';
import type { Templates } from './templates.js';

/** Callers that send their next request once the last one is answered, or when `Retry-After` tells them to. */
export const closedLoop = async (templates: Templates, load: Load): Promise<LoadResult> => {
  const callers = await openCallers(load.targets, load.callers);
  const random = new SeededRandom(load.seed);
  const last = templates.count - 1;
  const tally = new Tally(templates.count, load.keepIdEvery ?? 0);
  const stopAt = performance.now() + load.durationMs;
  const allAnswered = Promise.withResolvers<void>();
  let left = load.most ?? Number.POSITIVE_INFINITY;
  let underWay = 0;
  const sinceFirstTry = new Samples();

  /** Also called when the last callers are told to come back later. */
  const endWhenOver = (): void => {
    if (underWay === 0 && (left === 0 || performance.now() >= stopAt)) allAnswered.resolve();
  };

  const send = (caller: (typeof callers)[number], index: number, request: Buffer, firstSentAt: number): void => {
    const sentAt = performance.now();
    underWay += 1;
    caller.send(request, (status, answer) => {
      underWay -= 1;
      tally.count(index, status, answer, sentAt);
      const retryAfter = load.honoursRetryAfter && status === 503 ? retryAfterIn(answer) : undefined;
      if (status === 201) sinceFirstTry.add(performance.now() - firstSentAt);
      if (retryAfter === undefined) next(caller);
      else if (performance.now() + retryAfter * 1_000 < stopAt)
        setTimeout(send, retryAfter * 1_000, caller, index, request, firstSentAt);
      else endWhenOver();
    });
  };

  const next = (caller: (typeof callers)[number]): void => {
    const sentAt = performance.now();
    if (sentAt >= stopAt || left === 0) return endWhenOver();
    left -= 1;
    const index = random.integer(0, last);
    send(caller, index, templates.request(index), sentAt);
  };

  const late = setTimeout(() => {
    tally.fail('not answered', underWay);
    allAnswered.resolve();
  }, load.durationMs + answerWithinMs);
  for (const caller of callers) next(caller);
  const atEnd = setTimeout(endWhenOver, load.durationMs + 1);
  await allAnswered.promise;
  clearTimeout(late);
  clearTimeout(atEnd);
  const result = tally.result();
  for (const caller of callers) caller.close();
  return load.honoursRetryAfter ? { ...result, sinceFirstTry: latencyOf(sinceFirstTry.taken()) } : result;
};
