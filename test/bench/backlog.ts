import { setTimeout } from 'node:timers/promises';
import pg from 'pg';
import { nowMs } from './clock.js';

/**
 * An order is final once its hold is permanent: until then the relay has something to do for it. This is the one thing
 * that is asked of Cleave's tables, because no caller needs to know it.
 */
const unsettled = `SELECT count(*) AS count FROM inventory.reservations WHERE state = 'held'`;

const sampledEveryMs = 1_000;
/** The count reads the whole table, so while there is load it rests for so many times as long as it took. */
const restFactor = 20;
const firstPollMs = 10;
const longestPollMs = 200;
const settledWithinMs = 120_000;
const connections = 4;

interface Look {
  /** What is seen is how it was when the question was asked, however long the answer takes. */
  atMs: number;
  count: number;
}

/** How many orders of a database are acknowledged and not yet final. */
export class Backlog {
  private readonly free: pg.Client[];

  private constructor(
    private readonly clients: readonly pg.Client[],
    /** Of the server processes that count, so that their CPU time is not taken for that of the orders. */
    readonly serverPids: readonly number[],
  ) {
    this.free = [...clients];
  }

  static async of(databaseUrl: string): Promise<Backlog> {
    const clients = Array.from({ length: connections }, () => new pg.Client({ connectionString: databaseUrl }));
    const pids: number[] = [];
    for (const client of clients) {
      // Told by the next count.
      client.on('error', () => undefined);
      await client.connect();
      const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
      pids.push(rows[0]!.pid);
    }
    return new Backlog(clients, pids);
  }

  /** Looks at it now and then until told to stop. @returns what stops it and tells the most that was seen */
  watch(): () => Promise<number> {
    const stop = new AbortController();
    let most = 0;
    const watching = (async () => {
      for (let restMs = sampledEveryMs; ;) {
        await setTimeout(restMs, undefined, { signal: stop.signal }).catch(() => undefined);
        if (stop.signal.aborted) return;
        const { atMs, count } = await this.look();
        most = Math.max(most, count);
        restMs = Math.max(sampledEveryMs, restFactor * (nowMs() - atMs));
      }
    })();
    return async () => {
      stop.abort();
      await watching;
      return most;
    };
  }

  /**
   * Resolves once nothing is left, with how much there was at first and when there was nothing. On a large table one
   * look takes longer than the orders take to settle, so looks overlap: the moment is as exact as they are frequent.
   */
  async untilSettled(): Promise<{ atFirst: number; settledAtMs: number }> {
    const giveUpAt = nowMs() + settledWithinMs;
    const looks: Promise<Look>[] = [];
    let settled = false;
    for (let pauseMs = firstPollMs; !settled; pauseMs = Math.min(pauseMs * 1.5, longestPollMs)) {
      if (this.free.length > 0) {
        const look = this.look();
        looks.push(look);
        void look.then(
          ({ count }) => (settled ||= count === 0),
          () => (settled = true),
        );
      }
      await setTimeout(pauseMs);
      if (!settled && nowMs() > giveUpAt)
        throw new Error(`${(await this.look()).count} orders are not final ${settledWithinMs} ms after the last one`);
    }
    const seen = await Promise.all(looks);
    return { atFirst: seen[0]!.count, settledAtMs: seen.find((it) => it.count === 0)!.atMs };
  }

  async stop(): Promise<void> {
    await Promise.all(this.clients.map((it) => it.end()));
  }

  private async look(): Promise<Look> {
    const client = this.free.pop() ?? this.clients[0]!;
    const atMs = nowMs();
    try {
      const { rows } = await client.query<{ count: string }>({ name: 'unsettled', text: unsettled });
      return { atMs, count: Number(rows[0]!.count) };
    } finally {
      if (!this.free.includes(client)) this.free.push(client);
    }
  }
}
