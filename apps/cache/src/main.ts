import { CacheModule, cacheEnvironment } from '#cache';
import { readEnvironment } from '#config';
import { listenAddress } from '#messaging';
import { restEnvironment, run, serve } from '#service';

/** The cache on its own: REST at :3003, messages at :4003. */
run(async () => {
  const environment = readEnvironment(
    { ...restEnvironment(3003), CACHE_LISTEN: listenAddress, ...cacheEnvironment },
    process.env,
    { defaults: { CACHE_LISTEN: 'tcp://127.0.0.1:4003' } },
  );
  await serve({
    ...environment,
    name: 'cache',
    document: { title: 'Cleave cache', description: 'A cache for any JSON value.' },
    modules: [CacheModule.register(environment)],
    listen: [environment.CACHE_LISTEN],
  });
});
