import { Caller } from './caller.js';

/** After this long without an answer, a request counts as lost. */
export const answerWithinMs = 30_000;

/** Opens the connections, spread over the targets, before the measurement. */
export const openCallers = (targets: readonly string[], count: number): Promise<Caller[]> =>
  Promise.all(Array.from({ length: count }, (_, index) => Caller.open(targets[index % targets.length]!)));
