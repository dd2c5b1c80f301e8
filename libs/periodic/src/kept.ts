/**
 * Reads now and then, however often it is asked for: once for all who ask at the same time or soon after. What failed is kept as
 * well, so that it is not asked again and again either.
 *
 * @param keepMs how long what was read is good
 * @param withinMs how long is waited for it before it is read once more
 */
export const keptFor = <Value>(
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
