import { readEnvironment } from '#config';
import { listenAddress } from '#messaging';
import { PaymentModule, paymentEnvironment } from '#payment';
import { restEnvironment, run, serve } from '#service';

/** Payments on their own: REST at :3004, messages at :4004. */
run(async () => {
  const environment = readEnvironment(
    { ...restEnvironment(3004), PAYMENT_LISTEN: listenAddress, ...paymentEnvironment },
    process.env,
    {
      fallbacks: { PAYMENT_DATABASE_URL: 'DATABASE_URL' },
      defaults: { PAYMENT_LISTEN: 'tcp://127.0.0.1:4004' },
    },
  );
  await serve({
    ...environment,
    name: 'payment',
    document: { title: 'Cleave payment', description: 'Takes payments and refunds them.' },
    modules: [PaymentModule.register(environment)],
    listen: [environment.PAYMENT_LISTEN],
  });
});
