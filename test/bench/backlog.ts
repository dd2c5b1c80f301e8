import { setTimeout } from 'node:timers/promises';
import pg from 'pg';
import { nowMs } from './clock.js';

/**
 * An order is final once its hold is permanent and, if it is paid through us, the money is taken: until then the relay or a
 * saga has work to do for it. This is the only query of the benchmark on Cleave's tables, because no caller needs to know
 * this. It uses the indexes of relay and sagas, so that its cost does not grow with the number of orders.
 */
const unsettled = `
  SELECT (SELECT count(*) FROM orders.sagas WHERE state = 'running') + (
    SELECT count(*) FROM orders.events WHERE (xid, id) > (
      (SELECT split_part(min(position), '-', 1)::numeric::text::xid8 FROM orders.checkpoints WHERE consumer = 'stock'),
      (SELECT split_part(min(position), '-', 2)::bigint FROM orders.checkpoints WHERE consumer = 'stock')
    )
  ) AS count`;

const sampledEveryMs = 1_000;
const pollMs = 10;
const settledWithinMs = 120_000;

/** How many orders of a database are acknowledged and not yet final. */
export class Backlog {
  private constructor(
    private readonly client: pg.Client,
    /** The backend that counts, whose CPU time must not be attributed to the orders. */
    readonly serverPids: readonly number[],
  ) {}

  static async of(databaseUrl: string): Promise<Backlog> {
    const client = new pg.Client({ connectionString: databaseUrl });
    // The next count reports the error.
    client.on('error', () => undefined);
    await client.connect();
    const { rows } = await client.query<{ pid: number }>(
      `SELECT pg_backend_pid() AS pid, set_config('enable_seqscan', 'off', false)`,
    );
    return new Backlog(client, [rows[0]!.pid]);
  }

  /** Polls the backlog until stopped. @returns a function that stops it and returns the largest backlog seen */
  watch(): () => Promise<number> {
    const stop = new AbortController();
    let most = 0;
    const watching = (async () => {
      for (;;) {
        await setTimeout(sampledEveryMs, undefined, { signal: stop.signal }).catch(() => undefined);
        if (stop.signal.aborted) return;
        most = Math.max(most, await this.count());
      }
    })();
    return async () => {
      stop.abort();
      await watching;
      return most;
    };
  }

  /** Resolves once nothing is left. @returns how much there was at first, and when nothing was left */
  async untilSettled(): Promise<{ atFirst: number; settledAtMs: number }> {
    const giveUpAt = nowMs() + settledWithinMs;
    let settledAtMs = nowMs();
    const atFirst = await this.count();
    for (let left = atFirst; left > 0;) {
      if (nowMs() > giveUpAt) throw new Error(`${left} orders are not final ${settledWithinMs} ms after the last one`);
      await setTimeout(pollMs);
      settledAtMs = nowMs();
      left = await this.count();
    }
    return { atFirst, settledAtMs };
  }

  async stop(): Promise<void> {
    await this.client.end();
  }

  private async count(): Promise<number> {
    const { rows } = await this.client.query<{ count: string }>({ name: 'unsettled', text: unsettled });
    return Number(rows[0]!.count);
  }
}
