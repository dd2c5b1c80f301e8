import { createHash } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import pg from 'pg';
import { DataSource, MigrationExecutor, type DataSourceOptions, type QueryRunner } from 'typeorm';
import { isConnectionFailure } from './unavailable.js';

/** How long to wait for another instance that migrates, and for tables that are in use. */
const patienceMs = 1_200_000;
/** How long a migration waits for a lock. All later requests for the table wait behind it, orders among them. */
const lockTimeoutMs = 200;
/** The pause between two attempts, in which those requests can proceed. */
const lockPauseMs = 1_000;
const sayEveryMs = 30_000;
const insufficientPrivilege = '42501';
/** lock_not_available, and deadlock_detected: the migration was rolled back, and nothing else is wrong with it. */
const lockNotFree = new Set(['55P03', '40P01']);

/** A module's migrations and their target. */
export interface Migrations {
  name: string;
  schema: string;
  /** The options of the data source, without its pool. */
  connection: DataSourceOptions & { type: 'postgres' };
  log: (line: string) => void;
}

/** The key of the advisory lock, which is the same in every instance. */
const lockKeyOf = (schema: string): string =>
  createHash('sha256').update(`cleave migrations of ${schema}`).digest().readBigInt64BE().toString();

/** Polls, because a waiting statement would block CREATE INDEX CONCURRENTLY in the instance that migrates. */
async function waitForTurn(runner: QueryRunner, { name, schema, log }: Migrations): Promise<void> {
  const giveUpAt = Date.now() + patienceMs;
  for (let told = false; ; told = true) {
    const [row] = (await runner.query('SELECT pg_try_advisory_lock($1) AS ours', [lockKeyOf(schema)])) as {
      ours: boolean;
    }[];
    if (row?.ours) return;
    if (!told) log(`another instance is migrating the ${name} database; waiting for it`);
    if (Date.now() > giveUpAt) {
      throw new Error(
        `Another instance has been migrating the ${name} database for ${patienceMs / 60_000} minutes. ` +
          'Check in pg_stat_activity what it is waiting for, or stop it, and start again.',
      );
    }
    await setTimeout(100);
  }
}

async function createSchema(runner: QueryRunner, schema: string): Promise<void> {
  // IF NOT EXISTS needs the privilege to create schemas even if the schema exists.
  const found = (await runner.query('SELECT FROM pg_namespace WHERE nspname = $1', [schema])) as unknown[];
  if (found.length > 0) return;
  try {
    await runner.query(`CREATE SCHEMA ${pg.escapeIdentifier(schema)}`);
  } catch (error) {
    if ((error as pg.DatabaseError).code !== insufficientPrivilege) throw error;
    throw new Error(
      `Cannot create the schema "${schema}": ${(error as Error).message}. Create it, or grant CREATE on the database.`,
      {
        cause: error,
      },
    );
  }
}

/** Describes the session that has used a table of the schema for the longest time. */
async function whoHolds(runner: QueryRunner, schema: string): Promise<string> {
  const [holder] = (await runner.query(
    `SELECT a.pid, a.application_name AS name, extract(epoch FROM now() - a.xact_start)::int AS seconds
    FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND c.relnamespace = $1::regnamespace AND a.pid <> pg_backend_pid()
    ORDER BY a.xact_start LIMIT 1`,
    [pg.escapeIdentifier(schema)],
  )) as { pid: number; name: string | null; seconds: number | null }[];
  if (!holder) return '';
  // Of other roles' sessions, only roles with `pg_read_all_stats` see more than the process id.
  const seen = holder.name === null ? '' : `"${holder.name}" for ${holder.seconds} s, `;
  return ` by ${seen}Postgres process ${holder.pid}`;
}

const codeOf = (error: unknown): string => (error as { driverError?: pg.DatabaseError }).driverError?.code ?? '';

/**
 * Runs each pending migration in its own transaction. A migration that finds a table in use gives up at once and is
 * retried, because all later requests for the table would wait behind it: a dump that runs for an hour would block orders
 * for that hour.
 */
async function runPending(source: DataSource, runner: QueryRunner, { name, schema, log }: Migrations): Promise<void> {
  const executor = new MigrationExecutor(source, runner);
  executor.transaction = 'each';
  const pending = async (): Promise<string[]> => (await executor.getPendingMigrations()).map((it) => it.name);
  const giveUpAt = Date.now() + patienceMs;
  let sayAt = 0;
  for (let left = await pending(); left.length > 0;) {
    const before = left;
    const failure = await executor.executePendingMigrations().then(
      () => undefined,
      (error: unknown) => ({ error }),
    );
    if (failure && isConnectionFailure(failure.error)) throw failure.error;
    // Each migration is recorded when it commits, so the first one still pending is the one that failed.
    left = await pending();
    for (const done of before.filter((it) => !left.includes(it))) log(`migrated the ${name} database: ${done}`);
    if (!failure) return;
    const { error } = failure;
    const isInUse = lockNotFree.has(codeOf(error));
    if (!isInUse || Date.now() > giveUpAt) {
      throw new Error(
        `Migration ${left[0]} of ${name} failed: ${(error as Error).message}. ` +
          'Fix the cause and start again; the migrations before it have been applied.',
        { cause: error },
      );
    }
    if (Date.now() >= sayAt) {
      const holder = await whoHolds(runner, schema);
      log(
        `migration ${left[0]} of ${name} waits for a table that is in use${holder}; orders are still processed meanwhile`,
      );
      sayAt = Date.now() + sayEveryMs;
    }
    await setTimeout(lockPauseMs);
  }
}

/**
 * Brings a module's schema up to date, one instance at a time, over a separate connection without the limits for requests.
 * Applied migrations are recorded in the table `migrations` of the same schema.
 */
export async function migrate(migrations: Migrations): Promise<void> {
  const { connection, schema } = migrations;
  const extra = { ...connection.extra, max: 1, lock_timeout: lockTimeoutMs, statement_timeout: 0 };
  const source = await new DataSource({ ...connection, schema, entities: [], extra }).initialize();
  try {
    const runner = source.createQueryRunner();
    await runner.connect();
    await waitForTurn(runner, migrations);
    await createSchema(runner, schema);
    await runPending(source, runner, migrations);
    await runner.release();
  } finally {
    // Closing the connection releases the lock.
    await source.destroy();
  }
}
