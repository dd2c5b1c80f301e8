import { accessDatabase } from '#access';
import { ConfigurationError, readEnvironment } from '#config';
import { migrateDatabase } from '#database';
import { inventoryDatabase } from '#inventory';
import { orderDatabase } from '#order';
import { paymentDatabase } from '#payment';
import { salesDatabase } from '#sales';
import { databaseEnvironment, databaseFallbacks, run } from '#service';
import { webhooksDatabase } from '#webhooks';

const databases = {
  ORDER_DATABASE_URL: orderDatabase,
  INVENTORY_DATABASE_URL: inventoryDatabase,
  PAYMENT_DATABASE_URL: paymentDatabase,
  SALES_DATABASE_URL: salesDatabase,
  WEBHOOKS_DATABASE_URL: webhooksDatabase,
  ACCESS_DATABASE_URL: accessDatabase,
} satisfies Record<keyof typeof databaseEnvironment, unknown>;

/** Migrates the configured databases and exits; run it before a new version is rolled out. */
run(async () => {
  const urls = readEnvironment(databaseEnvironment, process.env, { fallbacks: databaseFallbacks });
  const named = Object.entries(databases).flatMap(([variable, at]) => {
    const url = urls[variable as keyof typeof databases];
    return url === undefined ? [] : [at(url)];
  });
  if (named.length === 0)
    throw new ConfigurationError([
      { variable: 'DATABASE_URL', message: 'is not set; name the database of all modules, or ORDER_DATABASE_URL …' },
    ]);
  for (const database of named) await migrateDatabase(database);
});
