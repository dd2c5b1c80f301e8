import { setTimeout } from 'node:timers/promises';
import pg from 'pg';
import { latencyOf, type Latency } from './statistics.js';

const sampledEveryMs = 20;

/**
 * How long the oldest event has been waiting that has not taken effect, counted from when its order was asked for: the
 * lag of whoever follows the log, and the time that the order took to be recorded.
 */
const ageOf = (schema: string, consumers: string) => `
  SELECT coalesce(extract(epoch FROM clock_timestamp() - (
    SELECT e.at FROM orders.events e WHERE (e.xid, e.id) > (
      (SELECT split_part(min(position), '-', 1)::numeric::text::xid8 FROM ${schema}.checkpoints WHERE consumer LIKE '${consumers}'),
      (SELECT split_part(min(position), '-', 2)::bigint FROM ${schema}.checkpoints WHERE consumer LIKE '${consumers}')
    ) ORDER BY e.xid, e.id LIMIT 1
  )) * 1000, 0)::float8 AS ms`;

const followers = { stock: ageOf('orders', 'stock'), sales: ageOf('sales', 'sales-%') };
export type Follower = keyof typeof followers;
export const followerNames = Object.keys(followers) as Follower[];

/** Looks again and again how far the followers of the log are behind, until told to stop. */
export const watchLag = async (databaseUrl: string): Promise<() => Promise<Record<Follower, Latency>>> => {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  await client.query(`SET enable_seqscan = off`);
  const samples: Record<Follower, number[]> = { stock: [], sales: [] };
  const stop = new AbortController();
  const watching = (async () => {
    while (!stop.signal.aborted) {
      for (const follower of followerNames) {
        const { rows } = await client.query<{ ms: number }>({ name: follower, text: followers[follower] });
        samples[follower].push(rows[0]!.ms);
      }
      await setTimeout(sampledEveryMs, undefined, { signal: stop.signal }).catch(() => undefined);
    }
  })();
  return async () => {
    stop.abort();
    await watching;
    await client.end();
    return {
      stock: latencyOf(Float64Array.from(samples.stock)),
      sales: latencyOf(Float64Array.from(samples.sales)),
    };
  };
};
