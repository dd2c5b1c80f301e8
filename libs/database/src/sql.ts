import { Inject } from '@nestjs/common';
import { within } from '#periodic';
import { withSpan } from '#telemetry';
import type { ClientBase, Pool, PoolClient, QueryConfig, QueryResult } from 'pg';
import { asUnavailable, keepsConnection, notConnected, notReplicated } from './unavailable.js';

/** A statement and the name it is prepared under. The text of a name must never change; names have at most 63 bytes. */
export interface Statement {
  name: string;
  text: string;
}

/** Queries on one connection. */
export interface Queries {
  /** Runs one statement, which is prepared on its first use on the connection. */
  query<Row>(statement: Statement, values?: readonly unknown[]): Promise<Row[]>;
}

/** Connections on which a commit was reported that may be missing on the synchronous standby. */
const ofUncertainCommits = new WeakSet<ClientBase>();

/**
 * If the wait for the standby is cancelled, Postgres still reports the commit as done, after a warning without a code of
 * its own. Call this once per connection.
 */
export const noteUncertainCommits = (client: ClientBase): void => {
  client.on('notice', ({ routine }) => {
    if (routine === 'SyncRepWaitForLSN') ofUncertainCommits.add(client);
  });
};

/** Spans omit the text of a statement; its name identifies it. */
const ofPostgres = { kind: 'client', attributes: { 'db.system.name': 'postgresql' } } as const;

/**
 * The result of a query. Its function is passed to the driver, which has neither a promise nor a timeout of its own then: it
 * would assign a function to a property for either. V8 allocates such a function in the old generation, so until the next
 * full collection every query would keep its values and rows in memory, and every young collection would copy them.
 */
const resultOf = (client: PoolClient, query: QueryConfig): Promise<QueryResult> =>
  new Promise((resolve, reject) => {
    client.query(query, (error: Error | null, result) => {
      if (error) reject(error);
      else resolve(result);
    });
  });

/** A connection while it is checked out of the pool. */
class Session implements Queries {
  /** Why the connection must not be used again. */
  broken: Error | undefined;

  constructor(
    private readonly client: PoolClient,
    private readonly name: string,
    private readonly answersWithinMs: number,
  ) {}

  async query<Row>({ name, text }: Statement, values: readonly unknown[] = []): Promise<Row[]> {
    const asked = () => this.send({ name, text, values: values as unknown[] });
    return (await withSpan(name, ofPostgres, asked)).rows as Row[];
  }

  async send(query: QueryConfig): Promise<QueryResult> {
    try {
      const result = await within(this.answersWithinMs, resultOf(this.client, query));
      if (ofUncertainCommits.has(this.client)) throw notReplicated(this.name);
      return result;
    } catch (error) {
      // It was created where the answer arrived, and its stack should say who has asked.
      Error.captureStackTrace(error as Error);
      if (!keepsConnection(error)) this.broken = error as Error;
      throw asUnavailable(error, this.name);
    }
  }
}

/** The code for a prepared transaction that does not exist, or not any more. */
const undefinedObject = '42704';

/** Utility statements take no parameters. */
const literal = (gid: string): string => {
  if (!/^[a-z0-9:-]{1,200}$/.test(gid)) throw new Error(`${gid} cannot name a prepared transaction`);
  return `'${gid}'`;
};

/** Every role sees that a standby is connected; only privileged roles see which one. */
const ping: Statement = {
  name: 'ping',
  text: `
    SELECT current_setting('transaction_read_only')::boolean AS "isReadOnly",
      current_setting('synchronous_standby_names') <> ''
        AND NOT EXISTS (SELECT FROM pg_stat_replication) AS "isAlone"`,
};

/**
 * A commit that changes nothing and waits until the standby has all of the WAL before it. A former primary that is a
 * standby by now may have rows that its successor never had, and has no standby to wait for.
 */
const waitForStandby: Statement = {
  name: 'wait-for-standby',
  text: `
    SELECT pg_is_in_recovery() AS "isStandby",
      CASE WHEN NOT pg_is_in_recovery() AND current_setting('synchronous_standby_names') <> ''
        THEN pg_logical_emit_message(true, 'cleave', '') END`,
};

/**
 * Prepared SQL on the pool of a data source. Statements must name their schema. All methods throw `unavailable` if Postgres
 * cannot be reached, is overloaded, or gave up on a lock or a statement, and the driver's error otherwise. Nothing is
 * retried.
 */
export class Sql implements Queries {
  constructor(
    private readonly pool: Pool,
    private readonly name: string,
    private readonly answersWithinMs: number,
  ) {}

