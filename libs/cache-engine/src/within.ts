/** How long a call may take before it is given up, and what it is told then. */
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
 * Ends with the work, or with `Late`. What the work comes to after that is nobody's concern.
 *
 * @param work is told whether it has ended, for those who would begin something more
 */
export const within = async <T>(
  ms: number,
  what: string,
  work: (hasEnded: () => boolean) => Promise<T>,
): Promise<T> => {
  const { promise: late, reject } = Promise.withResolvers<never>();
  let isOver = false;
  // A process that was itself at a standstill looks first at what has come meanwhile.
  const timer = setTimeout(() => setImmediate(() => reject(new Late(what, ms))), ms);
  try {
    return await Promise.race([work(() => isOver), late]);
  } finally {
    isOver = true;
    clearTimeout(timer);
  }
};
