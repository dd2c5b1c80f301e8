/**
 * Runs what it is given, but at most once in this many milliseconds: for log lines that others could otherwise cause
 * without end.
 */
export const throttled = (everyMs: number): ((say: () => void) => void) => {
  let saidAt = Number.NEGATIVE_INFINITY;
  return (say) => {
    const now = performance.now();
    if (now - saidAt < everyMs) return;
    saidAt = now;
    say();
  };
};
