import { Logger } from '@nestjs/common';
import { startEmbeddedPostgres } from '#database';

type Environment = Record<string, string | undefined>;

/** Variables with a value where the environment leaves them unset or empty. */
export const withDefaults = (source: Environment, defaults: Environment): Environment => ({
  ...source,
  ...Object.fromEntries(Object.entries(defaults).map(([variable, value]) => [variable, source[variable] || value])),
});

/** `DATABASE_URL` is the database of every module that has none of its own; each keeps to its schema there. */
export const withDatabaseUrls = (source: Environment, ...variables: string[]): Environment =>
  withDefaults(source, Object.fromEntries(variables.map((variable) => [variable, source['DATABASE_URL']])));

/** An embedded server for the modules whose database is not configured, all of them in one database. */
export const startDatabaseFor = async <Variable extends string>(
  urls: Record<Variable, string | undefined>,
  dataDir: string,
): Promise<{ urls: Record<Variable, string>; stop: () => Promise<void> }> => {
  const missing = Object.entries(urls).some(([, url]) => url === undefined);
  if (!missing) return { urls: urls as Record<Variable, string>, stop: () => Promise.resolve() };

  const logger = new Logger('Postgres');
  logger.log(`starting the embedded server, data in ${dataDir}`);
  const server = await startEmbeddedPostgres({
    dataDir,
    log: (line) => logger.log(line),
    onExit: (error) => logger.error(`the embedded server is gone: ${error.message}`),
  });
  await server.createDatabase('cleave');
  const filled = Object.entries(urls).map(([variable, url]) => [variable, url ?? server.url('cleave')]);
  return { urls: Object.fromEntries(filled) as Record<Variable, string>, stop: () => server.stop() };
};
