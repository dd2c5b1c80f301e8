import { cacheEnvironment } from '#cache';
import { env } from '#config';
import { inventoryEnvironment } from '#inventory';
import { orderEnvironment } from '#order';
import { restEnvironment, withDatabaseUrls, withDefaults } from '#service';

/** What the monolith reads: what its modules read, but it brings a database where none is named. */
export const monolithEnvironment = {
  ...restEnvironment(3000),
  ...orderEnvironment,
  ...inventoryEnvironment,
  ...cacheEnvironment,
  DATA_DIR: env.directory('.data'),
  ORDER_DATABASE_URL: env.postgresUrl.optional(),
  INVENTORY_DATABASE_URL: env.postgresUrl.optional(),
};

/** Neighbours are in the same process, and a database of our own has something in it to try. */
export const environmentOf = (source: Record<string, string | undefined>): Record<string, string | undefined> => {
  const given = withDatabaseUrls(source, 'ORDER_DATABASE_URL', 'INVENTORY_DATABASE_URL');
  return withDefaults(given, {
    INVENTORY_AT: 'in-process:',
    CACHE_AT: 'in-process:',
    DEMO_PRODUCTS: given['INVENTORY_DATABASE_URL'] ? 'false' : 'true',
  });
};
