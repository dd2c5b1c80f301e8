import { orderGrpc } from '#order';
import { apiDocument, run, serve, startDatabaseFor, welcome } from '#service';
import { modules } from './modules.js';
import { readMonolithEnvironment } from './environment.js';

/** Every module in one process, with a database of its own unless `DATABASE_URL` names one. */
run(async () => {
  const environment = readMonolithEnvironment(process.env);
  const database = await startDatabaseFor(environment, environment.DATA_DIR);
  const settings = { ...environment, ...database.urls };
  const url = await serve({
    ...settings,
    name: 'monolith',
    document: apiDocument,
    modules: modules(settings),
    grpc: { ...orderGrpc, at: settings.ORDER_GRPC_LISTEN },
    after: [database.stop],
  });
  welcome(url, settings.DEMO_PRODUCTS);
});
