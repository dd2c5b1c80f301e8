/**
 * Shares one reading among all callers that ask at the same time or soon after. A failure is kept as well, so that it is
 * not repeated for each of them.
 *
 * @param keepMs how long a result is kept
 * @param withinMs how long a reading may take before another one is started
 */
export const cachedFor = <Value>(
  keepMs: number,
  withinMs: number,
  read: () => Promise<Value> | Value,
): (() => Promise<Value>) => {
  let last: Promise<Value> | undefined;
  let goodUntil = 0;
  return () => {
    const now = performance.now();
    if (last && now < goodUntil) return last;
    goodUntil = now + withinMs;
    const reading = (async () => read())();
    last = reading;
    const keep = (): void => {
      if (last === reading) goodUntil = performance.now() + keepMs;
    };
    void reading.then(keep, keep);
    return reading;
  };
};
