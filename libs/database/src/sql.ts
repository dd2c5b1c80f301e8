import { Inject } from '@nestjs/common';
import { withSpan } from '#telemetry';
import type { ClientBase, Pool, PoolClient, QueryConfig, QueryResult } from 'pg';
import { asUnavailable, keepsConnection, notConnected, notReplicated } from './unavailable.js';

/** A statement and the name it is prepared under: one text for ever, names of at most 63 bytes. */
export interface Statement {
  name: string;
  text: string;
}

/** What can be asked on one connection. */
export interface Queries {
  /** One statement, prepared on the connection when it meets it first. */
  query<Row>(statement: Statement, values?: readonly unknown[]): Promise<Row[]>;
}

/** Connections on which a commit was reported that the synchronous standby may not have. */
const ofUncertainCommits = new WeakSet<ClientBase>();

/**
 * Postgres reports a commit whose wait for the standby was cancelled as done, after a warning that has no code of its
 * own. To be called once for each connection.
 */
export const noteUncertainCommits = (client: ClientBase): void => {
  client.on('notice', ({ routine }) => {
    if (routine === 'SyncRepWaitForLSN') ofUncertainCommits.add(client);
  });
};

/** Not the text: its name says what it is. */
const ofPostgres = { kind: 'client', attributes: { 'db.system.name': 'postgresql' } } as const;

/** One connection while it is ours. */
class Session implements Queries {
  /** Why the connection must not be used again. */
  broken: Error | undefined;

  constructor(
    private readonly client: PoolClient,
    private readonly name: string,
  ) {}

  async query<Row>({ name, text }: Statement, values: readonly unknown[] = []): Promise<Row[]> {
    const asked = () => this.send({ name, text, values: values as unknown[] });
    return (await withSpan(name, ofPostgres, asked)).rows as Row[];
  }

  async send(query: QueryConfig): Promise<QueryResult> {
    try {
      const result = await this.client.query(query);
      if (ofUncertainCommits.has(this.client)) throw notReplicated(this.name);
      return result;
    } catch (error) {
      if (!keepsConnection(error)) this.broken = error as Error;
      throw asUnavailable(error, this.name);
    }
  }
}

/** Of a transaction that is not prepared, or not any more. */
const undefinedObject = '42704';

/** Utility statements take no parameters. */
const literal = (gid: string): string => {
  if (!/^[a-z0-9:-]{1,200}$/.test(gid)) throw new Error(`${gid} cannot name a prepared transaction`);
  return `'${gid}'`;
};

/** Whoever waits for a standby is seen by everyone; who that is, only by those who may. */
const ping: Statement = {
  name: 'ping',
  text: `
    SELECT current_setting('synchronous_standby_names') <> ''
      AND NOT EXISTS (SELECT FROM pg_stat_replication) AS "isAlone"`,
};

/**
 * A commit that changes nothing, and waits for the standby to have all that lies before it in the log. A server that was the
 * primary and is a standby by now may have rows that its successor never had, and nobody to wait for.
 */
const waitForStandby: Statement = {
  name: 'wait-for-standby',
  text: `
    SELECT pg_is_in_recovery() AS "isStandby",
      CASE WHEN NOT pg_is_in_recovery() AND current_setting('synchronous_standby_names') <> ''
        THEN pg_logical_emit_message(true, 'cleave', '') END`,
};

/**
 * Prepared SQL on the pool of a data source. Statements name their schema. Everything throws `unavailable` when Postgres
 * cannot be reached, is overloaded or gave up on a lock or a statement, and the driver's error otherwise. Nothing is
 * retried.
 */
export class Sql implements Queries {
  constructor(
    private readonly pool: Pool,
    private readonly name: string,
  ) {}

  /** Outside of a transaction: the statement is committed when the promise resolves. */
  query<Row>(statement: Statement, values?: readonly unknown[]): Promise<Row[]> {
    return this.withSession((session) => session.query<Row>(statement, values));
  }

  /** Commits when `work` resolves and rolls back when it throws. Await every query inside it. */
  transaction<T>(work: (sql: Queries) => Promise<T>): Promise<T> {
    return this.ending('COMMIT', work);
  }

  /**
   * The first phase of a two-phase commit: what `work` has done is kept, and seen by nobody, until `finishPrepared` says
   * what becomes of it. Meanwhile it holds its locks and keeps the server from tidying up, also when this process dies.
   *
   * @param gid names the transaction on the whole server; 1 to 200 characters of a-z, 0-9, colon and hyphen
   */
  prepare<T>(gid: string, work: (sql: Queries) => Promise<T>): Promise<T> {
    return this.ending(`PREPARE TRANSACTION ${literal(gid)}`, work);
  }

  /** The second phase. @returns whether there was such a transaction; not when it has been finished before */
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
        // The end of a transaction that has failed rolls back, and says so only in its tag.
        const { command } = await session.send({ text: end });
        if (command === 'ROLLBACK')
          throw new Error('the transaction was rolled back, because a statement in it had failed');
        return result;
      } catch (error) {
        // Where it fails the connection is dropped, which rolls back as well.
        if (!session.broken) await session.send({ text: 'ROLLBACK' }).catch(() => undefined);
        throw error;
      }
    });
  }

  /**
   * What is answered, or done elsewhere, because of what was merely read is read by this: `work` resolves to it once it is
   * as safe as what is committed now. Where a standby has to have what is committed, that takes a wait: a row whose own
   * wait was broken off (its connection or its server ended) can be seen here and is lost with this server. It is waited
   * for over the connection that has read: another one may lead to a server that has taken over, and says nothing of this.
   * Without such a standby it does nothing more than read.
   *
   * @param isTold whether what was read counts; otherwise nobody waits
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

  /** Whether it can be used, and how well. @throws when it cannot */
  async condition(): Promise<{ isDegraded: boolean; details: Record<string, unknown> }> {
    const [row] = await this.query<{ isAlone: boolean }>(ping);
    const { isAlone } = row!;
    return {
      isDegraded: isAlone,
      details: isAlone ? { standby: 'no standby is connected; commits wait for one' } : {},
    };
  }

  private async withSession<T>(work: (session: Session) => Promise<T>): Promise<T> {
    const client = await this.pool.connect().catch((error: unknown) => {
      throw notConnected(error, this.name);
    });
    const session = new Session(client, this.name);
    // A connection that breaks between two statements would end the process if nobody listened.
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
