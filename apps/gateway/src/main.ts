import { AccessModule, accessEnvironment } from '#access';
import { readEnvironment } from '#config';
import { restEnvironment, run, serve } from '#service';
import { gateway, gatewayEnvironment } from '#gateway';

/**
 * One base URL in front of the services: REST at :3000. `ORDER_URL`, `INVENTORY_URL` and so on are their addresses. With
 * `ACCESS_DATABASE_URL`, the gateway creates and checks API keys.
 */
run(async () => {
  const { ACCESS_DATABASE_URL, ...environment } = readEnvironment(
    {
      ...restEnvironment(3000),
      ...gatewayEnvironment,
      ACCESS_DATABASE_URL: accessEnvironment.ACCESS_DATABASE_URL.optional(),
    },
    process.env,
    { fallbacks: { ACCESS_DATABASE_URL: 'DATABASE_URL' } },
  );
  const { modules, ...service } = gateway(environment);
  const access = ACCESS_DATABASE_URL === undefined ? [] : [AccessModule.register({ ACCESS_DATABASE_URL })];
  await serve({ ...service, modules: [...modules, ...access] });
});
