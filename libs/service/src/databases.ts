import { Logger } from '@nestjs/common';
import { env, type Environment } from '#config';
import { startEmbeddedPostgres } from '#database';
import { endOnSignals } from '#rest';
import { readOrMakeDataKeys } from './data-keys-file.js';

/**
 * The database variables of the modules that store data. None is required, because an embedded server serves those that are
 * not set.
 */
const databaseVariables = [
  'ORDER_DATABASE_URL',
  'INVENTORY_DATABASE_URL',
  'PAYMENT_DATABASE_URL',
  'SALES_DATABASE_URL',
  'WEBHOOKS_DATABASE_URL',
  'ACCESS_DATABASE_URL',
] as const;
/** The modules that encrypt some of their data. */
const encrypting = ['ORDER', 'WEBHOOKS'] as const;
type DatabaseVariable = (typeof databaseVariables)[number];

const forEach = <Value>(value: (variable: DatabaseVariable) => Value): Record<DatabaseVariable, Value> =>
  Object.fromEntries(databaseVariables.map((it) => [it, value(it)])) as Record<DatabaseVariable, Value>;

/** The database settings of a process with all modules, and the fallbacks of those that are not set. */
export const databaseEnvironment = forEach(() => env.postgresUrl.optional());
export const databaseFallbacks = forEach(() => 'DATABASE_URL');

/** The same for a process with all modules: API keys are stored with the orders, unless configured otherwise. */
export const togetherFallbacks = (source: Environment): Record<DatabaseVariable, string> => ({
  ...databaseFallbacks,
  ACCESS_DATABASE_URL: source['DATABASE_URL'] ? 'DATABASE_URL' : 'ORDER_DATABASE_URL',
});
interface Databases {
  urls: Record<DatabaseVariable, string>;
  /**
   * The keys used if DATA_KEYS is not set, for those modules that store their data in the embedded server: data in another
   * database must not depend on a file beside this one.
   */
  dataKeys: { ORDER?: string; WEBHOOKS?: string };
  stop: () => Promise<void>;
}

/** Starts an embedded server for the modules whose database is not configured; they share one database. */
export const startDatabaseFor = async (
  settings: Partial<Record<DatabaseVariable, string | undefined>> & { DATA_KEYS?: unknown },
  dataDir: string,
): Promise<Databases> => {
  const urls = forEach((variable) => settings[variable]);
  const missing = databaseVariables.filter((variable) => urls[variable] === undefined);
  if (missing.length === 0)
    return { urls: urls as Record<DatabaseVariable, string>, dataKeys: {}, stop: () => Promise.resolve() };

  endOnSignals();
  return startDatabase(urls, missing, settings.DATA_KEYS !== undefined, dataDir);
};

const startDatabase = async (
  urls: Record<DatabaseVariable, string | undefined>,
  missing: DatabaseVariable[],
  hasDataKeys: boolean,
  dataDir: string,
): Promise<Databases> => {
  const logger = new Logger('Postgres');
  const instead = missing.length < databaseVariables.length ? ` in place of ${missing.join(', ')}` : '';
  logger.log(`starting the embedded server${instead}, data in ${dataDir}`);
  const server = await startEmbeddedPostgres({
    dataDir,
    log: (line) => logger.log(line),
    onExit: (error) => logger.error(`the embedded server is gone: ${error.message}`),
  });
  await server.createDatabase('cleave');
  const needing = hasDataKeys ? [] : encrypting.filter((module) => urls[`${module}_DATABASE_URL`] === undefined);
  const made = needing.length > 0 ? await readOrMakeDataKeys(dataDir, (line) => logger.log(line)) : undefined;
  return {
    urls: forEach((variable) => urls[variable] ?? server.url('cleave')),
    dataKeys: Object.fromEntries(needing.map((module) => [module, made])),
    stop: () => server.stop(),
  };
};
