const firstMs = 25;
const longestMs = 1_000;

/** How long to wait after so many attempts in vain; by chance a little less, so that not all processes come at once. */
export const reconnectAfterMs = (retries: number): number =>
  Math.min(firstMs * 2 ** retries, longestMs) * (1 - Math.random() / 2);

/** Who ends a connection that soon after another one does not want it. */
const soonMs = 1_000;

/**
 * The same for a client that does not wait before its first attempt, and for one connection of it: what is lost again soon
 * is given up, and whoever has opened it connects again later.
 */
export const reconnectUnlessCutOff = (): ((retries: number) => number | false) => {
  let lostAt = Number.NEGATIVE_INFINITY;
  return (retries) => {
    if (retries > 0) return reconnectAfterMs(retries);
    const now = performance.now();
    if (now - lostAt < soonMs) return false;
    lostAt = now;
    return reconnectAfterMs(0);
  };
};
