import { cacheEnvironment } from '#cache';
import { env, readEnvironment, type Environment } from '#config';
import { inventoryEnvironment } from '#inventory';
import { orderEnvironment } from '#order';
import { paymentEnvironment } from '#payment';
import { restEnvironment } from '#service';

/** What the monolith reads: what its modules read, but it brings a database where none is named. */
const monolithEnvironment = {
  ...restEnvironment(3000),
  ...orderEnvironment,
  ...inventoryEnvironment,
  ...paymentEnvironment,
  ...cacheEnvironment,
  DATA_DIR: env.directory('.data'),
  ORDER_DATABASE_URL: env.postgresUrl.optional(),
  INVENTORY_DATABASE_URL: env.postgresUrl.optional(),
  PAYMENT_DATABASE_URL: env.postgresUrl.optional(),
};

/** What the monolith runs with. Neighbours are in the same process, and a database of our own has something in it to try. */
export const readMonolithEnvironment = (source: Environment) =>
  readEnvironment(monolithEnvironment, source, {
    fallbacks: {
      ORDER_DATABASE_URL: 'DATABASE_URL',
      INVENTORY_DATABASE_URL: 'DATABASE_URL',
      PAYMENT_DATABASE_URL: 'DATABASE_URL',
    },
    defaults: {
      INVENTORY_AT: 'in-process:',
      PAYMENT_AT: 'in-process:',
      CACHE_AT: 'in-process:',
      DEMO_PRODUCTS: source['INVENTORY_DATABASE_URL'] || source['DATABASE_URL'] ? 'false' : 'true',
    },
  });
