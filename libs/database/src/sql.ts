import { Inject } from '@nestjs/common';
import type { Pool, PoolClient, QueryConfig, QueryResult } from 'pg';
import { asUnavailable, keepsConnection } from './unavailable.js';

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

/** One connection while it is ours. */
class Session implements Queries {
  /** Why the connection must not be used again. */
  broken: Error | undefined;

  constructor(
    private readonly client: PoolClient,
    private readonly name: string,
  ) {}

  async query<Row>({ name, text }: Statement, values: readonly unknown[] = []): Promise<Row[]> {
    return (await this.send({ name, text, values: values as unknown[] })).rows as Row[];
  }

  async send(query: QueryConfig): Promise<QueryResult> {
    try {
      return await this.client.query(query);
    } catch (error) {
      if (!keepsConnection(error)) this.broken = error as Error;
      throw asUnavailable(error, this.name);
    }
  }
}

const ping: Statement = { name: 'ping', text: 'SELECT 1' };

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
    return this.withSession(async (session) => {
      await session.send({ text: 'BEGIN' });
      try {
        const result = await work(session);
        // COMMIT of a transaction that has failed rolls back, and says so only in its tag.
        const { command } = await session.send({ text: 'COMMIT' });
        if (command !== 'COMMIT')
          throw new Error('the transaction was rolled back, because a statement in it had failed');
        return result;
      } catch (error) {
        // Where it fails the connection is dropped, which rolls back as well.
        if (!session.broken) await session.send({ text: 'ROLLBACK' }).catch(() => undefined);
        throw error;
      }
    });
  }

  async ping(): Promise<void> {
    await this.query(ping);
  }

  private async withSession<T>(work: (session: Session) => Promise<T>): Promise<T> {
    const client = await this.pool.connect().catch((error: unknown) => {
      throw asUnavailable(error, this.name);
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
