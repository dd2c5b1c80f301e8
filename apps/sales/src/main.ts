import { readEnvironment } from '#config';
import { SalesModule, salesEnvironment } from '#sales';
import { restEnvironment, run, serve } from '#service';

/** Sales on their own: REST at :3005. They follow the log of `ORDER_AT`, and ask `INVENTORY_AT` for the stock. */
run(async () => {
  const environment = readEnvironment({ ...restEnvironment(3005), ...salesEnvironment }, process.env, {
    fallbacks: { SALES_DATABASE_URL: 'DATABASE_URL' },
  });
  await serve({
    ...environment,
    name: 'sales',
    document: { title: 'Cleave sales', description: 'Units sold by product and day.' },
    modules: [SalesModule.register(environment)],
  });
});
