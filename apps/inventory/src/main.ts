import { readEnvironment } from '#config';
import { InventoryModule, inventoryEnvironment } from '#inventory';
import { listenAddress } from '#messaging';
import { restEnvironment, run, serve } from '#service';

/** Products and stock on their own: REST at :3002, messages at :4002. `CACHE_AT` is the address of the cache. */
run(async () => {
  const environment = readEnvironment(
    { ...restEnvironment(3002), INVENTORY_LISTEN: listenAddress, ...inventoryEnvironment },
    process.env,
    {
      fallbacks: { INVENTORY_DATABASE_URL: 'DATABASE_URL' },
      defaults: { INVENTORY_LISTEN: 'tcp://127.0.0.1:4002' },
    },
  );
  await serve({
    ...environment,
    name: 'inventory',
    document: { title: 'Cleave inventory', description: 'Products, prices and stock.' },
    modules: [InventoryModule.register(environment)],
    listen: [environment.INVENTORY_LISTEN],
  });
});
