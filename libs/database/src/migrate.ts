import { createHash } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import pg from 'pg';
import { DataSource, MigrationExecutor, type DataSourceOptions, type QueryRunner } from 'typeorm';
import { isConnectionFailure } from './unavailable.js';

const turnTimeoutMs = 300_000;
const lockTimeoutMs = 60_000;
const insufficientPrivilege = '42501';

/** A module's migrations and where they go. */
export interface Migrations {
  name: string;
  schema: string;
  /** The options of the data source, without its pool. */
  connection: DataSourceOptions & { type: 'postgres' };
  log: (line: string) => void;
}

/** The same number in every instance. */
const lockKeyOf = (schema: string): string =>
  createHash('sha256').update(`cleave migrations of ${schema}`).digest().readBigInt64BE().toString();

/** Asks again and again, because a waiting statement would hold up CREATE INDEX CONCURRENTLY in the one that migrates. */
async function waitForTurn(runner: QueryRunner, { name, schema, log }: Migrations): Promise<void> {
  const giveUpAt = Date.now() + turnTimeoutMs;
  for (let told = false; ; told = true) {
    const [row] = (await runner.query('SELECT pg_try_advisory_lock($1) AS ours', [lockKeyOf(schema)])) as {
      ours: boolean;
    }[];
    if (row?.ours) return;
    if (!told) log(`another instance is migrating the ${name} database; waiting for it`);
    if (Date.now() > giveUpAt) {
      throw new Error(
        `Another instance has been migrating the ${name} database for ${turnTimeoutMs / 60_000} minutes. ` +
          'Look what it waits for (pg_stat_activity), or end it, and start again.',
      );
    }
    await setTimeout(100);
  }
}

async function createSchema(runner: QueryRunner, schema: string): Promise<void> {
  // IF NOT EXISTS asks for the right to create schemas even where there is nothing to create.
  const found = (await runner.query('SELECT FROM pg_namespace WHERE nspname = $1', [schema])) as unknown[];
  if (found.length > 0) return;
  try {
    await runner.query(`CREATE SCHEMA ${pg.escapeIdentifier(schema)}`);
  } catch (error) {
    if ((error as pg.DatabaseError).code !== insufficientPrivilege) throw error;
    throw new Error(
      `Cannot make the schema "${schema}": ${(error as Error).message}. Make it, or grant CREATE on the database.`,
      {
        cause: error,
      },
    );
  }
}

async function runPending(source: DataSource, runner: QueryRunner, { name, log }: Migrations): Promise<void> {
  const executor = new MigrationExecutor(source, runner);
  executor.transaction = 'each';
  try {
    const done = await executor.executePendingMigrations();
    for (const migration of done) log(`migrated the ${name} database: ${migration.name}`);
  } catch (error) {
    if (isConnectionFailure(error)) throw error;
    // Each is recorded as it is committed, so the first that is still pending is the one that failed.
    const [failed] = await executor.getPendingMigrations();
    throw new Error(
      `Migration ${failed?.name} of ${name} failed and was rolled back: ${(error as Error).message}. ` +
        'Mend it and start again; the migrations before it are in place.',
      { cause: error },
    );
  }
}

/**
 * Brings a module's schema up to date, one instance at a time, on a connection of its own without the limits for
 * requests. The record of what was done is in the same schema, in `migrations`.
 */
export async function migrate(migrations: Migrations): Promise<void> {
  const { connection, schema } = migrations;
  const extra = { ...connection.extra, max: 1, lock_timeout: lockTimeoutMs, statement_timeout: 0, query_timeout: 0 };
  const source = await new DataSource({ ...connection, schema, entities: [], extra }).initialize();
  try {
    const runner = source.createQueryRunner();
    await runner.connect();
    await waitForTurn(runner, migrations);
    await createSchema(runner, schema);
    await runPending(source, runner, migrations);
    await runner.release();
  } finally {
    // The lock goes with the connection.
    await source.destroy();
  }
}
