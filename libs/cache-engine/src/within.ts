/** How long a call may take before it is given up, and what it is told then. */
class Late extends Error {
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

/** Ends with the work, or with `Late`. What the work comes to after that is nobody's concern. */
export const within = async <T>(ms: number, what: string, work: () => Promise<T>): Promise<T> => {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Late(what, ms)), ms);
  try {
    return await Promise.race([work(), late]);
  } finally {
    clearTimeout(timer);
  }
};
