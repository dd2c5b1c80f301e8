import { passingOn, upstreamsIn } from '#gateway';
import { orderEnvironment, orderGrpc } from '#order';
import { apiDocument, run, serve, startDatabaseFor, welcome } from '#service';
import { modules } from './modules.js';
import { readMonolithEnvironment } from './environment.js';

/**
 * Every module in one process, with a database of its own unless `DATABASE_URL` is set. Modules that run elsewhere
 * (`INVENTORY_AT` and `INVENTORY_URL`, for example) are called there, and REST requests for them are passed on.
 */
run(async () => {
  const environment = readMonolithEnvironment(process.env);
  const database = await startDatabaseFor(environment, environment.DATA_DIR);
  const settings = { ...environment, ...database.urls };
  const keysOf = (made: string | undefined) => environment.DATA_KEYS ?? orderEnvironment.DATA_KEYS.parse(made);
  const keys = { order: keysOf(database.dataKeys.ORDER), webhooks: keysOf(database.dataKeys.WEBHOOKS) };
  const elsewhere = upstreamsIn(settings);
  const passedOn = elsewhere.length > 0 ? passingOn(elsewhere) : undefined;
  const url = await serve({
    ...settings,
    ...passedOn,
    name: 'monolith',
    from: 'either',
    document: apiDocument,
    modules: [...modules(settings, keys), ...(passedOn?.modules ?? [])],
    listen: [settings.ORDER_LISTEN, settings.INVENTORY_LISTEN, settings.PAYMENT_LISTEN, settings.CACHE_LISTEN].filter(
      (at) => at !== undefined,
    ),
    grpc: { ...orderGrpc, at: settings.ORDER_GRPC_LISTEN },
    after: [database.stop],
  });
  welcome(url, settings.DEMO_PRODUCTS, settings.ADMIN_KEY !== undefined);
});
