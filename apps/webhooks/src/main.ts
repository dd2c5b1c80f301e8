import { readEnvironment } from '#config';
import { restEnvironment, run, serve } from '#service';
import { WebhooksModule, webhooksEnvironment } from '#webhooks';

/** Webhooks on their own: REST at :3006. They follow the log of `ORDER_AT`. */
run(async () => {
  const environment = readEnvironment({ ...restEnvironment(3006), ...webhooksEnvironment }, process.env, {
    fallbacks: { WEBHOOKS_DATABASE_URL: 'DATABASE_URL' },
  });
  await serve({
    ...environment,
    name: 'webhooks',
    document: { title: 'Cleave webhooks', description: 'Notifies merchants about events.' },
    modules: [WebhooksModule.register(environment)],
  });
});
