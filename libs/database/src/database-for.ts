import { setTimeout } from 'node:timers/promises';
import { Logger, Module, type DynamicModule } from '@nestjs/common';
import { TypeOrmModule, getDataSourceToken } from '@nestjs/typeorm';
import pg from 'pg';
import {
  AbstractLogger,
  DataSource,
  type DataSourceOptions,
  type EntitySchema,
  type LogLevel,
  type LogMessage,
  type MigrationInterface,
  type QueryRunner,
  type ReplicationMode,
} from 'typeorm';
import { whyDistrusted } from '#config';
import { within } from '#periodic';
import { Metrics } from '#telemetry';
import { migrate } from './migrate.js';
import { observePool } from './pool-metrics.js';
import { noteUncertainCommits, Sql, sqlToken } from './sql.js';
import {
  asUnavailable,
  isConnectionFailure,
  isDistrusted,
  isRefusal,
  keepsConnection,
  notConnected,
  variableOf,
} from './unavailable.js';

/** A module's database: its own schema, entities and migrations. */
export interface Database {
  /** Names the data source: `@InjectRepository(Entity, name)`, `@InjectSql(name)`. */
  name: string;
  url: string;
  /** Created if it is missing. */
  schema: string;
  entities: (Function | EntitySchema)[];
  /** Classes whose names end in a timestamp in milliseconds, which determines their order. */
  migrations: (new () => MigrationInterface)[];
  /** The maximum number of connections of this instance. */
  poolSize?: number;
  /** How long a start waits for a Postgres that is not up yet; without limit if left out. */
  connectWithinMs?: number;
  /** How long a statement may take until its result is here. */
  answersWithinMs?: number;
}

const standard = {
  poolSize: 8,
  connectWithinMs: Number.POSITIVE_INFINITY,
  /** Longer than `statement_timeout`, so that Postgres ends a slow statement first. A silent connection is given up. */
  answersWithinMs: 12_000,
};
type Settings = Required<Database>;

/** A process that only migrates does not wait for ever: whatever awaits its end starts it again. */
const migrateWithinMs = 30_000;
const sayEveryMs = 60_000;

/** The limits of a request: to get a connection, to wait for a lock, to run a statement. */
const limits = {
  connectionTimeoutMillis: 5_000,
  lock_timeout: 5_000,
  statement_timeout: 10_000,
  idle_in_transaction_session_timeout: 10_000,
};

/**
 * Prepared statements keep their plans, and a plan made while a table had ten rows may scan it sequentially when it has a
 * million. Every query here has an index, so sequential scans are turned off. A query that still needs one is then
 * estimated as extremely expensive, and JIT compilation (on by default) would take seconds each time, so it is off as well.
 * Transactions get their own timeout if Postgres supports it (from 17 on).
 *
 * A server, database or role may have defaults that suit its other users. Here, every statement has to see what others have
 * committed while it waited for their locks, a commit that is reported has to survive a crash, and that of its server if there
 * is a synchronous standby, and the driver can read times in one format only. All three are set in any case, because a default
 * that the session uses changes while it is open when the server reads its configuration again.
 */
const sessionSettings = `
  SELECT set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false), set_config('client_min_messages', 'warning', false),
    set_config('default_transaction_isolation', 'read committed', false), set_config('datestyle', 'ISO', false),
    set_config('synchronous_commit', CASE waits WHEN 'off' THEN 'on' WHEN 'local' THEN 'on' ELSE waits END, false),
    (SELECT set_config(name, '15s', false) FROM pg_settings WHERE name = 'transaction_timeout')
  FROM current_setting('synchronous_commit') AS waits`;

const int8 = 20;
const int8Array = 1016;

function integerOf(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new RangeError(`${text} is beyond 2^53 and would lose digits as a number`);
  return value;
}

type Nested<T> = T | null | Nested<T>[];

