import { readEnvironment } from '#config';
import { SalesModule, salesEnvironment } from '#sales';
import { restEnvironment, run, serve } from '#service';

/** Sales on their own: REST at :3005. `ORDER_AT` says whose log they follow, `INVENTORY_AT` where the stock is. */
run(async () => {
  const environment = readEnvironment({ ...restEnvironment(3005), ...salesEnvironment }, process.env, {
    fallbacks: { SALES_DATABASE_URL: 'DATABASE_URL' },
  });
  await serve({
    ...environment,
    name: 'sales',
    document: { title: 'Cleave sales', description: 'Units sold by product and day.', version: '1' },
    modules: [SalesModule.register(environment)],
  });
});
