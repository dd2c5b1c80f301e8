/** The value below which a share of the sorted values lies; NaN if there are none. */
const percentile = (sorted: ArrayLike<number>, share: number): number =>
  sorted.length === 0 ? Number.NaN : sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!;

export const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
};

export interface Latency {
  p50Ms: number;
  p95Ms: number;
  p99Ms: number;
  mostMs: number;
}

/** The percentiles of latencies; sorts them in place. */
export const latencyOf = (milliseconds: Float64Array): Latency => {
  milliseconds.sort();
  return {
    p50Ms: percentile(milliseconds, 0.5),
    p95Ms: percentile(milliseconds, 0.95),
    p99Ms: percentile(milliseconds, 0.99),
    mostMs: milliseconds.at(-1) ?? Number.NaN,
  };
};

/** The slope of a least-squares line. */
export const slope = (points: readonly { x: number; y: number }[]): number => {
  const meanX = points.reduce((sum, { x }) => sum + x, 0) / points.length;
  const meanY = points.reduce((sum, { y }) => sum + y, 0) / points.length;
  const covariance = points.reduce((sum, { x, y }) => sum + (x - meanX) * (y - meanY), 0);
  return covariance / points.reduce((sum, { x }) => sum + (x - meanX) ** 2, 0);
};