  /** Runs a statement outside of a transaction: it is committed when the promise resolves. */
  query<Row>(statement: Statement, values?: readonly unknown[]): Promise<Row[]> {
    return this.withSession((session) => session.query<Row>(statement, values));
  }

  /** Commits if `work` resolves and rolls back if it throws. Await every query inside it. */
  transaction<T>(work: (sql: Queries) => Promise<T>): Promise<T> {
    return this.ending('COMMIT', work);
  }

  /**
   * The first phase of a two-phase commit: the changes of `work` are durable but invisible until `finishPrepared` commits
   * or rolls them back. Until then the prepared transaction holds its locks and blocks vacuum, even if this process dies.
   *
   * @param gid names the transaction on the whole server; 1 to 200 characters of a-z, 0-9, colon and hyphen
   */
  prepare<T>(gid: string, work: (sql: Queries) => Promise<T>): Promise<T> {
    return this.ending(`PREPARE TRANSACTION ${literal(gid)}`, work);
  }

  /**
   * The second phase.
   *
   * @returns whether the prepared transaction existed; false if it was finished before
   */
  async finishPrepared(gid: string, outcome: 'commit' | 'rollback'): Promise<boolean> {
    try {
      await this.withSession((session) =>
        session.send({ text: `${outcome === 'commit' ? 'COMMIT' : 'ROLLBACK'} PREPARED ${literal(gid)}` }),
      );
      return true;
    } catch (error) {
      if ((error as { code?: string }).code === undefinedObject) return false;
      throw error;
    }
  }

  private ending<T>(end: string, work: (sql: Queries) => Promise<T>): Promise<T> {
    return this.withSession(async (session) => {
      await session.send({ text: 'BEGIN' });
      try {
        const result = await work(session);
        // Ending a failed transaction rolls it back, which only the command tag reports.
        const { command } = await session.send({ text: end });
        if (command === 'ROLLBACK')
          throw new Error('the transaction was rolled back, because a statement in it had failed');
        return result;
      } catch (error) {
        // If this fails, the connection is dropped, which rolls back as well.
        if (!session.broken) await session.send({ text: 'ROLLBACK' }).catch(() => undefined);
        throw error;
      }
    });
  }

  /**
   * Reads data on which an answer, or an effect elsewhere, will be based: it resolves once that data is as durable as a
   * commit made now. With a synchronous standby this takes a wait: a row whose own wait was cancelled (its connection or
   * its server ended) is visible here but would be lost with this server. The wait uses the connection that has read,
   * because another one may lead to a server that has taken over and knows nothing of the row. Without a synchronous
   * standby, this only reads.
   *
   * @param isTold whether the result will be used; if not, there is no wait
   */
  readSafely<T>(work: (sql: Queries) => Promise<T>, isTold: (read: T) => boolean = () => true): Promise<T> {
    return this.withSession(async (session) => {
      const read = await work(session);
      if (!isTold(read)) return read;
      const [server] = await session.query<{ isStandby: boolean }>(waitForStandby);
      if (!server!.isStandby) return read;
      // The next connection may lead to the primary.
      throw (session.broken = notReplicated(this.name));
    });
  }

  /**
   * Whether the database can be used, and how well.
   *
   * @throws CleaveError `unavailable` if it cannot be used
   */
  async condition(): Promise<{ isDegraded: boolean; details: Record<string, unknown> }> {
    const { isReadOnly, isAlone } = await this.withSession(async (session) => {
      const [row] = await session.query<{ isReadOnly: boolean; isAlone: boolean }>(ping);
      // The next connection may lead to the primary, or begin after the default of the database was set back.
      if (row!.isReadOnly) session.broken = new Error('it is read-only');
      return row!;
    });
    return {
      isDegraded: isReadOnly || isAlone,
      details: {
        ...(isReadOnly && { writes: 'are refused, because the database is read-only' }),
        ...(isAlone && { standby: 'no standby is connected; commits wait for one' }),
      },
    };
  }

  private async withSession<T>(work: (session: Session) => Promise<T>): Promise<T> {
    const client = await this.pool.connect().catch((error: unknown) => {
      throw notConnected(error, this.name);
    });
    const session = new Session(client, this.name, this.answersWithinMs);
    // Without a listener, a connection that breaks between two statements would end the process.
    const breaks = (error: Error) => (session.broken = error);
    client.on('error', breaks);
    try {
      return await work(session);
    } finally {
      client.off('error', breaks);
      client.release(session.broken);
    }
  }
}

export const sqlToken = (name: string): string => `${name}Sql`;

/** Injects the `Sql` of the data source with this name. */
export const InjectSql = (name: string): ParameterDecorator & PropertyDecorator => Inject(sqlToken(name));
