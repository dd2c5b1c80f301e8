import { Caller } from './caller.js';

/** How long an answer may take before the request counts as lost. */
export const answerWithinMs = 30_000;

/** Opens the connections, spread over the targets, before anything is measured. */
export const openCallers = (targets: readonly string[], count: number): Promise<Caller[]> =>
  Promise.all(Array.from({ length: count }, (_, index) => Caller.open(targets[index % targets.length]!)));
