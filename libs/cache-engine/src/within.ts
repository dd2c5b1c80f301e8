/** A call that was given up because it exceeded its time limit. */
export class Late extends Error {
  constructor(what: string, ms: number) {
    super(`${what}: no answer within ${ms} ms`);
  }
}

const longestTimerMs = 2 ** 31 - 1;

/** @throws RangeError */
export const assertTimeout = (name: string, ms: number | undefined, least = 0): void => {
  if (ms !== undefined && !(ms >= least && ms <= longestTimerMs))
    throw new RangeError(`${name} is ${ms}; it must be a number of milliseconds from ${least} to ${longestTimerMs}`);
};

/**
 * Settles with the work, or rejects with `Late`. The outcome of the work after that is ignored.
 *
 * @param work receives a function that tells whether the call has ended, so that it does not begin anything further
 */
export const within = async <T>(
  ms: number,
  what: string,
  work: (hasEnded: () => boolean) => Promise<T>,
): Promise<T> => {
  const { promise: late, reject } = Promise.withResolvers<never>();
  let isOver = false;
  // If the process itself was suspended, it first handles the answers that arrived meanwhile.
  const timer = setTimeout(() => setImmediate(() => reject(new Late(what, ms))), ms);
  try {
    return await Promise.race([work(() => isOver), late]);
  } finally {
    isOver = true;
    clearTimeout(timer);
  }
};
