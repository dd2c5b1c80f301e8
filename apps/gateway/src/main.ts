import { readEnvironment } from '#config';
import { restEnvironment, run, serve } from '#service';
import { gateway, gatewayEnvironment } from '#gateway';

/** One base URL in front of the services: REST at :3000. `ORDER_URL`, `INVENTORY_URL` and the like say where they are. */
run(async () => {
  const environment = readEnvironment({ ...restEnvironment(3000), ...gatewayEnvironment });
  await serve(gateway(environment));
});
