const shortestMs = 50;
const longestMs = 1_000;

/**
 * How long to wait before a lost server is tried again, in milliseconds: exponential backoff with jitter, so that those
 * who lost the same server do not all return at once.
 */
export const backoffMs = (attempts: number): number =>
  Math.min(shortestMs * 2 ** Math.min(attempts, 10), longestMs) * (0.5 + Math.random() / 2);
