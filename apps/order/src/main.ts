import { AccessModule, accessEnvironment } from '#access';
import { readEnvironment } from '#config';
import { listenAddress } from '#messaging';
import { OrderModule, orderEnvironment, orderGrpc } from '#order';
import { restEnvironment, run, serve } from '#service';

/**
 * Orders on their own: REST at :3001, messages at :4001, gRPC if `ORDER_GRPC_LISTEN` is set. `INVENTORY_AT` and `PAYMENT_AT`
 * are the addresses of these services.
 */
run(async () => {
  const { ACCESS_DATABASE_URL, ...environment } = readEnvironment(
    {
      ...restEnvironment(3001),
      ORDER_LISTEN: listenAddress,
      ...orderEnvironment,
      ACCESS_DATABASE_URL: accessEnvironment.ACCESS_DATABASE_URL.optional(),
    },
    process.env,
    {
      fallbacks: { ORDER_DATABASE_URL: 'DATABASE_URL' },
      defaults: { ORDER_LISTEN: 'tcp://127.0.0.1:4001' },
    },
  );
  await serve({
    ...environment,
    name: 'order',
    document: { title: 'Cleave order', description: 'Places and keeps orders.' },
    modules: [
      OrderModule.register(environment),
      // gRPC callers bypass the gateway and authenticate with keys.
      ...(ACCESS_DATABASE_URL === undefined ? [] : [AccessModule.knowing({ ACCESS_DATABASE_URL })]),
    ],
    listen: [environment.ORDER_LISTEN],
    grpc: { ...orderGrpc, at: environment.ORDER_GRPC_LISTEN },
  });
});
