const firstMs = 25;
const longestMs = 1_000;

/**
 * The delay after this many failed attempts (exponential backoff), with jitter so that not all processes reconnect at once.
 */
export const reconnectAfterMs = (retries: number): number =>
  Math.min(firstMs * 2 ** retries, longestMs) * (1 - Math.random() / 2);

/** A connection that is lost this soon after the previous one is considered refused by the server. */
const soonMs = 1_000;

/**
 * The same for a client whose first retry has no delay, with state for one connection: if a connection is lost again soon,
 * the client gives up, and its owner reconnects later.
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
