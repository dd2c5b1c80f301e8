import { readEnvironment } from '#config';
import { OrderModule, orderEnvironment } from '#order';
import { restEnvironment, run, serve } from '#service';

/** Orders on their own: REST at :3001. `INVENTORY_AT` says where inventory is. */
run(async () => {
  const environment = readEnvironment({ ...restEnvironment(3001), ...orderEnvironment }, process.env, {
    fallbacks: { ORDER_DATABASE_URL: 'DATABASE_URL' },
  });
  await serve({
    ...environment,
    name: 'order',
    document: { title: 'Cleave order', description: 'Places and keeps orders.', version: '1' },
    modules: [OrderModule.register(environment)],
  });
});