const integersOf = (value: Nested<string>): Nested<number> =>
  Array.isArray(value) ? value.map(integersOf) : value === null ? null : integerOf(value);

const usualParser = pg.types.getTypeParser as (oid: number, format?: string) => (text: string) => Nested<string>;

/** All our integers stay below 2^53, so int8 is parsed as a number, on our connections only. */
const types: pg.CustomTypesConfig = {
  getTypeParser(oid: number, format?: 'text' | 'binary') {
    const parse = usualParser(oid, format);
    if (format === 'binary') return parse;
    if (oid === int8) return integerOf;
    return oid === int8Array ? (text: string) => integersOf(parse(text)) : parse;
  },
};

/** A TypeORM data source that throws the same errors as `Sql`. */
class ModuleDataSource extends DataSource {
  constructor(
    private readonly database: Settings,
    options: DataSourceOptions,
  ) {
    super(options);
  }

  override createQueryRunner(mode?: ReplicationMode): QueryRunner {
    const { name, answersWithinMs } = this.database;
    const runner = super.createQueryRunner(mode);
    const connect = runner.connect.bind(runner) as () => Promise<pg.PoolClient>;
    const query = runner.query.bind(runner) as (...parameters: unknown[]) => Promise<unknown>;
    let client: pg.PoolClient | undefined;
    runner.connect = async () => {
      try {
        client = await connect();
        return client;
      } catch (error) {
        throw notConnected(error, name);
      }
    };
    runner.query = async (...parameters: unknown[]) => {
      try {
        // Otherwise `query` connects, and a connection that came too late would belong to a runner that was released.
        if (!runner.isReleased) await runner.connect();
        return (await within(answersWithinMs, query(...parameters))) as never;
      } catch (error) {
        // TypeORM closes a connection that emits an error, and returns every other one to the pool.
        if (client && !runner.isReleased && !keepsConnection(error)) client.emit('error', error);
        throw asUnavailable(error, name);
      }
    };
    return runner;
  }
}

const logger = new Logger('Database');

/** Passes TypeORM's warnings to our log. Failures are thrown, so they need not be logged as well. */
class TypeOrmLogger extends AbstractLogger {
  protected writeLog(level: LogLevel, message: LogMessage | string | number | (LogMessage | string | number)[]): void {
    if (level !== 'warn') return;
    for (const { message: text } of this.prepareLogMessages(message, { highlightSql: false })) logger.warn(text);
  }
}

const connectionOf = (database: Settings): DataSourceOptions & { type: 'postgres' } => ({
  type: 'postgres',
  driver: pg,
  url: database.url,
  schema: database.schema,
  entities: database.entities,
  migrations: database.migrations,
  // The extensions are only for uuids, which Postgres has built in by now, and installing them needs privileges.
  installExtensions: false,
  uuidExtension: 'pgcrypto',
  logging: ['warn'],
  logger: new TypeOrmLogger(['warn']),
  poolErrorHandler(this: pg.Pool, error: Error) {
    // The pool ends before its connections do, and a server that stops meanwhile closes them itself.
    if (this.ending) return;
    logger.warn(`lost an idle connection to the ${database.name} database: ${error.message}`);
  },
  extra: {
    ...limits,
    max: database.poolSize,
    application_name: `cleave-${database.name}`,
    keepAlive: true,
    idleTimeoutMillis: 60_000,
    types,
    onConnect: (client: pg.ClientBase) => {
      noteUncertainCommits(client);
      return within(database.answersWithinMs, client.query(sessionSettings));
    },
  },
});

/** Host, port and database of the URL, without the password. */
function placeOf(url: string): string {
  try {
    const { hostname, port, pathname } = new URL(url);
    return `${hostname || 'localhost'}:${port || 5432}, database "${decodeURIComponent(pathname.slice(1))}"`;
  } catch {
    return 'an address that is not a URL';
  }
}

