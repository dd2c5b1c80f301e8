const firstMs = 25;
const longestMs = 1_000;

/** How long to wait after so many attempts in vain; by chance a little less, so that not all processes come at once. */
export const reconnectAfterMs = (retries: number): number =>
  Math.min(firstMs * 2 ** retries, longestMs) * (1 - Math.random() / 2);
