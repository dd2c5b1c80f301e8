import { cacheEnvironment } from '#cache';
import { env, readEnvironment, type Environment } from '#config';
import { inventoryEnvironment } from '#inventory';
import { orderEnvironment } from '#order';
import { paymentEnvironment } from '#payment';
import { salesEnvironment } from '#sales';
import { databaseEnvironment, databaseFallbacks, restEnvironment } from '#service';
import { webhooksEnvironment } from '#webhooks';

/** What the monolith reads: what its modules read, but it brings a database where none is named. */
const monolithEnvironment = {
  ...restEnvironment(3000),
  ...orderEnvironment,
  ...inventoryEnvironment,
  ...paymentEnvironment,
  ...cacheEnvironment,
  ...salesEnvironment,
  ...webhooksEnvironment,
  ...databaseEnvironment,
  DATA_DIR: env.directory('.data'),
};

/** What the monolith runs with. Neighbours are in the same process, and a database of our own has something in it to try. */
export const readMonolithEnvironment = (source: Environment) =>
  readEnvironment(monolithEnvironment, source, {
    fallbacks: databaseFallbacks,
    defaults: {
      ORDER_AT: 'in-process:',
      INVENTORY_AT: 'in-process:',
      PAYMENT_AT: 'in-process:',
      CACHE_AT: 'in-process:',
      DEMO_PRODUCTS: source['INVENTORY_DATABASE_URL'] || source['DATABASE_URL'] ? 'false' : 'true',
    },
  });
