/** How long a call may take before it is given up, and what it is told then. */
class Late extends Error {
  constructor(what: string, ms: number) {
    super(`${what}: no answer within ${ms} ms`);
  }
}

/** Ends with the work, or with `Late`. What the work comes to after that is nobody's concern. */
export const within = async <T>(ms: number, what: string, work: () => Promise<T>): Promise<T> => {
  if (!Number.isFinite(ms)) return work();
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Late(what, ms)), ms);
  try {
    return await Promise.race([work(), late]);
  } finally {
    clearTimeout(timer);
  }
};
