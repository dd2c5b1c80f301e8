import { Logger } from '@nestjs/common';
import { startEmbeddedPostgres } from '#database';

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
