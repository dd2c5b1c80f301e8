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
  /** Of the data source: `@InjectRepository(Entity, name)`, `@InjectSql(name)`. */
  name: string;
  url: string;
  /** Made where it is missing. */
  schema: string;
  entities: (Function | EntitySchema)[];
  /** Classes whose names end in a timestamp in milliseconds; that is their order. */
  migrations: (new () => MigrationInterface)[];
  /** The most connections of this instance. */
  poolSize?: number;
  /** How long a start waits for a Postgres that is not up yet: until it is when left out. */
  connectWithinMs?: number;
}

const defaultPoolSize = 8;
/** What migrates and ends is started again by whoever waits for its end. */
const migrateWithinMs = 30_000;
const sayEveryMs = 60_000;

/** Limits of a request: to get a connection, to wait for a lock, to run a statement, to hear of it. */
const limits = {
  connectionTimeoutMillis: 5_000,
  lock_timeout: 5_000,
  statement_timeout: 10_000,
  query_timeout: 12_000,
  idle_in_transaction_session_timeout: 10_000,
};

/**
 * Prepared statements keep their plans, and a plan that was made while a table had ten rows reads it from end to end
 * when it has a million. Whatever is asked for here has an index. What is read from end to end all the same then counts
 * as dear beyond measure, and a server that compiles what is dear (`jit`, on by default) would do so for seconds each
 * time. A transaction has a limit of its own where Postgres knows one (from 17 on).
 */
const sessionSettings = `
  SELECT set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false), set_config('client_min_messages', 'warning', false),
    (SELECT set_config(name, '15s', false) FROM pg_settings WHERE name = 'transaction_timeout')`;

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

/** Everything of ours stays below 2^53, so that int8 is read as a number; on our connections only. */
const types: pg.CustomTypesConfig = {
  getTypeParser(oid: number, format?: 'text' | 'binary') {
    const parse = usualParser(oid, format);
    if (format === 'binary') return parse;
    if (oid === int8) return integerOf;
    return oid === int8Array ? (text: string) => integersOf(parse(text)) : parse;
  },
};

/** TypeORM with the same errors as `Sql`. */
class ModuleDataSource extends DataSource {
  constructor(
    private readonly nameOfModule: string,
    options: DataSourceOptions,
  ) {
    super(options);
  }

  override createQueryRunner(mode?: ReplicationMode): QueryRunner {
    const runner = super.createQueryRunner(mode);
    const connect = runner.connect.bind(runner) as () => Promise<pg.PoolClient>;
    const query = runner.query.bind(runner) as (...parameters: unknown[]) => Promise<unknown>;
    let client: pg.PoolClient | undefined;
    // It connects when it is asked something.
    runner.connect = async () => {
      try {
        client = await connect();
        return client;
      } catch (error) {
        throw notConnected(error, this.nameOfModule);
      }
    };
    runner.query = async (...parameters: unknown[]) => {
      try {
        return (await query(...parameters)) as never;
      } catch (error) {
        // TypeORM drops a connection that tells of an error, and gives every other one back to be used again.
        if (client && !runner.isReleased && !keepsConnection(error)) client.emit('error', error);
        throw asUnavailable(error, this.nameOfModule);
      }
    };
    return runner;
  }
}

const logger = new Logger('Database');

/** Warnings go where ours go. What fails is thrown, so that it need not be written as well. */
class TypeOrmLogger extends AbstractLogger {
  protected writeLog(level: LogLevel, message: LogMessage | string | number | (LogMessage | string | number)[]): void {
    if (level !== 'warn') return;
    for (const { message: text } of this.prepareLogMessages(message, { highlightSql: false })) logger.warn(text);
  }
}

const connectionOf = (database: Database): DataSourceOptions & { type: 'postgres' } => ({
  type: 'postgres',
  driver: pg,
  url: database.url,
  schema: database.schema,
  entities: database.entities,
  migrations: database.migrations,
  // What the extensions are for (uuids) is built in by now, and to install them takes rights that we need not have.
  installExtensions: false,
  uuidExtension: 'pgcrypto',
  logging: ['warn'],
  logger: new TypeOrmLogger(['warn']),
  poolErrorHandler(this: pg.Pool, error: Error) {
    // A pool is closed before its connections are; a server that stops meanwhile ends them itself.
    if (this.ending) return;
    logger.warn(`lost an idle connection to the ${database.name} database: ${error.message}`);
  },
  extra: {
    ...limits,
    max: database.poolSize ?? defaultPoolSize,
    application_name: `cleave-${database.name}`,
    keepAlive: true,
    idleTimeoutMillis: 60_000,
    types,
    onConnect: (client: pg.ClientBase) => {
      noteUncertainCommits(client);
      return client.query(sessionSettings);
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
  // A refusal by several addresses of one host has no message of its own.
  const why = whyDistrusted(error) ?? (message || code);
  return new Error(`Cannot use Postgres at ${placeOf(url)} for ${name}: ${why}. ${advice}`, {
    cause: error,
  });
}

/** Those that this process cannot start without and that cannot be used yet, by name, and why, as far as that is known. */
const awaited = new Map<string, string | undefined>();
export const awaitedDatabases = (): ReadonlyMap<string, string | undefined> => awaited;

/** Does what is to be done, after a while where Postgres is still starting. */
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

const bringUpToDate = (database: Database): Promise<void> =>
  migrate({
    ...{ name: database.name, schema: database.schema, connection: connectionOf(database) },
    log: (line) => logger.log(line),
  });

/** Runs the migrations that a module's database lacks, and nothing else; fails as the start of the module would. */
export const migrateDatabase = (database: Database): Promise<void> =>
  whenUp(database, migrateWithinMs, () => bringUpToDate(database));

const connect = (database: Database): Promise<DataSource> =>
  whenUp(database, database.connectWithinMs ?? Number.POSITIVE_INFINITY, async () => {
    await bringUpToDate(database);
    return new ModuleDataSource(database.name, connectionOf(database)).initialize();
  });

@Module({})
class DatabaseModule {}

/**
 * A module's data source under its name, migrated and connected before anything that injects it, and `Sql` on the same
 * pool. Several instances may start at once on one database. `TypeOrmModule.forFeature(entities, name)` gives
 * repositories.
 *
 * The start waits for a Postgres that is not up yet. It fails with an Error that names the place and the variable, never the
 * password, when Postgres refuses, and with one that names the migration when that fails.
 */
export function databaseFor(database: Database): DynamicModule {
  const { name } = database;
  return {
    module: DatabaseModule,
    imports: [
      TypeOrmModule.forRootAsync({
        name,
        // Waiting is done in `connect`, where its reason is known.
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
          return new Sql(pool, name);
        },
      },
    ],
    exports: [sqlToken(name)],
  };
}
