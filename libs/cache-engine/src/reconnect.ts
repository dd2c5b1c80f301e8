const firstMs = 25;
const longestMs = 1_000;

/** How long to wait after so many attempts in vain; by chance a little less, so that not all processes come at once. */
export const reconnectAfterMs = (retries: number): number =>
  Math.min(firstMs * 2 ** retries, longestMs) * (1 - Math.random() / 2);

/** A connection that ends sooner was not wanted. */
const shortestConnectionMs = 1_000;

/**
 * The same for a client that does not wait before its first attempt: one that ends soon after it was made is given up, and
 * whoever has opened it connects again later.
 *
 * @param connectedAt when it was last connected, by `performance.now()`
 */
export const reconnectUnlessCutOff =
  (connectedAt: () => number) =>
  (retries: number): number | false =>
    retries === 0 && performance.now() - connectedAt() < shortestConnectionMs ? false : reconnectAfterMs(retries);
