import { setTimeout } from 'node:timers/promises';
import pg from 'pg';
import { latencyOf, type Latency } from './statistics.js';

const sampledEveryMs = 10;

const followerNames = ['stock', 'sales'] as const;
export type Follower = (typeof followerNames)[number];

/** The end of the readable log, and the position of each consumer in its slowest part. */
const positions = `
  SELECT (
    SELECT lpad(xid::text, 20, '0') || '-' || lpad(id::text, 19, '0') FROM orders.events
    WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY orders.events.xid DESC, orders.events.id DESC LIMIT 1
  ) AS head,
  (SELECT min(position) FROM orders.checkpoints WHERE consumer = 'stock') AS stock,
  (SELECT min(position) FROM sales.checkpoints) AS sales`;

type Sample = Record<'head' | Follower, string> & { atMs: number };

/**
 * For each sample, how long the first event that has not taken effect yet has been readable. Counted from the last sample
 * without it, so that the figure is an upper bound.
 */
const lagsOf = (samples: readonly Sample[], follower: Follower): Float64Array => {
  const lags: number[] = [];
  let first = 0;
  for (const sample of samples) {
    const position = sample[follower];
    while (samples[first]!.head <= position && samples[first] !== sample) first += 1;
    lags.push(sample.head <= position ? 0 : sample.atMs - samples[Math.max(0, first - 1)]!.atMs);
  }
  return Float64Array.from(lags);
};

/** Polls how far the consumers of the log are behind, until stopped. */
export const watchLag = async (databaseUrl: string): Promise<() => Promise<Record<Follower, Latency>>> => {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  const samples: Sample[] = [];
  const stop = new AbortController();
  const watching = (async () => {
    while (!stop.signal.aborted) {
      const { rows } = await client.query<Omit<Sample, 'atMs'>>({ name: 'positions', text: positions });
      samples.push({ ...rows[0]!, atMs: performance.now() });
      await setTimeout(sampledEveryMs, undefined, { signal: stop.signal }).catch(() => undefined);
    }
  })();
  return async () => {
    stop.abort();
    await watching;
    await client.end();
    return { stock: latencyOf(lagsOf(samples, 'stock')), sales: latencyOf(lagsOf(samples, 'sales')) };
  };
};
