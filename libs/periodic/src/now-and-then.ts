/**
 * Does what it is given, but not again within so many milliseconds: what others can bring about without end is said to the
 * operator now and then.
 */
export const nowAndThen = (everyMs: number): ((say: () => void) => void) => {
  let saidAt = Number.NEGATIVE_INFINITY;
  return (say) => {
    const now = performance.now();
    if (now - saidAt < everyMs) return;
    saidAt = now;
    say();
  };
};