function unreachable({ name, url }: Database, error: unknown, patient: boolean): Error {
  const { code, message } = error as { code?: string; message: string };
  const advice = patient
    ? `Is it up, and does ${variableOf(name)} name it?`
    : `Correct ${variableOf(name)} or the database.`;
  // If several addresses of a host refuse the connection, the error has no message of its own.
  const why = whyDistrusted(error) ?? (message || code);
  return new Error(`Cannot use Postgres at ${placeOf(url)} for ${name}: ${why}. ${advice}`, {
    cause: error,
  });
}

/** The databases that the start of this process waits for, by name, and why, as far as that is known. */
const awaited = new Map<string, string | undefined>();
export const awaitedDatabases = (): ReadonlyMap<string, string | undefined> => awaited;

/** Runs `use`, and retries while Postgres is still starting. */
async function whenUp<Result>(database: Database, patienceMs: number, use: () => Promise<Result>): Promise<Result> {
  const { name } = database;
  const giveUpAt = Date.now() + patienceMs;
  awaited.set(name, undefined);
  try {
    for (let [attempt, sayAt] = [0, 0]; ; attempt += 1) {
      try {
        return await use();
      } catch (error) {
        if (isRefusal(error) || isDistrusted(error)) throw unreachable(database, error, false);
        if (!isConnectionFailure(error) && !isConnectionFailure((error as Error).cause)) throw error;
        const reason = unreachable(database, error, true);
        awaited.set(name, notConnected(error, name).detail);
        if (Date.now() >= giveUpAt) throw reason;
        if (Date.now() >= sayAt) {
          logger.warn(`waiting for Postgres. ${reason.message}`);
          sayAt = Date.now() + sayEveryMs;
        }
        await setTimeout(Math.min(100 * 2 ** attempt, 2_000));
      }
    }
  } finally {
    awaited.delete(name);
  }
}

const bringUpToDate = (database: Settings): Promise<void> =>
  migrate({
    ...{ name: database.name, schema: database.schema, connection: connectionOf(database) },
    log: (line) => logger.log(line),
  });

/**
 * Runs the pending migrations of a module's database and nothing else. It fails with the same errors as the module's start.
 */
export const migrateDatabase = (database: Database): Promise<void> =>
  whenUp(database, migrateWithinMs, () => bringUpToDate({ ...standard, ...database }));

const connect = (database: Settings): Promise<DataSource> =>
  whenUp(database, database.connectWithinMs, async () => {
    await bringUpToDate(database);
    return new ModuleDataSource(database, connectionOf(database)).initialize();
  });

@Module({})
class DatabaseModule {}

/**
 * Provides a module's data source under its name, migrated and connected before anything that injects it, and `Sql` on the
 * same pool. Several instances may start on one database at the same time. `TypeOrmModule.forFeature(entities, name)`
 * provides repositories.
 *
 * The start waits for a Postgres that is not up yet. If Postgres refuses the connection, it fails with an Error that names
 * the place and the variable, but never the password; if a migration fails, with one that names the migration.
 */
export function databaseFor(given: Database): DynamicModule {
  const database = { ...standard, ...given };
  const { name } = database;
  return {
    module: DatabaseModule,
    imports: [
      TypeOrmModule.forRootAsync({
        name,
        // `connect` does the waiting, because it knows the reason.
        useFactory: () => ({ type: 'postgres', toRetry: () => false }),
        dataSourceFactory: () => connect(database),
      }),
    ],
    providers: [
      {
        provide: sqlToken(name),
        inject: [getDataSourceToken(name), { token: Metrics, optional: true }],
        useFactory: (source: DataSource, metrics?: Metrics) => {
          const pool = (source.driver as unknown as { master: pg.Pool }).master;
          if (metrics) observePool(metrics.meter('database'), pool, name);
          return new Sql(pool, name, database.answersWithinMs);
        },
      },
    ],
    exports: [sqlToken(name)],
  };
}
