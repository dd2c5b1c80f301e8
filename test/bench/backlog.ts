import { setTimeout } from 'node:timers/promises';
import pg from 'pg';
import { nowMs } from './clock.js';

/**
 * An order is final once its hold is permanent: until then the relay has something to do for it. This is the one thing
 * that is asked of Cleave's tables, because no caller needs to know it.
 */
const unsettled = `SELECT count(*) AS count FROM inventory.reservations WHERE state = 'held'`;

const sampledEveryMs = 1_000;
const polledEveryMs = 10;
const settledWithinMs = 120_000;
/** The count reads the whole table, so it rests for so many times as long as it took. */
const restFactor = 20;

/** How many orders of a database are acknowledged and not yet final. */
export class Backlog {
  private constructor(private readonly client: pg.Client) {}

  static async of(databaseUrl: string): Promise<Backlog> {
    const client = new pg.Client({ connectionString: databaseUrl });
    // Told by the next count.
    client.on('error', () => undefined);
    await client.connect();
    return new Backlog(client);
  }

  async count(): Promise<number> {
    const { rows } = await this.client.query<{ count: string }>({ name: 'unsettled', text: unsettled });
    return Number(rows[0]!.count);
  }

  /** Looks at it now and then until told to stop. @returns what stops it and tells the most that was seen */
  watch(): () => Promise<number> {
    const stop = new AbortController();
    let most = 0;
    const watching = (async () => {
      for (let restMs = sampledEveryMs; ;) {
        await setTimeout(restMs, undefined, { signal: stop.signal }).catch(() => undefined);
        if (stop.signal.aborted) return;
        const askedAt = nowMs();
        most = Math.max(most, await this.count());
        restMs = Math.max(sampledEveryMs, restFactor * (nowMs() - askedAt));
      }
    })();
    return async () => {
      stop.abort();
      await watching;
      return most;
    };
  }

  /** Resolves with the moment when nothing was left. */
  async untilSettled(): Promise<number> {
    const giveUpAt = nowMs() + settledWithinMs;
    for (;;) {
      const askedAt = nowMs();
      const count = await this.count();
      if (count === 0) return askedAt;
      if (askedAt > giveUpAt) throw new Error(`${count} orders are not final ${settledWithinMs} ms after the last one`);
      await setTimeout(Math.max(polledEveryMs, nowMs() - askedAt));
    }
  }

  async stop(): Promise<void> {
    await this.client.end();
  }
}
